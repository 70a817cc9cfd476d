//! What systemd is told, and what the unit allows.

use crate::support::http::Client;
use crate::support::peers::peer;
use crate::support::{Daemon, Home, Receiver, SECRET, eventually, leadsbotd};
use leadsbotd::time::SystemClock;
use rustix::process::Signal;
use serde_json::json;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// systemd's end of the notification socket.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn new(home: &Home) -> Self {
        let path = home.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, path }
    }

    fn command(&self) -> Command {
        let mut command = leadsbotd();
        command.env("NOTIFY_SOCKET", &self.path).env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        command
    }

    /// The next message.
    #[track_caller]
    fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let n = self.socket.recv(&mut bytes).expect("a message within a minute");
        String::from_utf8_lossy(&bytes[..n]).trim_end().to_owned()
    }

    /// Messages from now on only.
    fn forget(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Whether there has been no message.
    fn heard_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        self.socket.recv(&mut [0; 16]).is_err()
    }
}

#[test]
fn systemd_hears_of_the_start_of_reloads_and_of_the_stop() {
    let home = Home::new("");
    let supervisor = Supervisor::new(&home);
    let daemon = Daemon::start_with(&home, supervisor.command());
    assert_eq!(supervisor.told(), "READY=1");
    Client::new(daemon.address).lead(&json!({"name":"Ready means ready"}));

    let mut last = 0;
    for more in ["", "[no_such_table]\n"] {
        // The second file cannot be read. A reload that failed is over, too: without READY systemd would wait for it until it gives up.
        home.configure(more);
        daemon.signal(Signal::HUP);
        let reloading = supervisor.told();
        let (state, stamp) = reloading.split_once('\n').expect("two lines");
        assert_eq!(state, "RELOADING=1");
        let stamp: u64 = stamp.strip_prefix("MONOTONIC_USEC=").expect("the time, which systemd compares").parse().unwrap();
        assert!(stamp > last, "the stamps do not grow: {last}, {stamp}");
        last = stamp;
        assert_eq!(supervisor.told(), "READY=1");
    }

    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(supervisor.told(), "STOPPING=1");
    assert!(supervisor.heard_nothing());
}

#[test]
fn a_daemon_that_cannot_start_is_never_ready_and_says_why_by_its_exit_code() {
    let home = Home::new("[[destination]]\nname = \"half\"\n");
    let supervisor = Supervisor::new(&home);
    let ended = supervisor.command().arg("--config").arg(home.config()).arg("serve").output().unwrap();
    assert_eq!(ended.status.code(), Some(78), "the unit does not restart after 78, and a fault of the file must end in it");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    home.configure("");
    let text = std::fs::read_to_string(home.config()).unwrap().replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    std::fs::write(home.config(), text).unwrap();
    let ended = supervisor.command().arg("--config").arg(home.config()).arg("serve").output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "a port that is taken may be free a moment later, so the unit has to restart");
    assert!(supervisor.heard_nothing());
}

#[test]
fn the_watchdog_is_fed_again_and_again_but_only_by_the_process_it_is_meant_for() {
    let home = Home::new("");
    let supervisor = Supervisor::new(&home);
    let fed = |pid: &str| {
        let real = supervisor.command();
        // systemd names the process that is to feed; only a shell that becomes the daemon knows that number beforehand.
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("WATCHDOG_PID={pid} exec \"$0\" \"$@\"")).arg(real.get_program());
        command.env("NOTIFY_SOCKET", &supervisor.path).env("WATCHDOG_USEC", "2000000");
        command
    };
    let daemon = Daemon::start_with(&home, fed("$$"));
    assert_eq!(supervisor.told(), "READY=1");
    for _ in 0..3 {
        assert_eq!(supervisor.told(), "WATCHDOG=1");
    }
    daemon.stop();
    while supervisor.told() != "STOPPING=1" {}

    let daemon = Daemon::start_with(&home, fed("1"));
    assert_eq!(supervisor.told(), "READY=1");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(supervisor.heard_nothing(), "another process's watchdog was fed");
    daemon.stop();
}

#[test]
fn a_full_disk_does_not_starve_the_watchdog() {
    let Some(strace) = peer("strace", "apt-get install strace") else { return };
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    Daemon::start(&home).stop();
    home.ok(&["queue", "pause", "crm"]);
    let supervisor = Supervisor::new(&home);
    let real = supervisor.command();
    let mut full = Command::new(strace);
    full.args(["-D", "-f", "-q", "-e", "trace=pwrite64", "-o", "/dev/null", "-e", "inject=pwrite64:error=ENOSPC:when=60+"]);
    full.arg(real.get_program()).env("NOTIFY_SOCKET", &supervisor.path).env("WATCHDOG_USEC", "2000000").env_remove("WATCHDOG_PID");
    let daemon = Daemon::start_with(&home, full);
    let client = Client::new(daemon.address);
    let kept = (0..100).take_while(|n| client.json("POST", "/api/v1/leads", &json!({"name":format!("Visitor {n}")})).status == 201).count();
    assert!((1..100).contains(&kept), "{kept} leads fitted on the disk");
    home.ok(&["queue", "resume", "crm"]);
    eventually("what was kept is delivered", || receiver.taken().len() == kept);
    // Their ends cannot be noted. A start after a kill would deliver them all again, and so on every minute.
    supervisor.forget();
    for _ in 0..4 {
        assert_eq!(supervisor.told(), "WATCHDOG=1");
    }
    assert!(!daemon.log().contains("the watchdog is not fed"), "{}", daemon.log());
}

