//! The configuration file: the example that ships, the files that are refused, where secrets come from, and the blocks of the manual.

use crate::support::http::Client;
use crate::support::{Daemon, Home, leadsbotd};
use leadsbotd::config::{Config, Fault};
use leadsbotd::secret::Secret;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const EX_CONFIG: i32 = 78;
/// Nobody holds its key.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBozCCAUmgAwIBAgIUYBTgEWDmCaTc2ghhCEY7Jf8Wj0MwCgYIKoZIzj0EAwIw
JjEkMCIGA1UEAwwbVGVzdCBhdXRob3JpdHkgb2YgbGVhZHNib3RkMCAXDTI2MTEy
MzE3Mjg1MVoYDzIxMjYxMDMwMTcyODUxWjAmMSQwIgYDVQQDDBtUZXN0IGF1dGhv
cml0eSBvZiBsZWFkc2JvdGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR/AQw5
d7r3dKYnNC5hzO1a9OVUIBcAldyjXay3eAsf5cmlIqPRe7n9oTKkJxjQYTLQ98F2
n0goLQzCJZXpNXONo1MwUTAdBgNVHQ4EFgQUER8feIjqQO8SccbLF9er57ev2Ekw
HwYDVR0jBBgwFoAUER8feIjqQO8SccbLF9er57ev2EkwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiBEE88VnbQk6EOZ/kn12t/Mamv/GAgl2FyyhAj8
Mv0lIQIhAI1tZdGj6rBQU5fOg8nvsX9GVRDjbMfiNsSpCgUMMwr1
-----END CERTIFICATE-----
";

pub fn in_repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn example() -> String {
    std::fs::read_to_string(in_repository("config.example.toml")).expect("the example file")
}

/// The example with every example in it taken into use: a # that no blank follows goes away.
fn example_in_use() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    example().lines().map(line).collect()
}

/// A folder in which everything a file names is there, the way the system would give it.
pub struct Machine {
    dir: TempDir,
    command: Command,
}

impl Machine {
    pub fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (etc, credentials) = (dir.path().join("etc"), dir.path().join("credentials"));
        for folder in [&etc, &credentials] {
            std::fs::create_dir(folder).unwrap();
        }
        let text =
            text.replace("/etc/leadsbotd/", &format!("{}/", etc.display())).replace("/var/lib/", &format!("{}/", dir.path().display()));
        let mut command = leadsbotd();
        command.env("CREDENTIALS_DIRECTORY", &credentials).arg("--config").arg(etc.join("config.toml"));
        let secret = || Secret::generate().unwrap().expose().to_owned();
        let tree: toml::Table = text.parse().unwrap_or_else(|e| panic!("no TOML: {e}\n{text}"));
        for (key, value) in texts(&toml::Value::Table(tree)) {
            let file = match key.as_str() {
                "secret_file" | "ca_file" => PathBuf::from(&value),
                "secret_credential" => credentials.join(&value),
                "secret_env" => {
                    command.env(value, secret());
                    continue;
                }
                _ => continue,
            };
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, if key == "ca_file" { CERTIFICATE.to_owned() } else { secret() }).unwrap();
        }
        std::fs::write(etc.join("config.toml"), text).unwrap();
        Self { dir, command }
    }

    /// Runs a command of the program there.
    pub fn run(&self, args: &[&str]) -> std::process::Output {
        let mut command = leadsbotd();
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(self.command.get_args()).args(args).output().expect("the program runs")
    }

    #[track_caller]
    fn passes_check(mut self) -> String {
        let output = self.command.arg("check").output().expect("the program runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        drop(self.dir);
        out.into_owned()
    }
}

