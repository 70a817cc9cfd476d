//! The product: the release binary as a process of its own, configured as it comes, everything switched on.

use crate::Res;
use crate::load::{self, Met, Visitors};
use crate::machine::{self, Cost, float};
use crate::queue::DESTINATION;
use crate::sink::Sink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The secret that signs what is delivered.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Between a delivery and the next visitor.
const NEXT: Duration = Duration::from_millis(70);
/// Longer than outcomes wait for a capture to share a commit with: after it, what was delivered is on the disk.
const FLUSHED: Duration = Duration::from_millis(1200);
/// Nothing that must come is waited for any longer than this.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the first seconds after a start bring is not the idle state.
const SETTLED: Duration = Duration::from_secs(3);
/// How often deliveries are counted, and memory is.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const WEIGH_EVERY: Duration = Duration::from_millis(200);

/// The binary that is measured: LEADSBOT_BENCH_PROGRAM, or the one that cargo built.
pub fn program() -> PathBuf {
    std::env::var_os("LEADSBOT_BENCH_PROGRAM").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_leadsbotd")), PathBuf::from)
}

/// A port where nobody answers, and nobody else can.
pub struct Nobody {
    address: SocketAddr,
    _port: OwnedFd,
}

impl Nobody {
    pub fn new() -> Res<Self> {
        let port = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&port, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = SocketAddr::try_from(getsockname(&port)?)?;
        Ok(Self { address, _port: port })
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

/// A folder with a configuration and a database.
pub struct Home(TempDir);

impl Home {
    /// One destination at `url`; `backlog` is copied to be the database.
    pub fn new(folder: &Path, url: &str, backlog: Option<&Path>) -> Res<Self> {
        let home = Self(tempfile::Builder::new().prefix("leadsbotd-bench.").tempdir_in(folder)?);
        if let Some(backlog) = backlog {
            std::fs::copy(backlog, home.database())?;
            // What the copy leaves to write must not be written while something is measured.
            std::fs::File::open(home.database())?.sync_all()?;
        }
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\napi_tokens = [{{ name = \"bench\", secret = \"{}\" }}]\n\
             [storage]\npath = {:?}\n\
             [[destination]]\nname = \"{DESTINATION}\"\ntype = \"webhook\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n",
            load::TOKEN,
            home.database()
        );
        std::fs::write(home.config(), text)?;
        Ok(home)
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config.toml")
    }

    fn database(&self) -> PathBuf {
        self.0.path().join("leads.db")
    }

    /// Bytes of the database file, its log aside.
    pub fn file_bytes(&self) -> Res<u64> {
        Ok(std::fs::metadata(self.database())?.len())
    }
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    /// From the start of the process to the first lead it accepted.
    pub cold_start_ms: f64,
}

impl Daemon {
    /// Starts it and posts the first lead.
    pub fn start(home: &Home) -> Res<Self> {
        let begun = Instant::now();
        let mut child = Command::new(program())
            .arg("--config")
            .arg(home.config())
            .arg("serve")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{} does not start: {e}", program().display()))?;
        let stderr = child.stderr.take().ok_or("the daemon has no standard error")?;
        let (said, heard) = channel();
        // Ends with the daemon: reads on, so that the log never makes it wait.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        let mut daemon = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), cold_start_ms: 0.0 };
        let mut log = String::new();
        daemon.address = loop {
            let line = heard.recv_timeout(PATIENCE).map_err(|_| format!("the daemon did not start:\n{log}"))?;
            if let Some((_, at)) = line.split_once("listens at http://") {
                break at.trim().parse()?;
            }
            log.push_str(&line);
            log.push('\n');
        };
        Visitors::arrive(daemon.address, 1)?.post()?;
        daemon.cold_start_ms = begun.elapsed().as_secs_f64() * 1000.0;
        Ok(daemon)
    }

    pub fn cost(&self) -> Res<Cost> {
        machine::cost(self.child.id())
    }

    pub fn pss_mb(&self) -> Res<f64> {
        machine::pss_mb(self.child.id())
    }

    /// SIGTERM; gives what it had cost when it ended, the last commit and the copy of the log into the file included.
    pub fn stop(mut self) -> Res<Cost> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let until = Instant::now() + PATIENCE;
        while !machine::ended(self.child.id()) {
            if Instant::now() > until {
                return Err("the daemon does not end".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let cost = self.cost();
        self.child.wait()?;
        cost
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Capture alone: the destination is away, so nothing is delivered.
pub struct Captured {
    pub cold_start_ms: f64,
    pub idle_pss_mb: f64,
    pub at_64: Met,
    pub at_1: Met,
}

/// Leads from 64 connections, then from one, into a new file.
pub fn capture(folder: &Path, time: Duration) -> Res<Captured> {
    let nobody = Nobody::new()?;
    let home = Home::new(folder, &nobody.url(), None)?;
    let daemon = Daemon::start(&home)?;
    std::thread::sleep(Duration::from_millis(300));
    let idle_pss_mb = daemon.pss_mb()?;
    let at_64 = load::run(daemon.address, 64, time)?;
    let at_1 = load::run(daemon.address, 1, time)?;
    let cold_start_ms = daemon.cold_start_ms;
    daemon.stop()?;
    Ok(Captured { cold_start_ms, idle_pss_mb, at_64, at_1 })
}

/// A backlog being worked off.
pub struct Drained {
    pub cold_start_ms: f64,
    /// Leads from 64 connections meanwhile, at first.
    pub at_64: Met,
    /// Then, undisturbed: deliveries a second over all, in the first tenth and in the last.
    pub rate: f64,
    pub first_tenth: f64,
    pub last_tenth: f64,
    /// The greatest over the whole time.
    pub pss_mb: f64,
}

/// A copy of `backlog` with `waiting` deliveries meets its receiver.
pub fn drain(folder: &Path, backlog: &Path, waiting: u64, time: Duration, patience: Duration) -> Res<Drained> {
    let sink = Sink::start()?;
    let home = Home::new(folder, &sink.url(), Some(backlog))?;
    let daemon = Daemon::start(&home)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let weighing = scope.spawn(|| {
            let mut most = 0.0_f64;
            while !done.load(Ordering::Acquire) {
                most = most.max(daemon.pss_mb().unwrap_or(0.0));
                std::thread::sleep(WEIGH_EVERY);
            }
            most
        });
        let watched = load::run(daemon.address, 64, time)
            .and_then(|met| Ok((met, watch(&sink, (waiting + 1 + met.accepted).saturating_sub(sink.taken()), patience)?)));
        done.store(true, Ordering::Release);
        let pss_mb = weighing.join().map_err(|_| "weighing ended by a panic")?;
        let (at_64, seen) = watched?;
        let (rate, first_tenth, last_tenth) = tenths(&seen).ok_or("the backlog was gone before its drain could be measured")?;
        Ok(Drained { cold_start_ms: daemon.cold_start_ms, at_64, rate, first_tenth, last_tenth, pss_mb })
    })
}

/// Seconds and deliveries from now on, until there were so many more, or for as long as `patience`.
fn watch(sink: &Sink, expected: u64, patience: Duration) -> Res<Vec<(f64, u64)>> {
    let (begun, before) = (Instant::now(), sink.taken());
    let mut seen = Vec::new();
    loop {
        let (seconds, count) = (begun.elapsed(), sink.taken() - before);
        seen.push((seconds.as_secs_f64(), count));
        if count >= expected || seconds >= patience {
            return Ok(seen);
        }
        if seconds > PATIENCE && count == 0 {
            return Err("nothing is delivered".into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Deliveries a second: over all, in the first tenth of them, in the last.
fn tenths(seen: &[(f64, u64)]) -> Option<(f64, f64, f64)> {
    let (end, all) = *seen.last()?;
    let rate = |from: (f64, u64), to: (f64, u64)| float(to.1 - from.1) / (to.0 - from.0);
    let first = *seen.iter().find(|(_, count)| *count >= all / 10)?;
    let last = *seen.iter().find(|(_, count)| *count >= all - all / 10)?;
    let known = all >= 1000 && first.0 > 0.0 && last.0 < end;
    known.then(|| (rate((0.0, 0), (end, all)), rate((0.0, 0), first), rate(last, (end, all))))
}

/// What leads that come one by one, or in groups, make the disk take.
pub struct Written {
    pub bytes_per_lead: f64,
    /// What the database file has grown by, its log copied back.
    pub file_bytes_per_lead: f64,
}

/// As a kiosk lives: so many visitors at once, then the deliveries, then nothing until all of it is on the disk; again until `until`.
/// Everything to the end of the process is counted, the copying of the log into the file included. `apart`: between two leads the kernel
/// writes back what it holds, as it does by itself when more than half a minute lies between them.
pub fn written(folder: &Path, together: usize, apart: bool, until: Instant) -> Res<Written> {
    let sink = Sink::start()?;
    let home = Home::new(folder, &sink.url(), None)?;
    let daemon = Daemon::start(&home)?;
    let mut visitors = Visitors::arrive(daemon.address, together)?;
    let mut leads = 1;
    arrived(&sink, leads)?;
    std::thread::sleep(FLUSHED);
    let pause = if apart { FLUSHED } else { NEXT };
    let (before, file_before, first) = (daemon.cost()?.disk_bytes, home.file_bytes()?, leads);
    while Instant::now() < until {
        visitors.post()?;
        leads += u64::try_from(together)?;
        arrived(&sink, leads)?;
        std::thread::sleep(pause);
        if apart && !Command::new("sync").arg("-f").arg(home.database()).status()?.success() {
            return Err("sync -f failed".into());
        }
    }
    drop(visitors);
    let after = daemon.stop()?.disk_bytes;
    let counted = float(leads - first);
    Ok(Written { bytes_per_lead: float(after - before) / counted, file_bytes_per_lead: float(home.file_bytes()? - file_before) / counted })
}

fn arrived(sink: &Sink, leads: u64) -> Res<()> {
    let until = Instant::now() + PATIENCE;
    while sink.taken() < leads {
        if Instant::now() > until {
            return Err("a lead was not delivered within a minute".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What doing nothing costs.
pub struct Rested {
    pub bytes: f64,
    pub switches_per_second: f64,
}

/// A daemon that nobody asks for anything until `until`: its destination is away, and `backlog` waits for it, or nothing does.
pub fn rested(folder: &Path, backlog: Option<&Path>, until: Instant) -> Res<Rested> {
    let (sink, nobody) = (Sink::start()?, Nobody::new()?);
    let url = if backlog.is_some() { nobody.url() } else { sink.url() };
    let home = Home::new(folder, &url, backlog)?;
    let daemon = Daemon::start(&home)?;
    std::thread::sleep(SETTLED);
    let (before, begun) = (daemon.cost()?, Instant::now());
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    let (after, seconds) = (daemon.cost()?, begun.elapsed().as_secs_f64());
    Ok(Rested {
        bytes: float(after.disk_bytes - before.disk_bytes),
        switches_per_second: float(after.switches - before.switches) / seconds,
    })
}
