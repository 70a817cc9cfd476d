//! What ought to be: every event and delivery in plain maps, without a database, a thread or a clock. It knows the promises and nothing
//! of how they are kept.

use leadsbotd::destination::Class;
use leadsbotd::retry::Policy;
use leadsbotd::time::Tick;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A delivery: destination and event, by number.
pub type Key = (i64, i64);

/// What a receiver, or the way to it, does with an attempt. `took`: the receiver has it, though its answer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Taken,
    Rejected,
    Unauthorised,
    NotFound,
    TooMany {
        retry_after: Option<u64>,
    },
    Unavailable {
        retry_after: u64,
    },
    Broken,
    NoName,
    NobodyThere,
    Silent {
        took: bool,
    },
    Reset {
        took: bool,
    },
    BadCertificate,
    /// The transport itself panics.
    Panic,
    /// A planted fault: 200 from something that keeps nothing.
    Lie,
}

impl Says {
    pub fn took(self) -> bool {
        matches!(self, Says::Taken | Says::Silent { took: true } | Says::Reset { took: true })
    }

    fn answer_lost(self) -> bool {
        matches!(self, Says::Silent { took: true } | Says::Reset { took: true })
    }

    /// Whether bytes of the attempt may have reached the receiver.
    fn reached(self) -> bool {
        !matches!(self, Says::NoName | Says::NobodyThere | Says::BadCertificate | Says::Panic)
    }

    fn class(self, clock_trusted: bool) -> Class {
        match self {
            Says::Taken | Says::Lie => Class::Delivered,
            Says::Rejected | Says::Unauthorised | Says::BadCertificate if !clock_trusted => Class::Clock,
            Says::Rejected => Class::Rejected,
            Says::Unauthorised | Says::NotFound | Says::BadCertificate => Class::Refused,
            Says::TooMany { .. } | Says::Unavailable { .. } => Class::Throttled,
            Says::Broken | Says::Silent { .. } | Says::Reset { .. } => Class::Temporary,
            Says::NoName | Says::NobodyThere => Class::Offline,
            Says::Panic => Class::Internal,
        }
    }

    fn asks_to_wait(self) -> Option<Duration> {
        match self {
            Says::TooMany { retry_after } => retry_after.map(Duration::from_secs),
            Says::Unavailable { retry_after } => Some(Duration::from_secs(retry_after)),
            _ => None,
        }
    }
}

/// Something that moves a delivery, by a lane or by the operator.
#[derive(Debug, Clone)]
pub enum Note {
    Done(Key),
    Later { key: Key, counted: u32, age_ms: i64, seen: Tick, due: RangeInclusive<i64>, body: Option<Vec<u8>> },
    Dead(Key),
    Keep { key: Key, body: Vec<u8> },
    Retry(Key),
    Drop(Key),
}

impl Note {
    fn key(&self) -> Key {
        match self {
            Note::Done(key) | Note::Dead(key) | Note::Retry(key) | Note::Drop(key) => *key,
            Note::Later { key, .. } | Note::Keep { key, .. } => *key,
        }
    }
}

/// A delivery that has not finished.
#[derive(Debug, Clone)]
pub struct Pending {
    held: bool,
    /// Neither attempted nor held so far.
    ready: bool,
    counted: u32,
    age_ms: i64,
    seen: Tick,
    due: RangeInclusive<i64>,
    kept: Option<Vec<u8>>,
}

impl Pending {
    fn new(held: bool) -> Self {
        Self { held, ready: !held, counted: 0, age_ms: 0, seen: Tick::ZERO, due: 0..=0, kept: None }
    }
}

#[derive(Debug, Clone)]
pub enum Place {
    Pending(Pending),
    Dead,
    Delivered,
    Dropped,
}

#[derive(Debug, Clone)]
pub struct Delivery {
    lead: i64,
    pub place: Place,
    /// Came back from the dead letters: the one case in which an event may follow a later one of its lead.
    revived: bool,
    /// Was a dead letter or dropped at some time.
    left: bool,
}

/// One row of one of the tables that hold deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub place: String,
    pub due: i64,
    pub attempts: u32,
}

/// The database as it was found.
#[derive(Debug, Default)]
pub struct Found {
    /// By number: lead, public id, kind, body.
    pub events: BTreeMap<i64, Fact>,
    pub rows: BTreeMap<Key, Vec<Row>>,
    pub kept: BTreeMap<Key, Vec<u8>>,
}

