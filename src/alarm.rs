//! When a destination's trouble is worth an alarm, and when it is over. Pure: what is seen and the time are arguments.
//!
//! A trouble is told once when it begins and once when it ends, whatever happens between.

use crate::time::{Tick, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the operator wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A destination that is held for so long, whatever the reason; `None`: never. One that refuses is told of at once.
    pub held: Option<Duration>,
    /// A delivery that has waited for so long; `None`: never.
    pub age: Option<Duration>,
    /// How often the device says that it lives; `None`: never.
    pub heartbeat: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { held: Some(Duration::from_secs(3600)), age: Some(Duration::from_secs(86_400)), heartbeat: None }
    }
}

/// A destination as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub dest: i64,
    /// Its name.
    pub name: String,
    /// `open`, `paused`, `offline`, …
    pub state: &'static str,
    /// Why, if it is not open.
    pub reason: String,
    /// Since when.
    pub since: Option<Wall>,
    /// Deliveries that wait.
    pub waiting: u64,
    /// When the oldest of them was made.
    pub oldest: Option<Wall>,
    /// Something has got through since the daemon's start.
    pub proven: bool,
}

/// What is to be told of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// It is in trouble.
    Failing,
    /// It is well again.
    Recovered,
}

/// What was seen before.
#[derive(Debug, Clone, Default)]
pub struct Lookout {
    // Since when each destination is held.
    held: BTreeMap<i64, Tick>,
    failing: BTreeSet<i64>,
    // Of those, the ones an earlier run told of: that they are open at a start proves nothing yet.
    carried: BTreeSet<i64>,
    // In trouble, and nobody could be told.
    unheard: BTreeSet<i64>,
    beat: Option<Tick>,
}

impl Lookout {
    /// One that knows which destinations were told of in an earlier run and are still in trouble.
    pub fn new(failing: impl IntoIterator<Item = i64>) -> Self {
        let failing: BTreeSet<i64> = failing.into_iter().collect();
        Self { carried: failing.clone(), failing, ..Self::default() }
    }

    /// Nobody could be told of this one, or nobody asks: it is tried again at the next look. True when that is news.
    pub fn unheard(&mut self, dest: i64) -> bool {
        self.failing.remove(&dest);
        self.unheard.insert(dest)
    }

    /// Whether this one's trouble was seen before, and nobody could be told.
    pub fn is_unheard(&self, dest: i64) -> bool {
        self.unheard.contains(&dest)
    }

    /// The destinations that were told of and are still in trouble.
    pub fn failing(&self) -> impl Iterator<Item = i64> {
        self.failing.iter().copied()
    }

    /// What is new about this destination. `wall` only where the clock is believed.
    pub fn look(&mut self, seen: &Seen, now: Tick, wall: Option<Wall>, options: &Options) -> Option<Alarm> {
        // What an operator holds is no trouble, and says nothing about one.
        if seen.state == "paused" {
            self.held.remove(&seen.dest);
            return None;
        }
        let held_for = if seen.state == "open" {
            self.held.remove(&seen.dest);
            None
        } else {
            Some(now.since(*self.held.entry(seen.dest).or_insert(now)))
        };
        let too_long = held_for.zip(options.held).is_some_and(|(held, most)| held >= most);
        // An event that was taken before the clock was right may say 1970.
        let oldest = seen.oldest.filter(|at| at.is_plausible());
        let age = wall.zip(oldest).map(|(wall, oldest)| Duration::from_millis(u64::try_from(wall.0 - oldest.0).unwrap_or(0)));
        let too_old = age.zip(options.age).is_some_and(|(age, most)| age >= most);
        let trouble = seen.state == "blocked" || too_long || too_old;
        if trouble {
            return self.failing.insert(seen.dest).then_some(Alarm::Failing);
        }
        // A short hold while it gets well is not the end of it yet, nor is a start that has tried nothing.
        if seen.state != "open" || (self.carried.contains(&seen.dest) && !seen.proven && seen.waiting > 0) {
            return None;
        }
        self.unheard.remove(&seen.dest);
        self.carried.remove(&seen.dest);
        self.failing.remove(&seen.dest).then_some(Alarm::Recovered)
    }

