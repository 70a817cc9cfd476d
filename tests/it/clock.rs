//! A device without a clock: what is captured before the time is known, and clocks that jump. Under a clock set by hand, and once for real.

use crate::support::http::Client;
use crate::support::peers::{missing, peer};
use crate::support::rig::{DAY_MS, Hands, Rig};
use crate::support::{Daemon, Home, Receiver, Reply, SECRET, eventually, leadsbotd};
use leadsbotd::delivery::Step;
use leadsbotd::retry::Policy;
use leadsbotd::time::{Clock, Wall};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NOON: i64 = 1_795_435_200_000;

/// A board without a battery: ten seconds after its start it shows 1970.
fn in_1970() -> Arc<Hands> {
    let clock = Hands::new();
    clock.set(10_000, false);
    clock
}

fn stated(event: &Value) -> (i64, String) {
    let at = Wall::parse(event["created_at"].as_str().unwrap()).unwrap().0;
    (at, event["context"]["clock"].as_str().unwrap().to_owned())
}

/// The writer looks at the clock when it comes round.
fn noticed(rig: &Rig) {
    rig.store.register(vec!["crm".to_owned()]).unwrap();
    assert!(rig.store.settle(Duration::from_secs(10)));
}

#[test]
fn a_receiver_on_the_lan_is_served_at_once_and_times_are_put_right_before_the_others_are_first_sent() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::well();
    let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), in_1970());
    rig.capture("sent in 1970");
    rig.live(2_000);
    let sent = receiver.taken();
    assert_eq!(sent.len(), 1, "it is not kept waiting for a clock");
    assert_eq!(stated(&sent[0].json()), (10_000, "untrusted".to_owned()));
    assert_eq!(sent[0].header("x-leadsbot-timestamp"), "10", "the attempt's time is what the clock shows");

    // These bytes may have been seen: they stay, whatever the clock says later.
    receiver.script(|_| Reply::status(500));
    rig.capture("tried in 1970");
    rig.live(3_000);
    receiver.down();
    rig.clock.uptime.store(100_000, Ordering::SeqCst);
    rig.clock.wall.store(109_000, Ordering::SeqCst);
    let waits = rig.capture("captured in 1970, two minutes ago");
    rig.live(120_000);
    rig.clock.set(NOON, true);
    noticed(&rig);
    let captured = NOON - (rig.clock.uptime_ms() - 100_000);
    let stored = rig.store.read(|v| v.leads(i64::MAX, 10)).unwrap();
    assert!((stored[0].created.0 - captured).abs() < 1_000, "the stored time is off by {} ms", stored[0].created.0 - captured);

    receiver.script(|_| Reply::status(200));
    receiver.up();
    rig.live(rig.clock.uptime_ms() + 4 * 3_600_000);
    let taken = receiver.taken();
    assert_eq!(taken.len(), 3);
    let (at, clock) = stated(&taken.iter().find(|d| d.event_id() == waits).unwrap().json());
    assert!((at - captured).abs() < 1_000 && clock == "trusted", "{at} {clock}");
    let tried: Vec<Vec<u8>> =
        receiver.seen().iter().filter(|d| d.json()["data"]["name"] == "tried in 1970").map(|d| d.body.clone()).collect();
    assert!(tried.len() >= 2 && tried.iter().all(|body| *body == tried[0]), "two attempts with other bytes");
    assert!(receiver.seen().iter().all(|d| d.verified(SECRET)));
    rig.writer.stop();
}

#[test]
fn what_one_receiver_has_seen_stays_as_it_is_when_another_could_not_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let (lan, mut away) = (Receiver::start(|_| Reply::status(500)), Receiver::well());
    away.down();
    let mut rig = Rig::with(folder.path(), &lan.url(), Policy::default(), in_1970());
    let other = rig.add("away", &away.url());
    let event = rig.capture("seen in 1970");
    assert_eq!(rig.lane.step(), Step::Sent);
    assert_eq!(lan.seen().len(), 1);
    assert_eq!(other.step(), Step::Sent);
    rig.clock.set(NOON, true);
    noticed(&rig);
    rig.live(rig.clock.uptime_ms() + 3_600_000);
    let bodies: Vec<Vec<u8>> = lan.seen().iter().filter(|d| d.event_id() == event).map(|d| d.body.clone()).collect();
    assert!(bodies.len() >= 2 && bodies.iter().all(|body| *body == bodies[0]), "two attempts with other bytes");
    rig.writer.stop();
}