/// A daemon in this process.
fn inside(home: &Home) -> (leadsbotd::daemon::Daemon, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(home.config()).unwrap();
    let mut config = leadsbotd::config::Config::parse(&text).unwrap();
    config.storage.path = folder.path().join("leads.db");
    (leadsbotd::daemon::Daemon::start(&config, Arc::new(SystemClock)).unwrap(), folder)
}

#[test]
fn an_address_that_the_network_took_away_does_not_starve_the_watchdog() {
    let (mut daemon, _folder) = inside(&Home::new(""));
    assert!(daemon.well());
    // 192.0.2.1 is nobody's (RFC 5737), as is the address of a Wi-Fi that is gone.
    let gone = std::net::SocketAddr::from(([192, 0, 2, 1], daemon.addresses[0].port()));
    daemon.addresses.insert(0, gone);
    assert!(daemon.well(), "the kiosk's own screen is still served at loopback");
    daemon.addresses.truncate(1);
    assert!(daemon.well(), "nobody can ask, and another start would not find the address either");
    daemon.stop();
}

#[test]
fn a_flood_of_connections_does_not_starve_the_watchdog() {
    let home = Home::new("");
    let text = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), text.replace("[server.limits]", "[server.limits]\nconnections_max = 1")).unwrap();
    let (daemon, _folder) = inside(&home);
    let address = daemon.addresses[0];
    // One is served, 64 are told that there are too many, the others meet a closed door.
    let flood: Vec<_> = (0..80).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let mut last = &flood[79];
    assert_eq!(std::io::Read::read(&mut last, &mut [0; 1]).unwrap_or(0), 0, "the last one is hung up on");
    assert!(daemon.well());
    drop(flood);
    daemon.stop();
}

#[test]
fn a_secret_can_come_as_a_credential() {
    let receiver = Receiver::well();
    let credential = Home::webhook("crm", &receiver.url(), "").replace(&format!("secret = \"{SECRET}\""), "secret_credential = \"crm\"");
    let home = Home::new(&credential);
    std::fs::create_dir(home.path("credentials")).unwrap();
    std::fs::write(home.path("credentials/crm"), format!("{SECRET}\n")).unwrap();
    let mut command = leadsbotd();
    command.env("CREDENTIALS_DIRECTORY", home.path("credentials"));
    let daemon = Daemon::start_with(&home, command);
    Client::new(daemon.address).lead(&json!({"name":"Jane"}));
    eventually("it arrives", || receiver.taken().len() == 1);
    assert!(receiver.taken()[0].verified(SECRET));
}

fn unit() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/leadsbotd.service")).expect("the unit")
}

fn setting(unit: &str, name: &str) -> String {
    let found: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
    assert_eq!(found.len(), 1, "{name} must be there once");
    found[0].to_owned()
}

#[test]
fn the_unit_fits_the_daemon() {
    let unit = unit();
    assert_eq!(setting(&unit, "Type"), "notify");
    assert_eq!(setting(&unit, "ExecStart"), format!("/usr/bin/leadsbotd serve --config {}", leadsbotd::config::DEFAULT_PATH));
    assert_eq!(setting(&unit, "RestartPreventExitStatus"), "78");
    let config = leadsbotd::config::Config::default();
    let state = Path::new("/var/lib").join(setting(&unit, "StateDirectory"));
    assert!(config.storage.path.starts_with(&state), "the default database is not where the unit lets the daemon write");
    let files: usize = setting(&unit, "LimitNOFILE").parse().unwrap();
    assert!(files >= config.capture.connections_max * 2, "the default connections_max needs more files");
    assert!(config.capture.listen.iter().all(|at| at.port() >= 1024), "the unit's sandbox has no capability to listen at the default port");
}

#[test]
fn the_unit_is_taken_by_systemd_and_its_sandbox_scores_one_and_a_half_or_better() {
    let Some(analyze) = peer("systemd-analyze", "apt-get install systemd") else { return };
    let home = Home::new("");
    // `verify` wants the program to be there, and looks for it under its installed name.
    let here = home.path("leadsbotd.service");
    std::fs::write(&here, unit().replace("/usr/bin/leadsbotd", env!("CARGO_BIN_EXE_leadsbotd"))).unwrap();
    let verify = Command::new(&analyze).args(["verify", "--man=no"]).arg(&here).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    // Other units of the machine are loaded along; their faults are not ours.
    assert!(verify.status.success() && !said.contains("leadsbotd"), "{said}");
    let security = Command::new(&analyze).args(["security", "--offline=true", "--threshold=15", "--no-pager"]).arg(&here).output().unwrap();
    assert!(security.status.success(), "{}", String::from_utf8_lossy(&security.stdout));
}
