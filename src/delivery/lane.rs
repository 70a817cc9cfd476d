//! A lane: claims from the store, sends, judges, reports. The rules are in `retry`; this is their rim.
//!
//! It must never write to the database itself, never send a delivery whose last outcome is not on the disk yet, and never let one
//! delivery, or a fault in this program, stop the others.

use super::ahead::Ahead;
use super::ear::Ear;
use super::{Assignment, Transport};
use crate::destination::{Answer, Class, Spec, Verdict, judge, webhook};
use crate::retry::{Change, Fate, Lane as Rules, Permit, Tried};
use crate::store::{End, Error, Job, Letter, Outcome, Store, Watcher};
use crate::time::{Tick, Wall, human};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A condvar does not count time spent suspended; no wait is longer than this.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Made an attempt.
    Sent,
    /// What was read ahead is out of date; the next step reads it anew.
    Again,
    /// Nothing to do before this tick, or before the lane is woken.
    Idle(Option<Tick>),
}

/// A lane's state for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The destination's name.
    pub name: String,
    /// The destination's number.
    pub dest: i64,
    /// `open`, `paused`, `offline`, …
    pub state: &'static str,
    /// Since when, if not open.
    pub since: Option<Wall>,
    /// Why, if not open.
    pub reason: String,
    /// Attempts since the daemon's start, by what came of them.
    pub attempts: BTreeMap<Class, u64>,
}

/// One destination's lane.
#[derive(Debug)]
pub struct Lane {
    store: Store,
    dest: i64,
    given: Mutex<Given>,
    inner: Mutex<Inner>,
    ear: Arc<Ear>,
    crew: Mutex<Crew>,
    not_before: Tick,
}

/// The lane's threads: which there are, and how many there should be. Decided under one lock, so that a thread on its way out is never
/// counted on.
#[derive(Debug, Default)]
struct Crew {
    alive: BTreeSet<usize>,
    wanted: usize,
}

#[derive(Debug, Clone)]
struct Given {
    spec: Arc<Spec>,
    transport: Arc<dyn Transport>,
}

#[derive(Debug)]
struct Inner {
    rules: Rules,
    ahead: Ahead,
    unreadable: u32,
    // Whatever wakes the lane meanwhile, the queue is not read again before.
    unreadable_until: Option<Tick>,
    paused: bool,
    nudge: Option<i64>,
    told: (&'static str, Option<Wall>, String),
    attempts: BTreeMap<Class, u64>,
}

/// An attempt that has been made.
struct Attempt {
    job: Job,
    event_id: String,
    /// Its body, if that must be kept.
    fresh: Option<Vec<u8>>,
    probe: bool,
    /// [`Ahead::changes`] when it was claimed.
    changes: u64,
}

impl Lane {
    /// A lane that has not begun; [`Lane::start`] gives it threads, or a test drives [`Lane::step`]. It sends nothing before `not_before`.
    pub fn new(store: Store, assignment: Assignment, not_before: Tick) -> Self {
        let ear = Arc::new(Ear::default());
        ear.hear(|h| h.changed = true);
        Self {
            store,
            dest: assignment.dest,
            given: Mutex::new(Given { spec: assignment.spec, transport: assignment.transport }),
            inner: Mutex::new(Inner {
                rules: Rules::new(assignment.policy),
                ahead: Ahead::default(),
                unreadable: 0,
                unreadable_until: None,
                paused: false,
                nudge: None,
                told: ("open", None, String::new()),
                attempts: BTreeMap::new(),
            }),
            ear,
            crew: Mutex::default(),
            not_before,
        }
    }

    /// The ear the store talks to.
    pub fn watcher(lane: &Arc<Lane>) -> Arc<dyn Watcher> {
        Arc::clone(&lane.ear) as Arc<dyn Watcher>
    }

    /// Goes on under new rules; what is under way finishes under the old ones.
    pub fn reassign(&self, assignment: Assignment) {
        let mut inner = self.inner();
        inner.rules.set_policy(assignment.policy);
        // The change may be what a held lane was waiting for.
        inner.rules.nudge(self.store.timeline().now());
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Given { spec: assignment.spec, transport: assignment.transport };
        drop(inner);
        self.ear.hear(|h| h.changed = true);
    }