/// Every text of a TOML tree with the key it stands under.
fn texts(value: &toml::Value) -> Vec<(String, String)> {
    match value {
        toml::Value::Table(table) => {
            let inner = |(key, value): (&String, &toml::Value)| match value.as_str() {
                Some(text) => vec![(key.clone(), text.to_owned())],
                None => texts(value),
            };
            table.iter().flat_map(inner).collect()
        }
        toml::Value::Array(list) => list.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

fn parsed(text: &str) -> String {
    // A destination shows the delivery rules, which are otherwise nobody's.
    let probe = "\n[[destination]]\nname = \"probe\"\ntype = \"webhook\"\nurl = \"https://example.com/\"\nsecret = \"0123456789abcdef\"\n";
    match Config::parse(&format!("{text}{probe}")) {
        Ok(config) => format!("{config:#?}"),
        Err(faults) => panic!("{}", report(&faults)),
    }
}

fn report(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_holds_the_defaults() {
    let defaults = parsed("");
    assert_eq!(parsed(&example()), defaults);
    // That comparison sees every number of the file: none can be changed without a difference.
    let mut numbers = 0;
    let text = example();
    for (index, line) in text.lines().enumerate() {
        let live = line.split_once(" = ").filter(|(key, _)| !key.starts_with('#'));
        let Some((key, Ok(number))) = live.map(|(key, value)| (key, value.parse::<u64>())) else { continue };
        numbers += 1;
        let other = format!("{key} = {}", if number == 0 { 1 } else { number - 1 });
        let changed: Vec<&str> = text.lines().enumerate().map(|(n, l)| if n == index { other.as_str() } else { l }).collect();
        assert!(parsed(&changed.join("\n")) != defaults, "{key} = {number} is not looked at");
    }
    assert!(numbers > 20, "the example lost its numbers");
}

#[test]
fn the_example_in_use_passes_the_check() {
    let said = Machine::new(&example_in_use()).passes_check();
    assert!(said.contains("destinations  crm, sales, newsletter, pager, archive") && said.contains("sources       website"), "{said}");
}

#[test]
fn the_example_shows_every_key_there_is() {
    // A key nobody knows, put into every table, makes each of them say which keys it knows.
    let mut probed = String::from("zzzzzzzzzzzzzzzz = 0\n");
    for line in example_in_use().lines() {
        let inline = if line.starts_with('#') { line.to_owned() } else { line.replace("{ ", "{ zzzzzzzzzzzzzzzz = 0, ") };
        probed.push_str(&inline);
        probed.push('\n');
        if line.starts_with('[') {
            probed.push_str("zzzzzzzzzzzzzzzz = 0\n");
        }
    }
    let shown = shown_keys(&example_in_use());
    let anywhere: BTreeSet<&String> = shown.values().flatten().collect();
    let mut tables = BTreeSet::new();
    for fault in Config::parse(&probed).unwrap_err() {
        let Some((_, known)) = fault.message.split_once("; known here: ") else { continue };
        let table = without_indices(fault.key.trim_end_matches("zzzzzzzzzzzzzzzz").trim_end_matches('.'));
        for key in known.split(", ") {
            // The four ways to give a secret are the same everywhere; each is shown somewhere.
            let one_is_enough = key == "secret" || key.starts_with("secret_");
            let is_shown = if one_is_enough { anywhere.contains(&key.to_owned()) } else { shown[&table].contains(key) };
            assert!(is_shown, "config.example.toml does not show {key} of [{table}]");
        }
        tables.insert(table);
    }
    // Every table of the file was asked, those aside in which keys are free.
    let free = |t: &String| ["labels", "headers", "map"].iter().any(|f| t.split('.').any(|part| part == *f));
    let asked: BTreeSet<String> = tables.into_iter().filter(|t| !free(t)).collect();
    assert_eq!(asked, shown.into_keys().filter(|t| !free(t)).collect());
}

/// The keys of each table of a file, items of a list taken together.
fn shown_keys(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    fn walk(path: &str, value: &toml::Value, out: &mut BTreeMap<String, BTreeSet<String>>) {
        match value {
            toml::Value::Table(table) => {
                out.entry(path.to_owned()).or_default().extend(table.keys().cloned());
                for (key, value) in table {
                    walk(format!("{path}.{key}").trim_start_matches('.'), value, out);
                }
            }
            toml::Value::Array(list) => list.iter().for_each(|item| walk(path, item, out)),
            _ => {}
        }
    }
    let mut out = BTreeMap::new();
    walk("", &toml::Value::Table(text.parse().expect("TOML")), &mut out);
    out
}

fn without_indices(key: &str) -> String {
    key.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// The rows of bad_configs.txt: a file and its report.
fn bad_files() -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut in_file = false;
    for line in include_str!("bad_configs.txt").lines().filter(|l| !l.starts_with("##")) {
        match line.strip_prefix("=> ") {
            Some(fault) => {
                in_file = false;
                let report = &mut rows.last_mut().expect("a file before its report").1;
                report.push_str(if report.is_empty() { "" } else { "\n" });
                report.push_str(fault);
            }
            None if line.is_empty() && !in_file => {}
            None => {
                if !in_file {
                    rows.push(Default::default());
                    in_file = true;
                }
                let text = &mut rows.last_mut().unwrap().0;
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    rows
}

/// The folder the rows call {dir}.
fn folder_of_bad_secrets() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("empty", b"\n");
    write("good", b"0123456789abcdef\n");
    write("large", &[b'x'; 5000]);
    write("binary", b"\xff\xfe0123456789abcdef");
    write("two-lines", b"0123456789\nabcdef0123\n");
    dir
}

/// What stands in quotes on lines about secrets, and what the secret files hold: none of it may be repeated.
fn hidden_in(text: &str) -> Vec<&str> {
    let quoted = text.lines().filter(|l| l.contains("secret")).flat_map(|l| l.split('"').skip(1).step_by(2));
    // Shorter ones are names.
    let long = |t: &&str| t.len() > 6 && !t.contains("{dir}");
    quoted.filter(long).chain(["0123456789abcdef", "0123456789", "xxxxxxxx"]).collect()
}

#[test]
fn a_bad_file_is_reported_whole_and_keeps_its_secrets() {
    let dir = folder_of_bad_secrets();
    let at = dir.path().display().to_string();
    let rows = bad_files();
    assert!(rows.len() >= 100, "{} rows", rows.len());
    for (text, expected) in rows {
        let faults = Config::parse(&text.replace("{dir}", &at)).expect_err(&text);
        let report = report(&faults);
        assert_eq!(report.replace(&at, "{dir}"), expected, "of\n{text}");
        for hidden in hidden_in(&text) {
            assert!(!report.contains(hidden), "the report repeats {hidden}:\n{report}");
        }
    }
}

#[test]
fn check_and_serve_refuse_a_bad_file_with_its_report_and_78() {
    let dir = folder_of_bad_secrets();
    let (at, path) = (dir.path().display().to_string(), dir.path().join("config.toml"));
    for (text, expected) in bad_files() {
        std::fs::write(&path, text.replace("{dir}", &at)).unwrap();
        let n = expected.lines().count();
        let lines: String = expected.lines().map(|l| format!("\n  {}", l.replace("{dir}", &at))).collect();
        let whole = format!("leadsbotd: {} has {n} fault{}:{lines}\n", path.display(), if n == 1 { "" } else { "s" });
        for command in ["check", "serve"] {
            // What only systemd can give is taken on trust by check; see the test of that.
            if command == "check" && expected.contains("gave this process no credentials") {
                continue;
            }
            let output = leadsbotd().arg("--config").arg(&path).arg(command).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), whole, "{command} of\n{text}");
            assert_eq!((output.status.code(), output.stdout.len()), (Some(EX_CONFIG), 0), "{command} of\n{text}");
        }
    }
}

#[test]
fn check_gives_scripts_the_faults_one_by_one() {
    let home = Home::new("");
    std::fs::write(home.config(), "[device]\nid = \"a\"\n[log2]\n").unwrap();
    let output = home.run(&["--json", "check"]);
    assert_eq!(output.status.code(), Some(EX_CONFIG));
    let told: Vec<Value> = String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let fault = json!({ "line": 3, "key": "log2", "message": "there is no such key; did you mean log?" });
    assert_eq!(told, [json!({ "ok": false, "file": home.config(), "faults": [fault] })]);
}

#[test]
fn a_fault_of_one_destination_hides_none_of_another() {
    let destination = |n: usize| {
        let kind = if n == 1 { "" } else { "type = \"webhook\"\n" };
        let secret = if n == 10 { "" } else { "secret = \"0123456789abcdef\"\n" };
        format!("[[destination]]\nname = \"d{n}\"\n{kind}url = \"https://example.com/\"\n{secret}")
    };
    let faults = Config::parse(&(0..11).map(destination).collect::<String>()).unwrap_err();
    let keys: Vec<(usize, &str)> = faults.iter().map(|f| (f.line, f.key.as_str())).collect();
    assert_eq!(keys, [(6, "destination[1].type"), (50, "destination[10]")]);
}

#[test]
fn line_ends_of_windows_and_a_byte_order_mark_do_no_harm() {
    assert_eq!(parsed("\u{feff}[log]\r\nlevel = \"info\"\r\n"), parsed(""));
    let faults = Config::parse("\u{feff}[log]\r\n\r\nlevel = \"loud\"\r\n").unwrap_err();
    assert_eq!(report(&faults), "line 3: log.level: must be error, warn, info or debug");
}

fn refused(path: &Path) -> String {
    let mut said = BTreeSet::new();
    for command in ["check", "serve", "leads list", "queue status"] {
        let output = leadsbotd().arg("--config").arg(path).args(command.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(EX_CONFIG), "{command}");
        said.insert(String::from_utf8(output.stderr).unwrap().replace(&path.display().to_string(), "FILE"));
    }
    assert_eq!(said.len(), 1, "{said:?}");
    said.pop_first().unwrap()
}

#[test]
fn a_file_that_cannot_be_read_is_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    assert_eq!(
        refused(&missing),
        "leadsbotd: FILE has 1 fault:\n  there is no such file; copy config.example.toml there, or name another one with --config\n"
    );
    assert_eq!(refused(dir.path()), "leadsbotd: FILE has 1 fault:\n  cannot be read: Is a directory (os error 21)\n");
    let latin1 = dir.path().join("latin1.toml");
    std::fs::write(&latin1, b"[device]\nname = \"Caf\xe9\"\n").unwrap();
    assert_eq!(refused(&latin1), "leadsbotd: FILE has 1 fault:\n  is not UTF-8 (byte 20); save it again as UTF-8\n");
    // A bad place of the database is no reason to look at another database.
    let storage = dir.path().join("storage.toml");
    std::fs::write(&storage, "[storage]\npth = \"leads.db\"\n").unwrap();
    assert_eq!(refused(&storage), "leadsbotd: FILE has 1 fault:\n  line 2: storage.pth: there is no such key; did you mean path?\n");
}

const SIGNING: &str = "0123456789abcdef0123456789abcdef";

/// One destination for each way to give a secret.
fn four_ways(home: &Home) -> String {
    let destination = |name: &str, secret: &str| {
        format!("[[destination]]\nname = \"{name}\"\ntype = \"webhook\"\nurl = \"https://example.com/\"\n{secret}\n")
    };
    [
        destination("inline", &format!("secret = \"{SIGNING}\"")),
        destination("file", &format!("secret_file = {:?}", home.path("secret"))),
        destination("env", "secret_env = \"LEADSBOTD_TEST_SECRET\""),
        destination("credential", "secret_credential = \"crm\""),
        destination("rotating", "secrets = [{ secret_credential = \"crm\" }, { secret_credential = \"crm-next\" }]"),
    ]
    .concat()
}

fn with_secrets(home: &Home, args: &[&str]) -> Output {
    let mut command = leadsbotd();
    command.env("CREDENTIALS_DIRECTORY", home.path("credentials")).env("LEADSBOTD_TEST_SECRET", SIGNING);
    command.arg("--config").arg(home.config()).args(args).output().unwrap()
}

#[test]
fn a_secret_signs_the_same_whichever_way_it_is_given() {
    let home = Home::new("");
    home.configure(&four_ways(&home));
    std::fs::create_dir(home.path("credentials")).unwrap();
    // Line ends that editors of any kind leave behind are no part of it.
    std::fs::write(home.path("secret"), format!("{SIGNING}\r\n")).unwrap();
    std::fs::write(home.path("credentials").join("crm"), format!("{SIGNING}\n")).unwrap();
    std::fs::write(home.path("credentials").join("crm-next"), "fedcba9876543210").unwrap();
    std::fs::write(home.path("body"), "{}").unwrap();
    let body = home.path("body");
    let sign = |name: &str| {
        let output = with_secrets(&home, &["sign", "--destination", name, body.to_str().unwrap()]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = leadsbotd::signature::leadsbot(&Secret::new(SIGNING).unwrap(), b"{}");
    for name in ["inline", "file", "env", "credential", "rotating"] {
        assert_eq!(sign(name).trim_end(), expected, "{name}");
    }
    // From a shell there are no credentials: check says so and goes on, serve does not start.
    let from_shell =
        |command: &str| leadsbotd().env("LEADSBOTD_TEST_SECRET", SIGNING).arg("--config").arg(home.config()).arg(command).output().unwrap();
    let check = from_shell("check");
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.success(), "{said}{}", String::from_utf8_lossy(&check.stderr));
    let warning = "warning: destination[3].secret_credential is a credential that only systemd can give; it was not looked at\n";
    assert!(said.contains(warning), "{said}");
    let serve = from_shell("serve");
    assert_eq!(serve.status.code(), Some(EX_CONFIG));
    let said = String::from_utf8(serve.stderr).unwrap();
    assert_eq!(said.matches("systemd gave this process no credentials").count(), 3, "{said}");
    assert!(!said.contains(SIGNING));
}

#[test]
fn check_warns_of_secrets_that_every_user_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new("");
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(home.config(), std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(home.ok(&["check"]).contains("every user may read it"), warned, "{mode:o}");
    }
}

#[test]
fn a_secret_file_that_everybody_may_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new("");
    let file = home.path("secret");
    std::fs::write(&file, SIGNING).unwrap();
    home.configure(&format!(
        "[[destination]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nsecret_file = {file:?}\n"
    ));
    std::fs::set_permissions(home.config(), std::fs::Permissions::from_mode(0o600)).unwrap();
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let warning = format!("{} holds a secret and every user may read it; chmod 640 it", file.display());
        assert_eq!(home.ok(&["check"]).contains(&warning), warned, "{mode:o}");
    }
}

