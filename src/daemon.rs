//! The daemon: puts the parts together, keeps them going, takes them down in order.
//!
//! Start: store, lanes, edge. Stop: edge (answer what runs), lanes (finish what is on its way), store (last commit, checkpoint).

use crate::capture::{Edge, Live, Server, ServerError};
use crate::config::Config;
use crate::delivery::{self, Assignment, Lanes, is_ours};
use crate::destination::Spec;
use crate::event;
use crate::intake::Router;
use crate::mapping::Event;
use crate::store::{self, Damage, Level, Room, Route, Store, Writer};
use crate::time::{Clock, human};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Requests under way at a stop may take this long to finish.
const DRAIN: Duration = Duration::from_secs(5);
/// Attempts under way at a stop may take this long to finish.
const LANES_STOP: Duration = Duration::from_secs(10);
/// How often it is looked whether the daemon can go on.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often the destinations are looked after.
const LOOK_AFTER_EVERY: Duration = Duration::from_secs(15);
/// An edge that takes longer to answer is not fed to the watchdog.
const EDGE_PATIENCE: Duration = Duration::from_secs(10);
/// A writer that takes longer to come round than this is not fed to the watchdog.
const WRITER_PATIENCE: Duration = Duration::from_secs(10);

/// A daemon that has run for so long did not end by what its start did.
const LONG_ENOUGH: Duration = Duration::from_secs(60);
/// So many short lives in a row are taken for somebody at work on the machine.
const SHORT_LIVES_ALLOWED: u32 = 3;
/// The pause before deliveries after that; it doubles with each further one, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// See [`PAUSE_FIRST`].
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Why the daemon cannot start, or what a reload could not do.
#[derive(Debug)]
pub enum DaemonError {
    /// The database.
    Store(store::Error),
    /// The sockets.
    Server(ServerError),
    /// The operating system refused threads or signals.
    System(std::io::Error),
    /// A destination's connection settings.
    Destination(String),
}

impl std::fmt::Display for DaemonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DaemonError::Store(e) => e.fmt(f),
            DaemonError::Server(e) => e.fmt(f),
            DaemonError::System(e) => write!(f, "the system refused what the daemon needs: {e}"),
            DaemonError::Destination(e) => f.write_str(e),
        }
    }
}

impl std::error::Error for DaemonError {}

impl From<store::Error> for DaemonError {
    fn from(e: store::Error) -> Self {
        DaemonError::Store(e)
    }
}

impl From<ServerError> for DaemonError {
    fn from(e: ServerError) -> Self {
        DaemonError::Server(e)
    }
}

impl From<std::io::Error> for DaemonError {
    fn from(e: std::io::Error) -> Self {
        DaemonError::System(e)
    }
}

/// A daemon that takes leads. To be ended with [`Daemon::stop`].
#[derive(Debug)]
pub struct Daemon {
    runtime: Runtime,
    edge: Arc<Edge>,
    lanes: Arc<Lanes>,
    store: Store,
    writer: Writer,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    /// Where it listens, with the ports that were found free.
    pub addresses: Vec<SocketAddr>,
}

