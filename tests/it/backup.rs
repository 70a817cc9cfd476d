//! Backups: made beside a running daemon, taken back without sending anything twice; `check` and `repair` on good files and bad ones.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, Reply, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

fn leads(home: &Home) -> BTreeSet<String> {
    let kept = home.ok(&["leads", "export", "--format", "json"]);
    kept.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["id"].as_str().unwrap().to_owned()).collect()
}

fn storage(client: &Client) -> Value {
    client.get("/readyz").json()["storage"].clone()
}

fn drained(client: &Client) {
    eventually("nothing is left to do", || {
        let ready = client.get("/readyz").json();
        ready["destinations"].as_array().unwrap().iter().all(|d| d["waiting"] == 0)
    });
}

/// How often each event was taken.
fn taken(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for delivery in receiver.taken() {
        *times.entry(delivery.event_id().to_owned()).or_default() += 1;
    }
    times
}

fn sql(home: &Home, text: &str) {
    rusqlite::Connection::open(home.database()).unwrap().execute_batch(text).unwrap();
}

#[track_caller]
fn fails(home: &Home, args: &[&str], said: &str) {
    let output = home.run(args);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
    assert!(text.contains(said), "{args:?}: {text}");
}

#[test]
fn a_backup_under_load_holds_every_lead_acknowledged_before_it_and_is_whole() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let stop = AtomicBool::new(false);
    let target = home.path("copy.db");
    let before: Vec<String> = std::thread::scope(|scope| {
        for _ in 0..3 {
            let (client, stop) = (Client::new(daemon.address), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    client.lead(&json!({"name":"Meanwhile","message":"m".repeat(600)}));
                }
            });
        }
        let client = Client::new(daemon.address);
        let before = (0..200).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).0).collect();
        let said = home.ok(&["backup", target.to_str().unwrap()]);
        stop.store(true, Ordering::Relaxed);
        assert!(said.contains("checked"), "{said}");
        before
    });
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!home.path("copy.db.part").exists());
    fails(&home, &["backup", target.to_str().unwrap()], "such a file already");
    daemon.stop();
    let other = Home::new("");
    std::fs::copy(&target, other.database()).unwrap();
    assert!(other.ok(&["check"]).contains("whole"));
    let there = leads(&other);
    assert!(before.iter().all(|id| there.contains(id)), "a lead is not in the backup");
}

