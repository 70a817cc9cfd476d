//! When to try again: the rules for one delivery and for its lane. Pure: time and chance are arguments.
//!
//! A lane must never lose, expire or count a delivery for a trouble that is not the delivery's own.

use crate::destination::{Class, Verdict};
use crate::time::Tick;
use std::time::Duration;

/// The rules, from `[delivery]` and the destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Wait after the first failed attempt of a delivery; doubles with each, drawn at random from zero to that (full jitter).
    pub retry_first: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
    /// How often a rejected delivery is tried before it becomes a dead letter.
    pub rejected_attempts: u32,
    /// Temporary failures in a row, over all deliveries, after which the lane holds and probes.
    pub breaker_after: u32,
    /// First and longest wait between probes while offline, waiting for the clock, throttled without a time, or failing.
    pub probe_first: Duration,
    /// See `probe_first`.
    pub probe_max: Duration,
    /// First and longest wait between probes while blocked.
    pub blocked_first: Duration,
    /// See `blocked_first`.
    pub blocked_max: Duration,
    /// The longest a receiver may ask to wait.
    pub wait_max: Duration,
    /// Counted attempts after which a delivery is given up; `None`: never.
    pub give_up_attempts: Option<u32>,
    /// Time since the first counted attempt after which a delivery is given up; `None`: never. Only time the device was powered counts.
    pub give_up_after: Option<Duration>,
    /// Deliveries a minute at most; `None`: as fast as the receiver takes them.
    pub rate_per_minute: Option<u32>,
    /// How long a lane that was held takes to reach its full pace, from one delivery a second up.
    pub ramp: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry_first: Duration::from_secs(5),
            retry_max: Duration::from_secs(3600),
            rejected_attempts: 3,
            breaker_after: 5,
            probe_first: Duration::from_secs(2),
            probe_max: Duration::from_secs(60),
            blocked_first: Duration::from_secs(30),
            blocked_max: Duration::from_secs(900),
            wait_max: Duration::from_secs(86_400),
            give_up_attempts: None,
            give_up_after: None,
            rate_per_minute: None,
            ramp: Duration::from_secs(10),
        }
    }
}

/// Why a lane sends nothing but probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// No network, no receiver.
    Offline,
    /// The device's clock is wrong.
    Clock,
    /// The receiver asked to wait.
    Throttled,
    /// Too many temporary failures in a row.
    Failing,
    /// The destination refuses; somebody must look.
    Blocked,
}

impl Hold {
    /// All of them.
    pub const ALL: [Hold; 5] = [Hold::Offline, Hold::Clock, Hold::Throttled, Hold::Failing, Hold::Blocked];

    /// The word used in the log, the database and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Hold::Offline => "offline",
            Hold::Clock => "clock",
            Hold::Throttled => "throttled",
            Hold::Failing => "failing",
            Hold::Blocked => "blocked",
        }
    }
}

/// The states of a lane. Legal moves: open -> held (any failure that is not one delivery's own), held -> held (another reason),
/// held -> open (a probe got an answer that proves the receiver well, or a person said so).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Held { why: Hold, probe_at: Tick, probes: u32, probing: bool },
}

/// What a lane may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Send whatever is due.
    Send,
    /// Send one delivery and no more.
    Probe,
    /// Nothing before this tick.
    Wait(Tick),
    /// A probe is under way; its outcome decides.
    Busy,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Delivered.
    Done,
    /// As if it had not been tried: no row changes.
    Again,
    /// Tried and counted; due again at this tick.
    Later(Tick),
    /// Given up, kept as a dead letter.
    Dead,
}

/// What is known of a delivery when its attempt is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    /// Attempts counted before this one.
    pub counted: u32,
    /// Time since the first counted one.
    pub age: Duration,
    /// The attempt was the lane's probe.
    pub probe: bool,
    /// The destination refused this delivery before while others got through: the trouble is its own.
    pub own_trouble: bool,
}

/// What the operator should hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The lane began to hold, or holds for another reason now.
    Held(Hold),
    /// It is well again.
    Opened,
}