#[test]
fn leads_and_queue_can_be_looked_at_without_the_secrets() {
    let home = Home::new(&Home::webhook("crm", "http://127.0.0.1:9/", ""));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane Smith"}));
    daemon.stop();
    home.configure(
        "[[destination]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"/nonexistent/secret\"\n",
    );
    assert_eq!(home.run(&["check"]).status.code(), Some(EX_CONFIG));
    assert!(home.ok(&["leads", "list"]).contains("Jane Smith"));
    assert!(home.ok(&["leads", "export"]).contains("Jane Smith"));
    assert!(home.ok(&["queue", "status"]).contains("crm"));
    assert!(home.ok(&["queue", "list"]).contains("lead.created"));
    home.ok(&["queue", "pause", "crm"]);
}

#[test]
fn every_configuration_in_the_manual_passes_the_check() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(in_repository("docs")).unwrap().map(|e| e.unwrap().path()).collect();
    files.push(in_repository("README.md"));
    files.retain(|f| f.extension().is_some_and(|e| e == "md") && f.exists());
    let mut checked = 0;
    for file in files {
        for block in toml_blocks(&file) {
            let said = Machine::new(&block).passes_check();
            assert!(!said.contains("warning:") || said.contains("every user may read it"), "{}:\n{said}", file.display());
            checked += 1;
        }
    }
    assert!(checked >= 3, "the worked examples of docs/configuration.md are gone");
}

