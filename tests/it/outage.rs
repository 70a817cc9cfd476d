//! Outages: real store, real sockets, simulated time. A month passes in seconds.

use crate::support::rig::{DAY_MS, Rig};
use crate::support::{Receiver, Reply, SECRET};
use leadsbotd::delivery::Step;
use leadsbotd::retry::Policy;
use leadsbotd::time::Clock;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn thirty_days_offline_lose_nothing_expire_nothing_and_drain_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::well();
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    receiver.down();
    let mut expected = Vec::new();
    for day in 0..30 {
        for visitor in 0..4 {
            expected.push(rig.capture(&format!("day {day} visitor {visitor}")));
        }
        let attempts = rig.live(rig.clock.uptime_ms() + DAY_MS);
        // About one probe a minute: neither silent nor hot.
        assert!((24 * 60 / 2..24 * 60 * 4).contains(&attempts), "{attempts} attempts on day {day}");
    }
    let counts = rig.store.read(|v| v.counts(1)).unwrap();
    assert_eq!((counts.ready, counts.retrying, counts.dead), (120, 0, 0), "no attempt was burned, no row was touched");
    receiver.up();
    rig.live(rig.clock.uptime_ms() + 600_000);
    let taken = receiver.taken();
    assert_eq!(taken.iter().map(|d| d.event_id().to_owned()).collect::<Vec<_>>(), expected);
    assert!(taken.iter().all(|d| d.header("x-leadsbot-attempt") == "1" && d.verified(SECRET)));
    assert_eq!(rig.store.read(|v| v.counts(1)).unwrap().waiting(), 0);
    rig.writer.stop();
}

#[test]
fn a_month_of_500_a_blocked_month_and_a_month_of_429_lose_nothing_either() {
    for status in [500, 401, 404, 429] {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(move |_| Reply::status(status));
        // Longer pauses than the default, so that the month is some thousand attempts and not a hundred thousand.
        let policy = Policy { probe_max: Duration::from_secs(1800), blocked_max: Duration::from_secs(1800), ..Policy::default() };
        let rig = Rig::new(folder.path(), &receiver.url(), policy);
        let mut expected: Vec<String> = (0..10).map(|n| rig.capture(&format!("visitor {n}"))).collect();
        rig.live(rig.clock.uptime_ms() + 30 * DAY_MS);
        assert_eq!(rig.store.read(|v| v.counts(1)).unwrap().waiting(), 10, "{status}");
        receiver.script(|_| Reply::status(200));
        rig.live(rig.clock.uptime_ms() + DAY_MS);
        let mut taken: Vec<String> = receiver.taken().iter().map(|d| d.event_id().to_owned()).collect();
        taken.sort();
        expected.sort();
        assert_eq!(taken, expected, "{status}");
        rig.writer.stop();
    }
}

#[test]
fn waiting_as_told_is_waiting_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::status(429).header("retry-after", "7200"));
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    rig.capture("one");
    rig.capture("two");
    assert_eq!(rig.live(rig.clock.uptime_ms() + 7_199_000), 1, "one attempt, then silence for two hours");
    receiver.script(|_| Reply::status(200));
    assert_eq!(rig.live(rig.clock.uptime_ms() + 60_000), 2);
    assert!(receiver.taken().iter().all(|d| d.header("x-leadsbot-attempt") == "1"), "a 429 burns no attempt");
    rig.writer.stop();
}

#[test]
fn one_refused_record_does_not_keep_a_well_destination_shut() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|d| Reply::status(if d.json()["data"]["name"] == "Unknown to the CRM" { 404 } else { 200 }));
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    let odd = rig.capture("Unknown to the CRM");
    for n in 0..50 {
        rig.capture(&format!("visitor {n}"));
    }
    rig.live(rig.clock.uptime_ms() + DAY_MS);
    assert_eq!(receiver.taken().len(), 50);
    let left = rig.store.read(|v| v.deliveries(1, None, 0, 10)).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].state.as_str(), left[0].code.as_deref()), ("retrying", Some("receiver_4xx")));
    receiver.script(|_| Reply::status(200));
    rig.live(rig.clock.uptime_ms() + DAY_MS);
    assert!(receiver.taken().iter().any(|d| d.event_id() == odd));
    rig.writer.stop();
}

#[test]
fn a_refused_record_that_came_alone_does_not_hold_those_that_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|d| Reply::status(if d.json()["data"]["name"] == "Unknown to the CRM" { 403 } else { 200 }));
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    let odd = rig.capture("Unknown to the CRM");
    rig.live(rig.clock.uptime_ms() + DAY_MS);
    for n in 0..3 {
        rig.capture(&format!("visitor {n}"));
    }
    rig.live(rig.clock.uptime_ms() + DAY_MS);
    assert_eq!(receiver.taken().len(), 3);
    receiver.script(|_| Reply::status(200));
    rig.live(rig.clock.uptime_ms() + DAY_MS);
    assert!(receiver.taken().iter().any(|d| d.event_id() == odd));
    rig.writer.stop();
}

