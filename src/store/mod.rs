//! Everything that is kept: leads, events, deliveries. SQLite, one writer thread, any number of readers.
//!
//! An answer from here that something is kept means it was fsynced. Nothing outside this folder knows SQL.

mod audit;
mod backup;
mod carrying;
mod command;
mod counting;
mod desk;
mod destinations;
mod error;
mod leads;
mod listing;
mod lockfile;
mod opened;
mod pack;
mod perform;
mod queue;
mod retention;
mod salvage;
mod schema;
mod space;
mod stamp;
mod view;
mod wear;
mod writer;

pub use backup::{Restore, backup, condemn, fault, restore};
pub use command::{Answers, Captured, ChangeFn, Changes, Done, NewEvent, Target, Ticket};
use command::{Command, Messenger, Queue, Reply, Work};
pub use counting::Counts;
pub use desk::Desk;
pub use destinations::Row as Destination;
pub use error::Error;
pub use leads::{Logged, Record, SUBMISSIONS_REMEMBERED};
pub use listing::Entry;
pub use lockfile::daemon_runs;
use lockfile::{Lock, lock_for_daemon, note_short_lives, short_lives};
use opened::Opened;
pub use pack::unpack;
pub use queue::{End, Job, Letter, Outcome};
use salvage::Note;
pub use salvage::{Damage, Entry as PutAside, Merged, Report as Salvaged, Route};
pub use schema::VERSION;
use space::Space;
pub use space::{Level, Limits, Report as Room, Retention};
pub use view::View;
use wear::Wear;
pub use wear::{Day, Report as Worn, life};

use crate::id::IdKey;
use crate::time::{Clock, Timeline, Wall};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How the store works. `path`, `clock_trusted` and `limits` are configured; the rest are bounds chosen for a small board.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database file.
    pub path: PathBuf,
    /// Commands that may wait for the writer.
    pub queue_max: usize,
    /// Bytes of event bodies that may wait for the writer.
    pub queue_bytes_max: usize,
    /// Commands in one transaction.
    pub batch_max: usize,
    /// Bytes of event bodies in one transaction.
    pub batch_bytes_max: usize,
    /// How long outcomes wait for a capture to share a commit with.
    pub flush_after: Duration,
    /// This many outcomes do not wait any longer.
    pub flush_at: usize,
    /// The operator vouches for the wall clock.
    pub clock_trusted: bool,
    /// How large and how old things may grow.
    pub limits: Limits,
}

impl Options {
    /// The usual bounds for the database at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            queue_max: 1024,
            queue_bytes_max: 4 << 20,
            batch_max: 512,
            batch_bytes_max: 1 << 20,
            flush_after: Duration::from_secs(1),
            flush_at: 128,
            clock_trusted: false,
            limits: Limits::default(),
        }
    }
}

/// A lane's ear: told what the store has done. Must return at once and never call back into the store.
pub trait Watcher: Send + Sync {
    /// There may be something new to send.
    fn work(&self);
    /// The outcomes of these events are on the disk.
    fn confirmed(&self, events: &[i64]);
    /// Another process changed the database: read the destination's row again.
    fn changed(&self);
}

struct Shared {
    options: Options,
    timeline: Timeline,
    ids: IdKey,
    stamps: stamp::Stamps,
    space: Space,
    wear: Wear,
    counting: Arc<counting::Counting>,
    queue: Mutex<Queue>,
    signal: Condvar,
    watchers: Mutex<HashMap<i64, Arc<dyn Watcher>>>,
    messenger: OnceLock<Messenger>,
    pool: Mutex<Vec<(u64, Connection)>>,
    // Counts up whenever the disk failed and all connections must be opened anew.
    epoch: AtomicU64,
    // What is noted beside the file about damage, and whether rows of a file that was put aside are still on their way.
    note: Mutex<Note>,
    carrying_over: AtomicBool,
    failing: AtomicBool,
    // The file was taken away under the daemon.
    gone: AtomicBool,
    // Held for as long as the daemon lives; other processes see by it that there is one. Holds the number of short lives in a row.
    lock: Lock,
    short_lives: u32,
}

// A poisoned lock means that a thread died in the middle of moving queue entries, which none of the code under these locks can do
// without the data staying whole; going on is right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle on the store of a running daemon. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.options.path.display())
    }
}