impl Daemon {
    /// Starts everything. When this returns, leads are taken.
    pub fn start(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, DaemonError> {
        // One thread: with two, each answer wakes the other one, which costs more than it brings. What may take long runs beside it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("edge").enable_all().build()?;
        let server = runtime.block_on(Server::bind(&config.capture.listen))?;
        let (store, writer) = Store::open(options(config), clock)?;
        let lanes = Arc::new(Lanes::new(store.clone(), pause_after(store.short_lives())));
        let live = assign(config, &store, &lanes)?;
        let edge = Arc::new(Edge::new(live, store.clone(), Arc::clone(&lanes)));
        announce_alarms(&store, &edge);
        let (stop, stopped) = watch::channel(false);
        let addresses = server.addresses.clone();
        let filters = Filters(edge.router());
        runtime.spawn(look_after(Arc::downgrade(&edge), stopped.clone()));
        let serving = runtime.spawn(server.serve(Arc::clone(&edge), stopped, DRAIN));
        // Visitors first: what is in a damaged file has waited, and can wait a little longer.
        store.carry_over(Box::new(filters))?;
        Ok(Self { runtime, edge, lanes, store, writer, stop, serving, addresses })
    }

    /// The store, for those in the same process.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Goes on under another configuration. Addresses and the database stay what they were at the start.
    pub fn reload(&self, config: &Config) -> Result<(), DaemonError> {
        self.store.set_limits(config.storage.limits.clone());
        self.edge.replace(assign(config, &self.store, &self.lanes)?);
        Ok(())
    }

    /// What an operator who reads the log wants to know first.
    fn say_how_it_begins(&self) {
        let line = self.store.timeline();
        if !line.trusted() {
            log::warn!(
                "this device's clock is not believed yet (it shows {}): no time service or battery vouches for it; leads are taken and marked untrusted until one does. If it is right, set device.clock = \"trusted\"",
                line.wall().rfc3339()
            );
        }
        let counts = self.lanes.status().into_iter().filter_map(|lane| Some((lane.name, self.store.counts(lane.dest).ok()?)));
        for (name, counts) in counts.filter(|(_, c)| c.waiting() + c.dead > 0) {
            log::info!("destination {name}: {} waiting, {} dead letters", counts.waiting(), counts.dead);
        }
    }

    /// Whether the edge answers, the writer commits and the lanes' threads live.
    pub fn well(&self) -> bool {
        // Somebody who was turned off the network must not have the daemon killed: it goes by an address that the machine has at present.
        let edge = self.addresses.iter().find(|address| is_ours(address.ip())).is_none_or(|address| answers(*address));
        // A full disk is no fault of the writer's. Another start finds it as full, and would make deliveries again whose end has no room.
        let writer = matches!(self.store.ping(WRITER_PATIENCE), Ok(()) | Err(store::Error::Full));
        edge && writer && self.lanes.alive()
    }

    /// Stops in order; returns when all is on the disk, or its deadlines have passed.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        if self.runtime.block_on(self.serving).is_err() {
            log::error!("the edge ended by a panic");
        }
        self.lanes.stop(Instant::now() + LANES_STOP);
        self.writer.stop();
        self.store.lived();
        self.runtime.shutdown_background();
    }
}

/// Whether somebody who asks at this address gets an answer, be it that there are too many just now.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        // Where it listens at every address it listens at its own.
        let own = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(own, address.port()), EDGE_PATIENCE)?;
        stream.set_read_timeout(Some(EDGE_PATIENCE))?;
        stream.set_write_timeout(Some(EDGE_PATIENCE))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 5];
        match stream.read_exact(&mut start) {
            Ok(()) => Ok(start == *b"HTTP/"),
            // In a flood the edge hangs up without a word. One that hangs itself says nothing and does not hang up either.
            Err(e) => Ok(matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)),
        }
    };
    ask().unwrap_or(false)
}

/// How long deliveries wait after this many daemons in a row ended soon after their start: leads are taken at once all the same, and
/// whatever a delivery may have to do with it happens ever more rarely.
fn pause_after(short_lives: u32) -> Duration {
    let Some(beyond) = short_lives.checked_sub(SHORT_LIVES_ALLOWED) else { return Duration::ZERO };
    let pause = (PAUSE_FIRST * 2_u32.saturating_pow(beyond)).min(PAUSE_MAX);
    log::error!(
        "the last {short_lives} starts ended within a minute and without a stop; deliveries begin in {}, leads are taken at once; see why it ended in the log above",
        human(pause)
    );
    pause
}

/// Saves what can be read of a damaged database into a new one, in the foreground. `None` when nothing is wrong with it, unless `force`.
pub fn repair(config: &Config, clock: Arc<dyn Clock>, force: bool) -> Result<Option<Damage>, DaemonError> {
    let options = options(config);
    let begun = store::damage(&options.path).files.iter().any(|f| !f.done);
    match store::fault(&options, &clock)? {
        Some(found) => store::condemn(&options.path, &found)?,
        None if force => store::condemn(&options.path, "leadsbotd repair --force")?,
        None if begun => {}
        None => return Ok(None),
    }
    let (store, writer) = Store::open(options, clock)?;
    let specs: Vec<_> = config.destinations.iter().map(|d| Arc::clone(&d.spec)).collect();
    let numbers = store.register(specs.iter().map(|s| s.name.clone()).collect())?;
    let destinations = numbers.into_iter().zip(specs).collect();
    let router = Router { device: config.device.clone(), limits: config.capture.lead.clone(), destinations };
    store.carry_over_now(&Filters(Arc::new(router)));
    let damage = store.damage();
    writer.stop();
    // This was no daemon that fell over.
    store.lived();
    Ok(Some(damage))
}

fn options(config: &Config) -> store::Options {
    store::Options {
        clock_trusted: config.clock_trusted,
        limits: config.storage.limits.clone(),
        ..store::Options::new(&config.storage.path)
    }
}

