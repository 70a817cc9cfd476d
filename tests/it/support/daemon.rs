//! The real binary, in a folder of its own.

use super::{SECRET, TOKEN};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// The program under test.
pub fn leadsbotd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leadsbotd"));
    command.env_remove("CREDENTIALS_DIRECTORY").env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
    command
}

/// A folder with a configuration and a database.
pub struct Home {
    dir: TempDir,
}

impl Home {
    /// Listens at a free port of loopback, has an API token, no limit on requests, short waits; `more` is added to the file.
    pub fn new(more: &str) -> Self {
        let home = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        home.configure(more);
        home
    }

    /// Writes the configuration anew.
    pub fn configure(&self, more: &str) {
        // A machine that tests run on may have no time service; tests of the clock say for themselves what they want.
        let clock = "[device]\nclock = \"trusted\"\n";
        let (vouched, more) = match more.contains("[device]\n") {
            true if more.contains("\nclock = ") => ("", more.to_owned()),
            true => ("", more.replacen("[device]\n", clock, 1)),
            false => (clock, more.to_owned()),
        };
        let text = format!(
            "{vouched}[server]\nlisten = [\"127.0.0.1:0\"]\napi_tokens = [{{ name = \"test\", secret = \"{TOKEN}\" }}]\n\
             [server.limits]\nrequests_per_minute = 0\n\
             [storage]\npath = {:?}\n[log]\nlevel = \"debug\"\n\
             [delivery]\nretry_first_seconds = 1\nretry_max_seconds = 1\nprobe_first_seconds = 1\nprobe_max_seconds = 1\n\
             blocked_probe_first_seconds = 1\nblocked_probe_max_seconds = 1\nramp_seconds = 0\n{more}",
            self.database()
        );
        std::fs::write(self.config(), text).expect("the configuration is written");
    }

    /// A webhook destination named `name`.
    pub fn webhook(name: &str, url: &str, more: &str) -> String {
        format!("[[destination]]\nname = \"{name}\"\ntype = \"webhook\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n{more}\n")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub fn database(&self) -> PathBuf {
        self.path("leads.db")
    }

    /// Runs a command of the program with this home's configuration.
    pub fn run(&self, args: &[&str]) -> Output {
        leadsbotd().arg("--config").arg(self.config()).args(args).output().expect("the program runs")
    }

    /// The same; it must succeed. Gives what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?} failed\n{out}\n{err}");
        out.into_owned()
    }
}

/// A running daemon. Dropping it kills it as a power cut would.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Starts `serve` and waits until it says where it listens.
    #[track_caller]
    pub fn start(home: &Home) -> Self {
        Self::start_with(home, leadsbotd())
    }

    /// The same with a command that already has an environment, or another program in front of ours.
    #[track_caller]
    pub fn start_with(home: &Home, command: Command) -> Self {
        match Self::try_start(home, command) {
            Ok(daemon) => daemon,
            Err(log) => panic!("the daemon did not start:\n{log}"),
        }
    }

    /// The same under strace with these arguments: faults at the n-th call, or a record of all calls.
    pub fn traced(home: &Home, arguments: &[&str]) -> Result<Self, String> {
        let mut command = Command::new("strace");
        // -D: the daemon is our own child and strace a stranger beside it, so that signals and waits mean the daemon.
        command.args(["-D", "-f", "-q"]).args(arguments).arg(env!("CARGO_BIN_EXE_leadsbotd")).stdin(Stdio::null());
        Self::try_start(home, command)
    }

    /// Starts `serve`; gives the log if it ends before it listens.
    fn try_start(home: &Home, mut command: Command) -> Result<Self, String> {
        let mut child = command
            .arg("--config")
            .arg(home.config())
            .arg("serve")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (tx, rx) = channel();
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().expect("its standard error"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, at)) = line.split_once("listens at http://") {
                    let _ = tx.send(at.trim().parse::<SocketAddr>());
                }
                lines.lock().unwrap().push(line);
            }
        });
        match rx.recv_timeout(Duration::from_secs(60)) {
            Ok(Ok(address)) => Ok(Self { child, address, log }),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                let log = log.lock().unwrap().join("\n");
                Err(log)
            }
        }
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_some()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the signal is sent");
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it is gone");
    }

    /// SIGTERM; gives the exit code and the whole log.
    pub fn stop(mut self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("it ends");
        (status.code(), self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