#[test]
fn restoring_sends_nothing_again_and_loses_nothing() {
    let (crm, mut slow) = (Receiver::well(), Receiver::well());
    slow.down();
    let destinations = Home::webhook("crm", &crm.url(), "") + &Home::webhook("slow", &slow.url(), "");
    let home = Home::new(&destinations);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    // Some are delivered to one of them, none to the other.
    let mut ids: Vec<String> = (0..20).map(|n| client.lead(&json!({"name":format!("Before {n}")})).0).collect();
    eventually("delivered to one", || crm.taken().len() == 20);
    crm.script(|_| Reply::status(500));
    ids.extend((0..20).map(|n| client.lead(&json!({"name":format!("Between {n}")})).0));
    let copy = home.path("copy.db");
    home.ok(&["backup", copy.to_str().unwrap()]);
    fails(&home, &["restore", copy.to_str().unwrap()], "another leadsbotd is running");
    // Now everything that waits in the backup is delivered, and there is more.
    crm.script(|_| Reply::status(200));
    slow.up();
    ids.extend((0..20).map(|n| client.lead(&json!({"name":format!("After {n}")})).0));
    assert_eq!(client.json("PATCH", &format!("/api/v1/leads/{}", ids[0]), &json!({"name":"Changed since"})).status, 200);
    drained(&client);
    home.ok(&["queue", "pause", "crm"]);
    ids.push(client.lead(&json!({"name":"Not delivered yet"})).0);
    daemon.stop();
    // Half of what was delivered is also forgotten.
    sql(&home, "DELETE FROM history WHERE event % 2 = 0");
    let (to_crm, to_slow) = (taken(&crm), taken(&slow));
    let said = home.ok(&["restore", copy.to_str().unwrap()]);
    assert!(said.contains("leads.db.replaced-"), "{said}");
    assert!(home.ok(&["check"]).contains("whole"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let slow_now = |client: &Client| client.get("/readyz").json()["destinations"][1]["waiting"].clone();
    eventually("the other one is done", || slow_now(&client) == 0);
    assert_eq!(client.get("/readyz").json()["destinations"][0]["state"], "paused");
    home.ok(&["queue", "resume", "crm"]);
    drained(&client);
    assert_eq!(client.get(&format!("/api/v1/leads/{}", ids[0])).json()["name"], "Changed since");
    daemon.stop();
    let there = leads(&home);
    assert!(ids.iter().all(|id| there.contains(id)), "a lead is gone");
    let (crm_then, slow_then) = (taken(&crm), taken(&slow));
    let again = |then: &BTreeMap<String, usize>, was: &BTreeMap<String, usize>| {
        then.iter().filter(|(id, n)| was.get(*id).is_some_and(|before| before < n)).count()
    };
    assert_eq!((again(&crm_then, &to_crm), again(&slow_then, &to_slow)), (0, 0), "something was sent again");
    assert_eq!((crm_then.len(), slow_then.len()), (62, 62), "something was not sent");
}

#[test]
fn a_database_that_went_another_way_since_their_common_backup_takes_nothing_from_the_restored_one() {
    let mut receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    Daemon::start(&home).stop();
    let (common, first) = (home.path("common.db"), home.path("first.db"));
    home.ok(&["backup", common.to_str().unwrap()]);
    receiver.down();
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let kept: BTreeSet<String> = (0..3).map(|n| client.lead(&json!({"name":format!("First way {n}")})).0).collect();
    daemon.stop();
    home.ok(&["backup", first.to_str().unwrap()]);
    // Another card, begun from the common backup: its events have the numbers of the first three, and are delivered.
    for name in ["leads.db", "leads.db-wal", "leads.db-shm"] {
        let _ = std::fs::remove_file(home.path(name));
    }
    home.ok(&["restore", common.to_str().unwrap()]);
    receiver.up();
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let other: BTreeSet<String> = (0..3).map(|n| client.lead(&json!({"name":format!("Second way {n}")})).0).collect();
    drained(&client);
    daemon.stop();
    let said = home.ok(&["restore", first.to_str().unwrap()]);
    assert!(said.contains("it is another one"), "{said}");
    let daemon = Daemon::start(&home);
    drained(&Client::new(daemon.address));
    daemon.stop();
    assert_eq!(leads(&home), kept);
    let arrived: BTreeSet<String> = receiver.taken().iter().map(|d| d.json()["data"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(arrived, kept.union(&other).cloned().collect(), "a lead never arrived");
}

#[test]
fn a_restore_cut_off_at_any_rename_is_finished_by_the_next_start() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut ids: Vec<String> = (0..5).map(|n| client.lead(&json!({"name":format!("Before {n}")})).0).collect();
    let copy = home.path("copy.db");
    home.ok(&["backup", copy.to_str().unwrap()]);
    ids.extend((0..5).map(|n| client.lead(&json!({"name":format!("After {n}")})).0));
    drained(&client);
    daemon.stop();
    home.ok(&["restore", copy.to_str().unwrap()]);
    let note: Value = serde_json::from_slice(&std::fs::read(home.path("leads.db.damage")).unwrap()).unwrap();
    let aside = home.path(note["files"][0]["file"].as_str().unwrap());
    let restored = std::fs::read(&copy).unwrap();
    let former = std::fs::read(&aside).unwrap();
    let mut undone = note.clone();
    undone["files"][0]["done"] = false.into();
    for step in 0..3 {
        for name in ["leads.db", "leads.db-wal", "leads.db-shm", "leads.db.restore"] {
            let _ = std::fs::remove_file(home.path(name));
        }
        let _ = std::fs::remove_file(&aside);
        std::fs::write(home.path("leads.db.damage"), undone.to_string()).unwrap();
        // Nothing renamed yet; the former one put aside; the backup in its place.
        std::fs::write(if step == 0 { home.database() } else { aside.clone() }, &former).unwrap();
        std::fs::write(if step == 2 { home.database() } else { home.path("leads.db.restore") }, &restored).unwrap();
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        drained(&client);
        assert_eq!(storage(&client)["state"], "ok");
        daemon.stop();
        assert!(aside.exists(), "step {step}");
        assert_eq!(leads(&home), ids.iter().cloned().collect(), "step {step}");
        assert_eq!(receiver.taken().len(), 10, "step {step}: something was sent again");
    }
}

#[test]
fn a_backup_of_another_lineage_or_a_bad_one_is_told_from_a_good_one() {
    let (home, other) = (Home::new(""), Home::new(""));
    let mut kept = Vec::new();
    for h in [&home, &other] {
        let daemon = Daemon::start(h);
        kept.push(Client::new(daemon.address).lead(&json!({"name":"Someone"})).0);
        h.ok(&["backup", h.path("copy.db").to_str().unwrap()]);
        daemon.stop();
    }
    let text = home.path("text");
    std::fs::write(&text, "no database").unwrap();
    fails(&home, &["restore", text.to_str().unwrap()], "no database of leadsbotd");
    let mut bytes = std::fs::read(home.path("copy.db")).unwrap();
    let end = bytes.len();
    bytes[end - 4096..].fill(7);
    std::fs::write(&text, bytes).unwrap();
    fails(&home, &["restore", text.to_str().unwrap()], "not whole");
    assert_eq!(leads(&home), [kept[0].clone()].into(), "a bad backup changes nothing");
    let said = home.ok(&["restore", other.path("copy.db").to_str().unwrap()]);
    assert!(said.contains("may be sent again"), "{said}");
    assert_eq!(leads(&home), [kept[1].clone()].into());
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Goes on"}));
}

#[test]
fn check_names_rows_that_do_not_fit_together_and_repair_puts_them_right() {
    let mut receiver = Receiver::well();
    receiver.down();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (lead, event) = client.lead(&json!({"name":"Visitor"}));
    client.lead(&json!({"name":"Another"}));
    assert!(home.ok(&["check"]).contains("whole"), "beside the daemon too");
    daemon.stop();
    assert!(home.ok(&["repair"]).contains("nothing is wrong"));
    for (broken, said) in [
        ("INSERT INTO ready (dest, event) VALUES (1, 999)", "its event is not there"),
        ("INSERT INTO history VALUES (1, 1, 0, 1, 'delivered', 200)", "is in ready and in history"),
        ("INSERT INTO ready (dest, event) VALUES (77, 1)", "destination that nobody knows"),
        (
            "DELETE FROM ready WHERE event = 2; INSERT INTO waiting VALUES (1, 2, 9223372036854775807, 0, 0, 0, NULL, NULL)",
            "nothing it could wait for",
        ),
        ("UPDATE event SET body = x'00' WHERE seq = 2", "not the JSON of an event"),
        ("UPDATE event SET random = 1 WHERE seq = 2", "another id than its row"),
        ("INSERT INTO lead VALUES (500, 1, 0, x'7b7d')", "has no event that made it"),
    ] {
        let saved = std::fs::read(home.database()).unwrap();
        sql(&home, broken);
        fails(&home, &["check"], said);
        let output = home.run(&["--json", "check"]);
        let lines: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(lines["database_faults"][0].as_str().unwrap().contains(said), "{lines}");
        for name in ["leads.db-wal", "leads.db-shm"] {
            let _ = std::fs::remove_file(home.path(name));
        }
        std::fs::write(home.database(), saved).unwrap();
    }
    sql(&home, "INSERT INTO ready (dest, event) VALUES (1, 999)");
    let daemon = Daemon::start(&home);
    fails(&home, &["repair"], "another leadsbotd is running");
    daemon.stop();
    let said = home.ok(&["repair"]);
    assert!(said.contains("leads.db.damaged-") && said.contains("2 leads"), "{said}");
    assert!(home.ok(&["check"]).contains("whole"));
    assert!(String::from_utf8_lossy(&home.run(&["queue", "status"]).stderr).contains("was put aside as"));
    assert!(leads(&home).contains(&lead));
    receiver.up();
    let _daemon = Daemon::start(&home);
    eventually("it arrives under its id", || receiver.taken().iter().any(|d| d.event_id() == event));
}

#[test]
fn a_restored_database_that_loses_its_first_page_is_saved_like_any_other() {
    let home = Home::new("");
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let ids: BTreeSet<String> = (0..30).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).0).collect();
    home.ok(&["backup", home.path("copy.db").to_str().unwrap()]);
    daemon.stop();
    home.ok(&["restore", home.path("copy.db").to_str().unwrap()]);
    let mut bytes = std::fs::read(home.database()).unwrap();
    bytes[..1024].fill(0);
    std::fs::write(home.database(), bytes).unwrap();
    assert!(home.ok(&["repair"]).contains("30 leads"));
    assert_eq!(leads(&home), ids);
}
