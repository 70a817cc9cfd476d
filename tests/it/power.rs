//! Power cuts, as far as a process can have them: kill -9 at any moment, then a start from what the disk holds.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, Reply, SECRET, eventually};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn kill_9_under_load_loses_no_acknowledged_lead_and_changes_no_id() {
    let receiver = Receiver::start(|_| Reply::status(if fastrand::u8(..) < 30 { 503 } else { 200 }));
    let home = Home::new(&Home::webhook("crm", &receiver.url(), "workers = 3"));
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..8 {
        let daemon = Daemon::start(&home);
        let (stop, taken) = (AtomicBool::new(false), AtomicBool::new(false));
        let got: Vec<(String, String)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|t| {
                    let (client, stop, taken) = (Client::new(daemon.address), &stop, &taken);
                    scope.spawn(move || {
                        let mut got = Vec::new();
                        for n in 0.. {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                            match client.try_json("POST", "/api/v1/leads", &json!({"name":format!("{round}-{t}-{n}")})) {
                                Some(a) if a.status == 201 => {
                                    let ids = a.json();
                                    taken.store(true, Ordering::Relaxed);
                                    got.push((ids["event_id"].as_str().unwrap().to_owned(), ids["id"].as_str().unwrap().to_owned()));
                                }
                                _ => break,
                            }
                        }
                        got
                    })
                })
                .collect();
            eventually("the first lead is taken", || taken.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(100 + 40 * round));
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        assert!(!got.is_empty(), "the round took no lead at all");
        // The daemon counts its short lives there; this test is not about the pause that many of them bring.
        std::fs::remove_file(home.path("leads.db.lock")).unwrap();
        acknowledged.extend(got);
    }
    receiver.script(|_| Reply::status(200));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let arrived = || receiver.taken().iter().map(|d| d.event_id().to_owned()).collect::<BTreeSet<_>>();
    eventually("every acknowledged lead is delivered", || {
        let arrived = arrived();
        acknowledged.keys().all(|id| arrived.contains(id))
    });
    let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for d in receiver.seen() {
        assert!(d.verified(SECRET));
        assert_eq!(*bodies.entry(d.event_id().to_owned()).or_insert_with(|| d.body.clone()), d.body, "an id came with other bytes");
    }
    for (event, lead) in &acknowledged {
        let body: serde_json::Value = serde_json::from_slice(&bodies[event]).unwrap();
        assert_eq!(body["data"]["id"], lead.as_str());
    }
    let kept = home.ok(&["leads", "export", "--format", "json"]);
    let kept: BTreeSet<String> =
        kept.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["id"].as_str().unwrap().to_owned()).collect();
    assert!(acknowledged.values().all(|id| kept.contains(id)));
    eventually("nothing is left to do", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    // What was delivered but not yet noted when the power went was sent again: no more than the window, each cut.
    let twice = receiver.taken().len() - arrived().len();
    assert!(twice <= 8 * 256, "{twice} deliveries were made twice");
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(home.ok(&["check"]).contains("whole"));
}

#[test]
fn a_second_daemon_on_the_same_database_is_refused() {
    let home = Home::new("");
    let _daemon = Daemon::start(&home);
    let second = home.run(&["serve"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another leadsbotd is running"));
}

#[test]
fn a_newer_database_is_refused_and_left_alone_and_commands_touch_no_foreign_one() {
    let home = Home::new("");
    for (sql, said) in [
        ("CREATE TABLE theirs (a); PRAGMA user_version = 3;", "another program"),
        ("CREATE TABLE event (a); PRAGMA application_id = 1281712484; PRAGMA user_version = 99;", "newer leadsbotd"),
    ] {
        let _ = std::fs::remove_file(home.database());
        rusqlite::Connection::open(home.database()).unwrap().execute_batch(sql).unwrap();
        let listed = home.run(&["leads", "list"]);
        assert!(String::from_utf8_lossy(&listed.stderr).contains(said));
        let tables: i64 =
            rusqlite::Connection::open(home.database()).unwrap().query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).unwrap();
        assert_eq!(tables, 1);
    }
    let started = home.run(&["serve"]);
    assert_eq!(started.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&started.stderr).contains("newer leadsbotd"));
}

#[test]
fn a_daemon_that_dies_again_and_again_takes_leads_at_once_and_delivers_ever_later() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    for _ in 0..3 {
        Daemon::start(&home).kill();
    }
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"In a crash loop"}));
    assert!(daemon.log().contains("deliveries begin in 5 s, leads are taken at once"), "{}", daemon.log());
    assert_eq!(receiver.seen().len(), 0);
    eventually("it is delivered after the pause", || receiver.taken().len() == 1);
    assert_eq!(daemon.stop().0, Some(0));
    let daemon = Daemon::start(&home);
    assert!(!daemon.log().contains("deliveries begin in"), "an orderly stop ends the count");
    daemon.stop();
}

#[test]
fn a_repair_by_hand_is_no_daemon_that_fell_over() {
    let home = Home::new("");
    Daemon::start(&home).stop();
    for _ in 0..4 {
        home.ok(&["repair", "--force"]);
    }
    let daemon = Daemon::start(&home);
    assert!(!daemon.log().contains("deliveries begin in"), "{}", daemon.log());
    daemon.stop();
}