/// The state of one destination's lane.
#[derive(Debug, Clone)]
pub struct Lane {
    policy: Policy,
    state: State,
    temporary_in_a_row: u32,
    // When it was last opened, while it is still getting up to its pace.
    opened: Option<Tick>,
    // Attempts that may begin at once, and as of when. Only counted while there is a pace to keep.
    credit: (f64, Tick),
}

/// Deliveries a second at the beginning and at the end of a ramp. At the end the limit is the receiver, or the configured rate.
const RAMP: (f64, f64) = (1.0, 1000.0);

impl Lane {
    /// A lane that has seen no trouble.
    pub fn new(policy: Policy) -> Self {
        Self { policy, state: State::Open, temporary_in_a_row: 0, opened: None, credit: (1.0, Tick::ZERO) }
    }

    /// Why it holds, if it does, and when the next probe is due.
    pub fn hold(&self) -> Option<(Hold, Tick)> {
        match self.state {
            State::Open => None,
            State::Held { why, probe_at, .. } => Some((why, probe_at)),
        }
    }

    /// What may be sent now.
    pub fn permit(&self, now: Tick) -> Permit {
        match self.state {
            State::Open => self.pace(now).and_then(|pace| self.wait_for(now, pace)).map_or(Permit::Send, Permit::Wait),
            State::Held { probing: true, .. } => Permit::Busy,
            State::Held { probe_at, .. } if probe_at > now => Permit::Wait(probe_at),
            // A receiver may hold because of its rate: what asks whether it is well again counts too.
            State::Held { .. } => self.rate().and_then(|rate| self.wait_for(now, rate)).map_or(Permit::Probe, Permit::Wait),
        }
    }

    /// When the next attempt may begin at this pace; `None`: now.
    fn wait_for(&self, now: Tick, pace: f64) -> Option<Tick> {
        let missing = 1.0 - self.credit_at(now, pace);
        // Rounded up to whole milliseconds, so that the wait is never in vain.
        (missing > 0.0).then(|| now.after(Duration::from_secs_f64(missing / pace + 0.001)))
    }

    /// Notes that an attempt which a [`Permit::Send`] allowed begins, with so many deliveries. The pace is one of deliveries: after many at once
    /// it is waited for the longer.
    pub fn begins(&mut self, now: Tick, deliveries: usize) {
        let spent = f64::from(u32::try_from(deliveries).unwrap_or(u32::MAX));
        match self.pace(now) {
            Some(pace) => self.credit = (self.credit_at(now, pace) - spent, now),
            None => self.opened = None,
        }
    }

    /// Begins as after a hold, because an earlier run ended in one.
    pub fn begins_slowly(&mut self, now: Tick) {
        self.opened = Some(now);
        self.credit = (1.0, now);
    }

    /// The configured deliveries a second.
    fn rate(&self) -> Option<f64> {
        self.policy.rate_per_minute.map(|n| f64::from(n) / 60.0)
    }

    /// Deliveries a second that may begin now; `None` without a limit.
    fn pace(&self, now: Tick) -> Option<f64> {
        let rate = self.rate();
        let ramp = self.opened.map(|at| now.since(at)).filter(|since| *since < self.policy.ramp).map(|since| {
            let part = since.as_secs_f64() / self.policy.ramp.as_secs_f64();
            RAMP.0 * (RAMP.1 / RAMP.0).powf(part)
        });
        match (rate, ramp) {
            (Some(rate), Some(ramp)) => Some(rate.min(ramp)),
            (one, other) => one.or(other),
        }
    }

    /// What has come together since, a tenth of a second's worth at most: a pause is not made up for by a rush.
    fn credit_at(&self, now: Tick, pace: f64) -> f64 {
        let (credit, at) = self.credit;
        if at == Tick::ZERO || at > now {
            return 1.0;
        }
        (credit + now.since(at).as_secs_f64() * pace).min((pace / 10.0).max(1.0))
    }

    /// Notes that the probe a [`Permit::Probe`] allowed is under way.
    pub fn probe_begins(&mut self, now: Tick) {
        if let Some(rate) = self.rate() {
            self.credit = (self.credit_at(now, rate) - 1.0, now);
        }
        if let State::Held { probing, .. } = &mut self.state {
            *probing = true;
        }
    }

    /// Notes that there was nothing to probe with, or that the probe could not be made.
    pub fn probe_ends(&mut self) {
        if let State::Held { probing, .. } = &mut self.state {
            *probing = false;
        }
    }

