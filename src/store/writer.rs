//! The one thread that writes: takes what waits, commits it in one transaction, then answers.
//!
//! It never answers before the fsync, never waits for a lane or a caller, and never loses an outcome: those it cannot write it keeps.

use super::perform::{Told, perform};
use super::retention::Forgetting;
use super::{Answers, Command, Done, End, Error, Outcome, Store, Watcher, Work, beside, leads, lock, queue, schema};
use crate::time::Tick;
use rusqlite::{Connection, TransactionBehavior};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often another process's commits are looked for when there is nothing to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where several leads shared a commit not longer ago than this, the first of others is likely to have company.
const COMPANY_REMEMBERED: Duration = Duration::from_secs(1);
/// It is waited for in such steps, as long as each brings somebody.
const COMPANY_STEP: Duration = Duration::from_micros(100);
/// And at most for so long.
const COMPANY_WAIT_MAX: Duration = Duration::from_millis(1);
/// So many that have come already are company enough.
const COMPANY: usize = 4;
/// WAL frames after which the writer copies them into the database file.
const CHECKPOINT_FRAMES: i64 = 1000;
/// How many a step of forgetting writes, roughly.
const FORGETTING_FRAMES: i64 = 50;
/// How many events are written anew for one, roughly.
const EVENTS_A_FRAME: usize = 4;
/// So many finished deliveries are moved to history at once: as fit on one page of `ready` together with those that still wait.
const SETTLE_AT: usize = 128;
/// How many of the oldest rows of each destination are looked at for such when the database is opened.
const SETTLE_LOOK_AT: i64 = 1000;
/// The pause between two steps of forgetting: visitors and deliveries go first.
const FORGET_EVERY: Duration = Duration::from_millis(20);
/// A clock that is kept right, and behind what was believed before, is believed after so long.
const CONTRADICTION: Duration = Duration::from_secs(600);

pub(super) struct State {
    store: Store,
    conn: Option<Connection>,
    data_version: i64,
    place: Place,
    next_seq: i64,
    frames: i64,
    // Outcomes that are not on the disk yet; their lanes wait for them.
    outcomes: Vec<Outcome>,
    outcomes_since: Option<Instant>,
    // When several leads last shared a commit.
    company: Option<Instant>,
    // After a failure outcomes are tried again only then, or together with a command.
    outcomes_not_before: Option<Instant>,
    failures: u32,
    // The running boot's clock has been believed, and the disk knows its offset.
    clock_known: bool,
    // Since when the clock is kept right and yet shows less than was believed before.
    contradicted: Option<Tick>,
    forgetting: Forgetting,
    // There is more to forget at once.
    busy_forgetting: bool,
    // Deliveries whose end is noted in `ready` and has still to be moved to `history`.
    finished: Vec<(i64, i64)>,
}

impl State {
    pub(super) fn new(store: Store, conn: Connection) -> Result<Self, Error> {
        let next_seq = (leads::last_seq(&conn)? + 1).max(schema::first_number(&conn)?);
        let data_version = data_version(&conn)?;
        let path = store.0.options.path.clone();
        let finished = queue::unsettled_at_front(&conn, SETTLE_LOOK_AT)?;
        let forgetting = Forgetting::new(store.0.timeline.now());
        let clock_known = schema::is_clock_known(&conn, store.0.timeline.boot())?;
        Ok(Self {
            store,
            conn: Some(conn),
            data_version,
            place: Place::of(&path),
            next_seq,
            frames: CHECKPOINT_FRAMES,
            outcomes: Vec::new(),
            outcomes_since: None,
            company: None,
            outcomes_not_before: None,
            failures: 0,
            clock_known,
            contradicted: None,
            forgetting,
            busy_forgetting: false,
            finished,
        })
    }

