//! Room on the disk: a full quota, a full card, and what is forgotten in time.

use crate::support::http::Client;
use crate::support::peers::missing;
use crate::support::rig::{DAY_MS, Hands, Rig};
use crate::support::{Daemon, Home, Receiver, Reply, SECRET, eventually};
use leadsbotd::retry::Policy;
use leadsbotd::store::{Limits, Retention};
use leadsbotd::time::{Clock, Wall};
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Text that no packing makes shorter by much.
fn noise(length: usize) -> String {
    (0..length).map(|_| fastrand::alphanumeric()).collect()
}

/// Captures leads of some kilobytes until one is refused; gives the events of the others, and the refusal.
fn fill(client: &Client, max: usize) -> (BTreeSet<String>, crate::support::http::Answer) {
    let mut kept = BTreeSet::new();
    for n in 0..max {
        let answer = client.json("POST", "/api/v1/leads", &json!({"name":format!("Visitor {n}"),"message":noise(6000)}));
        match answer.status {
            201 => drop(kept.insert(answer.json()["event_id"].as_str().unwrap().to_owned())),
            _ => return (kept, answer),
        }
    }
    panic!("{max} leads were taken, and there was always room");
}

#[test]
fn a_full_quota_refuses_leads_plainly_says_so_and_delivers_on() {
    let mut receiver = Receiver::well();
    let alarms = Receiver::well();
    receiver.down();
    let destinations = Home::webhook("crm", &receiver.url(), "") + &Home::webhook("ops", &alarms.url(), "events = [\"storage.low\"]");
    let home = Home::new(&destinations);
    let limited = |max: u64| {
        let text = std::fs::read_to_string(home.config()).unwrap();
        let text: Vec<&str> = text.lines().filter(|l| !l.starts_with("max_bytes")).collect();
        std::fs::write(home.config(), text.join("\n").replace("[storage]", &format!("[storage]\nmax_bytes = {max}"))).unwrap();
    };
    limited(1 << 20);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (kept, refusal) = fill(&client, 400);
    assert_eq!((refusal.status, refusal.code().as_str()), (507, "storage_full"));
    assert!(kept.len() > 50, "{} leads fitted into a megabyte", kept.len());
    let page = client.form("/f/contact", &[("name", "Jane"), ("email", "jane@example.com")], &[("accept", "text/html")]);
    assert_eq!(page.status, 507);
    assert!(page.body.contains("Jane"), "the visitor need not type it again");
    assert_eq!(client.get("/healthz").status, 507);
    let ready = client.get("/readyz");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (507, Some("full")));
    // As a supervisor on another machine is told.
    let ready = client.send("GET", "/readyz", &[("forwarded", "for=192.0.2.7")], b"").unwrap();
    assert_eq!((ready.status, ready.json()), (507, json!({"status":"full"})));

    eventually("the alarms arrive", || {
        let levels: Vec<String> = alarms.taken().iter().map(|d| d.json()["data"]["level"].as_str().unwrap().to_owned()).collect();
        levels == ["low", "full"]
    });
    assert!(alarms.taken().iter().all(|d| d.header("x-leadsbot-event") == "storage.low" && d.verified(SECRET)));

    receiver.up();
    let arrived = || receiver.taken().iter().map(|d| d.event_id().to_owned()).collect::<BTreeSet<_>>();
    eventually("what was taken is delivered", || arrived() == kept);
    eventually("and its end is on the disk", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);

    limited(64 << 20);
    daemon.signal(Signal::HUP);
    eventually("leads are taken again", || client.json("POST", "/api/v1/leads", &json!({"name":"Later"})).status == 201);
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(daemon.stop().0, Some(0));
}

/// A file system of its own in memory; taken away when dropped.
struct Card(PathBuf);

impl Card {
    fn new(at: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status();
        if mounted.is_ok_and(|s| s.success()) {
            return Some(Self(at.to_owned()));
        }
        missing("a file system of a given size", "run as root, so that one can be mounted");
        None
    }