    /// A person asks for an attempt now.
    pub fn nudge(&mut self, now: Tick) {
        if let State::Held { probe_at, .. } = &mut self.state {
            *probe_at = now;
        }
    }

    /// New rules; the state stays.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The clock can be believed now: what waits for it need not wait any longer.
    pub fn clock_is_right(&mut self, now: Tick) {
        if matches!(self.state, State::Held { why: Hold::Clock, .. }) {
            self.nudge(now);
        }
    }

    /// Takes the verdict on one delivery in. `chance` is uniform in [0, 1).
    pub fn judged(&mut self, verdict: &Verdict, tried: Tried, now: Tick, chance: f64) -> (Fate, Option<Change>) {
        let change = self.heard(verdict, tried.probe, tried.own_trouble, now, chance);
        (self.fate(verdict, tried, now, chance), change)
    }

    /// What an answer says about the receiver. Of an exchange about several deliveries each class is heard once.
    pub fn heard(&mut self, verdict: &Verdict, was_probe: bool, own_trouble: bool, now: Tick, chance: f64) -> Option<Change> {
        if was_probe {
            self.probe_ends();
        }
        match verdict.class {
            // What was rejected was read: the receiver is well.
            Class::Delivered | Class::Rejected => self.well_unless_told_to_wait(now),
            // Our own fault says nothing about the receiver.
            Class::Internal => None,
            Class::Clock | Class::Refused if own_trouble => None,
            Class::Offline => self.held(Hold::Offline, None, was_probe, now, chance),
            Class::Clock => self.held(Hold::Clock, None, was_probe, now, chance),
            Class::Throttled => self.held(Hold::Throttled, verdict.wait, was_probe, now, chance),
            Class::Refused => self.held(Hold::Blocked, None, was_probe, now, chance),
            Class::Temporary => {
                self.temporary_in_a_row = self.temporary_in_a_row.saturating_add(1);
                if was_probe || self.temporary_in_a_row >= self.policy.breaker_after {
                    self.held(Hold::Failing, None, was_probe, now, chance)
                } else {
                    None
                }
            }
        }
    }

    /// What becomes of one delivery.
    pub fn fate(&self, verdict: &Verdict, tried: Tried, now: Tick, chance: f64) -> Fate {
        match verdict.class {
            Class::Delivered => Fate::Done,
            Class::Rejected => self.counted(tried, self.policy.rejected_attempts, now, chance),
            Class::Internal => Fate::Dead,
            Class::Temporary => self.counted(tried, u32::MAX, now, chance),
            Class::Clock | Class::Refused if tried.own_trouble => self.counted(tried, u32::MAX, now, chance),
            Class::Offline | Class::Clock | Class::Throttled | Class::Refused => Fate::Again,
        }
    }

    /// Whether a wait runs that the receiver asked for. What is judged meanwhile was under way before, or no probe would be: it does not
    /// shorten the wait, whatever it says.
    fn told_to_wait(&self, now: Tick) -> bool {
        matches!(self.state, State::Held { why: Hold::Throttled, probe_at, .. } if probe_at > now)
    }

    fn well_unless_told_to_wait(&mut self, now: Tick) -> Option<Change> {
        if self.told_to_wait(now) { None } else { self.well(now) }
    }

    fn well(&mut self, now: Tick) -> Option<Change> {
        self.temporary_in_a_row = 0;
        if std::mem::replace(&mut self.state, State::Open) == State::Open {
            return None;
        }
        self.opened = Some(now);
        // The probe that opened it was the first delivery of this pace.
        self.credit = (0.0, now);
        Some(Change::Opened)
    }

    fn counted(&self, tried: Tried, attempts_max: u32, now: Tick, chance: f64) -> Fate {
        let attempts = tried.counted.saturating_add(1);
        let too_many = attempts >= attempts_max || self.policy.give_up_attempts.is_some_and(|max| attempts >= max);
        if too_many || self.policy.give_up_after.is_some_and(|max| tried.age >= max) {
            return Fate::Dead;
        }
        Fate::Later(now.after(backoff(self.policy.retry_first, self.policy.retry_max, tried.counted, chance)))
    }