#[test]
fn times_put_right_by_the_ten_thousand_leave_the_log_short() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::well();
    receiver.down();
    let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), in_1970());
    rig.capture("the first of many");
    let database = rusqlite::Connection::open(folder.path().join("leads.db")).unwrap();
    let many = "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 60000)
        INSERT INTO event SELECT n, n, kind, at, tick, random, body FROM n, event WHERE seq = 1; PRAGMA wal_checkpoint(TRUNCATE)";
    database.execute_batch(many).unwrap();
    rig.clock.set(NOON, true);
    let right = || database.query_row("SELECT at > 1000000000 FROM event WHERE seq = 60000", [], |r| r.get::<_, bool>(0)).unwrap();
    eventually("the last one is put right", right);
    assert!(rig.store.settle(Duration::from_secs(10)));
    let log = std::fs::metadata(folder.path().join("leads.db-wal")).unwrap().len();
    assert!(log < 12 << 20, "the log has {log} bytes");
    rig.writer.stop();
}

#[test]
fn an_orderly_stop_keeps_what_can_still_be_put_right_and_a_crash_changes_nothing_that_may_have_been_sent() {
    for orderly in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::well();
        receiver.down();
        let clock = in_1970();
        let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock));
        rig.capture("one");
        rig.live(60_000);
        let copy = tempfile::tempdir().unwrap();
        let second = if orderly {
            rig.writer.stop();
            drop((rig.lane, rig.store));
            folder.path()
        } else {
            // What the disk holds when the process dies.
            for name in ["leads.db", "leads.db-wal"] {
                std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
            }
            copy.path()
        };
        let rig = Rig::with(second, &receiver.url(), Policy::default(), Arc::clone(&clock));
        clock.set(NOON, true);
        noticed(&rig);
        receiver.up();
        rig.live(rig.clock.uptime_ms() + 600_000);
        let (at, stated) = stated(&receiver.taken()[0].json());
        if orderly {
            assert!(stated == "trusted" && (NOON - 61_000..NOON).contains(&at), "{at} {stated}");
        } else {
            assert_eq!((at, stated.as_str()), (10_000, "untrusted"), "nobody can know that the dead process had not sent it");
        }
        rig.writer.stop();
    }
}

#[test]
fn a_time_of_an_earlier_boot_that_nobody_can_know_stays_marked() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::well();
    receiver.down();
    let clock = in_1970();
    let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock));
    rig.capture("one");
    rig.writer.stop();
    drop((rig.lane, rig.store));
    clock.boot.store(2, Ordering::SeqCst);
    clock.uptime.store(500, Ordering::SeqCst);
    clock.set(NOON, true);
    let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), clock);
    noticed(&rig);
    receiver.up();
    rig.live(600_000);
    assert_eq!(stated(&receiver.taken()[0].json()), (10_000, "untrusted".to_owned()));
    rig.writer.stop();
}

#[test]
fn a_receiver_that_refuses_the_time_is_waited_for_until_the_clock_is_right_and_no_attempt_is_burned() {
    let folder = tempfile::tempdir().unwrap();
    // What a Standard Webhooks library answers to a timestamp that is minutes off.
    let now = |d: &crate::support::Delivery| d.header("webhook-timestamp").parse::<i64>().unwrap() * 1000;
    let receiver = Receiver::start(move |d| Reply::status(if (now(d) - NOON).abs() < 400_000_000 { 200 } else { 400 }));
    let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), in_1970());
    for n in 0..5 {
        rig.capture(&format!("visitor {n}"));
    }
    rig.live(3 * DAY_MS);
    assert_eq!(rig.store.read(|v| v.counts(1)).unwrap().dead, 0, "a wrong clock made dead letters");
    assert_eq!(rig.store.read(|v| v.destination(1)).unwrap().unwrap().state, "clock");
    rig.clock.set(NOON, true);
    noticed(&rig);
    rig.live(rig.clock.uptime_ms() + 60_000);
    assert_eq!(receiver.taken().len(), 5);
    assert!(receiver.taken().iter().all(|d| d.header("x-leadsbot-attempt") == "1"));
    rig.writer.stop();
}