/// An event as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub id: String,
    pub lead: i64,
    pub kind: String,
    pub body: Vec<u8>,
}

/// Where every delivery is.
#[derive(Debug, Clone, Default)]
pub struct Books(pub BTreeMap<Key, Delivery>);

impl Books {
    fn pending(&mut self, key: Key) -> Option<&mut Pending> {
        match &mut self.0.get_mut(&key)?.place {
            Place::Pending(pending) => Some(pending),
            _ => None,
        }
    }

    fn earlier_pending(&self, (dest, event): Key, lead: i64) -> bool {
        self.0.range((dest, 0)..(dest, event)).any(|(_, d)| d.lead == lead && matches!(d.place, Place::Pending(_)))
    }

    fn accept(&mut self, key: Key, lead: i64, filter_failed: bool) {
        let place = if filter_failed { Place::Dead } else { Place::Pending(Pending::new(self.earlier_pending(key, lead))) };
        self.0.insert(key, Delivery { lead, place, revived: false, left: filter_failed });
    }

    /// Ends a delivery's time in the queue and lets the next event of its lead go.
    fn finish(&mut self, (dest, event): Key, place: Place) {
        let Some(delivery) = self.0.get_mut(&(dest, event)) else { return };
        delivery.left |= matches!(place, Place::Dead | Place::Dropped);
        delivery.place = place;
        let lead = delivery.lead;
        let held = |d: &Delivery| d.lead == lead && matches!(&d.place, Place::Pending(p) if p.held);
        let next = self.0.range((dest, 0)..=(dest, i64::MAX)).find(|(_, d)| held(d)).map(|(key, _)| *key);
        if let Some(next) = next
            && !self.earlier_pending(next, lead)
            && let Some(pending) = self.pending(next)
        {
            pending.held = false;
        }
    }

    fn apply(&mut self, note: &Note) {
        match note {
            // What arrived has arrived, even when the operator has given it up meanwhile.
            Note::Done(key) => self.finish(*key, Place::Delivered),
            Note::Dead(key) if self.pending(*key).is_some() => self.finish(*key, Place::Dead),
            Note::Later { key, counted, age_ms, seen, due, body } => {
                if let Some(p) = self.pending(*key) {
                    let kept = p.kept.take().or_else(|| body.clone());
                    *p = Pending { held: false, ready: false, counted: *counted, age_ms: *age_ms, seen: *seen, due: due.clone(), kept };
                }
            }
            Note::Keep { key, body } => {
                if let Some(p) = self.pending(*key) {
                    p.kept.get_or_insert_with(|| body.clone());
                }
            }
            Note::Retry(key) => self.retry(*key),
            Note::Drop(key) if self.0.get(key).is_some_and(|d| matches!(d.place, Place::Pending(_) | Place::Dead)) => {
                self.finish(*key, Place::Dropped);
            }
            Note::Dead(_) | Note::Drop(_) => {}
        }
    }

    fn retry(&mut self, key: Key) {
        let Some(lead) = self.0.get(&key).map(|d| d.lead) else { return };
        let behind = self.earlier_pending(key, lead);
        let Some(delivery) = self.0.get_mut(&key) else { return };
        match &mut delivery.place {
            Place::Pending(p) if !p.held => p.due = 0..=0,
            Place::Dead => {
                delivery.place = Place::Pending(Pending { ready: false, ..Pending::new(behind) });
                delivery.revived = true;
            }
            _ => {}
        }
    }

    /// What the database has otherwise than these books.
    fn difference(&self, found: &Found) -> Result<(), String> {
        if let Some(key) = found.rows.keys().find(|k| !self.0.contains_key(k)) {
            return Err(format!("delivery {key:?} was invented: {:?}", found.rows[key]));
        }
        for (key, delivery) in &self.0 {
            let rows = found.rows.get(key).ok_or_else(|| format!("delivery {key:?} is lost; it should be {:?}", delivery.place))?;
            let [row] = &rows[..] else { return Err(format!("delivery {key:?} is in {} places: {rows:?}", rows.len())) };
            let kept = found.kept.get(key);
            let same = match &delivery.place {
                Place::Pending(p) => {
                    let due = if p.held { row.due == Tick::HELD.0 } else { p.due.contains(&row.due) };
                    let place = if p.ready { "ready" } else { "waiting" };
                    row.place == place && due && row.attempts == p.counted && kept == p.kept.as_ref()
                }
                Place::Dead => row.place == "dead" && kept.is_none(),
                Place::Delivered => row.place == "delivered" && kept.is_none(),
                Place::Dropped => row.place == "dropped" && kept.is_none(),
            };
            if !same {
                let kept = kept.map(|k| String::from_utf8_lossy(k).into_owned());
                return Err(format!("delivery {key:?} is {row:?} with the kept body {kept:?}; it should be {:?}", delivery.place));
            }
        }
        Ok(())
    }