/// The blocks marked as toml, which are whole files. A part of a file is marked as "toml fragment".
pub fn toml_blocks(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let block: String = lines.by_ref().take_while(|l| l.trim() != "```").map(|l| format!("{l}\n")).collect();
        match info {
            "toml" => blocks.push(block),
            "toml fragment" => {}
            other => assert!(!other.starts_with("toml"), "{}: a block is marked {other}", file.display()),
        }
    }
    blocks
}

fn manual() -> String {
    std::fs::read_to_string(in_repository("docs/configuration.md")).expect("the manual")
}

#[test]
fn the_expressions_in_the_manual_give_what_it_says() {
    let manual = manual();
    let (_, section) = manual.split_once("\n## Expressions\n").unwrap();
    let event = section.split("```json\n").nth(1).and_then(|s| s.split("```").next()).unwrap();
    let event = leadsbotd::mapping::Event::parse(event.as_bytes()).unwrap();
    let mut tried = 0;
    for row in section.lines().filter_map(|l| l.strip_prefix("| `")) {
        let (expression, value) = row.split_once("` | `").unwrap();
        let value: Value = serde_json::from_str(value.trim_end_matches("` |")).unwrap();
        let given = leadsbotd::mapping::Expr::new("manual", &expression.replace("\\|", "|")).and_then(|e| e.value(&event));
        assert_eq!(given, Ok(value), "{expression}");
        tried += 1;
    }
    assert!(tried >= 20, "the table of expressions is gone");
}