/// The configured filters, for events whose deliveries a damaged file no longer tells.
struct Filters(Arc<Router>);

impl Route for Filters {
    fn wants(&self, dest: i64, kind: &str, body: &[u8]) -> Option<bool> {
        let (_, spec) = self.0.destinations.iter().find(|(number, _)| *number == dest)?;
        if !event::matches(&spec.events, kind) {
            return Some(false);
        }
        // A filter that fails does not say no.
        let wanted = spec.when.is_none() || Event::parse(body).and_then(|e| spec.wants(kind, &e)).unwrap_or(true);
        Some(wanted)
    }

    fn configured(&self) -> Vec<i64> {
        self.0.destinations.iter().map(|(dest, _)| *dest).collect()
    }
}

/// From now on `storage.low` and `storage.wear` go to the destinations that ask for them, whenever room gets shorter and when more is
/// written than the day's budget.
fn announce_alarms(store: &Store, edge: &Arc<Edge>) {
    // The store must not keep the edge alive, which keeps the store alive.
    let edge = Arc::downgrade(edge);
    let worn = edge.clone();
    store.on_wear(move |day, budget| {
        if let Some(edge) = worn.upgrade() {
            edge.announce_wear(day, budget);
        }
    });
    let tell = move |room: &Room| {
        if let Some(edge) = edge.upgrade().filter(|_| room.level > Level::Well) {
            edge.announce_shortage(room);
        }
    };
    // What was found when the database was opened.
    if let Some(room) = store.space() {
        tell(&room);
    }
    store.on_space(tell);
}

/// Looks after the destinations until the stop.
async fn look_after(edge: Weak<Edge>, mut stopped: watch::Receiver<bool>) {
    let mut lookout = None;
    while !*stopped.borrow() {
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(LOOK_AFTER_EVERY) => {}
        }
        let Some(edge) = edge.upgrade() else { return };
        let known = lookout.take();
        let looked = tokio::task::spawn_blocking(move || {
            let mut lookout = known.unwrap_or_else(|| edge.lookout());
            edge.look_after(&mut lookout);
            lookout
        });
        // After a fault of our own it begins anew, with what is on the disk.
        lookout = looked.await.ok();
    }
}

/// Numbers the destinations, gives the lanes their work, and makes what requests are answered from.
fn assign(config: &Config, store: &Store, lanes: &Lanes) -> Result<Live, DaemonError> {
    let names = config.destinations.iter().map(|d| d.spec.name.clone()).collect();
    let numbers = store.register(names)?;
    let mut assignments = Vec::new();
    let mut routed = Vec::new();
    for (dest, d) in numbers.into_iter().zip(&config.destinations) {
        let transport = delivery::connect(&d.link).map_err(|e| DaemonError::Destination(format!("destination {}: {e}", d.spec.name)))?;
        routed.push((dest, Arc::clone(&d.spec)));
        assignments.push(Assignment { dest, spec: Arc::clone(&d.spec), policy: d.policy.clone(), transport });
    }
    let print = |(dest, spec): &(i64, Arc<Spec>)| Some((*dest, spec.connector.secrets().first()?.fingerprint(store.ids().bytes())));
    let new_secrets = store.changed_secrets(&routed.iter().filter_map(print).collect::<Vec<_>>()).unwrap_or_else(|e| {
        log::warn!("it cannot be known whose secret was changed: {e}");
        Vec::new()
    });
    lanes.assign(assignments, &new_secrets)?;
    warn_of_orphans(store, &routed.iter().map(|(dest, _)| *dest).collect::<Vec<_>>());
    let router = Router { device: config.device.clone(), limits: config.capture.lead.clone(), destinations: routed };
    Ok(Live { options: config.capture.clone(), router: Arc::new(router), alarms: config.alarms.clone() })
}

/// A queue without a destination in the configuration is kept, but nobody would look for it.
fn warn_of_orphans(store: &Store, configured: &[i64]) {
    let found = store.read(|view| {
        let mut found = Vec::new();
        for row in view.destinations()?.into_iter().filter(|r| !configured.contains(&r.dest)) {
            let waiting = view.counts(row.dest)?.waiting();
            if waiting > 0 {
                found.push((row.name, waiting));
            }
        }
        Ok(found)
    });
    for (name, waiting) in found.unwrap_or_default() {
        log::warn!(
            "{waiting} deliveries wait for a destination {name} that is not in the configuration; put it back, or drop them with: leadsbotd queue drop {name} --all"
        );
    }
}