    /// Writes a file until nothing more fits.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.0.join("photos");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 16, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn on_a_full_card_deliveries_are_finished_in_the_reserve_and_capture_resumes_by_itself() {
    let receiver = Receiver::well();
    let home = Home::new("");
    let Some(card) = Card::new(&home.path("card"), 24) else { return };
    let database = home.path("card").join("leads.db");
    let text = std::fs::read_to_string(home.config()).unwrap();
    let text = text.replace(&format!("path = {:?}", home.database()), &format!("path = {database:?}\nreserve_bytes = 4194304"));
    std::fs::write(home.config(), text + &Home::webhook("crm", &receiver.url(), "")).unwrap();
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    home.ok(&["queue", "pause", "crm"]);
    let mut kept: BTreeSet<String> = (0..300).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).1).collect();
    let photos = card.fill();
    let (more, refusal) = fill(&client, 2000);
    kept.extend(more);
    assert_eq!((refusal.status, refusal.code().as_str()), (507, "storage_full"));

    home.ok(&["queue", "resume", "crm"]);
    let arrived = || receiver.taken().iter().map(|d| d.event_id().to_owned()).collect::<BTreeSet<_>>();
    eventually("what was taken is delivered", || arrived() == kept);
    eventually("and its end is on the disk", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    assert_eq!(client.json("POST", "/api/v1/leads", &json!({"name":"Still full"})).status, 507);

    std::fs::remove_file(photos).unwrap();
    eventually("leads are taken again", || client.json("POST", "/api/v1/leads", &json!({"name":"Later"})).status == 201);
    assert_eq!(std::fs::metadata(home.path("card").join("leads.db.reserve")).unwrap().len(), 4 << 20, "the reserve is there again");
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("leads are refused until there is"), "{log}");
    assert!(home.ok(&["check"]).contains("whole"));
}

#[test]
fn started_on_a_full_card_it_delivers_what_waits() {
    let receiver = Receiver::well();
    let home = Home::new("");
    let Some(card) = Card::new(&home.path("card"), 24) else { return };
    let database = home.path("card").join("leads.db");
    let text = std::fs::read_to_string(home.config()).unwrap();
    let text = text.replace(&format!("path = {:?}", home.database()), &format!("path = {database:?}\nreserve_bytes = 4194304"));
    std::fs::write(home.config(), text + &Home::webhook("crm", &receiver.url(), "")).unwrap();
    for orderly in [true, false] {
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        home.ok(&["queue", "pause", "crm"]);
        let kept: BTreeSet<String> = (0..20).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).1).collect();
        home.ok(&["queue", "resume", "crm"]);
        home.ok(&["queue", "pause", "crm"]);
        if orderly {
            drop(daemon.stop())
        } else {
            daemon.kill()
        }
        let photos = card.fill();
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        assert_eq!(client.json("POST", "/api/v1/leads", &json!({"name":"No room"})).status, 507);
        home.ok(&["queue", "resume", "crm"]);
        eventually("what was taken is delivered", || kept.is_subset(&receiver.taken().iter().map(|d| d.event_id().to_owned()).collect()));
        std::fs::remove_file(photos).unwrap();
        eventually("leads are taken again", || client.json("POST", "/api/v1/leads", &json!({"name":"Later"})).status == 201);
        daemon.stop();
    }
}

fn keeping(history_days: u32, delivered_days: u32, leads_days: u32) -> Limits {
    Limits { keep: Retention { history_days, delivered_days, leads_days }, ..Limits::default() }
}

/// Lets the writer come round a few times with nothing else to do; what must not be forgotten had its chance to be then.
fn idle() {
    std::thread::sleep(Duration::from_millis(2500));
}