#[test]
fn after_a_time_of_refusals_everything_goes_oldest_first() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::status(401));
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    let expected: Vec<String> = (0..100).map(|n| rig.capture(&format!("visitor {n}"))).collect();
    rig.live(rig.clock.uptime_ms() + DAY_MS);
    receiver.script(|_| Reply::status(200));
    rig.live(rig.clock.uptime_ms() + DAY_MS);
    let taken: Vec<String> = receiver.taken().iter().map(|d| d.event_id().to_owned()).collect();
    // The first one through is whichever the lane was probing with.
    let rest: Vec<&String> = expected.iter().filter(|id| **id != taken[0]).collect();
    assert_eq!(taken[1..].iter().collect::<Vec<_>>(), rest);
    rig.writer.stop();
}

#[test]
fn a_wall_clock_that_jumps_neither_fires_nor_freezes_a_retry() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::status(500));
    let rig = Rig::new(folder.path(), &receiver.url(), Policy { breaker_after: 1000, ..Policy::default() });
    rig.capture("one");
    assert_eq!(rig.live(rig.clock.uptime_ms() + 1), 1);
    for wall in [0, 2_147_483_648_000, -5_000_000_000_000, 253_402_300_800_000] {
        rig.clock.wall.store(wall, Ordering::SeqCst);
        assert_ne!(rig.lane.step(), Step::Sent, "the jump to {wall} fired a retry");
    }
    receiver.script(|_| Reply::status(200));
    rig.live(rig.clock.uptime_ms() + 60_000);
    assert_eq!(receiver.taken().len(), 1, "the jumps froze the retry");
    rig.writer.stop();
}

#[test]
fn an_offline_lane_with_many_waiting_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::well();
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    receiver.down();
    for n in 0..200 {
        rig.capture(&format!("visitor {n}"));
    }
    rig.live(rig.clock.uptime_ms() + 60_000);
    let database = || std::fs::metadata(folder.path().join("leads.db-wal")).map(|m| (m.len(), m.modified().unwrap())).unwrap();
    let before = database();
    let attempts = rig.live(rig.clock.uptime_ms() + DAY_MS);
    assert!(attempts > 500);
    assert_eq!(database(), before, "the log of the database changed during a day offline");
    rig.writer.stop();
}

#[test]
fn a_destination_that_comes_back_is_filled_slowly_then_faster_and_never_beyond_its_rate() {
    for (rate, most_at_last) in [(None, 1000), (Some(600), 11)] {
        let folder = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::well();
        let rig = Rig::new(folder.path(), &receiver.url(), Policy { rate_per_minute: rate, ..Policy::default() });
        receiver.down();
        let expected: Vec<String> = (0..500).map(|n| rig.capture(&format!("visitor {n}"))).collect();
        rig.live(600_000);
        receiver.up();
        // Until the probe that opens the lane.
        while receiver.taken().is_empty() {
            rig.live(rig.clock.uptime_ms() + 100);
        }
        let mut counts = Vec::new();
        for _ in 0..90 {
            let before = receiver.taken().len();
            rig.live(rig.clock.uptime_ms() + 1000);
            counts.push(receiver.taken().len() - before);
        }
        assert!(counts[0] <= 3 && counts[3] >= counts[0], "{counts:?}");
        assert!(counts.iter().all(|n| *n <= most_at_last), "{counts:?}");
        assert_eq!(receiver.taken().iter().map(|d| d.event_id().to_owned()).collect::<Vec<_>>(), expected, "oldest first");
        rig.writer.stop();
    }
}

#[test]
fn a_destination_that_was_down_when_the_kiosk_was_switched_off_is_filled_slowly_after_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::well();
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    receiver.down();
    for n in 0..200 {
        rig.capture(&format!("visitor {n}"));
    }
    rig.live(rig.clock.uptime_ms() + 3_600_000);
    let clock = std::sync::Arc::clone(&rig.clock);
    assert!(rig.store.settle(Duration::from_secs(10)));
    rig.writer.stop();
    drop((rig.lane, rig.store));
    receiver.up();
    clock.boot.store(2, Ordering::SeqCst);
    clock.uptime.store(1_000, Ordering::SeqCst);
    let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), clock);
    let first = rig.live(rig.clock.uptime_ms() + 1_000);
    assert!((1..=4).contains(&first), "{first} in the first second");
    rig.live(rig.clock.uptime_ms() + 60_000);
    assert_eq!(receiver.taken().len(), 200);
    rig.writer.stop();
}
