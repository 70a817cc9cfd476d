//! The exact request that every destination of the manual makes of one event, kept in files to be read by people. `LEADSBOT_BLESS=1` writes
//! them anew; a change is then to be looked at before it is committed.

use super::config::{Machine, in_repository, toml_blocks};
use std::collections::BTreeSet;
use std::path::Path;

/// What differs from one run to the next: the time of the attempt, and what is signed with it.
fn settled(text: &str) -> String {
    let changing = ["X-LeadsBot-Timestamp: ", "webhook-timestamp: ", "webhook-signature: "];
    let line = |line: &str| match changing.iter().find(|name| line.trim_start().starts_with(**name)) {
        Some(name) => format!("  {name}(of the attempt)\n"),
        None => format!("{}\n", line.replace(env!("CARGO_PKG_VERSION"), "VERSION")),
    };
    text.lines().map(line).collect()
}

/// The names of the destinations of a file.
fn names(text: &str) -> Vec<String> {
    let tree: toml::Table = text.parse().expect("TOML");
    let destinations = tree.get("destination").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    destinations.iter().filter_map(|d| Some(d.get("name")?.as_str()?.to_owned())).collect()
}

#[test]
fn every_destination_of_the_manual_makes_the_request_that_is_on_file() {
    let folder = in_repository("tests/it/golden");
    let bless = std::env::var_os("LEADSBOT_BLESS").is_some();
    let (mut made, mut wrong) = (BTreeSet::new(), Vec::new());
    for block in toml_blocks(&in_repository("docs/destinations.md")) {
        for name in names(&block) {
            let machine = Machine::new(&block);
            let preview = |event: &str| {
                let event = folder.join(event);
                let output = machine.run(&["preview", &name, "--event", event.to_str().unwrap()]);
                let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
                assert!(output.status.success(), "preview of {name}:\n{out}{err}");
                out
            };
            let mut shown = preview("lead.json");
            if shown.contains("it would not be sent") {
                shown = preview("failing.json");
            }
            assert!(!shown.contains("it would not be sent"), "{name} takes neither event:\n{shown}");
            let file = format!("{name}.txt");
            let path = folder.join(&file);
            assert!(made.insert(file.clone()), "two destinations of the manual are called {name}");
            let shown = settled(&shown);
            if bless {
                std::fs::write(&path, &shown).unwrap();
            } else if std::fs::read_to_string(&path).unwrap_or_default() != shown {
                wrong.push(format!("{file} differs; now it is:\n{shown}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nIf that is meant: LEADSBOT_BLESS=1 cargo test --test it golden, and look at the change", wrong.join("\n"));
    let left: Vec<String> = files(&folder).into_iter().filter(|f| f.ends_with(".txt") && !made.contains(f)).collect();
    assert!(left.is_empty(), "no destination of the manual makes {left:?} any more");
}

fn files(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}