    /// Starts as many threads as the destination has workers; those it already has stay.
    pub fn start(lane: &Arc<Lane>) -> std::io::Result<()> {
        let wanted = lane.given().spec.workers.max(1);
        let mut crew = lane.crew();
        crew.wanted = wanted;
        for index in 0..wanted {
            if crew.alive.contains(&index) {
                continue;
            }
            let me = Arc::clone(lane);
            std::thread::Builder::new().name(format!("lane {}-{index}", lane.dest)).spawn(move || me.run(index))?;
            crew.alive.insert(index);
        }
        drop(crew);
        lane.ear.wake();
        Ok(())
    }

    /// Asks the threads to end once what they are doing is done. The queue stays.
    pub fn rest(&self) {
        self.crew().wanted = 0;
        self.ear.wake();
    }

    /// Whether no thread is left.
    pub fn idle(&self) -> bool {
        self.crew().alive.is_empty()
    }

    /// Whether there are as many threads as there should be.
    pub fn alive(&self) -> bool {
        let crew = self.crew();
        crew.alive.len() >= crew.wanted
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The destination's name.
    pub fn name(&self) -> String {
        self.given().spec.name.clone()
    }

    /// For the readiness page; `None` at rest.
    pub fn status(&self) -> Option<Status> {
        if self.crew().wanted == 0 {
            return None;
        }
        let inner = self.inner();
        let (state, since, reason) = if inner.paused { ("paused", None, String::new()) } else { inner.told.clone() };
        Some(Status { name: self.name(), dest: self.dest, state, since, reason, attempts: inner.attempts.clone() })
    }

    fn run(&self, index: usize) {
        loop {
            let generation = self.ear.generation();
            {
                let mut crew = self.crew();
                if index >= crew.wanted {
                    crew.alive.remove(&index);
                    return;
                }
            }
            // A fault of this program in one step must not end the lane; the pause keeps it from becoming a hot loop.
            match catch_unwind(AssertUnwindSafe(|| self.step())) {
                Ok(Step::Sent | Step::Again) => {}
                Ok(Step::Idle(until)) => self.wait(generation, until),
                Err(_) => {
                    log::error!("destination {}: the lane met a fault of its own and goes on in a minute", self.name());
                    self.wait(generation, Some(self.store.timeline().now().after(WAIT_MAX)));
                }
            }
        }
    }

    fn wait(&self, generation: u64, until: Option<Tick>) {
        let patience = until.map_or(WAIT_MAX, |t| t.since(self.store.timeline().now()).min(WAIT_MAX));
        self.ear.wait(generation, patience);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&self) -> Given {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One attempt, if one may be made now.
    pub fn step(&self) -> Step {
        let now = self.store.timeline().now();
        if now < self.not_before {
            return Step::Idle(Some(self.not_before));
        }
        let (job, probe, changes, doubtful) = {
            let mut inner = self.inner();
            if let Some(until) = inner.unreadable_until.filter(|until| now < *until) {
                return Step::Idle(Some(until));
            }
            if let Err(e) = self.listen(&mut inner, now) {
                return self.unreadable(&mut inner, &e, now);
            }
            if inner.paused || inner.ahead.is_full() {
                return Step::Idle(None);
            }
            let probe = match inner.rules.permit(now) {
                Permit::Send => false,
                Permit::Probe => true,
                Permit::Wait(until) => return Step::Idle(Some(until)),
                Permit::Busy => return Step::Idle(None),
            };
            let next = inner.ahead.next(&self.store, self.dest, now);
            if next.is_ok() {
                inner.unreadable = 0;
            }
            let job = match next {
                Ok(Some(job)) => job,
                Ok(None) => return Step::Idle(self.next_due(now)),
                Err(e) => return self.unreadable(&mut inner, &e, now),
            };
            if !self.store.pin(job.event, inner.ahead.epoch()) {
                // Its time was put right after it was read.
                inner.ahead.reread();
                return Step::Again;
            }
            if probe {
                inner.rules.probe_begins(now);
            } else {
                inner.rules.begins(now);
            }
            inner.ahead.begins(job.event);
            let doubtful = inner.ahead.is_doubtful(job.event);
            (job, probe, inner.ahead.changes(), doubtful)
        };
        let given = self.given();
        let event_id = self.store.ids().event(job.random).id(job.event);
        let attempt = catch_unwind(AssertUnwindSafe(|| self.attempt(&given, &job, &event_id, doubtful)));
        let (verdict, fresh) = attempt.unwrap_or_else(|_| (internal("the attempt met a fault of this program"), None));
        let attempt = Attempt { job, event_id, fresh, probe, changes };
        self.report(&given.spec, attempt, verdict);
        Step::Sent
    }

    /// Takes in what the writer left: confirmations first, then the operator's switches.
    fn listen(&self, inner: &mut Inner, now: Tick) -> Result<(), Error> {
        let (confirmed, changed) = {
            let mut heard = self.ear.heard();
            (std::mem::take(&mut heard.confirmed), std::mem::take(&mut heard.changed))
        };
        confirmed.into_iter().for_each(|event| inner.ahead.confirmed(event));
        if !changed {
            return Ok(());
        }
        let row = match self.store.read(|view| view.destination(self.dest)) {
            Ok(row) => row,
            Err(e) => {
                // Without waking anybody: it is tried again when the pause is over.
                self.ear.heard().changed = true;
                return Err(e);
            }
        };
        if self.store.timeline().trusted() {
            inner.rules.clock_is_right(now);
        }
        // What was read ahead may have been dropped or retried by hand: read it again.
        inner.ahead.changed();
        let Some(row) = row else { return Ok(()) };
        inner.paused = row.paused;
        if inner.nudge.is_some_and(|n| n != row.nudge) {
            inner.rules.nudge(now);
        }
        if inner.nudge.replace(row.nudge).is_none() && row.state != "open" {
            // Left over from an earlier run; this one has seen no trouble yet, but a receiver that was down is not to be flooded.
            inner.rules.begins_slowly(now);
            self.store.lane_state(self.dest, "open", self.store.timeline().wall(), String::new());
        }
        Ok(())
    }

    fn unreadable(&self, inner: &mut Inner, e: &Error, now: Tick) -> Step {
        inner.unreadable = inner.unreadable.saturating_add(1);
        if inner.unreadable.is_power_of_two() {
            log::error!(
                "destination {}: the queue cannot be read ({} times so far), trying again every 5 s: {e}",
                self.name(),
                inner.unreadable
            );
        }
        let until = now.after(Duration::from_secs(5));
        inner.unreadable_until = Some(until);
        Step::Idle(Some(until))
    }

    fn next_due(&self, now: Tick) -> Option<Tick> {
        match self.store.read(|view| view.next_due(self.dest, now)) {
            Ok(due) => due,
            Err(e) => {
                log::error!("destination {}: the queue cannot be read: {e}", self.name());
                Some(now.after(Duration::from_secs(5)))
            }
        }
    }

    /// Renders, signs, sends, judges. `doubtful`: it was refused before, and others were not. The second part is the body to keep for further attempts, if it is not kept already.
    fn attempt(&self, given: &Given, job: &Job, event_id: &str, doubtful: bool) -> (Verdict, Option<Vec<u8>>) {
        let spec = &given.spec;
        let mut fresh = None;
        let body = match (&job.rendered, &job.event_body) {
            (Some(kept), _) => kept.clone(),
            (None, Err(e)) => return (internal(&e.to_string()), None),
            (None, Ok(event)) => match webhook::render(spec, event) {
                Ok(None) => event.clone(),
                Ok(Some(made)) => {
                    fresh = Some(made.clone());
                    made
                }
                Err(e) => return (internal(&e.to_string()), None),
            },
        };
        let wall = self.store.timeline().wall();
        let identity = webhook::Identity { event_id, kind: &job.kind };
        let request = webhook::request(spec, identity, body, job.attempts.saturating_add(1), wall);
        let answer = given.transport.send(&spec.url, &request);
        let now = std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(wall.0).unwrap_or(0));
        // An answer that others did not get meanwhile is not the clock's fault.
        let vouched = doubtful && matches!(answer, Answer::Response(_));
        let verdict = judge(&spec.url, &answer, vouched || self.store.timeline().trusted(), now);
        // Bytes that never reached a receiver bind nobody; those that may have are kept.
        let reached = match &answer {
            Answer::Response(_) => true,
            Answer::Failure { kind, .. } => kind.may_have_sent(),
        };
        if !reached {
            self.store.unpin(job.event);
        }
        (verdict, fresh.filter(|_| reached))
    }

    fn report(&self, spec: &Spec, attempt: Attempt, verdict: Verdict) {
        let Attempt { job, event_id, fresh, probe, changes } = attempt;
        let (now, wall) = (self.store.timeline().now(), self.store.timeline().wall());
        let age_ms = if job.attempts == 0 { 0 } else { job.age_ms.saturating_add(millis(now.since(job.seen))) };
        let mut inner = self.inner();
        // Refused by an answer, not by the way there: it may be meant for this delivery alone.
        let refused = verdict.class == Class::Refused || (verdict.class == Class::Clock && verdict.status.is_some());
        let own_trouble = refused && inner.ahead.is_doubtful(job.event);
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        let tried = Tried { counted: job.attempts, age, probe, own_trouble };
        let (fate, change) = inner.rules.judged(&verdict, tried, now, fastrand::f64());
        let attempts = job.attempts.saturating_add(1);
        let Verdict { class, code, status, reason, answer, .. } = verdict;
        *inner.attempts.entry(class).or_default() += 1;
        log::debug!("destination {}: {event_id} attempt {attempts}: {class} {code}: {reason}", spec.name);
        if own_trouble && job.attempts == 0 {
            log::warn!("destination {}: {event_id} is refused while others get through; it waits alone: {reason}", spec.name);
        }
        // A doubtful one stays so to its end: its next refusal is not the clock's fault either.
        if matches!(fate, Fate::Done | Fate::Dead) || (!refused && !inner.ahead.is_doubtful(job.event)) {
            inner.ahead.cleared(job.event);
        }
        self.tell(spec, &mut inner, change, &reason, wall);
        let end = match fate {
            Fate::Done => Some(End::Done { at: wall, attempts, status }),
            Fate::Later(due) => Some(End::Later { due, attempts, age_ms, seen: now, code: code.to_owned(), reason }),
            Fate::Dead => {
                log::warn!(
                    "destination {}: {event_id} is given up after {attempts} attempts and kept as a dead letter (leadsbotd queue list --state dead): {reason}",
                    spec.name
                );
                let (class, code) = (class.name().to_owned(), code.to_owned());
                Some(End::Dead(Box::new(Letter { at: wall, attempts, class, code, status, reason, answer })))
            }
            Fate::Again => fresh.is_some().then_some(End::Unmoved),
        };
        let (dest, event) = (self.dest, job.event);
        if fate == Fate::Again {
            inner.ahead.again(job, refused, fresh.is_some(), changes);
        }
        drop(inner);
        if let Some(end) = end {
            self.store.outcome(Outcome { dest, event, end, rendered: fresh });
        }
        // Other workers may be waiting for this attempt to end.
        self.ear.wake();
    }

    fn tell(&self, spec: &Spec, inner: &mut Inner, change: Option<Change>, reason: &str, wall: Wall) {
        match change {
            None => {}
            Some(Change::Held(why)) => {
                inner.ahead.held();
                let waiting = self.store.counts(self.dest).map_or(0, |c| c.waiting());
                let next = inner.rules.hold().map_or(Duration::ZERO, |(_, at)| at.since(self.store.timeline().now()));
                log::warn!(
                    "destination {}: {} since {}, {waiting} waiting; nothing is lost, next attempt in {}: {reason}",
                    spec.name,
                    why.name(),
                    wall.rfc3339(),
                    human(next)
                );
                inner.told = (why.name(), Some(wall), reason.to_owned());
                self.store.lane_state(self.dest, why.name(), wall, reason.to_owned());
            }
            Some(Change::Opened) => {
                log::info!("destination {}: well again, sending what waited", spec.name);
                inner.ahead.opened();
                inner.told = ("open", None, String::new());
                self.store.lane_state(self.dest, "open", wall, String::new());
            }
        }
    }
}

fn internal(reason: &str) -> Verdict {
    Verdict { class: Class::Internal, code: "internal", status: None, wait: None, reason: reason.to_owned(), answer: String::new() }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