    /// Takes over the moments that were drawn by lot.
    fn adopt(&mut self, found: &Found) {
        for (key, delivery) in &mut self.0 {
            if let Place::Pending(p) = &mut delivery.place
                && !p.held
                && let Some(row) = found.rows.get(key).and_then(|r| r.first())
            {
                p.due = row.due..=row.due;
            }
        }
    }
}

/// Whether a lane may still act on what an operator has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stale {
    #[default]
    No,
    /// The change is on the disk; nobody has told the lane yet.
    Perhaps,
    /// It has been told and takes it in with its next step.
    UntilNextStep,
}

#[derive(Debug, Default)]
struct Lane {
    stale: Stale,
    paused: bool,
    /// Nothing before this tick: the receiver said so.
    quiet_until: Tick,
    /// Dropped, but perhaps read ahead before.
    ghosts: BTreeSet<i64>,
    /// Refused deliveries, and those of them while which others got through.
    suspects: BTreeSet<i64>,
    doubtful: BTreeSet<i64>,
    under_way: BTreeSet<i64>,
}

/// What the receiver's side has seen of a delivery. No restart takes that back.
#[derive(Debug, Default)]
struct Witness {
    delivery_id: Option<String>,
    /// The latest attempt: how often the destination's body had been reconfigured by then, and the bytes.
    latest: Option<(u32, Vec<u8>)>,
    took: u32,
    first_took: usize,
    /// Reasons for which it may be taken once more.
    excuses: u32,
}

/// An attempt as the receiver sees it, and what it should carry.
#[derive(Debug)]
pub struct Seen {
    pub dest: i64,
    pub event_id: String,
    pub delivery_id: String,
    pub kind: String,
    pub attempt: u32,
    pub body: Vec<u8>,
    /// How often the body of this destination has been reconfigured.
    pub version: u32,
}

/// An attempt under way.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub key: Key,
    counted: u32,
    age_ms: i64,
    seen: Tick,
    /// Its body, when that is not the event's own and not kept yet.
    fresh: Option<Vec<u8>>,
}

/// What an attempt may leave behind; the first that fits is the truth.
pub type Possible = Vec<Option<Note>>;

#[derive(Debug)]
pub struct Model {
    pub events: BTreeMap<i64, Fact>,
    pub books: Books,
    /// Outcomes that may not be on the disk yet, in the order in which they will be.
    unconfirmed: Vec<Note>,
    lanes: BTreeMap<i64, Lane>,
    witnesses: BTreeMap<Key, Witness>,
    arrivals: usize,
}

impl Model {
    pub fn new(destinations: impl IntoIterator<Item = i64>) -> Self {
        Self {
            events: BTreeMap::new(),
            books: Books::default(),
            unconfirmed: Vec::new(),
            lanes: destinations.into_iter().map(|d| (d, Lane::default())).collect(),
            witnesses: BTreeMap::new(),
            arrivals: 0,
        }
    }

    fn lane(&mut self, dest: i64) -> &mut Lane {
        self.lanes.entry(dest).or_default()
    }

    /// An event was acknowledged; `targets` with whether the filter failed. Everything before it is on the disk.
    pub fn accept(&mut self, number: i64, fact: Fact, targets: &[(i64, bool)]) -> Result<(), String> {
        self.confirm_all();
        if self.events.last_key_value().is_some_and(|(last, _)| *last >= number) || self.events.values().any(|f| f.id == fact.id) {
            return Err(format!("event {number} {} was given twice", fact.id));
        }
        for (dest, filter_failed) in targets {
            self.books.accept((*dest, number), fact.lead, *filter_failed);
        }
        self.events.insert(number, fact);
        Ok(())
    }

    pub fn confirm_all(&mut self) {
        for note in std::mem::take(&mut self.unconfirmed) {
            self.books.apply(&note);
        }
    }

