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
}

impl Lane {
    /// A lane that has seen no trouble.
    pub fn new(policy: Policy) -> Self {
        Self { policy, state: State::Open, temporary_in_a_row: 0 }
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
            State::Open => Permit::Send,
            State::Held { probing: true, .. } => Permit::Busy,
            State::Held { probe_at, .. } if probe_at <= now => Permit::Probe,
            State::Held { probe_at, .. } => Permit::Wait(probe_at),
        }
    }

    /// Notes that the probe a [`Permit::Probe`] allowed is under way.
    pub fn probe_begins(&mut self) {
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

    /// Takes a verdict in. `chance` is uniform in [0, 1).
    pub fn judged(&mut self, verdict: &Verdict, tried: Tried, now: Tick, chance: f64) -> (Fate, Option<Change>) {
        let was_probe = tried.probe;
        if was_probe {
            self.probe_ends();
        }
        match verdict.class {
            Class::Delivered => (Fate::Done, self.well_unless_told_to_wait(was_probe)),
            Class::Rejected => {
                // The receiver took the trouble to read and refuse it: the lane is well.
                let change = self.well();
                (self.counted(tried, self.policy.rejected_attempts, now, chance), change)
            }
            // Our own fault says nothing about the receiver.
            Class::Internal => (Fate::Dead, None),
            Class::Offline => (Fate::Again, self.held(Hold::Offline, None, was_probe, now, chance)),
            Class::Clock => (Fate::Again, self.held(Hold::Clock, None, was_probe, now, chance)),
            Class::Throttled => (Fate::Again, self.held(Hold::Throttled, verdict.wait, was_probe, now, chance)),
            Class::Refused if tried.own_trouble => (self.counted(tried, u32::MAX, now, chance), None),
            Class::Refused => (Fate::Again, self.held(Hold::Blocked, None, was_probe, now, chance)),
            Class::Temporary => {
                self.temporary_in_a_row = self.temporary_in_a_row.saturating_add(1);
                let change = if was_probe || self.temporary_in_a_row >= self.policy.breaker_after {
                    self.held(Hold::Failing, None, was_probe, now, chance)
                } else {
                    None
                };
                (self.counted(tried, u32::MAX, now, chance), change)
            }
        }
    }

    /// An answer to an attempt that was under way when the receiver asked to wait does not shorten the wait.
    fn well_unless_told_to_wait(&mut self, was_probe: bool) -> Option<Change> {
        if !was_probe && matches!(self.state, State::Held { why: Hold::Throttled, .. }) {
            return None;
        }
        self.well()
    }

    fn well(&mut self) -> Option<Change> {
        self.temporary_in_a_row = 0;
        let was = std::mem::replace(&mut self.state, State::Open);
        (was != State::Open).then_some(Change::Opened)
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
        self.state = State::Held { why, probe_at: now.after(pause), probes, probing };
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
            lane.probe_begins();
            assert_eq!(lane.permit(at), Permit::Busy);
            let (fate, change) = lane.judged(&verdict(class), tried(0, true), at, 0.5);
            assert_eq!((fate, change), (Fate::Again, None), "the same trouble is told once");
            lane.probe_begins();
            assert_eq!(lane.judged(&verdict(Class::Delivered), tried(0, true), at, 0.5), (Fate::Done, Some(Change::Opened)));
            assert_eq!(lane.permit(at), Permit::Send);
        }
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