    /// Whether it is time to say that the device lives.
    pub fn beats(&mut self, now: Tick, options: &Options) -> bool {
        let Some(every) = options.heartbeat else { return false };
        let due = self.beat.is_none_or(|last| now.since(last) >= every);
        if due {
            self.beat = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(1 << 42);
    const NOON: Wall = Wall(1_795_435_200_000);

    fn seen(state: &'static str) -> Seen {
        Seen { dest: 1, name: "crm".to_owned(), state, reason: String::new(), since: None, waiting: 3, oldest: Some(NOON), proven: false }
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }

    #[test]
    fn a_destination_that_refuses_is_told_of_at_once_and_once() {
        let (mut lookout, options) = (Lookout::default(), Options::default());
        assert_eq!(lookout.look(&seen("blocked"), NOW, None, &options), Some(Alarm::Failing));
        assert_eq!(lookout.look(&seen("blocked"), NOW.after(minutes(500)), None, &options), None);
        assert_eq!(lookout.look(&seen("offline"), NOW.after(minutes(501)), None, &options), None);
        assert_eq!(lookout.look(&seen("paused"), NOW.after(minutes(502)), None, &options), None);
        assert_eq!(lookout.look(&seen("open"), NOW.after(minutes(503)), None, &options), Some(Alarm::Recovered));
        assert_eq!(lookout.look(&seen("open"), NOW.after(minutes(504)), None, &options), None);
    }

    #[test]
    fn a_short_absence_is_no_alarm_and_a_long_one_is() {
        let (mut lookout, options) = (Lookout::default(), Options::default());
        for (minute, state, alarm) in [
            (0, "offline", None),
            (59, "failing", None),
            (60, "offline", Some(Alarm::Failing)),
            (61, "open", Some(Alarm::Recovered)),
            (62, "offline", None),
            (90, "open", None),
            (91, "offline", None),
            (150, "offline", None),
            (151, "clock", Some(Alarm::Failing)),
        ] {
            assert_eq!(lookout.look(&seen(state), NOW.after(minutes(minute)), None, &options), alarm, "{minute}");
        }
        let never = Options { held: None, ..Options::default() };
        assert_eq!(Lookout::default().look(&seen("offline"), NOW, None, &never), None);
    }

    #[test]
    fn a_delivery_that_has_waited_for_a_day_is_told_of_where_the_clock_is_believed() {
        let (mut lookout, options) = (Lookout::default(), Options::default());
        let day = 24 * 60 * 60 * 1000;
        assert_eq!(lookout.look(&seen("open"), NOW, Some(Wall(NOON.0 + day - 1)), &options), None);
        assert_eq!(lookout.look(&seen("open"), NOW, None, &options), None);
        assert_eq!(lookout.look(&seen("open"), NOW, Some(Wall(NOON.0 + day)), &options), Some(Alarm::Failing));
        assert_eq!(lookout.look(&Seen { oldest: None, ..seen("open") }, NOW, Some(Wall(NOON.0 + day)), &options), Some(Alarm::Recovered));
        assert_eq!(lookout.look(&seen("open"), NOW, Some(Wall(0)), &options), None, "a clock before the event is no age");
    }

    #[test]
    fn what_was_told_before_a_restart_is_not_told_again_and_its_end_is() {
        let options = Options::default();
        let mut lookout = Lookout::new([1]);
        assert_eq!(lookout.look(&seen("open"), NOW, None, &options), None, "it has tried nothing yet");
        assert_eq!(lookout.look(&seen("blocked"), NOW, None, &options), None);
        assert_eq!(lookout.look(&Seen { proven: true, ..seen("open") }, NOW, None, &options), Some(Alarm::Recovered));
        let nothing = Seen { waiting: 0, ..seen("open") };
        assert_eq!(Lookout::new([1]).look(&nothing, NOW, None, &options), Some(Alarm::Recovered));
    }

    #[test]
    fn a_trouble_of_which_nobody_could_be_told_is_told_later_and_its_end_only_to_who_knows_of_it() {
        let (mut lookout, options) = (Lookout::default(), Options::default());
        assert_eq!(lookout.look(&seen("blocked"), NOW, None, &options), Some(Alarm::Failing));
        assert!(lookout.unheard(1));
        assert_eq!(lookout.look(&seen("blocked"), NOW, None, &options), Some(Alarm::Failing));
        assert!(!lookout.unheard(1), "no news");
        assert_eq!(lookout.look(&seen("open"), NOW, None, &options), None, "nobody knows of it");
        assert_eq!(lookout.look(&seen("blocked"), NOW, None, &options), Some(Alarm::Failing));
        assert!(!lookout.is_unheard(1));
    }

    #[test]
    fn the_heart_beats_as_often_as_it_is_told_and_never_by_default() {
        let mut lookout = Lookout::default();
        assert!(!lookout.beats(NOW, &Options::default()));
        let options = Options { heartbeat: Some(minutes(10)), ..Options::default() };
        let beats: Vec<u64> = (0..40).filter(|m| lookout.beats(NOW.after(minutes(*m)), &options)).collect();
        assert_eq!(beats, [0, 10, 20, 30]);
    }
}