    pub(super) fn run(&mut self) {
        if let Err(e) = self.store.count_anew() {
            log::warn!("{e}");
        }
        loop {
            let (commands, stopping) = self.take();
            let work = commands.len();
            let panicked = catch_unwind(AssertUnwindSafe(|| self.turn(commands))).is_err();
            self.watch_the_clock();
            self.keep_room(work);
            let limits = self.store.0.space.limits();
            self.store.0.wear.look(&self.store.0.timeline, limits.write_budget, limits.card_endurance);
            self.shorten_the_log();
            if self.store.0.counting.is_lost()
                && !self.store.0.is_carrying_over()
                && let Err(e) = self.store.count_anew()
            {
                log::debug!("the deliveries are counted whenever somebody asks: {e}");
            }
            if panicked {
                log::error!("the writer met a fault of its own; the commands of this turn were refused, nothing acknowledged is lost");
            }
            if stopping && work == 0 {
                break;
            }
        }
        if let Some(conn) = &self.conn {
            if let Err(e) = conn.unchecked_transaction().map_err(Error::from).and_then(|tx| {
                queue::settle(&tx, &self.finished)?;
                self.store.0.wear.close(&tx, &self.store.0.timeline)?;
                Ok(tx.commit()?)
            }) {
                log::warn!("the latest deliveries are not in the history yet; the next start sees to it: {e}");
            }
            if let Some(open) = self.store.0.stamps.remaining()
                && let Err(e) = schema::keep_open(conn, self.store.0.timeline.boot(), open)
            {
                log::warn!("the times of the latest leads will stay as they are, marked untrusted: {e}");
            }
            checkpoint(conn, "TRUNCATE");
        }
    }

    /// Notices that the clock can be believed from now on, and puts the times of what was captured before right.
    fn watch_the_clock(&mut self) {
        let line = &self.store.0.timeline;
        if line.contradicted() {
            let since = *self.contradicted.get_or_insert(line.now());
            if line.now().since(since) >= CONTRADICTION {
                log::warn!(
                    "the clock keeps showing {}, which is behind what it showed earlier; it is believed from now on",
                    line.wall().rfc3339()
                );
                line.believe_again(line.wall());
                // The disk has to learn it too, or every start would doubt the clock again.
                self.clock_known = false;
            }
        } else {
            self.contradicted = None;
        }
        if (self.clock_known && !self.store.0.stamps.is_open()) || self.failures > 0 || !line.trusted() {
            return;
        }
        let Some(conn) = &mut self.conn else { return };
        if !self.clock_known {
            if let Err(e) = schema::clock_known(conn, line) {
                self.failed(&e);
                return;
            }
            self.clock_known = true;
            log::info!("the clock can be believed from now on: {}", line.wall().rfc3339());
            self.tell_of_change();
        }
        let line = &self.store.0.timeline;
        let Some(conn) = &mut self.conn else { return };
        if !self.store.0.stamps.is_open() {
            return;
        }
        match self.store.0.stamps.put_right(conn, line) {
            Ok(0) => {}
            Ok(count) => {
                self.frames += i64::try_from(count / EVENTS_A_FRAME).unwrap_or(0);
                log::info!("events whose time was put right: {count}; they had been captured before the clock could be believed");
                self.tell_of_change();
            }
            Err(e) => self.failed(&e),
        }
    }

    /// Measures the room, and forgets what is old while there is nothing else to do.
    fn keep_room(&mut self, work: usize) {
        let Some(conn) = &mut self.conn else { return };
        let shared = &self.store.0;
        if let Err(e) = shared.space.measure(conn) {
            self.failed(&e);
            return;
        }
        // What is being carried over from a damaged file looks as if it were to go nowhere until all of it is there.
        if work > 0 || self.failures > 0 || shared.is_carrying_over() {
            return;
        }
        match self.forgetting.step(conn, &shared.timeline, &shared.space) {
            Ok(more) => {
                self.frames += if more { FORGETTING_FRAMES } else { 0 };
                // It may have taken dead letters out.
                if self.busy_forgetting && !more && self.store.count_anew().is_err() {
                    log::debug!("the deliveries are counted whenever somebody asks");
                }
                self.busy_forgetting = more;
            }
            Err(e) => self.failed(&e),
        }
    }

