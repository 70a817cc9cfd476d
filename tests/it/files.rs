//! Leads in files: the real binary writes, is killed, loses its stick, finds its disk full; other programs read.

use crate::support::http::Client;
use crate::support::peers::{missing, peer};
use crate::support::{Daemon, Home, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// The folder the files of a test are in.
fn folder(home: &Home) -> PathBuf {
    let folder = home.path("export");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn destination(name: &str, kind: &str, path: &Path, more: &str) -> String {
    format!("[[destination]]\nname = \"{name}\"\ntype = \"{kind}\"\npath = {path:?}\nevents = [\"*\"]\n{more}\n")
}

/// The files of a folder whose names end like this, those put aside first.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|e| e.unwrap().path()).filter(|p| p.to_string_lossy().ends_with(ending)).collect())
        .unwrap_or_default();
    found.sort();
    found
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    assert_eq!(bytes.len() % 2, 0, "half a character");
    String::from_utf16(&units).unwrap().strip_prefix('\u{feff}').expect("a byte order mark").to_owned()
}

/// Rows of a file of cells as name -> value. A row of another length, or an end without a line end, fails.
fn rows(text: &str, separator: u8) -> Vec<BTreeMap<String, String>> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(text.as_bytes());
    let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let row = |row: csv::StringRecord| names.iter().cloned().zip(row.iter().map(str::to_owned)).collect();
    reader.records().map(|r| row(r.expect("a whole row"))).collect()
}

/// Every row in the files of cells in a folder.
fn all_rows(folder: &Path, kind: &str) -> Vec<BTreeMap<String, String>> {
    let read = |path: PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        if kind == "excel" { rows(&utf16(&bytes), b'\t') } else { rows(&String::from_utf8(bytes).unwrap(), b',') }
    };
    files(folder, ".csv").into_iter().flat_map(read).collect()
}

const EVIL: &str = "=cmd|'/c calc'!A1\r\nsecond \"line\", with; all\tof it";

#[test]
fn a_lead_is_one_line_that_other_programs_read_and_no_formula() {
    let home = Home::new("");
    let folder = folder(&home);
    home.configure(&format!(
        "{}{}{}",
        destination("table", "csv", &folder.join("csv/leads-{{ created_at | date('%Y/%m') }}.csv"), ""),
        destination("office", "excel", &folder.join("excel/leads.csv"), ""),
        destination("lines", "jsonl", &folder.join("jsonl/{{ data.source }}/leads.jsonl"), ""),
    ));
    let check = home.ok(&["check"]);
    assert!(check.contains("table, office, lines"), "{check}");
    let preview = home.ok(&["preview", "table"]);
    assert!(preview.contains("append to table (") && preview.contains("evt_"), "{preview}");
    assert!(files(&folder, "").is_empty(), "a preview writes nothing");
    let tried = home.run(&["trigger", "table"]);
    assert!(String::from_utf8_lossy(&tried.stdout).contains("refused: there is no folder"), "{tried:?}");
    for part in ["csv", "excel", "jsonl"] {
        std::fs::create_dir(folder.join(part)).unwrap();
    }
    let daemon = Daemon::start(&home);
    let (_, event) = Client::new(daemon.address).lead(
        &json!({"name":"Zoë 日本","email":"zoe@example.com","phone":"+43 664 1","message":EVIL,"source":"../../../outside","score":-0}),
    );
    for name in ["table", "office", "lines"] {
        eventually("it is on the disk", || home.ok(&["queue", "list", name]).contains("nothing is waiting"));
    }

    let cells = "'=cmd|'/c calc'!A1 / second \"line\", with; all of it";
    for kind in ["csv", "excel"] {
        let rows = all_rows(&folder.join(kind), kind);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0]["event_id"].as_str(), rows[0]["name"].as_str()), (event.as_str(), "Zoë 日本"), "{kind}");
        assert_eq!((rows[0]["message"].as_str(), rows[0]["phone"].as_str()), (cells, "'+43 664 1"), "{kind}");
    }
    let name = files(&folder.join("csv"), ".csv").remove(0);
    assert!(name.file_name().unwrap().to_string_lossy().starts_with("leads-20"), "{name:?}: a slash in a value makes no folder");
    let line = std::fs::read_to_string(folder.join("jsonl/_._.._.._outside/leads.jsonl")).unwrap();
    let line: Value = serde_json::from_str(line.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!((line["id"].as_str(), line["data"]["message"].as_str()), (Some(event.as_str()), Some(EVIL)));
    assert!(!home.path("outside").exists() && files(&folder, "outside").is_empty());

    let Some(python) = peer("python3", "apt-get install python3") else { return };
    let script = "import csv, json, sys\n\
                  table = list(csv.DictReader(open(sys.argv[1], newline='', encoding='utf-8')))\n\
                  office = list(csv.DictReader(open(sys.argv[2], newline='', encoding='utf-16'), dialect='excel-tab'))\n\
                  print(json.dumps([table, office]))";
    let out = Command::new(python).args(["-c", script]).arg(name).arg(folder.join("excel/leads.csv")).output().unwrap();
    let read: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    for table in [&read[0], &read[1]] {
        assert_eq!((table[0]["event_id"].as_str(), table[0]["message"].as_str()), (Some(event.as_str()), Some(cells)));
    }
}