/// The writer's thread; stop it last.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    /// Commits what waits, checkpoints, and ends the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        lock(&self.store.0.queue).stopping = true;
        self.store.0.signal.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the writer ended by a panic; what it had not committed was not acknowledged either");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The file beside `path` with this after its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What is known of damage to the database at `path`.
pub fn damage(path: &Path) -> Damage {
    Damage::of(path, &Note::load(path))
}

impl Shared {
    /// Whether rows of a file that was put aside are still on their way.
    fn is_carrying_over(&self) -> bool {
        self.carrying_over.load(Ordering::Acquire)
    }
}

impl Store {
    /// Opens (or makes, or migrates) the database and starts the writer.
    pub fn open(options: Options, clock: Arc<dyn Clock>) -> Result<(Store, Writer), Error> {
        let path = options.path.clone();
        let failed = |message: String| Error::Open { path: path.clone(), message };
        let lock_file = lock_for_daemon(&path)?;
        let boot = clock.boot_id();
        let short_lives = short_lives(&lock_file, &boot);
        note_short_lives(&lock_file, short_lives.saturating_add(1), &boot);
        let space = Space::new(&path, options.limits.clone());
        space.make_way();
        let mut note = Note::load(&path);
        salvage::settle(&path, &note)?;
        let opened = match Opened::new(&options, &clock, &mut note) {
            Err(Error::Damaged(found)) => {
                salvage::set_aside(&path, &mut note, &found, clock.wall(), None)?;
                let aside = note.files.last().map(|f| f.file.clone()).unwrap_or_default();
                log::error!(
                    "the database {} is damaged ({found}) and was put aside as {aside}; leads are taken into a new one, and what can be read of the old one is carried over",
                    path.display()
                );
                Opened::new(&options, &clock, &mut note)?
            }
            other => other?,
        };
        let Opened { conn, ids, timeline, open, check_later } = opened;
        space.measure(&conn)?;
        let wear = Wear::open(&conn, &timeline)?;
        let shared = Arc::new(Shared {
            options,
            timeline,
            ids,
            stamps: stamp::Stamps::new(open),
            space,
            wear,
            counting: Arc::default(),
            queue: Mutex::default(),
            signal: Condvar::new(),
            watchers: Mutex::default(),
            messenger: OnceLock::new(),
            pool: Mutex::default(),
            epoch: AtomicU64::new(0),
            carrying_over: AtomicBool::new(note.files.iter().any(|f| !f.done)),
            note: Mutex::new(note),
            failing: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            lock: lock_file,
            short_lives,
        });
        let store = Store(shared);
        if check_later {
            let store = store.clone();
            let checker = std::thread::Builder::new().name("check".into()).spawn(move || store.check_in_background());
            checker.map_err(|e| failed(format!("no thread for its check: {e}")))?;
        }
        store.keep_identity(&conn)?;
        let mut writer = writer::State::new(store.clone(), conn)?;
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || writer.run())
            .map_err(|e| failed(format!("no thread for the writer: {e}")))?;
        Ok((store.clone(), Writer { store, thread: Some(thread) }))
    }

    /// How many daemons before this one ended, in a row, without an orderly stop and soon after their start.
    pub fn short_lives(&self) -> u32 {
        self.0.short_lives
    }

    /// This one has lived long enough, or ends in order: the next start counts from none.
    pub fn lived(&self) {
        note_short_lives(&self.0.lock, 0, "");
    }

    /// Every lane reads anew what it has read ahead.
    fn tell_lanes(&self) {
        let watchers: Vec<Arc<dyn Watcher>> = lock(&self.0.watchers).values().cloned().collect();
        for watcher in watchers {
            watcher.changed();
        }
    }

    /// Whether the latest write failed.
    pub fn failing(&self) -> bool {
        self.0.failing.load(Ordering::Acquire)
    }

    /// The daemon's own time.
    pub fn timeline(&self) -> &Timeline {
        &self.0.timeline
    }

    /// What makes and reads ids.
    pub fn ids(&self) -> &IdKey {
        &self.0.ids
    }

    /// Asks the writer to keep a captured lead. `reply` is called on the writer's thread, after the fsync, and must not block.
    pub fn capture(
        &self,
        event: NewEvent,
        submission: Option<[u8; 16]>,
        reply: impl FnOnce(Result<Done, Error>) + Send + 'static,
    ) -> Result<Ticket, Error> {
        self.room()?;
        self.submit(Work::Capture { event: Box::new(event), submission }, Box::new(reply))
    }

    /// From now on several answers of one commit are handed to `f`, which has to see that they are given soon, where those who wait for them
    /// can be woken at the least cost. Called on the writer's thread, after the fsync: must return at once. Only the first call counts.
    pub fn answer_through(&self, f: impl Fn(Answers) + Send + Sync + 'static) {
        // A second server on the same store gets its answers from the writer itself, or through the first.
        let _ = self.0.messenger.set(Box::new(f));
    }

    /// Keeps an event of the device's own, which is about no lead. Best effort: nobody waits for it.
    pub fn announce(&self, event: NewEvent) {
        self.tell_of(event.draft.kind.name(), Work::Announce(Box::new(event)));
    }

    /// The same, and with it which destinations are in trouble from now on, so that the next run does not tell of them again.
    /// False when the writer could not even be asked.
    pub fn announce_alarm(&self, event: NewEvent, failing: Vec<i64>) -> bool {
        self.tell_of(event.draft.kind.name(), Work::Alarm(Box::new(event), failing))
    }

    fn tell_of(&self, kind: &'static str, work: Work) -> bool {
        let told = self.submit(
            work,
            Box::new(move |done| {
                if let Err(e) = done {
                    log::warn!("the event {kind} could not be kept: {e}");
                }
            }),
        );
        if told.is_err() {
            log::warn!("the event {kind} could not be kept: the writer is busy");
        }
        told.is_ok()
    }

    fn room(&self) -> Result<(), Error> {
        if self.0.space.level() == Level::Full { Err(Error::Full) } else { Ok(()) }
    }

    /// How much room there is, as last measured.
    pub fn space(&self) -> Option<Room> {
        self.0.space.report()
    }

    /// Other limits from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.0.space.set_limits(limits);
        self.0.signal.notify_one();
    }

    /// `f` is told whenever the level of room changes, on the writer's thread: it must return at once.
    pub fn on_space(&self, f: impl Fn(&Room) + Send + Sync + 'static) {
        self.0.space.on_change(Box::new(f));
    }

    /// What the card had to bear.
    pub fn worn(&self) -> Worn {
        self.0.wear.report()
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.0.space.limits()
    }

    /// `f` is told when more was written on a day than its budget, on the writer's thread: it must return at once.
    pub fn on_wear(&self, f: impl Fn(&Day, u64) + Send + Sync + 'static) {
        self.0.wear.on_excess(Box::new(f));
    }

    /// Asks the writer to change the lead with this public id.
    pub fn change(&self, lead: &str, change: ChangeFn, reply: impl FnOnce(Result<Done, Error>) + Send + 'static) -> Result<Ticket, Error> {
        self.room()?;
        // Its latest state may still be in the file that was put aside; a change of an older one would win over it.
        if self.0.is_carrying_over() {
            return Err(Error::Busy);
        }
        self.submit(Work::Change { lead: lead.to_owned(), change }, Box::new(reply))
    }

    /// Gives each destination its number. Blocks.
    pub fn register(&self, names: Vec<String>) -> Result<Vec<i64>, Error> {
        match self.call(Work::Register(names))? {
            Done::Registered(numbers) => {
                if let Err(e) = self.read(|view| self.keep_identity(view.0)) {
                    log::warn!("the destinations' numbers could not be read back: {e}");
                }
                Ok(numbers)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The destinations whose secret is another one than when this was called before, by fingerprints. Writes only when something is new.
    pub fn changed_secrets(&self, fingerprints: &[(i64, String)]) -> Result<Vec<i64>, Error> {
        let before = self.read(|view| destinations::secrets(view.0))?;
        let known: BTreeMap<i64, &str> =
            before.split(' ').filter_map(|entry| entry.split_once(':')).filter_map(|(n, print)| Some((n.parse().ok()?, print))).collect();
        let changed =
            fingerprints.iter().filter(|(dest, print)| known.get(dest).is_some_and(|known| known != print)).map(|(dest, _)| *dest);
        let changed = changed.collect();
        let text: Vec<String> = fingerprints.iter().map(|(dest, print)| format!("{dest}:{print}")).collect();
        let text = text.join(" ");
        if text != before {
            self.call(Work::Secrets(text))?;
        }
        Ok(changed)
    }

    /// Returns once the writer has come round, or `Busy` after `patience`. Writes nothing.
    pub fn ping(&self, patience: Duration) -> Result<(), Error> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.submit(Work::Ping, Box::new(move |r| drop(tx.try_send(r))))?;
        rx.recv_timeout(patience).map_err(|_| Error::Busy)?.map(|_| ())
    }

    /// Notes a lane's state for people and commands; best effort, nothing depends on it.
    pub fn lane_state(&self, dest: i64, state: &'static str, since: Wall, reason: String) {
        let told = self.submit(Work::LaneState { dest, state, since, reason }, Box::new(|_| ()));
        if told.is_err() {
            log::debug!("destination number {dest}: its state could not be noted, the writer is busy");
        }
    }

    fn call(&self, work: Work) -> Result<Done, Error> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.submit(work, Box::new(move |r| drop(tx.try_send(r))))?;
        rx.recv().map_err(|_| Error::Sql("the writer dropped a command".to_owned()))?
    }

    fn submit(&self, work: Work, reply: Reply) -> Result<Ticket, Error> {
        let ticket = Ticket::new();
        let bytes = work.bytes();
        let mut queue = lock(&self.0.queue);
        let full = queue.commands.len() >= self.0.options.queue_max || queue.bytes + bytes > self.0.options.queue_bytes_max;
        if queue.stopping || full {
            return Err(Error::Busy);
        }
        queue.bytes += bytes;
        queue.commands.push_back(Command { work, reply, ticket: ticket.clone() });
        let wake = queue.asleep.take().is_some();
        drop(queue);
        if wake {
            self.0.signal.notify_one();
        }
        Ok(ticket)
    }

    /// Hands an outcome to the writer. Never blocks and is never refused: a lane keeps few of them unconfirmed.
    pub fn outcome(&self, outcome: Outcome) {
        let mut queue = lock(&self.0.queue);
        queue.outcomes.push(outcome);
        let waiting = queue.outcomes.len();
        let wake = queue.asleep.take_if(|held| *held + waiting == 1 || *held + waiting >= self.0.options.flush_at).is_some();
        drop(queue);
        if wake {
            self.0.signal.notify_one();
        }
    }

    /// From now on `watcher` hears about destination number `dest`; `None` ends that.
    pub fn watch(&self, dest: i64, watcher: Option<Arc<dyn Watcher>>) {
        let mut watchers = lock(&self.0.watchers);
        match watcher {
            Some(w) => watchers.insert(dest, w),
            None => watchers.remove(&dest),
        };
    }

    /// Reads. Everything `f` sees is one moment; it must be short, because the log cannot be shortened past it.
    pub fn read<T>(&self, f: impl FnOnce(&View<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let epoch = self.0.epoch.load(Ordering::Acquire);
        let pooled = lock(&self.0.pool).pop().filter(|(e, _)| *e == epoch);
        let mut conn = match pooled {
            Some((_, conn)) => conn,
            None => schema::connect(&self.0.options.path, schema::Purpose::Reader)?,
        };
        let tx = conn.transaction()?;
        let result = f(&View(&tx));
        drop(tx);
        if let Err(Error::Damaged(found)) = &result {
            self.note_damage(found);
        }
        if !matches!(result, Err(Error::Disk(_) | Error::Damaged(_))) {
            let mut pool = lock(&self.0.pool);
            if pool.len() < 8 {
                pool.push((epoch, conn));
            }
        }
        result
    }

    /// To be asked before deliveries are read; see [`Store::pin`].
    pub fn epoch(&self) -> u64 {
        self.0.stamps.epoch()
    }

    /// Fixes the bytes of an event that is about to be sent and was read at `epoch`. False when its time has been put right since: its
    /// bytes must be read again.
    pub fn pin(&self, event: i64, epoch: u64) -> bool {
        self.0.stamps.pin(event, epoch)
    }

    /// Not a byte of an event has left the device by the attempt that pinned it.
    pub fn unpin(&self, event: i64) {
        self.0.stamps.unpin(event);
    }

    /// Waits until the writer has nothing left to do, or `patience` has passed; true in the first case. For stopping and for tests.
    pub fn settle(&self, patience: Duration) -> bool {
        let until = std::time::Instant::now() + patience;
        while std::time::Instant::now() < until {
            // What the writer takes together with the ping is on the disk when it answers.
            if self.ping(Duration::from_secs(1)).is_ok() && lock(&self.0.queue).outcomes.is_empty() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

// SQLite integers are signed; the bits are what counts.
fn to_column(random: u64) -> i64 {
    i64::from_be_bytes(random.to_be_bytes())
}

fn from_column(random: i64) -> u64 {
    u64::from_be_bytes(random.to_be_bytes())
}