    /// Waits for something to do. Outcomes alone wait for company until they are many or old.
    fn take(&mut self) -> (Vec<Command>, bool) {
        let options = &self.store.0.options;
        let mut queue = lock(&self.store.0.queue);
        loop {
            if !queue.outcomes.is_empty() {
                self.outcomes.append(&mut queue.outcomes);
                self.outcomes_since.get_or_insert_with(Instant::now);
            }
            let held_back = self.outcomes_not_before.map(|at| at.saturating_duration_since(Instant::now())).filter(|d| !d.is_zero());
            let patience = match self.outcomes_since {
                // Times are being put right, a piece at a turn.
                None if self.clock_known && self.failures == 0 && self.store.0.stamps.is_open() && self.store.0.timeline.trusted() => {
                    Duration::ZERO
                }
                None if self.busy_forgetting && self.failures == 0 => FORGET_EVERY,
                None => LOOK_EVERY,
                Some(_) if held_back.is_some() => held_back.unwrap_or(LOOK_EVERY),
                Some(_) if self.outcomes.len() >= options.flush_at => Duration::ZERO,
                Some(since) => options.flush_after.saturating_sub(since.elapsed()),
            };
            if !queue.commands.is_empty() || queue.stopping || patience.is_zero() {
                break;
            }
            queue.asleep = Some(self.outcomes.len());
            let (guard, timeout) = self.store.0.signal.wait_timeout(queue, patience).unwrap_or_else(std::sync::PoisonError::into_inner);
            queue = guard;
            queue.asleep = None;
            if timeout.timed_out() && queue.commands.is_empty() && queue.outcomes.is_empty() {
                break;
            }
        }
        // Visitors who come together are to share a commit: each of its own writes the same five pages again. Who comes alone never waits.
        if (1..COMPANY).contains(&queue.commands.len()) && self.company.is_some_and(|at| at.elapsed() < COMPANY_REMEMBERED) {
            let (begun, first, mut before) = (Instant::now(), queue.commands.len(), 0);
            while queue.commands.len() > before && begun.elapsed() < COMPANY_WAIT_MAX && !queue.stopping {
                before = queue.commands.len();
                (queue, _) = self.store.0.signal.wait_timeout(queue, COMPANY_STEP).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            if queue.commands.len() == first {
                self.company = None;
            }
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < options.batch_max && bytes < options.batch_bytes_max {
            let Some(command) = queue.commands.pop_front() else { break };
            let size = command.work.bytes();
            bytes += size;
            queue.bytes = queue.bytes.saturating_sub(size);
            if command.ticket.take() {
                batch.push(command);
            }
        }
        (batch, queue.stopping && queue.commands.is_empty())
    }

    fn turn(&mut self, mut commands: Vec<Command>) {
        if let Err(e) = self.look() {
            refuse(commands, &e);
            self.failed(&e);
            return;
        }
        if commands.is_empty() && self.outcomes.is_empty() {
            self.try_again();
            return;
        }
        let mut failed = Vec::new();
        loop {
            match self.commit(&commands) {
                Ok(told) => {
                    self.tell(commands, told, failed);
                    break;
                }
                // A statement of one command failed before the commit: that one is refused, the others are not its fault.
                Err(Stop::Command(index, e)) => {
                    log::error!("a command was refused: {e}");
                    if index < commands.len() {
                        failed.push((commands.remove(index), e));
                    }
                }
                Err(Stop::Outcome(index, e)) => {
                    log::error!("an outcome could not be written and is forgotten; its delivery will be sent again: {e}");
                    if index < self.outcomes.len() {
                        let outcome = self.outcomes.remove(index);
                        self.confirm(outcome.dest, &[outcome.event]);
                        // The lane has read past it and must look again.
                        let watcher = lock(&self.store.0.watchers).get(&outcome.dest).cloned();
                        if let Some(watcher) = watcher {
                            watcher.changed();
                        }
                    }
                }
                Err(Stop::Disk(e)) => {
                    refuse(std::mem::take(&mut commands), &e);
                    self.failed(&e);
                    // Finishing deliveries frees space: it must go on when captures cannot, into the reserve.
                    if e == Error::Full {
                        self.store.0.space.release();
                        if !self.outcomes.is_empty() {
                            self.outcomes_alone();
                        }
                    }
                    for (command, e) in failed {
                        (command.reply)(Err(e));
                    }
                    return;
                }
            }
        }
    }

    /// Copies the log into the file once it is long; after the answers.
    fn shorten_the_log(&mut self) {
        let Some(conn) = self.conn.as_ref().filter(|_| self.frames >= CHECKPOINT_FRAMES) else { return };
        self.frames = checkpoint(conn, "PASSIVE");
        // Readers that overlap without a gap keep the log from starting over; past this size they are made to wait.
        if self.frames > 4 * CHECKPOINT_FRAMES {
            // Not for long: visitors wait meanwhile.
            let _ = conn.busy_timeout(Duration::ZERO);
            self.frames = checkpoint(conn, "RESTART");
            let _ = conn.busy_timeout(schema::BUSY);
        }
    }

    fn outcomes_alone(&mut self) {
        match self.commit(&[]) {
            Ok(told) => self.tell(Vec::new(), told, Vec::new()),
            Err(Stop::Disk(e) | Stop::Command(_, e) | Stop::Outcome(_, e)) => self.failed(&e),
        }
    }

    /// Opens the file again after a failure, and notices what other processes committed.
    fn look(&mut self) -> Result<(), Error> {
        if self.conn.is_none() {
            // Whoever closes the last connection takes the log away.
            self.place.log = None;
        }
        if !self.place.is_kept(&self.store.0.options.path) {
            if !self.store.0.gone.swap(true, Ordering::AcqRel) {
                log::error!(
                    "the database file {} or its log was moved or deleted, or its disk is gone; no lead is taken any more until leadsbotd is started again",
                    self.store.0.options.path.display()
                );
                // Whoever moved the file has everything in it then.
                if let Some(conn) = &self.conn {
                    checkpoint(conn, "TRUNCATE");
                }
            }
            return Err(Error::Disk("its file is not where it was".to_owned()));
        }
        let version = match &self.conn {
            Some(conn) => data_version(conn)?,
            None => {
                let conn = schema::connect(&self.store.0.options.path, schema::Purpose::Writer)?;
                let version = data_version(&conn)?;
                self.conn = Some(conn);
                version
            }
        };
        if version != self.data_version {
            self.data_version = version;
            self.tell_of_change();
            // That is done after the turn; no lead is to be refused because it cannot be.
            self.store.0.counting.lost();
        }
        Ok(())
    }

    /// Every lane reads anew what it has read ahead.
    fn tell_of_change(&self) {
        let watchers: Vec<Arc<dyn Watcher>> = lock(&self.store.0.watchers).values().cloned().collect();
        for watcher in watchers {
            watcher.changed();
        }
    }

    fn commit(&mut self, commands: &[Command]) -> Result<Told, Stop> {
        let conn = self.conn.as_mut().ok_or_else(|| Stop::Disk(Error::Disk("the database is closed".to_owned())))?;
        let disk = |e: rusqlite::Error| Stop::Disk(e.into());
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(disk)?;
        let mut told = Told::default();
        // Never a number twice, even when another process has deleted the newest rows.
        let mut seq = self.next_seq.max(leads::last_seq(&tx).map_err(Stop::Disk)? + 1);
        let now = (self.store.0.timeline.now(), self.store.0.timeline.wall());
        for (index, outcome) in self.outcomes.iter().enumerate() {
            if queue::apply(&tx, &mut told.tally, outcome).map_err(|e| Stop::of(e, |e| Stop::Outcome(index, e)))? {
                told.finished.push((outcome.dest, outcome.event));
            }
            told.confirmed.entry(outcome.dest).or_default().push(outcome.event);
        }
        let mut answers = Vec::with_capacity(commands.len());
        for (index, command) in commands.iter().enumerate() {
            let done =
                perform(&tx, &self.store, &command.work, &mut seq, now, &mut told).map_err(|e| Stop::of(e, |e| Stop::Command(index, e)))?;
            answers.push(done);
        }
        // Along with something that is written anyway.
        let settle = self.finished.len() >= SETTLE_AT && !(commands.is_empty() && self.outcomes.is_empty());
        if settle {
            queue::settle(&tx, &self.finished).map_err(Stop::Disk)?;
        }
        let writes = !self.outcomes.is_empty() || commands.iter().any(|c| !matches!(c.work, Work::Ping));
        let worn = writes && self.store.0.wear.keep(&tx, &self.store.0.timeline).map_err(Stop::Disk)?;
        tx.commit().map_err(disk)?;
        if settle {
            self.finished.clear();
        }
        if worn {
            self.store.0.wear.kept();
        }
        let ended = self.outcomes.iter().filter(|o| matches!(o.end, End::Done { .. } | End::Dead(_))).count();
        let captured = answers.iter().filter(|a| matches!(a, Done::Captured(c) if !c.repeated)).count();
        self.store.0.wear.committed(captured as u64, ended as u64);
        if commands.iter().filter(|c| matches!(c.work, Work::Capture { .. })).nth(1).is_some() {
            self.company = Some(Instant::now());
        }
        self.finished.append(&mut told.finished);
        self.store.0.counting.committed(&told.tally);
        told.answers = answers;
        self.next_seq = seq;
        // What a turn writes, roughly: four pages, one for every three leads, one for a page full of ends.
        self.frames += 4 + i64::try_from(commands.len() / 3 + self.outcomes.len() / 60).unwrap_or(0);
        self.outcomes.clear();
        self.outcomes_since = None;
        self.outcomes_not_before = None;
        // A turn that wrote nothing has proven nothing.
        if writes {
            self.well();
        }
        Ok(told)
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.store.0.failing.store(false, Ordering::Release);
            log::info!("the database takes writes again");
        }
    }

    /// After a failure, with nothing else to do: one small write tells whether it is over.
    fn try_again(&mut self) {
        let Some(conn) = &self.conn else { return };
        if self.failures == 0 {
            return;
        }
        match schema::write_a_little(conn, self.failures) {
            Ok(()) => self.well(),
            Err(e) => self.failed(&e),
        }
    }

    fn tell(&self, commands: Vec<Command>, told: Told, failed: Vec<(Command, Error)>) {
        let kept = commands.into_iter().zip(told.answers).map(|(command, done)| (command.reply, Ok(done)));
        let refused = failed.into_iter().map(|(command, e)| (command.reply, Err(e)));
        let answers = Answers(kept.chain(refused).collect());
        match self.store.0.messenger.get() {
            Some(messenger) if answers.0.len() > 1 => messenger(answers),
            _ => answers.give(),
        }
        for (dest, events) in &told.confirmed {
            self.confirm(*dest, events);
        }
        let mut woken = told.woken;
        woken.sort_unstable();
        woken.dedup();
        for dest in woken {
            let watcher = lock(&self.store.0.watchers).get(&dest).cloned();
            if let Some(watcher) = watcher {
                watcher.work();
            }
        }
    }

    fn confirm(&self, dest: i64, events: &[i64]) {
        let watcher = lock(&self.store.0.watchers).get(&dest).cloned();
        if let Some(watcher) = watcher {
            watcher.confirmed(events);
        }
    }

    /// After a failed write or sync nothing in memory is trusted: every connection is closed and opened anew. A disk that stays
    /// broken is said ever more rarely, so that the log does not fill what is left.
    fn failed(&mut self, e: &Error) {
        self.failures = self.failures.saturating_add(1);
        self.store.0.failing.store(true, Ordering::Release);
        let say = self.failures.is_power_of_two();
        self.outcomes_not_before = Some(Instant::now() + LOOK_EVERY);
        if let Error::Damaged(what) = e {
            self.store.note_damage(what);
        }
        match e {
            Error::Full if say => log::error!("{e} ({} times so far)", self.failures),
            Error::Busy if say => log::warn!("another process holds the database; trying again"),
            Error::Full | Error::Busy => {}
            _ => {
                if say {
                    log::error!("{e}; closing the database and opening it again ({} times so far)", self.failures);
                }
                self.conn = None;
                // A commit that was reported as failed may turn out to be there.
                self.store.0.counting.lost();
                self.store.0.epoch.fetch_add(1, Ordering::AcqRel);
                lock(&self.store.0.pool).clear();
            }
        }
    }
}

/// Which files the names of the database and of its log mean. What is written into others has no name, and is gone with the process.
struct Place {
    database: Option<(u64, u64)>,
    log: Option<(u64, u64)>,
}

impl Place {
    fn of(path: &Path) -> Self {
        Self { database: file_at(path), log: file_at(&beside(path, "-wal")) }
    }