#[test]
fn one_record_that_a_receiver_refuses_does_not_stop_a_device_that_never_learns_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|d| Reply::status(if d.json()["data"]["name"] == "odd" { 400 } else { 200 }));
    let rig = Rig::with(folder.path(), &receiver.url(), Policy::default(), in_1970());
    rig.capture("odd");
    for n in 0..20 {
        rig.capture(&format!("visitor {n}"));
    }
    rig.live(DAY_MS);
    assert_eq!(receiver.taken().len(), 20);
    // The others got through: it is not the time that the receiver minds.
    let left = rig.store.read(|v| v.deliveries(1, None, 0, 10)).unwrap();
    let told: Vec<_> = left.iter().map(|d| (d.state.as_str(), d.code.as_deref(), d.attempts)).collect();
    assert_eq!(told, [("dead", Some("rejected/rejected_body"), 3)]);
    rig.writer.stop();
}

#[test]
fn the_clock_table_jumps_neither_fire_nor_freeze_anything() {
    let hour = 3_600_000;
    for (what, wall, synced, believed) in [
        ("1970", 0, false, false),
        ("the last second before 2038", 2_147_483_647_000, true, true),
        ("past 2038", 2_147_483_648_000, true, true),
        ("2106", 4_294_967_296_000, true, true),
        ("year 10000", 253_402_300_800_000, false, false),
        ("before 1970", -5_000_000_000_000, false, false),
        ("back one hour", NOON - hour, true, false),
        ("forward one hour", NOON + hour, true, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(|_| Reply::status(500));
        let rig = Rig::new(folder.path(), &receiver.url(), Policy { breaker_after: 1000, ..Policy::default() });
        rig.capture("before the jump");
        rig.live(1_001);
        let tries = receiver.seen().len();
        rig.clock.set(wall, synced);
        noticed(&rig);
        rig.capture("after the jump");
        rig.live(1_002);
        let again = receiver.seen().iter().filter(|d| d.json()["data"]["name"] == "before the jump").count();
        assert_eq!(again, tries, "{what}: the jump fired a retry");
        receiver.script(|_| Reply::status(200));
        rig.live(120_000);
        let taken = receiver.taken();
        assert_eq!(taken.len(), 2, "{what}: the jump froze a retry");
        let after = taken.iter().find(|d| d.json()["data"]["name"] == "after the jump").unwrap().json();
        assert_eq!(after["context"]["clock"] == "trusted", believed, "{what}");
        rig.writer.stop();
    }
}

#[test]
fn a_clock_that_a_time_service_keeps_is_believed_in_the_end_even_behind_what_was_believed_before() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::well();
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    rig.clock.set(NOON + 20 * 365 * DAY_MS, true);
    rig.capture("in a wrong future");
    rig.clock.set(NOON, true);
    noticed(&rig);
    assert!(!rig.store.timeline().trusted());
    rig.clock.advance(700_000);
    noticed(&rig);
    assert!(rig.store.timeline().trusted());
    rig.writer.stop();
}

#[test]
fn a_start_in_a_wrong_future_is_doubted_once_and_not_at_every_start_from_then_on() {
    for another_boot in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::well();
        let clock = Hands::new();
        let start = |boot| {
            clock.boot.store(boot, Ordering::SeqCst);
            Rig::with(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock))
        };
        let stop = |rig: Rig| {
            rig.writer.stop();
            drop((rig.lane, rig.store));
        };
        clock.set(NOON + 20 * 365 * DAY_MS, true);
        let mut rig = start(1);
        if another_boot {
            stop(rig);
            rig = start(2);
        }
        clock.set(NOON, true);
        noticed(&rig);
        clock.advance(700_000);
        noticed(&rig);
        rig.capture("later");
        stop(rig);
        let rig = start(3);
        assert!(rig.store.timeline().trusted(), "another boot: {another_boot}");
        stop(rig);
    }
}