#[test]
fn what_is_old_is_forgotten_and_what_still_has_to_be_delivered_never() {
    for (what, limits, leads, history) in [
        ("nothing", keeping(0, 0, 0), 61, 50),
        ("history", keeping(30, 0, 0), 61, 0),
        ("delivered leads", keeping(0, 30, 0), 11, 0),
        // The ten that wait stay, and the newest one, whose number the next one follows.
        ("all leads", keeping(0, 0, 30), 11, 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::well();
        let clock = Hands::new();
        let rig = Rig::limited(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock), limits);
        for n in 0..50 {
            rig.capture(&format!("visitor {n}"));
        }
        rig.live(10_000);
        assert_eq!(receiver.taken().len(), 50);
        receiver.down();
        for n in 0..10 {
            rig.capture(&format!("waiting {n}"));
        }
        clock.advance(40 * DAY_MS);
        rig.capture("today");
        idle();
        let ever = (Wall(0), Wall(i64::MAX));
        eventually(what, || {
            let (found, finished) = rig.store.read(|v| Ok((v.leads(i64::MAX, 100)?, v.finished(1, ever.0, ever.1)?))).unwrap();
            (found.len(), finished.len()) == (leads, history)
        });
        receiver.up();
        rig.live(clock.uptime_ms() + 600_000);
        assert_eq!(receiver.taken().len(), 61, "{what}: something that had to be delivered was forgotten");
        rig.writer.stop();
    }
}

#[test]
fn a_wrong_clock_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::well();
    let clock = Hands::new();
    let rig = Rig::limited(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock), keeping(1, 1, 1));
    for n in 0..5 {
        rig.capture(&format!("visitor {n}"));
    }
    rig.live(10_000);
    clock.advance(100_000);
    clock.set(4_000_000_000_000, false);
    idle();
    assert_eq!(rig.store.read(|v| v.leads(i64::MAX, 10)).unwrap().len(), 5);
    rig.writer.stop();
}

#[test]
fn a_lead_of_a_time_nobody_knew_is_as_old_as_what_came_after_it() {
    for reboot in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::well();
        let clock = Hands::new();
        clock.set(10_000, false);
        let mut rig = Rig::limited(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock), keeping(30, 30, 30));
        rig.capture("taken in 1970, by the clock");
        rig.live(5_000);
        assert_eq!(receiver.taken().len(), 1, "these bytes have been seen, and say 1970 for ever");
        if reboot {
            rig.writer.stop();
            drop((rig.lane, rig.store));
            clock.boot.store(2, Ordering::SeqCst);
            rig = Rig::limited(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock), keeping(30, 30, 30));
        }
        clock.set(1_795_435_200_000, true);
        rig.capture("minutes later");
        rig.live(clock.uptime_ms() + 100_000);
        idle();
        let left = || rig.store.read(|v| v.leads(i64::MAX, 10)).unwrap().len();
        assert_eq!(left(), 2, "reboot {reboot}: a lead minutes old was forgotten");
        clock.advance(40 * DAY_MS);
        rig.capture("today");
        eventually("what is old by now is forgotten", || left() == 1);
        rig.writer.stop();
    }
}

#[test]
fn a_key_whose_lead_was_forgotten_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::well();
    let clock = Hands::new();
    let rig = Rig::limited(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock), keeping(1, 1, 1));
    let first = rig.submit("long ago", Some([7; 16])).unwrap();
    rig.live(5_000);
    clock.advance(40 * DAY_MS);
    rig.capture("today");
    eventually("the first is forgotten", || rig.store.read(|v| v.leads(i64::MAX, 10)).unwrap().len() == 1);
    let again = rig.submit("today", Some([7; 16])).expect("the lead is taken");
    assert!(!again.repeated && again.lead_id != first.lead_id, "{again:?}");
    assert_eq!(rig.submit("today", Some([7; 16])).unwrap().lead_id, again.lead_id);
    rig.writer.stop();
}

#[test]
fn forgotten_room_goes_back_to_the_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| Reply::status(200));
    let clock = Hands::new();
    let rig = Rig::limited(folder.path(), &receiver.url(), Policy::default(), Arc::clone(&clock), keeping(30, 30, 0));
    for n in 0..800 {
        rig.capture(&format!("visitor {n} {}", noise(4000)));
    }
    rig.live(60_000);
    let size = || std::fs::metadata(folder.path().join("leads.db")).unwrap().len();
    clock.advance(40 * DAY_MS);
    rig.capture("today");
    eventually("the leads are forgotten", || rig.store.read(|v| v.leads(i64::MAX, 10)).unwrap().len() == 1);
    idle();
    rig.writer.stop();
    assert!(size() < 2 << 20, "{} bytes are kept for one lead", size());
}