/// Runs until SIGTERM or SIGINT; SIGHUP reads the file at `path` again.
pub fn run(config: &Config, path: &Path, clock: Arc<dyn Clock>) -> Result<(), DaemonError> {
    use tokio::signal::unix::{SignalKind, signal};
    // Before anything else: from the first moment on a signal means an orderly stop.
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut term, mut int, mut hup) = {
        let _context = signals.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    let daemon = Daemon::start(config, clock)?;
    for address in &daemon.addresses {
        log::info!("leadsbotd {} listens at http://{address}", env!("CARGO_PKG_VERSION"));
    }
    log::info!("leads are kept in {}; destinations: {}", config.storage.path.display(), destinations(config));
    daemon.say_how_it_begins();
    tell_systemd(&[sd_notify::NotifyState::Ready]);
    let limit = sd_notify::watchdog_enabled();
    let watched = limit.is_some();
    let feed_every = limit.map_or(LOOK_EVERY, |limit| (limit / 3).min(LOOK_EVERY));
    let mut long_enough = {
        let _context = signals.enter();
        Box::pin(tokio::time::sleep(LONG_ENOUGH))
    };
    let mut lived = false;
    loop {
        enum Heard {
            Stop,
            Reload,
            Feed,
            Lived,
        }
        let heard = signals.block_on(async {
            tokio::select! {
                _ = term.recv() => Heard::Stop,
                _ = int.recv() => Heard::Stop,
                _ = hup.recv() => Heard::Reload,
                () = tokio::time::sleep(feed_every) => Heard::Feed,
                () = &mut long_enough, if !lived => Heard::Lived,
            }
        });
        // Refusing leads until somebody comes is worse than a short absence: whoever started this starts it again.
        if let (Heard::Feed, Some(why)) = (&heard, daemon.store().must_begin_anew()) {
            log::error!("stopping, to be started again: {why}");
            daemon.stop();
            return Err(why.into());
        }
        match heard {
            Heard::Stop => break,
            Heard::Lived => {
                lived = true;
                daemon.store.lived();
            }
            Heard::Reload => reload(&daemon, config, path),
            // Fed only while the main job is done: a process that is merely alive is to be restarted.
            Heard::Feed if !watched => {}
            Heard::Feed if daemon.well() => tell_systemd(&[sd_notify::NotifyState::Watchdog]),
            Heard::Feed => {
                log::error!("the edge does not answer, the writer does not come round, or a lane has ended; the watchdog is not fed")
            }
        }
    }
    log::info!("stopping");
    tell_systemd(&[sd_notify::NotifyState::Stopping]);
    daemon.stop();
    log::info!("stopped; what was still to be delivered is kept");
    Ok(())
}

fn reload(daemon: &Daemon, started: &Config, path: &Path) {
    if let Ok(reloading) = sd_notify::NotifyState::monotonic_usec_now() {
        tell_systemd(&[sd_notify::NotifyState::Reloading, reloading]);
    }
    match Config::load(path) {
        Err(e) => log::error!("the configuration was not read again, the old one stays in force: {e}"),
        Ok(config) => {
            if config.capture.listen != started.capture.listen {
                log::warn!("server.listen has changed; the new addresses take effect at the next start");
            }
            if config.clock_trusted != started.clock_trusted {
                log::warn!("device.clock has changed; that takes effect at the next start");
            }
            if config.storage.path != started.storage.path {
                log::warn!("storage.path has changed; the new file takes effect at the next start");
            }
            for warning in &config.warnings {
                log::warn!("{warning}");
            }
            match daemon.reload(&config) {
                Ok(()) => {
                    log::set_max_level(config.log_level);
                    log::info!("the configuration was read again; destinations: {}", destinations(&config));
                }
                Err(e) => log::error!("the configuration could not be put in force as a whole; correct what is said and reload again: {e}"),
            }
        }
    }
    tell_systemd(&[sd_notify::NotifyState::Ready]);
}

fn destinations(config: &Config) -> String {
    let names: Vec<&str> = config.destinations.iter().map(|d| d.spec.name.as_str()).collect();
    if names.is_empty() { "none, leads stay on this device".to_owned() } else { names.join(", ") }
}

fn tell_systemd(state: &[sd_notify::NotifyState<'_>]) {
    if std::env::var_os("NOTIFY_SOCKET").is_some()
        && let Err(e) = sd_notify::notify(state)
    {
        log::warn!("systemd could not be told: {e}");
    }
}