/// The rows of the manual's table of one TOML table: cells without their backquotes, the keys first.
fn manual_rows(manual: &str, table: &str) -> Vec<Vec<String>> {
    let heading = [format!("\n### `[{table}]`\n"), format!("\n### `[[{table}]]`\n")];
    let Some((_, section)) = heading.iter().find_map(|h| manual.split_once(h.as_str())) else { return Vec::new() };
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|l| l.starts_with("| `"));
    rows.map(|l| l.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect()).collect()
}

#[test]
fn the_manual_has_every_key_with_its_default() {
    let (manual, live) = (manual(), shown_values(&example()));
    let mut tables = 0;
    for (table, keys) in shown_keys(&example_in_use()) {
        let rows = manual_rows(&manual, &table);
        tables += usize::from(!rows.is_empty());
        for key in keys.iter().filter(|_| !rows.is_empty()) {
            let path = format!("{table}.{key}");
            let row = rows.iter().find(|row| row[0].split(", ").any(|k| k == key));
            let elsewhere = !manual_rows(&manual, &path).is_empty();
            assert!(row.is_some() || elsewhere, "the manual has no {path}");
            // The live form is one example of a form, not what its keys default to.
            if let (Some(row), Some(default), false) = (row, live.get(&path), table.starts_with("form")) {
                assert_eq!(row[2], *default, "the default of {path}");
            }
        }
    }
    assert!(tables >= 9, "the manual has tables of {tables}");
}