    fn held(&mut self, why: Hold, wait: Option<Duration>, was_probe: bool, now: Tick, chance: f64) -> Option<Change> {
        let (before, probes) = match self.state {
            State::Open => (None, 0),
            State::Held { why: before, probes, .. } => (Some(before), probes),
        };
        // Deliveries that were under way when the trouble began come back with the same news; only a probe says something new.
        if before == Some(why) && !was_probe && wait.is_none() {
            return None;
        }
        let told_until = match self.state {
            State::Held { probe_at, .. } if self.told_to_wait(now) => Some(probe_at),
            _ => None,
        };
        if told_until.is_some() && why != Hold::Throttled {
            return None;
        }
        let probes = if before == Some(why) { probes.saturating_add(1) } else { 0 };
        let (first, max) = match why {
            Hold::Blocked => (self.policy.blocked_first, self.policy.blocked_max),
            _ => (self.policy.probe_first, self.policy.probe_max),
        };
        // What a receiver asks for is kept in full, with a little on top so that many kiosks do not come back in the same moment.
        let pause = match wait {
            Some(asked) => (asked.min(self.policy.wait_max) + first.mul_f64(chance / 4.0)).max(half_jitter(first, max, probes, chance)),
            None => half_jitter(first, max, probes, chance),
        };
        let probing = matches!(self.state, State::Held { probing: true, .. }) && !was_probe;
        let probe_at = told_until.map_or(now.after(pause), |until| until.max(now.after(pause)));
        self.state = State::Held { why, probe_at, probes, probing };
        (before != Some(why)).then_some(Change::Held(why))
    }
}

/// Exponential backoff with full jitter: uniform in (0, min(max, first * 2^n)], never less than a tenth of `first`, so that no retry is hot.
pub fn backoff(first: Duration, max: Duration, n: u32, chance: f64) -> Duration {
    let ceiling = first.saturating_mul(1_u32.checked_shl(n.min(30)).unwrap_or(u32::MAX)).min(max);
    ceiling.mul_f64(chance.clamp(0.0, 1.0)).max(first / 10)
}

