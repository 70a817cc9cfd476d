//! The commands, as scripts and people see them: output, JSON, exit codes.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, Reply, SECRET, eventually, leadsbotd};
use leadsbotd::secret::Secret;
use leadsbotd::signature;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

// The published vector.
const VECTOR_SECRET: &str = "0123456789abcdef0123456789abcdef";
const VECTOR_BODY: &str =
    r#"{"event":"lead.created","data":{"name":"Jane Smith","email":"jane@example.com","score":88,"source":"website-widget"}}"#;
const VECTOR_SIGNATURE: &str = "501e7a093299d00a65125a8b217b28ebc53efe0a4eb349496c10241da5f26cde";

fn run(args: &[&str]) -> Output {
    leadsbotd().args(args).output().expect("the program runs")
}

fn fed(args: &[&str], input: &str) -> Output {
    let mut child = leadsbotd().args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// Each line of the output as JSON.
#[track_caller]
fn json_lines(output: &Output) -> Vec<Value> {
    out(output).lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// The one line a command answers with.
#[track_caller]
fn json_line(output: &Output) -> Value {
    let mut lines = json_lines(output);
    assert_eq!(lines.len(), 1, "{lines:?}{}", err(output));
    lines.remove(0)
}

#[test]
fn a_new_secret_can_be_used_and_is_never_the_same() {
    let text = run(&["secret", "new"]);
    let json = json_line(&run(&["--json", "secret", "new"]));
    let (first, second) = (out(&text).trim_end(), json["secret"].as_str().unwrap());
    assert_ne!(first, second);
    for secret in [first, second] {
        assert!(Secret::new(secret).is_ok() && secret.starts_with("whsec_"));
        let signed = run_with_secret(secret, &["sign"], VECTOR_BODY);
        assert_eq!(out(&signed).trim_end(), signature::leadsbot(&Secret::new(secret).unwrap(), VECTOR_BODY.as_bytes()));
    }
    assert_eq!(err(&text), "", "advice is for terminals only");
}

fn run_with_secret(secret: &str, args: &[&str], input: &str) -> Output {
    let secret = ["--secret", secret];
    fed(&[args, &secret].concat(), input)
}

#[test]
fn sign_gives_the_published_signature_from_file_and_standard_input() {
    let home = Home::new("");
    let (body, key) = (home.path("body.json"), home.path("key"));
    std::fs::write(&body, VECTOR_BODY).unwrap();
    std::fs::write(&key, format!("{VECTOR_SECRET}\n")).unwrap();
    let (body, key) = (body.to_str().unwrap(), key.to_str().unwrap());
    let from_file = run(&["sign", "--secret-file", key, body]);
    assert_eq!(out(&from_file), format!("{VECTOR_SIGNATURE}\n"), "{}", err(&from_file));
    assert_eq!(out(&run_with_secret(VECTOR_SECRET, &["sign"], VECTOR_BODY)), format!("{VECTOR_SIGNATURE}\n"));
    let by_env = leadsbotd().env("KEY", VECTOR_SECRET).args(["--json", "sign", "--secret-env", "KEY", body]).output().unwrap();
    assert_eq!(json_line(&by_env), json!({ "header": "X-LeadsBot-Signature", "signature": VECTOR_SIGNATURE, "bytes": 117 }));
    // The bytes as they are: a line end more is another body.
    assert_ne!(out(&run_with_secret(VECTOR_SECRET, &["sign"], &format!("{VECTOR_BODY}\n"))), format!("{VECTOR_SIGNATURE}\n"));
}

#[test]
fn verify_tells_right_wrong_and_malformed_apart() {
    let verify = |signature: &str, secret: &str| run_with_secret(secret, &["verify", "--signature", signature], VECTOR_BODY);
    let good = verify(VECTOR_SIGNATURE, VECTOR_SECRET);
    assert_eq!((good.status.code(), out(&good)), (Some(0), "valid: 117 bytes\n"));
    let mismatch = "the signature does not match: another secret, or the body was changed on the way";
    let malformed = "the signature is not 64 lower-case hex digits";
    let other = VECTOR_SIGNATURE.replace("501e", "501f");
    let long = format!("sha256={VECTOR_SIGNATURE}");
    for (signature, secret, reason) in [
        (other.as_str(), VECTOR_SECRET, mismatch),
        (VECTOR_SIGNATURE, "fedcba9876543210fedcba9876543210", mismatch),
        (long.as_str(), VECTOR_SECRET, malformed),
        (VECTOR_SIGNATURE.to_uppercase().as_str(), VECTOR_SECRET, malformed),
        ("", VECTOR_SECRET, malformed),
    ] {
        let bad = verify(signature, secret);
        assert_eq!((bad.status.code(), out(&bad)), (Some(1), ""), "{signature}");
        assert_eq!(err(&bad), format!("leadsbotd: not valid: {reason} (117 bytes were read)\n"));
        let bad = run_with_secret(secret, &["--json", "verify", "--signature", signature], VECTOR_BODY);
        assert_eq!((bad.status.code(), json_line(&bad)), (Some(1), json!({ "valid": false, "reason": reason, "bytes": 117 })));
    }
    let home = Home::new("");
    std::fs::write(home.path("body"), VECTOR_BODY).unwrap();
    let file = home.path("body");
    let args = ["--json", "verify", "--secret", VECTOR_SECRET, "--signature", VECTOR_SIGNATURE, file.to_str().unwrap()];
    assert_eq!(json_line(&run(&args)), json!({ "valid": true, "bytes": 117 }));
    let missing = run(&["verify", "--secret", VECTOR_SECRET, "--signature", VECTOR_SIGNATURE, "/nonexistent/body"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(err(&missing), "leadsbotd: /nonexistent/body cannot be read: No such file or directory (os error 2)\n");
}

#[test]
fn a_secret_on_the_command_line_is_needed_once_and_checked() {
    assert_eq!(run(&["sign"]).status.code(), Some(2));
    assert_eq!(run(&["sign", "--secret", VECTOR_SECRET, "--secret-env", "KEY"]).status.code(), Some(2));
    let short = run_with_secret("hunter2", &["sign"], "");
    assert_eq!(short.status.code(), Some(1));
    assert_eq!(err(&short), "leadsbotd: the secret has 7 bytes; it needs at least 16 (make one with: leadsbotd secret new)\n");
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success());
        for word in ["serve", "trigger", "retry"] {
            assert!(out(&script).contains(word), "{shell}: {word}");
        }
        // The shell itself is the judge, where it is installed.
        if let Ok(mut child) = Command::new(shell).arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            child.stdin.take().unwrap().write_all(&script.stdout).unwrap();
            let judged = child.wait_with_output().unwrap();
            assert!(judged.status.success(), "{shell}: {}", err(&judged));
        } else {
            assert_ne!(shell, "bash", "there is no bash here");
        }
    }
    assert_eq!(run(&["completions", "cmd"]).status.code(), Some(2));
}

/// The commands that a command's help names.
fn subcommands(help: &str) -> Vec<String> {
    let section = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let lines = section.lines().take_while(|l| !l.is_empty());
    let names = lines.filter(|l| l.starts_with("  ") && !l.starts_with("   ")).filter_map(|l| l.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_explains_itself() {
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let help = run(&args);
        assert_eq!((help.status.code(), err(&help)), (Some(0), ""), "{args:?}");
        let text = out(&help);
        let about = text.lines().next().unwrap_or_default();
        assert!(about.len() > 10 && text.contains("Usage:"), "{args:?}: {text}");
        // Every option and argument says what it is for.
        let bare = text.lines().filter(|l| l.trim_start().starts_with(['-', '<']));
        for line in bare {
            let described = line.trim_start().split("  ").filter(|part| !part.trim().is_empty()).count() > 1;
            let below = text.lines().skip_while(|l| *l != line).nth(1).is_some_and(|l| l.starts_with("          "));
            assert!(described || below, "{args:?}: {line}");
        }
        open.extend(subcommands(text).into_iter().map(|name| [path.as_slice(), &[name]].concat()));
        seen += 1;
    }
    assert!(seen >= 22, "only {seen} commands were found");
    let version = run(&["--version"]);
    assert_eq!(out(&version), format!("leadsbotd {}\n", env!("CARGO_PKG_VERSION")));
}

/// A `listen` of the program.
struct Listening {
    child: Child,
    /// `None` once its reader has gone away.
    lines: Option<BufReader<ChildStdout>>,
    at: SocketAddr,
}

impl Listening {
    fn start(more: &[&str]) -> Self {
        let args = ["--json", "listen", "--port", "0", "--secret", VECTOR_SECRET];
        let mut child = leadsbotd().args(args).args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut listening = Self { lines: child.stdout.take().map(BufReader::new), child, at: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let first = listening.next();
        let url = first["listening"].as_str().unwrap();
        listening.at = url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        listening
    }

    /// What it says next.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Sends the vector as event `id`; gives the answer and what `listen` says of it.
    fn deliver(&mut self, id: &str, signature: &str) -> (crate::support::http::Answer, Value) {
        let headers = [("x-leadsbot-signature", signature), ("x-leadsbot-event-id", id), ("content-type", "application/json")];
        let answer = Client::new(self.at).send("POST", "/", &headers, VECTOR_BODY.as_bytes()).expect("an answer");
        (answer, self.next())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn listen_verifies_drops_duplicates_and_says_so() {
    let mut listening = Listening::start(&[]);
    let (answer, told) = listening.deliver("evt_1", VECTOR_SIGNATURE);
    assert_eq!((answer.status, answer.json()), (200, json!({ "status": "stored" })));
    assert_eq!((&told["answered"], &told["duplicate"], &told["signature"]), (&json!(200), &json!(false), &json!("valid")));
    assert_eq!(told["standard_signature"], "no signature header");
    assert_eq!(told["body"], serde_json::from_str::<Value>(VECTOR_BODY).unwrap());
    assert_eq!(told["headers"]["x-leadsbot-event-id"], "evt_1");
    let (answer, told) = listening.deliver("evt_1", VECTOR_SIGNATURE);
    assert_eq!((answer.status, answer.json()), (200, json!({ "status": "duplicate" })));
    assert_eq!(told["duplicate"], true);
    for bad in [VECTOR_SIGNATURE.replace("501e", "501f"), VECTOR_SIGNATURE.to_uppercase(), String::new()] {
        let (answer, told) = listening.deliver("evt_2", &bad);
        assert_eq!((answer.status, &told["answered"]), (401, &json!(401)));
        assert_ne!(told["signature"], "valid");
    }
    // What was refused was not stored, so it is no duplicate when it comes again.
    let (_, told) = listening.deliver("evt_2", VECTOR_SIGNATURE);
    assert_eq!(told["duplicate"], false);
    assert_eq!(Client::new(listening.at).send("GET", "/", &[], b"").unwrap().status, 405);
}

#[test]
fn listen_misbehaves_as_told() {
    let mut throttling = Listening::start(&["--answer", "429", "--retry-after", "7"]);
    let (answer, told) = throttling.deliver("evt_1", VECTOR_SIGNATURE);
    assert_eq!((answer.status, answer.header("retry-after"), &told["answered"]), (429, Some("7"), &json!(429)));
    assert_eq!(throttling.deliver("evt_1", "bad").0.status, 401, "a bad signature is refused all the same");
    let mut failing = Listening::start(&["--fail", "100"]);
    assert_eq!(failing.deliver("evt_1", VECTOR_SIGNATURE).0.status, 500);
    let mut well = Listening::start(&["--fail", "0", "--retry-after", "7"]);
    let (answer, _) = well.deliver("evt_1", VECTOR_SIGNATURE);
    assert_eq!((answer.status, answer.header("retry-after")), (200, None));
    for (flag, value, code) in [("--answer", "99", 1), ("--answer", "1000", 1), ("--fail", "101", 2)] {
        let refused = run(&["listen", "--port", "0", "--secret", VECTOR_SECRET, flag, value]);
        assert_eq!(refused.status.code(), Some(code), "{flag} {value}");
    }
    let taken = well.at.port().to_string();
    let refused = run(&["listen", "--port", &taken, "--secret", VECTOR_SECRET]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).starts_with(&format!("leadsbotd: cannot listen at 127.0.0.1:{taken}: ")), "{}", err(&refused));
}

#[test]
fn trigger_explains_each_answer() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), "headers = { Authorization = \"Bearer not-to-be-shown\" }"));
    for (status, code, class, fate) in [
        (200, 0, "delivered", "be done"),
        (401, 1, "refused", "be held, with all others, until the destination is put right; nothing is lost"),
        (422, 1, "rejected", "become a dead letter after a few attempts; the others would go on"),
        (429, 1, "throttled", "wait as long as the receiver asks; nothing is lost"),
        (500, 1, "temporary", "be tried again later; nothing is lost"),
    ] {
        receiver.script(move |_| Reply::status(status));
        let text = home.run(&["trigger", "crm"]);
        assert_eq!(text.status.code(), Some(code), "{status}");
        assert!(out(&text).contains(&format!("answer: HTTP {status}")) && out(&text).contains(&format!("{class}: HTTP {status}")));
        let json = home.run(&["--json", "trigger", "crm"]);
        assert_eq!(json.status.code(), Some(code), "{status}");
        let told = json_line(&json);
        assert_eq!((&told["delivered"], &told["class"], &told["status"]), (&json!(code == 0), &json!(class), &json!(status)));
        assert_eq!(told["real_event_would"], fate);
        assert_eq!(err(&text).contains(fate), code != 0);
        for output in [text, json] {
            assert!(!out(&output).contains("not-to-be-shown") && !err(&output).contains("not-to-be-shown"));
            assert!(!out(&output).contains("/hook"), "a url's path may hold a token");
        }
    }
    assert!(receiver.seen().iter().all(|d| d.verified(SECRET) && d.header("authorization") == "Bearer not-to-be-shown"));
    assert!(!home.database().exists(), "trigger keeps nothing");
}