/// The values that are no tables, as JSON, by their dotted keys.
fn shown_values(text: &str) -> BTreeMap<String, String> {
    fn walk(path: &str, table: &toml::Table, out: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let path = format!("{path}.{key}");
            match value {
                toml::Value::Table(inner) => walk(&path, inner, out),
                other => drop(out.insert(path.trim_start_matches('.').to_owned(), serde_json::to_string(other).unwrap())),
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", &text.parse().expect("TOML"), &mut out);
    out
}

#[test]
fn the_ranges_in_the_manual_are_those_of_the_reader() {
    let manual = manual();
    let mut ranges = 0;
    for (table, open) in [("server.limits", "[server.limits]"), ("delivery", "[delivery]"), ("destination", "[[destination]]")] {
        for row in manual_rows(&manual, table).iter().filter(|row| row[1] == "number") {
            let (from, to) = row[3].split_once(" to ").unwrap();
            let beyond = |n: i64| format!("{open}\n{} = {n}\n", row[0]);
            for n in [from.parse::<i64>().unwrap() - 1, to.parse::<i64>().unwrap() + 1] {
                let report = report(&Config::parse(&beyond(n)).unwrap_err());
                let expected = format!("{}: must be from {from} to {to}", row[0]);
                assert!(report.contains(&expected), "{expected}, not:\n{report}");
            }
            ranges += 1;
        }
    }
    assert!(ranges >= 25, "{ranges} ranges");
}