#[test]
fn a_daemon_that_is_killed_while_it_writes_leaves_whole_lines_every_lead_and_none_twice() {
    let home = Home::new("");
    let folder = folder(&home);
    for part in ["csv", "excel", "jsonl"] {
        std::fs::create_dir(folder.join(part)).unwrap();
    }
    home.configure(&format!(
        "{}{}{}",
        destination("table", "csv", &folder.join("csv/leads.csv"), "rotate_bytes = 10000"),
        destination("office", "excel", &folder.join("excel/leads.csv"), "rotate_bytes = 30000"),
        destination("lines", "jsonl", &folder.join("jsonl/leads.jsonl"), ""),
    ));
    let taken: Mutex<BTreeSet<String>> = Mutex::default();
    for round in 0..8_u64 {
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        std::thread::scope(|scope| {
            for sender in 0..3 {
                let (client, taken) = (client.clone(), &taken);
                scope.spawn(move || {
                    for n in 0.. {
                        let lead = json!({"name":format!("{round} {sender} {n}"),"message":"Grüße\n".repeat(1 + n % 80)});
                        let Some(answer) = client.try_json("POST", "/api/v1/leads", &lead).filter(|a| a.status == 201) else { return };
                        taken.lock().unwrap().insert(answer.json()["event_id"].as_str().unwrap().to_owned());
                    }
                });
            }
            // Anywhere in the middle of the work.
            std::thread::sleep(Duration::from_millis(120 + 97 * round % 400));
            daemon.kill();
        });
        // What a power cut may leave besides: the first bytes of a line.
        if round % 2 == 1 {
            let tear = |path: PathBuf, bytes: &[u8]| {
                let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
                std::io::Write::write_all(&mut file, bytes).unwrap();
            };
            // Else the next starts would be taken for a crash loop and send ever later.
            Daemon::start(&home).stop();
            tear(folder.join("csv/leads.csv"), b"evt_aaaaaaaaaaaaaaaaaaaaaaaaaa,2026-1");
            tear(folder.join("excel/leads.csv"), b"e\0v\0t");
            tear(folder.join("jsonl/leads.jsonl"), b"{\"id\":\"evt_aaaaaaaaaaaaaaaaaaaaaaaaaa\",\"ev");
        }
    }
    let daemon = Daemon::start(&home);
    // What was torn is put right before the next line.
    let (_, last) = Client::new(daemon.address).lead(&json!({"name":"The last"}));
    taken.lock().unwrap().insert(last);
    eventually("everything is on the disk", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    let taken = taken.into_inner().unwrap();
    assert!(taken.len() > 20, "{} leads", taken.len());
    for kind in ["csv", "excel"] {
        let ids: Vec<String> = all_rows(&folder.join(kind), kind).into_iter().map(|row| row["event_id"].clone()).collect();
        check(kind, &ids, &taken);
    }
    assert!(folder.join("csv/leads-1.csv").exists(), "it was never put aside");
    let text = std::fs::read_to_string(folder.join("jsonl/leads.jsonl")).unwrap();
    assert!(text.ends_with('\n'));
    let ids: Vec<String> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a whole line")["id"].as_str().unwrap().to_owned()).collect();
    check("jsonl", &ids, &taken);
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[track_caller]
fn check(kind: &str, ids: &[String], taken: &BTreeSet<String>) {
    let there: BTreeSet<String> = ids.iter().cloned().collect();
    let lost: Vec<&String> = taken.difference(&there).collect();
    assert!(lost.is_empty(), "{kind} has lost {lost:?}");
    assert_eq!(there.len(), ids.len(), "{kind} holds an event twice");
    assert!(!there.contains("evt_aaaaaaaaaaaaaaaaaaaaaaaaaa"), "{kind} holds what was torn");
}

#[test]
fn a_file_that_somebody_changed_is_put_aside_and_not_added_to() {
    let home = Home::new("");
    let folder = folder(&home);
    home.configure(&destination("table", "csv", &folder.join("leads.csv"), "columns = { Who = \"data.name\" }"));
    std::fs::write(folder.join("leads.csv"), "event_id;Who\nmade by;somebody else").unwrap();
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane"}));
    eventually("the lead is in a file of its own", || all_names(&folder.join("leads.csv")) == ["Jane"]);
    assert_eq!(std::fs::read_to_string(folder.join("leads-1.csv")).unwrap(), "event_id;Who\nmade by;somebody else");
    drop(daemon);
    // Other columns, other files.
    home.configure(&destination("table", "csv", &folder.join("leads.csv"), "columns = { Name = \"data.name\", Score = \"data.score\" }"));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Ann"}));
    eventually("it has", || std::fs::read_to_string(folder.join("leads.csv")).is_ok_and(|t| t.starts_with("event_id,Name,Score\n")));
    assert_eq!(all_names(&folder.join("leads-2.csv")), ["Jane"]);
}

fn all_names(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if text.ends_with('\n') && text.contains(",Who\n") {
        rows(&text, b',').into_iter().map(|row| row["Who"].clone()).collect()
    } else {
        Vec::new()
    }
}

/// A stick: a small file system that comes and goes.
struct Stick(PathBuf);

impl Stick {
    /// `None`, after having said why, where this cannot be done.
    fn plug(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(at).output();
        if mounted.is_ok_and(|out| out.status.success()) {
            return Some(Self(at.to_owned()));
        }
        missing("the right to mount", "run this test as root");
        None
    }

    fn remount(&self, how: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        // Somebody may be looking into it at this moment.
        eventually("the stick is unmounted", || Command::new("umount").arg(&self.0).output().is_ok_and(|out| out.status.success()));
    }
}

#[test]
fn a_stick_that_comes_and_goes_is_offline_and_then_gets_everything() {
    let home = Home::new("");
    let at = home.path("usb");
    std::fs::create_dir(&at).unwrap();
    let Some(stick) = Stick::plug(&at) else { return };
    drop(stick);
    home.configure(&destination("usb", "csv", &at.join("kiosk/leads.csv"), &format!("mount = {at:?}")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let state = || client.get("/readyz").json()["destinations"][0].clone();
    let held = |what: &str, words: &str| {
        eventually(what, || state()["state"] == what && state()["reason"].as_str().is_some_and(|reason| reason.contains(words)));
    };
    let lead = |name: &str| client.lead(&json!({"name":name})).1;
    let mut expected = BTreeSet::new();

    expected.insert(lead("While it is away"));
    held("offline", "nothing is mounted at");
    assert!(files(&at, "").is_empty(), "it wrote to the card instead");

    let stick = Stick::plug(&at).unwrap();
    eventually("it is written when the stick is back", || all_rows(&at.join("kiosk"), "csv").len() == 1);

    // Full to the last byte: nothing is lost, and nothing is half written.
    let filler = at.join("filler");
    let _ = std::fs::write(&filler, vec![0; 1 << 20]);
    expected.insert(lead(&"x".repeat(8000)));
    held("throttled", "no room left");
    assert_eq!(all_rows(&at.join("kiosk"), "csv").len(), 1);
    std::fs::remove_file(&filler).unwrap();
    eventually("it is written when there is room", || all_rows(&at.join("kiosk"), "csv").len() == 2);

    stick.remount("ro");
    expected.insert(lead("While it is read-only"));
    held("blocked", "mounted read-only");
    stick.remount("rw");
    eventually("it is written when it can be", || all_rows(&at.join("kiosk"), "csv").len() == 3);

    let written: BTreeSet<String> = all_rows(&at.join("kiosk"), "csv").into_iter().map(|row| row["event_id"].clone()).collect();
    assert_eq!(written, expected);
    eventually("every delivery is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    drop(stick);
    lead("After it was pulled out");
    held("offline", "nothing is mounted at");
    assert!(files(&at, "").is_empty());
    let stick = Stick::plug(&at).unwrap();
    eventually("a new stick gets what waits, with its head", || all_rows(&at.join("kiosk"), "csv").len() == 1);
    drop(daemon);
    drop(stick);
}