#[test]
fn trigger_says_when_nobody_is_there_and_sends_any_kind() {
    let mut receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    for kind in ["lead.created", "lead.updated", "lead.status_changed", "lead.replied", "test.ping"] {
        home.ok(&["trigger", "crm", "--kind", kind]);
    }
    let kinds: Vec<String> = receiver.taken().iter().map(|d| d.header("x-leadsbot-event").to_owned()).collect();
    assert_eq!(kinds, ["lead.created", "lead.updated", "lead.status_changed", "lead.replied", "test.ping"]);
    assert_eq!(receiver.taken()[3].json()["data"]["reply"]["direction"], "outbound");
    assert_eq!(receiver.taken()[2].json()["data"]["to"], "contacted");
    assert_eq!(home.run(&["trigger", "crm", "--kind", "lead.sold"]).status.code(), Some(2));
    receiver.down();
    let refused = home.run(&["--json", "trigger", "crm"]);
    let told = json_line(&refused);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!((&told["class"], &told["code"], &told["status"]), (&json!("offline"), &json!("connection_refused"), &Value::Null));
    assert!(out(&home.run(&["trigger", "crm"])).contains("answer: none"));
    let unknown = home.run(&["trigger", "crn"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(err(&unknown), "leadsbotd: there is no destination crn in the configuration; there are crm\n");
}

#[test]
fn preview_shows_what_would_be_sent_and_sends_nothing() {
    let receiver = Receiver::well();
    let more = "when = \"data.score >= 50\"\nheaders = { Authorization = \"Bearer not-to-be-shown\" }\n\
                map = { First = \"data.name | first_word\", Phone = \"data.phone | e164('43')\", At = \"created_at | date('%Y-%m-%d')\" }";
    let home = Home::new(&Home::webhook("crm", &receiver.url(), more));
    let event = |score: i64| {
        json!({"id":"evt_5kx0p7d1w2c8h3m9q4r6t0v2yz","event":"lead.created","created_at":"2026-11-23T12:00:00.123Z",
        "data":{"name":"Jane van Dyke","phone":"0664 1234567","score":score}})
    };
    let file = home.path("event.json");
    let file = file.to_str().unwrap();
    std::fs::write(file, event(88).to_string()).unwrap();
    let text = home.ok(&["preview", "crm", "--event", file]);
    assert!(text.starts_with("POST to crm (http://127.0.0.1:"), "{text}");
    for line in
        ["  X-LeadsBot-Event-Id: evt_5kx0p7d1w2c8h3m9q4r6t0v2yz\n", "  Authorization: (hidden)\n", "    \"Phone\": \"+436641234567\",\n"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("would not be sent") && !text.contains("not-to-be-shown") && !text.contains("/hook"), "{text}");
    let shown = json_line(&home.run(&["--json", "preview", "crm", "--event", file]));
    assert_eq!(shown["wanted"], true);
    assert!(receiver.seen().is_empty() && !home.database().exists());

    // What is sent is what was shown.
    home.ok(&["trigger", "crm", "--event", file]);
    let sent = receiver.taken().remove(0);
    assert_eq!(sent.body, shown["request"]["body"].as_str().unwrap().as_bytes());
    assert_eq!(sent.json(), json!({"First":"Jane","Phone":"+436641234567","At":"2026-11-23"}));
    assert_eq!(sent.event_id(), "evt_5kx0p7d1w2c8h3m9q4r6t0v2yz");

    std::fs::write(file, event(10).to_string()).unwrap();
    assert!(home.ok(&["preview", "crm", "--event", file]).ends_with("it would not be sent\n"));
    assert_eq!(json_line(&home.run(&["--json", "preview", "crm", "--event", file]))["wanted"], false);
    assert!(home.ok(&["preview", "crm", "--kind", "test.ping"]).ends_with("it would not be sent\n"), "events has only lead.*");
    for (content, complaint) in [("{", "is no JSON: "), ("[]", "is no event; "), ("{\"event\":\"lead.created\"}", "is no event; ")] {
        std::fs::write(file, content).unwrap();
        let output = home.run(&["preview", "crm", "--event", file]);
        assert_eq!(output.status.code(), Some(1), "{content}");
        assert!(err(&output).starts_with(&format!("leadsbotd: {file}: {complaint}")), "{}", err(&output));
    }
    let missing = home.run(&["preview", "crm", "--event", "no-such-file"]);
    assert!(err(&missing).starts_with("leadsbotd: no-such-file: cannot be read: "), "{}", err(&missing));
}

/// A database with two leads, one of which tries to run a formula; no daemon any more.
fn home_with_leads() -> (Home, String) {
    let home = Home::new("");
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"=cmd|' /C calc'!A0","email":"m@example.com","source":"fair","fields":{"note":"+1+1","size":"-5"}}));
    let (id, _) = client.lead(&json!({"name":"Jane \"J\" Smith","phone":"+49 30 123456","message":"Two\nlines","status":"won"}));
    daemon.stop();
    (home, id)
}

fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect()
}

#[test]
fn leads_are_listed_and_shown() {
    let (home, id) = home_with_leads();
    let listed = json_lines(&home.run(&["--json", "leads", "list"]));
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["id"], &listed[0]["message"]), (&json!(id), &json!("Two\nlines")), "the newest comes first");
    let ids = |args: &[&str]| json_lines(&home.run(&[&["--json", "leads", "list"], args].concat())).len();
    assert_eq!(
        [ids(&["--limit", "1"]), ids(&["--status", "won"]), ids(&["--source", "fair"]), ids(&["--since", "2100-01-01"])],
        [1, 1, 1, 0]
    );
    assert_eq!(home.run(&["leads", "list", "--limit", "0"]).status.code(), Some(2));
    assert_eq!(home.run(&["leads", "list", "--since", "yesterday"]).status.code(), Some(2));
    assert_eq!(home.ok(&["leads", "list", "--source", "nowhere"]), "no lead\n");
    let shown = json_line(&home.run(&["--json", "leads", "show", &id]));
    assert_eq!((&shown["status"], &shown["events"][0]["event"]), (&json!("won"), &json!("lead.created")));
    assert!(home.ok(&["leads", "show", &id]).contains("goes to no destination"));
    for unknown in ["lead_00000000000000000000000000", "nobody\u{1b}[2J"] {
        let output = home.run(&["leads", "show", unknown]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(err(&output), format!("leadsbotd: there is no lead {}\n", unknown.replace('\u{1b}', " ")));
        assert_eq!(json_line(&home.run(&["--json", "leads", "show", unknown]))["error"].as_str().unwrap().split(" lead ").count(), 2);
    }
}