    /// Compares with the database. Outcomes reach the disk in order, at a moment of the writer's choice, so any number of them may be
    /// there; `by_hand` is what the operator has just done, somewhere between them. `all`: none may be missing.
    pub fn compare(&mut self, found: &Found, by_hand: &[Note], all: bool) -> Result<(), String> {
        if let Some((number, fact)) = self.events.iter().find(|(n, f)| found.events.get(n) != Some(f)) {
            return Err(format!("event {number} {} has become {:?}", fact.id, found.events.get(number)));
        }
        if let Some(number) = found.events.keys().find(|n| !self.events.contains_key(n)) {
            return Err(format!("event {number} was invented"));
        }
        let total = self.unconfirmed.len();
        let mut complaint = String::new();
        // As few as possible beside an operator's doing, whose order among them the rows do not always tell; else as many as possible.
        let least = if all { total } else { 0 };
        let order: Vec<usize> = if by_hand.is_empty() { (least..=total).rev().collect() } else { (least..=total).collect() };
        for after in order {
            for before in (0..=if by_hand.is_empty() { 0 } else { after }).rev() {
                let mut books = self.books.clone();
                let (first, second) = self.unconfirmed[..after].split_at(before);
                for note in first.iter().chain(by_hand).chain(second) {
                    books.apply(note);
                }
                match books.difference(found) {
                    Ok(()) => {
                        books.adopt(found);
                        self.books = books;
                        self.unconfirmed.drain(..after);
                        return Ok(());
                    }
                    Err(e) if complaint.is_empty() => complaint = e,
                    Err(_) => {}
                }
            }
        }
        Err(complaint)
    }

    /// A lane takes in what it has been told, then looks for something to send.
    pub fn step_begins(&mut self, dest: i64) {
        let lane = self.lane(dest);
        if lane.stale != Stale::No {
            lane.quiet_until = Tick::ZERO;
        }
        if lane.stale == Stale::UntilNextStep {
            lane.stale = Stale::No;
            lane.ghosts.clear();
        }
    }