#[test]
fn a_day_asleep_counts_for_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::status(429).header("retry-after", "86000"));
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    rig.capture("one");
    rig.live(2_000);
    receiver.script(|_| Reply::status(200));
    // CLOCK_BOOTTIME goes on while the machine is suspended.
    rig.clock.advance(DAY_MS);
    rig.live(rig.clock.uptime_ms() + 100);
    assert_eq!(receiver.taken().len(), 1);
    rig.writer.stop();
}

/// libfaketime, which stands between a program and its clock.
fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/arm-linux-gnueabihf", "/usr/lib"];
    let found = folders.iter().map(|f| Path::new(f).join("faketime/libfaketime.so.1")).find(|p| p.exists());
    if found.is_none() {
        missing("libfaketime", "apt-get install libfaketime");
    }
    found
}

#[test]
fn for_real_a_kiosk_that_starts_in_1970_and_learns_the_time_later() {
    let Some(library) = faketime() else { return };
    let mut receiver = Receiver::well();
    receiver.down();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let shown = home.path("faketime");
    let set = |time: &str| {
        std::fs::write(home.path("next"), time).unwrap();
        std::fs::rename(home.path("next"), &shown).unwrap();
    };
    set("@1970-01-01 00:05:00");
    let mut command = leadsbotd();
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &shown)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("TZ", "UTC");
    let daemon = Daemon::start_with(&home, command);
    let client = Client::new(daemon.address);
    let (lead, event) = client.lead(&json!({"name":"Too early"}));
    let lead_at = || client.get(&format!("/api/v1/leads/{lead}")).json()["created_at"].as_str().unwrap().to_owned();
    assert!(lead_at().starts_with("1970-01-01T00:05:"));
    assert_eq!(client.get("/readyz").json()["clock"], "untrusted");
    eventually("the lane holds", || client.get("/readyz").json()["destinations"][0]["state"] == "offline");
    for time in ["@2038-01-19 03:14:06", "@2026-11-23 12:00:00", "@2026-11-23 11:00:00"] {
        set(time);
        client.lead(&json!({"name":time}));
    }
    eventually("the time is put right", || !lead_at().starts_with("1970"));
    receiver.up();
    eventually("all arrive", || receiver.taken().len() == 4);
    let first = receiver.taken().into_iter().find(|d| d.event_id() == event).unwrap();
    assert_eq!(first.json()["context"]["clock"], "trusted");
    assert!(!first.json()["created_at"].as_str().unwrap().starts_with("1970"));
    assert!(receiver.seen().iter().all(|d| d.verified(SECRET)));
    assert!(daemon.log().contains("events whose time was put right: 1;"), "{}", daemon.log());
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn for_real_a_wait_ends_while_the_machine_sleeps() {
    let Some(unshare) = peer("unshare", "apt-get install util-linux") else { return };
    let in_a_day = |args: &[&str]| {
        let mut command = Command::new(&unshare);
        command.args(["--time", "--boottime", "86400", "--fork", "--kill-child", "--"]).args(args);
        command
    };
    if !in_a_day(&["true"]).status().is_ok_and(|s| s.success()) {
        missing("a time namespace", "run as root on Linux 5.6 or newer");
        return;
    }
    let receiver = Receiver::start(|_| Reply::status(500));
    let home = Home::new("");
    let text = std::fs::read_to_string(home.config()).unwrap().replace("retry_first_seconds = 1", "retry_first_seconds = 3600");
    let text = text.replace("retry_max_seconds = 1", "retry_max_seconds = 3600");
    std::fs::write(home.config(), text + &Home::webhook("crm", &receiver.url(), "")).unwrap();
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Tried before"}));
    eventually("the attempt fails", || home.ok(&["queue", "list"]).contains("retrying"));
    daemon.stop();
    let seen = receiver.seen().len();
    receiver.script(|_| Reply::status(200));
    // The same boot, a day of sleep later.
    let daemon = Daemon::start_with(&home, in_a_day(&[env!("CARGO_BIN_EXE_leadsbotd")]));
    eventually("it is due", || receiver.taken().len() == 1);
    assert_eq!(receiver.seen()[seen].header("x-leadsbot-attempt"), "2");
    drop(daemon);
}