#[test]
fn an_export_is_safe_to_open_and_kept_from_others() {
    let (home, id) = home_with_leads();
    let rows = csv_rows(&home.ok(&["leads", "export"]));
    let column = |name: &str| rows[0].iter().position(|c| c == name).unwrap_or_else(|| panic!("no column {name}: {:?}", rows[0]));
    let (name, phone) = (column("name"), column("phone"));
    assert_eq!(
        (rows[1][column("id")].as_str(), rows[1][name].as_str(), rows[1][phone].as_str()),
        (id.as_str(), "Jane \"J\" Smith", "+49 30 123456")
    );
    assert_eq!(rows[1][column("message")], "Two\nlines");
    assert_eq!(rows[2][name], "'=cmd|' /C calc'!A0", "a formula is made a text");
    assert_eq!((rows[2][column("fields.note")].as_str(), rows[2][column("fields.size")].as_str()), ("+1+1", "-5"));
    assert_eq!(csv_rows(&home.ok(&["leads", "export", "--raw"]))[2][name], "=cmd|' /C calc'!A0");
    let lines = json_lines(&home.run(&["leads", "export", "--format", "json"]));
    assert_eq!((lines.len(), &lines[1]["name"]), (2, &json!("=cmd|' /C calc'!A0")));

    let file = home.path("leads.csv");
    let args = ["leads", "export", "--output", file.to_str().unwrap()];
    assert_eq!(home.ok(&args), "");
    assert_eq!(csv_rows(&std::fs::read_to_string(&file).unwrap()), rows);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = home.run(&args);
    assert_eq!(
        (again.status.code(), err(&again)),
        (Some(1), format!("leadsbotd: {} cannot be made: File exists (os error 17)\n", file.display()).as_str())
    );
    assert_eq!(csv_rows(&std::fs::read_to_string(&file).unwrap()), rows, "the first export is untouched");
}