    /// An attempt has begun. `render` makes a body as the destination is configured now; `None`: the event's own bytes.
    pub fn begun(&mut self, seen: Seen, now: Tick, render: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<Attempt, String> {
        let found = self.events.iter().find(|(_, f)| f.id == seen.event_id);
        let Some((&event, fact)) = found else { return Err(format!("{} is sent and was never accepted", seen.event_id)) };
        let key = (seen.dest, event);
        let wrong = |what: &str| Err(format!("delivery {key:?}: {what}"));
        let rendered = render(&fact.body);
        let (own, lead, kind) = (fact.body.clone(), fact.lead, fact.kind.clone());
        let busy = self.unconfirmed.iter().any(|n| n.key() == key);
        let lane = self.lane(seen.dest);
        if lane.paused && lane.stale == Stale::No {
            return wrong("sent while paused");
        }
        if now < lane.quiet_until {
            return wrong(&format!("sent at {now:?}, the receiver asked to wait until {:?}", lane.quiet_until));
        }
        if busy || !lane.under_way.insert(event) {
            return wrong("sent again before the last attempt's outcome is on the disk");
        }
        let ghost = lane.ghosts.contains(&event);
        let witness = self.witnesses.entry(key).or_default();
        if seen.kind != kind || *witness.delivery_id.get_or_insert_with(|| seen.delivery_id.clone()) != seen.delivery_id {
            return wrong("the kind or the delivery's id has changed");
        }
        let Some(delivery) = self.books.0.get(&key) else { return wrong("sent to a destination that did not want it") };
        let Place::Pending(pending) = &delivery.place else {
            if ghost {
                witness.excuses += 1;
                return Ok(Attempt { key, counted: 0, age_ms: 0, seen: Tick::ZERO, fresh: rendered });
            }
            return wrong(&format!("sent though it is {:?}", delivery.place));
        };
        if pending.held || *pending.due.end() > now.0 {
            return wrong(&format!("sent at {now:?} though it is {pending:?}"));
        }
        if let Some((before, _)) =
            self.books.0.range((seen.dest, 0)..key).find(|(_, d)| d.lead == lead && !d.revived && matches!(d.place, Place::Pending(_)))
        {
            return wrong(&format!("sent before {before:?} of the same lead has finished"));
        }
        if seen.attempt != pending.counted + 1 {
            return wrong(&format!("attempt {} after {} counted ones", seen.attempt, pending.counted));
        }
        if witness.latest.as_ref().is_some_and(|(version, body)| *version == seen.version && *body != seen.body) {
            return wrong("other bytes than in the attempt before, and the configuration has not changed");
        }
        let expected = pending.kept.clone().or_else(|| rendered.clone()).unwrap_or(own);
        if expected != seen.body {
            return wrong(&format!("sent {:?} instead of {:?}", String::from_utf8_lossy(&seen.body), String::from_utf8_lossy(&expected)));
        }
        witness.latest = Some((seen.version, seen.body));
        let fresh = if pending.kept.is_none() { rendered } else { None };
        Ok(Attempt { key, counted: pending.counted, age_ms: pending.age_ms, seen: pending.seen, fresh })
    }

    /// The receiver has taken what an attempt brought.
    fn taken(&mut self, key: Key) {
        self.arrivals += 1;
        let arrivals = self.arrivals;
        let witness = self.witnesses.entry(key).or_default();
        if witness.took == 0 {
            witness.first_took = arrivals;
        }
        witness.took += 1;
    }

    fn excuse(&mut self, key: Key) {
        self.witnesses.entry(key).or_default().excuses += 1;
    }

    /// The attempt has ended like this. More than one possibility only where the lane knows what nobody outside can.
    pub fn ended(&mut self, attempt: Attempt, says: Says, now: Tick, clock_trusted: bool, policy: &Policy) -> Possible {
        let Attempt { key, counted, age_ms, seen, fresh } = attempt;
        if says.took() {
            self.taken(key);
        }
        if says.answer_lost() {
            self.excuse(key);
        }
        let class = says.class(clock_trusted);
        let lane = self.lane(key.0);
        lane.under_way.remove(&key.1);
        if class == Class::Throttled
            && let Some(wait) = says.asks_to_wait()
        {
            lane.quiet_until = lane.quiet_until.max(now.after(wait.min(policy.wait_max)));
        }
        // A refusal of the time is one by an answer; a certificate is refused on the way there.
        let refused = class == Class::Refused || (class == Class::Clock && says != Says::BadCertificate);
        let doubtful = lane.doubtful.contains(&key.1);
        let own_trouble = refused && doubtful;
        // While others got through it is not the clock's fault, and means what it says.
        let meant = refused && doubtful && says == Says::Rejected;
        if refused {
            lane.suspects.insert(key.1);
        } else if !doubtful || class == Class::Delivered {
            lane.suspects.remove(&key.1);
            lane.doubtful.remove(&key.1);
        }
        if matches!(class, Class::Delivered | Class::Rejected) {
            let suspects = std::mem::take(&mut lane.suspects);
            lane.doubtful.extend(suspects);
        } else if meant {
            lane.doubtful.extend(lane.suspects.iter().copied());
        }
        let fresh = fresh.filter(|_| says.reached());
        let unmoved = fresh.clone().map(|body| Note::Keep { key, body });
        let counts = |attempts_max: u32| {
            let counted = counted + 1;
            let age_ms = if counted == 1 { 0 } else { age_ms + i64::try_from(now.since(seen).as_millis()).unwrap() };
            let age = Duration::from_millis(u64::try_from(age_ms).unwrap());
            let dead = counted >= attempts_max
                || policy.give_up_attempts.is_some_and(|max| counted >= max)
                || policy.give_up_after.is_some_and(|max| age >= max);
            if dead {
                return Note::Dead(key);
            }
            let due = now.after(policy.retry_first / 10).0..=now.after(policy.retry_max.max(policy.retry_first / 10)).0;
            Note::Later { key, counted, age_ms, seen: now, due, body: fresh.clone() }
        };
        match class {
            Class::Delivered => vec![Some(Note::Done(key))],
            Class::Internal => vec![Some(Note::Dead(key))],
            Class::Rejected => vec![Some(counts(policy.rejected_attempts))],
            Class::Temporary => vec![Some(counts(u32::MAX))],
            Class::Clock if meant => vec![Some(counts(policy.rejected_attempts)), unmoved],
            Class::Refused | Class::Clock if own_trouble => vec![Some(counts(u32::MAX)), unmoved],
            Class::Refused | Class::Offline | Class::Clock | Class::Throttled => vec![unmoved],
        }
    }

    pub fn note(&mut self, note: Option<Note>) {
        self.unconfirmed.extend(note);
    }

    /// Takes the latest of the unconfirmed notes back.
    pub fn unnote(&mut self, note: &Option<Note>) {
        if note.is_some() {
            self.unconfirmed.pop();
        }
    }

    /// The operator is about to do this; see [`Model::compare`].
    pub fn by_hand(&mut self, note: &Note) {
        let (Note::Retry(key) | Note::Drop(key)) = note else { return };
        let lane = self.lane(key.0);
        lane.stale = Stale::Perhaps;
        if matches!(note, Note::Drop(_)) {
            lane.ghosts.insert(key.1);
            return;
        }
        // From a dead letter: rendered anew, and sent again whatever has become of it before.
        self.excuse(*key);
        if let Some(witness) = self.witnesses.get_mut(key) {
            witness.latest = None;
        }
    }

    pub fn paused(&mut self, dest: i64, paused: bool) {
        let lane = self.lane(dest);
        lane.paused = paused;
        lane.stale = Stale::Perhaps;
    }

    /// The lanes have been told what the operator did.
    pub fn told(&mut self) {
        for lane in self.lanes.values_mut().filter(|l| l.stale == Stale::Perhaps) {
            lane.stale = Stale::UntilNextStep;
        }
    }

    /// A new configuration may be what a lane was waiting for.
    pub fn reconfigured(&mut self, dest: i64) {
        self.lane(dest).quiet_until = Tick::ZERO;
    }

    /// The process has gone with everything that was only in its memory: `lost` are the attempts that were under way and whether their
    /// receivers took what they brought.
    pub fn died(&mut self, lost: &[(Key, bool)]) {
        for note in std::mem::take(&mut self.unconfirmed) {
            if let Note::Done(key) = note {
                self.excuse(key);
            }
        }
        for (key, took) in lost {
            if *took {
                self.taken(*key);
                self.excuse(*key);
            }
        }
        for lane in self.lanes.values_mut() {
            *lane = Lane { paused: lane.paused, ..Lane::default() };
        }
    }

    /// What the operator may retry or drop at a destination, and whether it is more than a delivery that waits for its first attempt.
    pub fn unfinished(&self, dest: i64) -> Vec<(Key, bool)> {
        let under_way = |key: &Key| self.lanes.get(&dest).is_some_and(|l| l.under_way.contains(&key.1));
        let noted = |key: &Key| self.unconfirmed.iter().any(|n| n.key() == *key);
        let one = |(key, delivery): (&Key, &Delivery)| match &delivery.place {
            Place::Pending(p) => Some((*key, !p.ready || under_way(key) || noted(key))),
            Place::Dead => Some((*key, true)),
            Place::Delivered | Place::Dropped => None,
        };
        self.books.0.range((dest, 0)..=(dest, i64::MAX)).filter_map(one).collect()
    }

    /// After a reboot nothing is put off any longer; what waits for an earlier event of its lead aside.
    pub fn all_due(&self, now: Tick) -> Result<(), String> {
        let late = |d: &Delivery| matches!(&d.place, Place::Pending(p) if !p.held && *p.due.end() > now.0);
        match self.books.0.iter().find(|(_, d)| late(d)) {
            Some((key, delivery)) => Err(format!("delivery {key:?} is put off past a reboot: {delivery:?}")),
            None => Ok(()),
        }
    }

    pub fn waits(&self) -> usize {
        self.books.0.values().filter(|d| matches!(d.place, Place::Pending(_))).count()
    }

    /// What must hold once everybody was well for long enough.
    pub fn end(&self) -> Result<(), String> {
        for (key, delivery) in &self.books.0 {
            let took = self.witnesses.get(key).map_or(0, |w| w.took);
            match delivery.place {
                Place::Pending(_) => return Err(format!("delivery {key:?} was never made: {delivery:?}")),
                Place::Delivered if took == 0 => return Err(format!("delivery {key:?} is noted as delivered and never was")),
                _ => {}
            }
        }
        for (key, witness) in &self.witnesses {
            if witness.took > 1 + witness.excuses {
                return Err(format!("delivery {key:?} was made {} times, with {} excuses", witness.took, witness.excuses));
            }
        }
        let mut latest: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        for (key, delivery) in self.books.0.iter().filter(|(_, d)| !d.left) {
            let at = self.witnesses.get(key).map_or(0, |w| w.first_took);
            let before = latest.insert((key.0, delivery.lead), at).unwrap_or(0);
            if at < before {
                return Err(format!("delivery {key:?} overtook an earlier event of its lead"));
            }
        }
        Ok(())
    }
}