/// For probes: between half and the whole of the exponential step, so that a hold is neither hot nor synchronised.
fn half_jitter(first: Duration, max: Duration, n: u32, chance: f64) -> Duration {
    let ceiling = first.saturating_mul(1_u32.checked_shl(n.min(30)).unwrap_or(u32::MAX)).min(max);
    ceiling.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(class: Class) -> Verdict {
        Verdict { class, code: "x", status: None, wait: None, reason: String::new(), answer: String::new() }
    }

    fn lane() -> Lane {
        Lane::new(Policy::default())
    }

    fn tried(counted: u32, probe: bool) -> Tried {
        Tried { counted, probe, ..Tried::default() }
    }

    const NOW: Tick = Tick(1_000_000);

    #[test]
    fn offline_clock_throttled_and_refused_burn_no_attempt_and_hold_the_lane() {
        for (class, hold) in [
            (Class::Offline, Hold::Offline),
            (Class::Clock, Hold::Clock),
            (Class::Throttled, Hold::Throttled),
            (Class::Refused, Hold::Blocked),
        ] {
            let mut lane = lane();
            let (fate, change) = lane.judged(&verdict(class), tried(0, false), NOW, 0.5);
            assert_eq!((fate, change), (Fate::Again, Some(Change::Held(hold))));
            let Permit::Wait(at) = lane.permit(NOW) else { panic!("must wait") };
            assert_eq!(lane.permit(at), Permit::Probe);
            lane.probe_begins(at);
            assert_eq!(lane.permit(at), Permit::Busy);
            let (fate, change) = lane.judged(&verdict(class), tried(0, true), at, 0.5);
            assert_eq!((fate, change), (Fate::Again, None), "the same trouble is told once");
            let Permit::Wait(at) = lane.permit(at) else { panic!("must wait") };
            lane.probe_begins(at);
            assert_eq!(lane.judged(&verdict(Class::Delivered), tried(0, true), at, 0.5), (Fate::Done, Some(Change::Opened)));
            assert_eq!(lane.hold(), None);
        }
    }

    /// How many attempts a lane that always may would begin in each of these seconds.
    fn begun(lane: &mut Lane, from: Tick, seconds: u64) -> Vec<u32> {
        let mut counts = vec![0; usize::try_from(seconds).unwrap()];
        let mut now = from;
        loop {
            let second = usize::try_from(now.since(from).as_secs()).unwrap();
            if second >= counts.len() {
                return counts;
            }
            match lane.permit(now) {
                Permit::Send => {
                    lane.begins(now, 1);
                    counts[second] += 1;
                    // A receiver that takes 2000 a second.
                    if counts[second] % 2 == 0 {
                        now = now.after(Duration::from_millis(1));
                    }
                }
                Permit::Wait(until) => now = until,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn after_a_hold_a_lane_starts_slowly_and_speeds_up_to_its_rate() {
        let open = |rate| {
            let mut lane = Lane::new(Policy { rate_per_minute: rate, ..Policy::default() });
            lane.judged(&verdict(Class::Offline), tried(0, false), NOW, 0.5);
            lane.judged(&verdict(Class::Delivered), tried(0, true), NOW, 0.5);
            lane
        };
        let counts = begun(&mut open(None), NOW, 12);
        assert!(counts[0] <= 2 && counts.is_sorted() && counts[11] == 2000, "{counts:?}");
        let counts = begun(&mut open(Some(600)), NOW, 12);
        assert!(counts[0] <= 2 && (9..=11).contains(&counts[8]) && (9..=11).contains(&counts[11]), "{counts:?}");
        let counts = begun(&mut Lane::new(Policy::default()), NOW, 1);
        assert_eq!(counts, [2000], "without a hold before it there is nothing to be careful about");
        let counts = begun(&mut Lane::new(Policy { rate_per_minute: Some(6), ..Policy::default() }), NOW, 60);
        assert_eq!(counts.iter().sum::<u32>(), 6);
    }

    #[test]
    fn a_batch_counts_for_as_many_as_it_holds() {
        let mut lane = Lane::new(Policy { rate_per_minute: Some(60), ..Policy::default() });
        assert_eq!(lane.permit(NOW), Permit::Send);
        lane.begins(NOW, 100);
        let Permit::Wait(at) = lane.permit(NOW) else { panic!("must wait") };
        assert!((100..=101).contains(&at.since(NOW).as_secs()), "{at:?}");
        assert_eq!(lane.permit(at), Permit::Send);
    }

    #[test]
    fn what_asks_whether_a_receiver_is_well_keeps_to_its_rate_too() {
        let mut lane = Lane::new(Policy { rate_per_minute: Some(2), breaker_after: 1, ..Policy::default() });
        let (mut now, mut begun) = (NOW, Vec::new());
        while now < NOW.after(Duration::from_secs(600)) {
            match lane.permit(now) {
                Permit::Send => lane.begins(now, 1),
                Permit::Probe => lane.probe_begins(now),
                Permit::Wait(until) => {
                    now = until;
                    continue;
                }
                Permit::Busy => panic!("nothing is under way"),
            }
            begun.push(now);
            lane.judged(&verdict(Class::Temporary), tried(0, lane.hold().is_some()), now, 0.5);
        }
        assert!(begun.windows(2).all(|pair| pair[1].since(pair[0]) >= Duration::from_secs(29)), "{begun:?}");
        assert!(begun.len() >= 8, "{begun:?}");
    }

    #[test]
    fn a_poison_delivery_does_not_stop_the_lane() {
        let mut lane = lane();
        for n in 0..2 {
            let (fate, change) = lane.judged(&verdict(Class::Rejected), tried(n, false), NOW, 0.5);
            assert!(matches!(fate, Fate::Later(due) if due > NOW));
            assert_eq!(change, None);
            assert_eq!(lane.permit(NOW), Permit::Send);
        }
        assert_eq!(lane.judged(&verdict(Class::Rejected), tried(2, false), NOW, 0.5).0, Fate::Dead);
        assert_eq!(lane.judged(&verdict(Class::Internal), tried(0, false), NOW, 0.5), (Fate::Dead, None));
    }

    #[test]
    fn the_breaker_opens_after_temporary_failures_in_a_row_and_not_before() {
        let mut lane = lane();
        for n in 1..5 {
            assert_eq!(lane.judged(&verdict(Class::Temporary), tried(0, false), NOW, 0.5).1, None, "{n}");
        }
        assert_eq!(lane.judged(&verdict(Class::Delivered), tried(0, false), NOW, 0.5).1, None);
        for _ in 1..5 {
            assert_eq!(lane.judged(&verdict(Class::Temporary), tried(0, false), NOW, 0.5).1, None);
        }
        assert_eq!(lane.judged(&verdict(Class::Temporary), tried(0, false), NOW, 0.5).1, Some(Change::Held(Hold::Failing)));
    }

    #[test]
    fn what_the_receiver_asks_is_waited_in_full_and_capped() {
        for (asked, least, most) in [(120, 120, 121), (1_000_000_000, 86_400, 86_401)] {
            let mut lane = lane();
            let mut v = verdict(Class::Throttled);
            v.wait = Some(Duration::from_secs(asked));
            lane.judged(&v, tried(0, false), NOW, 0.99);
            let Permit::Wait(at) = lane.permit(NOW) else { panic!("must wait") };
            let waited = at.since(NOW).as_secs();
            assert!((least..=most).contains(&waited), "{waited}");
        }
    }

    #[test]
    fn nothing_that_was_under_way_shortens_the_wait_a_receiver_asked_for() {
        use Class::*;
        for class in [Delivered, Rejected, Internal, Offline, Clock, Throttled, Refused, Temporary] {
            for probe in [false, true] {
                let mut lane = Lane::new(Policy { breaker_after: 1, ..Policy::default() });
                if probe {
                    // A probe is under way when an older attempt brings the word.
                    lane.judged(&verdict(Offline), tried(0, false), NOW, 0.5);
                    lane.probe_begins(NOW);
                }
                let mut asked = verdict(Throttled);
                asked.wait = Some(Duration::from_secs(7200));
                lane.judged(&asked, tried(0, false), NOW, 0.5);
                let mut late = verdict(class);
                late.wait = Some(Duration::from_secs(1));
                lane.judged(&late, tried(0, probe), NOW, 0.5);
                let Some((_, at)) = lane.hold() else { panic!("{class} opened the lane") };
                assert!(at >= NOW.after(Duration::from_secs(7200)), "{class} shortened the wait to {at:?}");
            }
        }
    }

    #[test]
    fn by_default_nothing_temporary_is_ever_given_up() {
        let mut lane = lane();
        for n in 0..10_000 {
            let (fate, _) = lane.judged(&verdict(Class::Temporary), tried(n, true), NOW, 0.999);
            let Fate::Later(due) = fate else { panic!("given up after {n}") };
            assert!(due.since(NOW) <= Duration::from_secs(3600));
            assert!(due > NOW, "never a hot retry");
        }
        let mut lane = Lane::new(Policy { give_up_attempts: Some(3), ..Policy::default() });
        assert_eq!(lane.judged(&verdict(Class::Temporary), tried(2, false), NOW, 0.5).0, Fate::Dead);
        assert_eq!(lane.judged(&verdict(Class::Offline), tried(2, false), NOW, 0.5).0, Fate::Again);
    }

    #[test]
    fn a_delivery_refused_while_others_get_through_waits_alone() {
        let mut lane = lane();
        let own = Tried { own_trouble: true, ..Tried::default() };
        let (fate, change) = lane.judged(&verdict(Class::Refused), own, NOW, 0.5);
        assert!(matches!(fate, Fate::Later(due) if due > NOW));
        assert_eq!((change, lane.permit(NOW)), (None, Permit::Send));
    }

    #[test]
    fn give_up_by_age_counts_from_the_first_counted_attempt() {
        let mut lane = Lane::new(Policy { give_up_after: Some(Duration::from_secs(60)), ..Policy::default() });
        let aged = |s| Tried { counted: 1, age: Duration::from_secs(s), ..Tried::default() };
        assert!(matches!(lane.judged(&verdict(Class::Temporary), aged(59), NOW, 0.5).0, Fate::Later(_)));
        assert_eq!(lane.judged(&verdict(Class::Temporary), aged(60), NOW, 0.5).0, Fate::Dead);
        assert_eq!(lane.judged(&verdict(Class::Offline), aged(9999), NOW, 0.5).0, Fate::Again);
    }
}
