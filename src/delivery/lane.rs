//! A lane: claims from the store, sends, judges, reports. The rules are in `retry`; this is their rim.
//!
//! It must never write to the database itself, never send a delivery whose last outcome is not on the disk yet, and never let one
//! delivery, or a fault in this program, stop the others.

use super::ahead::Ahead;
use super::ear::Ear;
use super::{Assignment, Transport};
use crate::destination::{Answer, Batch, Class, Identity, Incoming, Judgement, Memory, Moment, Record, Spec, Verdict, exchange};
use crate::retry::{Change, Fate, Hold, Lane as Rules, Permit, Tried};
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
    // What the connector remembers; of no use to another one, so an exchange that outlives its configuration keeps its own.
    memory: Arc<Mutex<Memory>>,
}

impl Given {
    fn new(spec: Arc<Spec>, transport: Arc<dyn Transport>) -> Self {
        Self { spec, transport, memory: Arc::default() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Inner {
    rules: Rules,
    ahead: Ahead,
    unreadable: u32,
    // Whatever wakes the lane meanwhile, the queue is not read again before.
    unreadable_until: Option<Tick>,
    // Since when deliveries gather for an exchange that lingers.
    gathering: Option<Tick>,
    // When its secret was changed, until something has got through with the new one.
    secret_changed: Option<Wall>,
    paused: bool,
    nudge: Option<i64>,
    told: (&'static str, Option<Wall>, String),
    attempts: BTreeMap<Class, u64>,
}

/// A delivery in an attempt that is under way.
struct Flight {
    job: Job,
    event_id: String,
    /// Its body, or why there is none.
    body: Result<Vec<u8>, String>,
    /// The body was made for this attempt and is not kept yet.
    fresh: bool,
}

/// How an attempt was begun.
#[derive(Clone, Copy)]
struct Begun {
    probe: bool,
    /// Its one delivery was refused before, and others were not.
    doubtful: bool,
    /// [`Ahead::changes`] when it was claimed.
    changes: u64,
}

/// What is known of a delivery when its end is worked out.
#[derive(Clone, Copy)]
struct Known {
    probe: bool,
    doubtful: bool,
    /// It was rejected together with others, and is to be tried by itself.
    apart: bool,
}

/// A delivery that stays where it was.
struct Again {
    job: Job,
    refused: bool,
    keeps_body: bool,
}

/// What was taken from the queue.
enum Taken {
    Jobs(Vec<Job>),
    Nothing,
    /// It was out of date.
    Stale,
    /// It gathers until then.
    Gathering(Tick),
}

impl Lane {
    /// A lane that has not begun; [`Lane::start`] gives it threads, or a test drives [`Lane::step`]. It sends nothing before `not_before`.
    pub fn new(store: Store, assignment: Assignment, not_before: Tick) -> Self {
        let ear = Arc::new(Ear::default());
        ear.hear(|h| h.changed = true);
        Self {
            store,
            dest: assignment.dest,
            given: Mutex::new(Given::new(assignment.spec, assignment.transport)),
            inner: Mutex::new(Inner {
                rules: Rules::new(assignment.policy),
                ahead: Ahead::default(),
                unreadable: 0,
                unreadable_until: None,
                gathering: None,
                secret_changed: None,
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
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Given::new(assignment.spec, assignment.transport);
        drop(inner);
        self.ear.hear(|h| h.changed = true);
    }

    /// Its secret is a new one.
    pub fn secret_changed(&self) {
        let wall = self.store.timeline().wall();
        log::info!("destination {}: its secret was changed", self.name());
        self.inner().secret_changed = Some(wall);
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
        let given = self.given();
        let (jobs, begun) = {
            let mut inner = self.inner();
            if let Some(until) = inner.unreadable_until.filter(|until| now < *until) {
                return Step::Idle(Some(until));
            }
            if let Err(e) = self.listen(&mut inner, now) {
                return self.unreadable(&mut inner, &e, now);
            }
            if inner.paused || inner.ahead.room() == 0 {
                return Step::Idle(None);
            }
            let probe = match inner.rules.permit(now) {
                Permit::Send => false,
                Permit::Probe => true,
                Permit::Wait(until) => return Step::Idle(Some(until)),
                Permit::Busy => return Step::Idle(None),
            };
            let batch = if probe { Batch::ONE } else { given.spec.connector.batch() };
            let jobs = match self.take(&mut inner, batch, now) {
                Ok(Taken::Jobs(jobs)) => jobs,
                Ok(Taken::Nothing) => return Step::Idle(self.next_due(now)),
                Ok(Taken::Gathering(until)) => return Step::Idle(Some(until)),
                Ok(Taken::Stale) => return Step::Again,
                Err(e) => return self.unreadable(&mut inner, &e, now),
            };
            if probe {
                inner.rules.probe_begins(now);
            } else {
                inner.rules.begins(now, jobs.len());
            }
            // Such a one goes alone.
            let doubtful = jobs.first().is_some_and(|job| inner.ahead.is_doubtful(job.event));
            (jobs, Begun { probe, doubtful, changes: inner.ahead.changes() })
        };
        // What has no body is no reason to keep the others.
        let flights = jobs.into_iter().map(|job| self.prepare(&given.spec, job));
        let (mut ready, faulty): (Vec<Flight>, Vec<Flight>) = flights.partition(|flight| flight.body.is_ok());
        if !faulty.is_empty() {
            let probe = begun.probe && ready.is_empty();
            let verdicts = faulty.iter().map(|f| Verdict::internal(f.body.as_ref().err().cloned().unwrap_or_default())).collect();
            self.report(&given.spec, faulty, Judgement::Each(verdicts), Begun { probe, ..begun });
        }
        if !ready.is_empty() {
            let exchange = catch_unwind(AssertUnwindSafe(|| self.exchange(&given, &ready, begun.doubtful)));
            let (judgement, reached) =
                exchange.unwrap_or_else(|_| (Judgement::All(Verdict::internal("the attempt met a fault of this program")), true));
            if !reached {
                // Bytes that never reached a receiver bind nobody; those that may have are kept.
                for flight in &mut ready {
                    self.store.unpin(flight.job.event);
                    flight.fresh = false;
                }
            }
            self.report(&given.spec, ready, judgement, begun);
        }
        Step::Sent
    }

    /// Takes the next deliveries that may share an exchange. They are under way from then on.
    fn take(&self, inner: &mut Inner, batch: Batch, now: Tick) -> Result<Taken, Error> {
        let most = batch.records.clamp(1, inner.ahead.room().max(1));
        let (mut jobs, mut bytes): (Vec<Job>, usize) = (Vec::new(), 0);
        while jobs.len() < most {
            let next = inner.ahead.next(&self.store, self.dest, now);
            let job = match next {
                Ok(Some(job)) => job,
                Ok(None) => break,
                // What has been taken can be sent all the same.
                Err(_) if !jobs.is_empty() => break,
                Err(e) => return Err(e),
            };
            inner.unreadable = 0;
            // What was tried before has waited, and what goes alone has nobody to wait for.
            if jobs.is_empty()
                && job.attempts == 0
                && !inner.ahead.goes_alone(&job)
                && let Some(until) = gathers(inner, batch.linger, now)
                && !self.is_full(inner, batch)
            {
                inner.ahead.put_back(job);
                return Ok(Taken::Gathering(until));
            }
            let size = job.rendered.as_ref().or(job.event_body.as_ref().ok()).map_or(0, Vec::len);
            let alone = inner.ahead.goes_alone(&job);
            if !jobs.is_empty() && (alone || bytes + size > batch.bytes) {
                inner.ahead.put_back(job);
                break;
            }
            if !self.store.pin(job.event, inner.ahead.epoch()) {
                // Its time was put right after it was read.
                inner.ahead.reread();
                return Ok(if jobs.is_empty() { Taken::Stale } else { Taken::Jobs(jobs) });
            }
            inner.ahead.begins(job.event);
            bytes += size;
            jobs.push(job);
            if alone {
                break;
            }
        }
        if jobs.is_empty() {
            inner.gathering = None;
            return Ok(Taken::Nothing);
        }
        Ok(Taken::Jobs(jobs))
    }

    /// Whether enough deliveries wait to fill a batch, which then waits for nobody.
    fn is_full(&self, inner: &Inner, batch: Batch) -> bool {
        let fresh = |ready: i64| usize::try_from(ready).unwrap_or(0).saturating_sub(inner.ahead.under_way());
        self.store.counts(self.dest).is_ok_and(|counts| fresh(counts.ready) >= batch.records)
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

    /// What a delivery says: what was kept of an earlier attempt, or made now.
    fn prepare(&self, spec: &Spec, job: Job) -> Flight {
        let event_id = self.store.ids().event(job.random).id(job.event);
        let make = || match (&job.rendered, &job.event_body) {
            (Some(kept), _) => Ok((kept.clone(), false)),
            (None, Err(e)) => Err(e.to_string()),
            (None, Ok(event)) => {
                let identity = Identity { event_id: &event_id, kind: &job.kind, destination: &spec.name };
                match spec.connector.render(&Incoming { identity, bytes: event }) {
                    Ok(None) => Ok((event.clone(), false)),
                    Ok(Some(made)) => Ok((made, true)),
                    Err(e) => Err(e.to_string()),
                }
            }
        };
        let made = catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| Err("its body met a fault of this program".to_owned()));
        let fresh = matches!(made, Ok((_, true)));
        Flight { event_id, body: made.map(|(body, _)| body), fresh, job }
    }

    /// Asks what the connector wants to ask until it has judged. The second part: whether anything may have reached the receiver.
    fn exchange(&self, given: &Given, flights: &[Flight], doubtful: bool) -> (Judgement, bool) {
        let spec = &given.spec;
        let records: Vec<Record<'_>> = flights
            .iter()
            .map(|flight| Record {
                identity: Identity { event_id: &flight.event_id, kind: &flight.job.kind, destination: &spec.name },
                body: flight.body.as_deref().unwrap_or_default(),
                event: flight.job.event_body.as_deref().ok(),
                attempt: flight.job.attempts.saturating_add(1),
            })
            .collect();
        let before = given.memory().clone();
        let mut memory = before.clone();
        let line = self.store.timeline();
        let moment = || Moment { wall: line.wall(), tick: line.now(), clock_trusted: line.trusted(), vouched: doubtful };
        let (judgement, said) = exchange(&*spec.connector, &records, &mut memory, moment, |request| given.transport.send(request));
        // Another worker may have learnt something newer meanwhile.
        if memory != before {
            *given.memory() = memory;
        }
        (judgement, said.iter().any(Answer::may_have_reached))
    }

    fn report(&self, spec: &Spec, flights: Vec<Flight>, judgement: Judgement, begun: Begun) {
        let (now, wall) = (self.store.timeline().now(), self.store.timeline().wall());
        let mut inner = self.inner();
        // One of several may be what the receiver cannot take; each by itself will tell.
        let apart = flights.len() > 1 && matches!(&judgement, Judgement::All(v) if matches!(v.class, Class::Rejected | Class::Internal));
        if let (true, Judgement::All(verdict)) = (apart, &judgement) {
            log::info!(
                "destination {}: {} deliveries were rejected together, each is tried by itself: {}",
                spec.name,
                flights.len(),
                verdict.reason
            );
        }
        let verdicts = match judgement {
            Judgement::All(verdict) => vec![verdict; flights.len()],
            Judgement::Each(verdicts) => verdicts,
        };
        let doubtful: Vec<bool> = flights.iter().map(|flight| inner.ahead.is_doubtful(flight.job.event)).collect();
        // What was rejected together says nothing yet.
        let changes = if apart { Vec::new() } else { heard(&mut inner.rules, &verdicts, &doubtful, begun.probe, now) };
        if verdicts.iter().any(|v| v.class == Class::Delivered) {
            inner.secret_changed = None;
        }
        let mut ends = Vec::with_capacity(flights.len());
        for ((flight, verdict), doubtful) in flights.into_iter().zip(&verdicts).zip(doubtful) {
            if apart {
                inner.ahead.set_apart(flight.job.event);
            }
            ends.push(self.end(spec, &mut inner, flight, verdict, Known { probe: begun.probe, doubtful, apart }, (now, wall)));
        }
        for (change, reason) in changes {
            self.tell(spec, &mut inner, change, &reason, wall);
        }
        let mut outcomes = Vec::with_capacity(ends.len());
        // Backwards, so that what goes back into the queue keeps its order.
        for (end, again) in ends.into_iter().rev() {
            outcomes.extend(end);
            if let Some(Again { job, refused, keeps_body }) = again {
                inner.ahead.again(job, refused, keeps_body, begun.changes);
            }
        }
        drop(inner);
        for outcome in outcomes.into_iter().rev() {
            self.store.outcome(outcome);
        }
        // Other workers may be waiting for this attempt to end.
        self.ear.wake();
    }

    /// What becomes of one delivery of an exchange: what is to be written, and whether it goes back into the queue as it was.
    fn end(
        &self,
        spec: &Spec,
        inner: &mut Inner,
        flight: Flight,
        verdict: &Verdict,
        known: Known,
        (now, wall): (Tick, Wall),
    ) -> (Option<Outcome>, Option<Again>) {
        let Flight { job, event_id, body, fresh } = flight;
        let fresh = body.ok().filter(|_| fresh);
        let age_ms = if job.attempts == 0 { 0 } else { job.age_ms.saturating_add(millis(now.since(job.seen))) };
        let refused = is_refusal(verdict);
        let own_trouble = refused && known.doubtful;
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        let tried = Tried { counted: job.attempts, age, probe: known.probe, own_trouble };
        let fate = if known.apart { Fate::Again } else { inner.rules.fate(verdict, tried, now, fastrand::f64()) };
        let attempts = job.attempts.saturating_add(1);
        let Verdict { class, code, status, reason, .. } = verdict;
        *inner.attempts.entry(*class).or_default() += 1;
        log::debug!("destination {}: {event_id} attempt {attempts}: {class} {code}: {reason}", spec.name);
        if own_trouble && job.attempts == 0 {
            log::warn!("destination {}: {event_id} is refused while others get through; it waits alone: {reason}", spec.name);
        }
        // A doubtful one stays so to its end: its next refusal is not the clock's fault either.
        if matches!(fate, Fate::Done | Fate::Dead) || (!known.apart && !refused && !known.doubtful) {
            inner.ahead.cleared(job.event);
        }
        let end = match fate {
            Fate::Done => Some(End::Done { at: wall, attempts, status: *status }),
            Fate::Later(due) => Some(End::Later { due, attempts, age_ms, seen: now, code: (*code).to_owned(), reason: reason.clone() }),
            Fate::Dead => {
                log::warn!(
                    "destination {}: {event_id} is given up after {attempts} attempts and kept as a dead letter (leadsbotd queue list --state dead): {reason}",
                    spec.name
                );
                let (class, code) = (class.name().to_owned(), (*code).to_owned());
                let (reason, answer) = (reason.clone(), verdict.answer.clone());
                Some(End::Dead(Box::new(Letter { at: wall, attempts, class, code, status: *status, reason, answer })))
            }
            Fate::Again => fresh.is_some().then_some(End::Unmoved),
        };
        let (dest, event) = (self.dest, job.event);
        let again = (fate == Fate::Again).then_some(Again { job, refused, keeps_body: fresh.is_some() });
        (end.map(|end| Outcome { dest, event, end, rendered: fresh }), again)
    }

    fn tell(&self, spec: &Spec, inner: &mut Inner, change: Change, reason: &str, wall: Wall) {
        match change {
            Change::Held(why) => {
                let since_change = inner.secret_changed.filter(|_| why == Hold::Blocked);
                let reason = match since_change {
                    Some(at) => format!(
                        "{reason}. The refusals began when its secret was changed ({}): does the receiver know the new one?",
                        at.rfc3339()
                    ),
                    None => reason.to_owned(),
                };
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
                inner.told = (why.name(), Some(wall), reason.clone());
                self.store.lane_state(self.dest, why.name(), wall, reason);
            }
            Change::Opened => {
                log::info!("destination {}: well again, sending what waited", spec.name);
                inner.ahead.opened();
                inner.told = ("open", None, String::new());
                self.store.lane_state(self.dest, "open", wall, String::new());
            }
        }
    }
}

/// Refused by an answer, not by the way there: it may be meant for this delivery alone.
fn is_refusal(verdict: &Verdict) -> bool {
    verdict.class == Class::Refused || (verdict.class == Class::Clock && verdict.status.is_some())
}

/// What an exchange says about the receiver: each class of its verdicts once.
fn heard(rules: &mut Rules, verdicts: &[Verdict], doubtful: &[bool], probe: bool, now: Tick) -> Vec<(Change, String)> {
    let mut classes: Vec<(&Verdict, bool)> = Vec::new();
    for (verdict, doubtful) in verdicts.iter().zip(doubtful) {
        if classes.iter().all(|(v, _)| v.class != verdict.class) {
            classes.push((verdict, is_refusal(verdict) && *doubtful));
        }
    }
    // That some were taken comes first: a wait that others were told holds.
    classes.sort_by_key(|(v, _)| !matches!(v.class, Class::Delivered | Class::Rejected));
    let mut probe = probe;
    let mut changes = Vec::new();
    for (verdict, own_trouble) in classes {
        let change = rules.heard(verdict, std::mem::take(&mut probe), own_trouble, now, fastrand::f64());
        changes.extend(change.map(|change| (change, verdict.reason.clone())));
    }
    changes
}

/// Until when the first delivery waits for others, if it still does.
fn gathers(inner: &mut Inner, linger: Duration, now: Tick) -> Option<Tick> {
    if linger.is_zero() {
        return None;
    }
    let until = inner.gathering.get_or_insert(now).after(linger);
    (now < until).then_some(until)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