#[test]
fn commands_on_a_missing_or_foreign_database_say_what_to_do() {
    let home = Home::new("");
    let missing = format!(
        "cannot open the database {}: there is no such file; start the daemon once, or name another configuration with --config",
        home.database().display()
    );
    let commands: [&[&str]; 5] =
        [&["queue", "status"], &["queue", "list"], &["queue", "retry", "crm", "--all"], &["leads", "list"], &["leads", "export"]];
    for args in commands {
        let output = home.run(args);
        assert_eq!(
            (output.status.code(), out(&output), err(&output)),
            (Some(1), "", format!("leadsbotd: {missing}\n").as_str()),
            "{args:?}"
        );
        let output = home.run(&[&["--json"], args].concat());
        assert_eq!((output.status.code(), json_line(&output)), (Some(1), json!({ "error": missing })), "{args:?}");
    }
    assert!(!home.database().exists(), "looking makes no database");
    assert!(home.ok(&["check"]).contains("not there yet; the first start makes it"));
    std::fs::write(home.database(), "no database at all, but long enough to be looked at as one ".repeat(40)).unwrap();
    for args in [["queue", "status"], ["leads", "list"]] {
        let output = home.run(&args);
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains("it is no SQLite database"), "{}", err(&output));
    }
    assert_eq!(home.run(&["check"]).status.code(), Some(1));
}