    fn is_kept(&mut self, path: &Path) -> bool {
        let now = Self::of(path);
        // The log is made with the first write.
        self.log = self.log.or(now.log);
        self.database == now.database && self.log == now.log
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Why a transaction was rolled back.
enum Stop {
    Command(usize, Error),
    Outcome(usize, Error),
    Disk(Error),
}

impl Stop {
    fn of(e: Error, whose: impl FnOnce(Error) -> Stop) -> Stop {
        match e {
            Error::Full | Error::Disk(_) | Error::Damaged(_) | Error::Busy => Stop::Disk(e),
            other => whose(other),
        }
    }
}

fn refuse(commands: Vec<Command>, e: &Error) {
    for command in commands {
        (command.reply)(Err(e.clone()));
    }
}

fn data_version(conn: &Connection) -> Result<i64, Error> {
    Ok(conn.prepare_cached("PRAGMA data_version")?.query_row([], |r| r.get(0))?)
}

/// Copies the log into the file. Returns the frames still in the log.
fn checkpoint(conn: &Connection, mode: &str) -> i64 {
    let result = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| Ok((r.get::<_, i64>(1)?, r.get::<_, i64>(2)?)));
    match result {
        Ok((log, copied)) => (log - copied).max(0),
        Err(e) => {
            log::warn!("the log could not be copied into the database file: {e}");
            0
        }
    }
}
