//! Programs and libraries that others wrote, to test against. They need not be on every machine: a test whose peer is missing says so
//! and ends, unless LEADSBOT_REQUIRE_PEERS=1 makes that a failure.

use super::eventually;
use super::http::{Answer, Client};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program `name` of this machine; else `None`, after having said how to get it.
#[track_caller]
pub fn peer(name: &str, install: &str) -> Option<PathBuf> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join(name)).find(|p| p.is_file());
    if found.is_none() {
        missing(name, install);
    }
    found
}

/// The path in the environment variable `name`; else `None`, after having said what it is for.
#[track_caller]
pub fn peer_at(name: &str, install: &str) -> Option<PathBuf> {
    let found = std::env::var_os(name).map(PathBuf::from).filter(|p| p.exists());
    if found.is_none() {
        missing(name, install);
    }
    found
}

/// Says that a test is not done for want of a peer.
#[track_caller]
pub fn missing(what: &str, install: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("LEADSBOT_REQUIRE_PEERS").is_none_or(|v| v != "1"), "{what} is missing; {install}");
    // Past the test runner, which keeps what a passing test prints to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {what} is missing; {install}");
}

/// One of `examples/receivers`, started as its README says. Dropping it ends it with its workers.
pub struct Example {
    child: Child,
    pub address: SocketAddr,
}

impl Example {
    /// The command of the receiver called `name`; `None` when its runtime is missing.
    #[track_caller]
    pub fn command(name: &str) -> Option<Vec<PathBuf>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/receivers").join(name);
        match name {
            "node" => Some(vec![peer("node", "apt-get install nodejs")?, folder.join("receiver.mjs")]),
            "python" => Some(vec![peer("python3", "apt-get install python3")?, folder.join("receiver.py")]),
            "php" => {
                let php = peer("php", "apt-get install php-cli php-sqlite3")?;
                let loaded = "exit(extension_loaded('pdo_sqlite') && extension_loaded('pcntl') ? 0 : 1);";
                if !Command::new(&php).args(["-r", loaded]).status().expect("php runs").success() {
                    missing("PHP's pdo_sqlite", "apt-get install php-sqlite3");
                    return None;
                }
                Some(vec![php, folder.join("receiver.php")])
            }
            "rust" => build(&folder).map(|program| vec![program]),
            other => panic!("there is no receiver {other}"),
        }
    }

    /// Starts it at `port` (0: any free one) and waits until it takes connections.
    #[track_caller]
    pub fn start(command: &[PathBuf], secret: &str, store: &Path, port: u16) -> Self {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .env("LEADSBOT_SECRET", secret)
            .env_remove("LEADSBOT_SECRET_NEXT")
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("STORE", store)
            .current_dir(store.parent().expect("the store is in a folder"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // PHP's server has workers: they are ended as one.
            .process_group(0)
            .spawn()
            .expect("the receiver starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its standard output")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://").and_then(|at| at.parse().ok());
        let example = Self { child, address: address.unwrap_or_else(|| panic!("its first line is {line:?}")) };
        eventually("the receiver takes connections", || TcpStream::connect(example.address).is_ok());
        example
    }

    /// Sends it a request of our own.
    pub fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Client::new(self.address).send("POST", "/", headers, body).expect("an answer")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What a receiver has kept in `store`: event id -> body.
pub fn kept(store: &Path) -> BTreeMap<String, Vec<u8>> {
    if store.is_dir() {
        let files = std::fs::read_dir(store).expect("the folder").map(|entry| entry.expect("an entry").path());
        return files
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .map(|p| (p.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(&p).expect("the event")))
            .collect();
    }
    let rows = || -> rusqlite::Result<BTreeMap<String, Vec<u8>>> {
        let db = rusqlite::Connection::open(store)?;
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        let mut query = db.prepare("SELECT id, CAST(body AS BLOB) FROM events")?;
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    // The file and its table come with the first event.
    if store.exists() { rows().unwrap_or_default() } else { BTreeMap::new() }
}

/// Builds the Rust receiver, a package of its own.
fn build(folder: &Path) -> Option<PathBuf> {
    let cargo = std::env::var_os("CARGO").map(PathBuf::from).or_else(|| peer("cargo", "see https://rustup.rs"))?;
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--message-format=json-render-diagnostics"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("cargo runs");
    if !built.status.success() {
        let why = String::from_utf8_lossy(&built.stderr).into_owned();
        missing("the built receiver of examples/receivers/rust", &format!("cargo build says: {why}"));
        return None;
    }
    let program = String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["executable"].as_str().map(PathBuf::from))
        .next_back();
    Some(program.expect("cargo names the program"))
}