#[test]
fn an_empty_queue_says_so() {
    let home = Home::new("");
    Daemon::start(&home).stop();
    let status = json_line(&home.run(&["--json", "queue", "status"]));
    assert_eq!(
        status,
        json!({ "daemon_running": false, "destinations": [], "storage": { "state": "ok", "damage": null, "put_aside": [] }, "wear": null })
    );
    assert!(home.ok(&["queue", "status"]).contains("no destination was ever configured"));
    assert_eq!(home.ok(&["queue", "list"]), "nothing is waiting\n");
    assert!(json_lines(&home.run(&["--json", "queue", "list"])).is_empty());
    for args in [&["queue", "pause", "crm"][..], &["queue", "drop", "crm", "--all", "--yes"], &["queue", "list", "crm"]] {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(err(&output), "leadsbotd: the database knows no destination crm; it knows: none\n", "{args:?}");
    }
    assert_eq!(home.run(&["queue", "retry", "crm"]).status.code(), Some(2), "which deliveries has to be said");
}

#[test]
fn the_queue_commands_answer_scripts_in_json() {
    let receiver = Receiver::start(|_| Reply::status(401));
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let (_, event) = Client::new(daemon.address).lead(&json!({"name":"Jane"}));
    daemon.stop();
    let listed = json_line(&home.run(&["--json", "queue", "list"]));
    assert_eq!((&listed["destination"], &listed["event_id"]), (&json!("crm"), &json!(event)), "{listed}");
    // A refused attempt changes nothing: the delivery is due all the while.
    for (args, count) in
        [(&["pause", "crm"][..], 1), (&["resume", "crm"], 1), (&["retry", "crm", &event], 1), (&["drop", "crm", &event, "--yes"], 1)]
    {
        let answer = json_line(&home.run(&[&["--json", "queue"], args].concat()));
        assert_eq!(answer, json!({ "done": count, "daemon_running": false }), "{args:?}");
    }
    assert!(json_lines(&home.run(&["--json", "queue", "list"])).is_empty());
    assert_eq!(json_line(&home.run(&["--json", "check"]))["ok"], true);
}

