//! The files a release is made with.

use std::path::Path;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn toml(name: &str) -> toml::Table {
    text(name).parse().unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn cross_knows_every_raspberry_pi() {
    let cross = toml("cross.toml");
    let targets = cross["target"].as_table().expect("[target.*]");
    let names: Vec<&str> = targets.keys().map(String::as_str).collect();
    assert_eq!(names, ["aarch64-unknown-linux-gnu", "armv7-unknown-linux-gnueabihf", "arm-unknown-linux-musleabihf"]);
    for (name, target) in targets {
        let image = target["image"].as_str().expect("an image");
        assert!(image.contains(name.as_str()) && !image.ends_with(":latest"), "{name}: {image}");
    }
}

#[test]
fn the_licences_the_changelog_and_the_manifest_agree() {
    let package = &toml("Cargo.toml")["package"];
    assert_eq!(package["license"].as_str(), Some("MIT OR Apache-2.0"));
    assert!(text("LICENSE-MIT").contains("The leadsbotd authors"));
    assert!(text("LICENSE-APACHE").contains("Version 2.0, January 2004"));
    let version = package["version"].as_str().expect("a version");
    assert!(text("CHANGELOG.md").contains(&format!("\n## [{version}]")), "the changelog says nothing of {version}");
}