#[test]
fn output_into_a_closed_pipe_ends_quietly_and_into_a_full_disk_loudly() {
    let (home, _) = home_with_leads();
    let config = home.config();
    let commands: [&[&str]; 5] =
        [&["leads", "export"], &["leads", "export", "--format", "json"], &["leads", "list"], &["check"], &["completions", "bash"]];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let quiet = leadsbotd().arg("--config").arg(&config).args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((quiet.status.code(), err(&quiet)), (Some(0), ""), "{args:?}");
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let loud = leadsbotd().arg("--config").arg(&config).args(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(loud.status.code(), Some(1), "{args:?}");
        assert!(err(&loud).contains("No space left on device"), "{args:?}: {}", err(&loud));
    }
}

#[test]
fn listen_ends_when_its_reader_goes_away() {
    let mut listening = Listening::start(&[]);
    listening.deliver("evt_1", VECTOR_SIGNATURE);
    listening.lines = None;
    let headers = [("x-leadsbot-signature", VECTOR_SIGNATURE)];
    // It may be gone before it has answered.
    let _ = Client::new(listening.at).send("POST", "/", &headers, VECTOR_BODY.as_bytes());
    let mut ended = None;
    eventually("it ends", || {
        ended = listening.child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[test]
fn a_receiver_that_lost_something_gets_a_range_again_with_the_same_ids() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let events: Vec<String> = (0..4).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).1).collect();
    eventually("all arrive", || receiver.taken().len() == 4);
    eventually("and are written down", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    assert!(home.ok(&["queue", "replay", "crm", &events[1]]).contains("1 deliveries are sent to crm again"));
    eventually("one comes again", || receiver.taken().len() == 5);
    let first = receiver.taken().into_iter().find(|d| d.event_id() == events[1]).unwrap();
    let again = receiver.taken().pop().unwrap();
    assert_eq!((first.event_id(), first.header("x-leadsbot-delivery-id")), (again.event_id(), again.header("x-leadsbot-delivery-id")));
    assert_eq!(first.body, again.body);
    eventually("and is written down", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    assert!(home.ok(&["queue", "replay", "crm", "--since", "2020-01-01", "--until", "2021-01-01"]).contains("0 deliveries"));
    assert!(home.ok(&["queue", "replay", "crm", "--since", "2020-01-01"]).contains("4 deliveries"));
    eventually("all come again", || receiver.taken().len() == 9);
    assert!(!home.run(&["queue", "replay", "crm"]).status.success(), "it must be said which");

    receiver.script(|_| Reply::status(422));
    client.lead(&json!({"name":"Rejected"}));
    eventually("a dead letter", || home.ok(&["queue", "list", "crm", "--state", "dead"]).contains("422"));
    receiver.script(|_| Reply::status(200));
    assert!(home.ok(&["queue", "retry", "crm", "--dead", "--until", "2021-01-01"]).contains("0 of crm"));
    assert!(home.ok(&["queue", "retry", "crm", "--dead", "--since", "2021-01-01"]).contains("1 of crm"));
    eventually("the dead letter arrives", || receiver.taken().len() == 10);
    eventually("and is written down as well", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    home.ok(&["queue", "pause", "crm"]);
    client.lead(&json!({"name":"Not for them"}));
    assert!(home.ok(&["queue", "drop", "crm", "--all", "--yes"]).contains("1 deliveries"));
    assert!(home.ok(&["queue", "replay", "crm", "--since", "2020-01-01"]).contains("5 deliveries"), "what was dropped was never delivered");
    daemon.stop();
}

#[test]
fn what_is_sent_again_keeps_the_order_of_its_lead_however_it_is_named() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), "workers = 2"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (lead, created) = client.lead(&json!({"name":"Jane"}));
    let updated = client.json("PATCH", &format!("/api/v1/leads/{lead}"), &json!({"company":"Smith"})).json()["event_ids"][0].clone();
    eventually("both arrive", || receiver.taken().len() == 2);
    eventually("and are written down", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    home.ok(&["queue", "pause", "crm"]);
    assert!(home.ok(&["queue", "replay", "crm", updated.as_str().unwrap(), &created, &created]).contains("2 deliveries"));
    let states: Vec<Value> = home.ok(&["--json", "queue", "list"]).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&states[0]["state"], &states[1]["state"]), (&json!("retrying"), &json!("held")), "{states:?}");
    home.ok(&["queue", "resume", "crm"]);
    eventually("both come again", || receiver.taken().len() == 4);
    assert_eq!(receiver.taken().iter().map(|d| d.event_id().to_owned()).collect::<Vec<_>>()[2], created);
    daemon.stop();
}
