//! Damage: whatever lies where the database should be, the next lead is taken, and what can be read of the old ones is not lost.

use crate::support::http::Client;
use crate::support::rig::Rig;
use crate::support::{Daemon, Home, Receiver, Reply, SECRET, eventually};
use leadsbotd::retry::Policy;
use leadsbotd::store::Counts;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const PAGE: usize = 4096;

/// An event as it was before the damage.
struct Known {
    id: String,
    lead: String,
    kind: String,
    score: i64,
    body: Vec<u8>,
    /// The page its bytes lie on, when they lie on one.
    page: Option<usize>,
}

/// A database with something of everything, and what beside it must survive.
struct Filled {
    database: Vec<u8>,
    identity: Vec<u8>,
    events: Vec<Known>,
}

fn destinations(crm: &str, slow: &str, picky: &str) -> String {
    Home::webhook("crm", crm, "") + &Home::webhook("slow", slow, "") + &Home::webhook("picky", picky, "when = \"data.score >= 50\"")
}

fn visitor(n: usize) -> Value {
    json!({"name":format!("Visitor {n}"),"score":n % 100,"message":"m".repeat(n * 7 % 1500),"_submission_id":format!("s-{n}")})
}

/// Leads, changes and submission keys; everything is delivered to one destination, nothing to the second, some of it to the third.
fn filled() -> &'static Filled {
    static FILLED: OnceLock<Filled> = OnceLock::new();
    FILLED.get_or_init(|| {
        let (crm, picky) = (Receiver::well(), Receiver::start(|_| Reply::status(500)));
        let mut slow = Receiver::well();
        slow.down();
        let home = Home::new(&destinations(&crm.url(), &slow.url(), &picky.url()));
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        let mut sent = 0;
        for n in 0..400 {
            let (lead, _) = client.lead(&visitor(n));
            sent += 1;
            if n % 10 == 0 {
                assert_eq!(client.json("PATCH", &format!("/api/v1/leads/{lead}"), &json!({"name":format!("Changed {n}")})).status, 200);
                sent += 1;
            }
        }
        eventually("all is delivered to one of them", || crm.taken().len() == sent);
        daemon.stop();
        let database = std::fs::read(home.database()).unwrap();
        let identity = std::fs::read(home.path("leads.db.identity")).unwrap();
        let conn = rusqlite::Connection::open(home.database()).unwrap();
        let mut statement = conn.prepare("SELECT kind, body FROM event ORDER BY seq").unwrap();
        let rows = statement.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, Vec<u8>>(1)?))).unwrap();
        let events = rows
            .map(|row| {
                let (kind, stored) = row.unwrap();
                let body = leadsbotd::store::unpack(&stored).unwrap().into_owned();
                let value: Value = serde_json::from_slice(&body).unwrap();
                let text = |at: &str| value.pointer(at).unwrap().as_str().unwrap().to_owned();
                let at = database.windows(stored.len()).position(|w| w == stored);
                let page = at.map(|at| at / PAGE + 1).filter(|_| stored.len() < PAGE / 2);
                Known { id: text("/id"), lead: text("/data/id"), kind, score: value["data"]["score"].as_i64().unwrap(), body, page }
            })
            .collect();
        Filled { database, identity, events }
    })
}

/// A home with the filled database as `ruin` has left it.
struct Ruined {
    home: Home,
    crm: Receiver,
    slow: Receiver,
    picky: Receiver,
}

impl Ruined {
    fn new(identity: bool, ruin: impl FnOnce(&mut Vec<u8>)) -> Self {
        let (crm, slow, picky) = (Receiver::well(), Receiver::well(), Receiver::well());
        // Another order than before: numbers must go by name.
        let home = Home::new("");
        let more = destinations(&picky.url(), &crm.url(), &slow.url());
        let more =
            more.replace("\"crm\"", "\"P\"").replace("\"slow\"", "\"crm\"").replace("\"picky\"", "\"slow\"").replace("\"P\"", "\"picky\"");
        let more = more.replace("when = \"data.score >= 50\"", "");
        let more = more.replacen(&format!("secret = \"{SECRET}\""), &format!("secret = \"{SECRET}\"\nwhen = \"data.score >= 50\""), 1);
        home.configure(&more);
        let mut database = filled().database.clone();
        ruin(&mut database);
        std::fs::write(home.database(), database).unwrap();
        if identity {
            std::fs::write(home.path("leads.db.identity"), &filled().identity).unwrap();
        }
        Self { home, crm, slow, picky }
    }

    fn aside(&self) -> Vec<PathBuf> {
        put_aside(&self.home)
    }
}

/// The files that were put aside, without their logs.
fn put_aside(home: &Home) -> Vec<PathBuf> {
    let folder = home.path("");
    let named = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().contains(".damaged-");
    let log = |p: &PathBuf| ["-wal", "-shm"].iter().any(|s| p.to_string_lossy().ends_with(s));
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| named(p) && !log(p)).collect()
}

fn storage(client: &Client) -> Value {
    client.get("/readyz").json()["storage"].clone()
}

/// Starts, takes a lead, and waits until everything that can be saved has been and nothing is left to send.
fn recover(ruined: &Ruined) -> (Daemon, Client, Value) {
    let daemon = Daemon::start(&ruined.home);
    let client = Client::new(daemon.address);
    let (_, fresh) = client.lead(&json!({"name":"Just now","score":99}));
    eventually("all that can be read is carried over", || storage(&client)["state"] == "salvaged");
    eventually("nothing is left to do", || {
        let ready = client.get("/readyz").json();
        ready["destinations"].as_array().unwrap().iter().all(|d| d["waiting"] == 0)
    });
    eventually("the new lead has arrived", || ruined.slow.taken().iter().any(|d| d.event_id() == fresh));
    let storage = storage(&client);
    (daemon, client, storage)
}

/// Every event whose page is not among the `touched` is there and has arrived, byte by byte; nothing went where it should not.
#[track_caller]
fn nothing_more_is_lost(ruined: &Ruined, touched: &BTreeSet<usize>) {
    let kept = ruined.home.ok(&["leads", "export", "--format", "json"]);
    let leads: BTreeSet<String> =
        kept.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["id"].as_str().unwrap().to_owned()).collect();
    let arrived: BTreeMap<String, Vec<u8>> = ruined.slow.taken().into_iter().map(|d| (d.event_id().to_owned(), d.body)).collect();
    for event in filled().events.iter().filter(|e| e.page.is_some_and(|p| !touched.contains(&p))) {
        assert!(event.kind != "lead.created" || leads.contains(&event.lead), "{} on page {:?} is gone", event.lead, event.page);
        assert!(arrived.get(&event.id) == Some(&event.body), "{} on page {:?} has not arrived as it was", event.id, event.page);
    }
    let scores: BTreeMap<&str, i64> = filled().events.iter().map(|e| (e.id.as_str(), e.score)).collect();
    for delivery in ruined.picky.seen() {
        assert!(scores.get(delivery.event_id()).is_none_or(|s| *s >= 50), "{} went to the wrong destination", delivery.event_id());
    }
    for delivery in ruined.crm.seen().into_iter().chain(ruined.slow.seen()) {
        assert!(delivery.verified(SECRET));
        assert_eq!(delivery.json()["id"], delivery.event_id(), "an id has changed");
    }
}

fn ruin_page(database: &mut [u8], page: usize, random: &mut fastrand::Rng) {
    let zeros = random.bool();
    for byte in database.iter_mut().skip((page - 1) * PAGE).take(PAGE) {
        *byte = if zeros { 0 } else { random.u8(..) };
    }
}

#[test]
fn whatever_pages_are_ruined_the_next_lead_is_taken_and_those_on_whole_pages_arrive() {
    let base: u64 = std::env::var("LEADSBOT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let trials: u64 = std::env::var("LEADSBOT_RUINS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let pages = filled().database.len() / PAGE;
    for trial in 0..trials {
        let mut random = fastrand::Rng::with_seed(base.wrapping_add(trial));
        let mut touched = BTreeSet::new();
        for _ in 0..random.usize(1..20) {
            touched.insert(random.usize(1..=pages));
        }
        // The roots of the trees, and the map of pages, are at the beginning.
        if trial == 0 {
            // Of these roots the others alone say which layout it is; once the wrong one was taken, and everything was lost.
            touched.extend([1, 8, 14, 16]);
        } else if trial % 2 == 0 {
            touched.insert(random.usize(1..20));
        }
        eprintln!("LEADSBOT_SEED={base}, trial {trial}: pages {touched:?} of {pages}");
        let ruined = Ruined::new(true, |database| touched.iter().for_each(|p| ruin_page(database, *p, &mut random)));
        let daemon = Daemon::start(&ruined.home);
        if put_aside(&ruined.home).is_empty() {
            // Only pages were hit that nothing uses.
            continue;
        }
        daemon.kill();
        let (_daemon, ..) = recover(&ruined);
        nothing_more_is_lost(&ruined, &touched);
    }
}

#[test]
fn the_first_pages_ruined_together_cost_no_lead() {
    for identity in [true, false] {
        let touched: BTreeSet<usize> = if identity { (1..=4).collect() } else { [1].into() };
        let mut random = fastrand::Rng::with_seed(1);
        let ruined = Ruined::new(identity, |database| touched.iter().for_each(|p| ruin_page(database, *p, &mut random)));
        let (daemon, _, storage) = recover(&ruined);
        assert_eq!(storage["put_aside"][0]["events"], filled().events.len(), "{storage}");
        assert_eq!(storage["put_aside"][0]["rows_lost"], 0);
        nothing_more_is_lost(&ruined, &touched);
        let (_, log) = daemon.stop();
        assert!(log.contains("was put aside as leads.db.damaged-") && !log.contains("Visitor"), "{log}");
    }
}

#[test]
fn any_table_that_loses_its_root_costs_no_lead_and_misleads_no_delivery() {
    let roots: Vec<(String, usize)> = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        std::fs::write(&path, &filled().database).unwrap();
        let conn = rusqlite::Connection::open(path).unwrap();
        let mut statement = conn.prepare("SELECT name, rootpage FROM sqlite_schema").unwrap();
        statement.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? as usize))).unwrap().map(Result::unwrap).collect()
    };
    assert!(roots.len() > 12);
    for (name, page) in roots {
        // Without the small file beside it, the names of the destinations are gone with their table.
        let identity = !["destination", "boot", "history"].contains(&name.as_str());
        let ruined = Ruined::new(identity, |database| ruin_page(database, page, &mut fastrand::Rng::with_seed(3)));
        let _daemon = recover(&ruined);
        eprintln!("{name} lost its root, page {page}");
        nothing_more_is_lost(&ruined, &[page].into());
    }
}

#[test]
fn a_file_cut_short_gives_what_is_left_of_it() {
    for share in [2, 3] {
        let keep = filled().database.len() / PAGE / share * PAGE + 100;
        let ruined = Ruined::new(true, |database| database.truncate(keep));
        let _daemon = recover(&ruined);
        let pages = filled().database.len() / PAGE;
        nothing_more_is_lost(&ruined, &(keep / PAGE + 1..=pages).collect());
    }
}

#[test]
fn a_file_that_is_no_database_of_ours_is_put_aside_and_leads_are_taken() {
    let foreign = {
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("theirs");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a); PRAGMA user_version = 3;").unwrap();
        std::fs::read(path).unwrap()
    };
    for (content, known_before) in
        [(b"shopping list\n".repeat(500), false), (vec![0; 8192], true), (Vec::new(), true), (foreign, false), (vec![b'x'; 100], true)]
    {
        let home = Home::new("");
        std::fs::write(home.database(), &content).unwrap();
        if known_before {
            std::fs::write(home.path("leads.db.identity"), &filled().identity).unwrap();
        }
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        let (lead, _) = client.lead(&json!({"name":"Just now"}));
        assert_eq!(client.get(&format!("/api/v1/leads/{lead}")).status, 200);
        let aside = put_aside(&home);
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert!(std::fs::read(&aside[0]).unwrap() == content, "what was put aside was touched");
        eventually("it says so", || storage(&client)["state"] == "salvaged");
        let (_, log) = daemon.stop();
        assert!(log.contains("ERROR") && log.contains("was put aside as"), "{log}");
        let daemon = Daemon::start(&home);
        assert_eq!(storage(&Client::new(daemon.address))["state"], "salvaged", "for as long as the file lies there");
        std::fs::remove_file(&aside[0]).unwrap();
        assert_eq!(storage(&Client::new(daemon.address))["state"], "ok");
        daemon.stop();
    }
}

#[test]
fn a_file_that_only_cannot_be_read_now_or_is_newer_is_left_where_it_is() {
    let newer = |path: &Path| {
        let conn = rusqlite::Connection::open(path).unwrap();
        conn.execute_batch("PRAGMA user_version = 99").unwrap();
    };
    let home = Home::new("");
    std::fs::write(home.database(), &filled().database).unwrap();
    newer(&home.database());
    let before = std::fs::read(home.database()).unwrap();
    let started = home.run(&["serve"]);
    assert_eq!(started.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&started.stderr).contains("newer leadsbotd"));
    assert!(std::fs::read(home.database()).unwrap() == before, "it was touched");
    assert!(put_aside(&home).is_empty());
    // A folder in its place cannot be read by anyone, root included.
    let home = Home::new("");
    std::fs::create_dir(home.database()).unwrap();
    assert_eq!(home.run(&["serve"]).status.code(), Some(1));
    assert!(home.database().is_dir() && put_aside(&home).is_empty());
}

#[test]
fn a_repeated_submission_gets_its_first_ids_from_the_damaged_file() {
    let mut random = fastrand::Rng::with_seed(5);
    let ruined = Ruined::new(true, |database| ruin_page(database, 1, &mut random));
    let (_daemon, client, _) = recover(&ruined);
    let first = &filled().events.iter().rfind(|e| e.kind == "lead.created").unwrap();
    let again = client.json("POST", "/api/v1/leads", &visitor(399));
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(first.lead.as_str())), "{}", again.body);
}

#[test]
fn a_pause_and_a_changed_lead_survive_the_damage() {
    let mut random = fastrand::Rng::with_seed(6);
    let ruined = Ruined::new(true, |_| ());
    ruined.home.ok(&["queue", "pause", "slow"]);
    let mut database = std::fs::read(ruined.home.database()).unwrap();
    ruin_page(&mut database, 2, &mut random);
    std::fs::write(ruined.home.database(), database).unwrap();
    let daemon = Daemon::start(&ruined.home);
    let client = Client::new(daemon.address);
    eventually("all that can be read is carried over", || storage(&client)["state"] == "salvaged");
    let slow = |client: &Client| {
        let ready = client.get("/readyz").json();
        ready["destinations"].as_array().unwrap().iter().find(|d| d["name"] == "slow").unwrap().clone()
    };
    assert_eq!(slow(&client)["state"], "paused");
    assert_eq!(slow(&client)["waiting"], filled().events.len());
    assert!(ruined.slow.seen().is_empty());
    let changed = filled().events.iter().find(|e| e.kind == "lead.updated").unwrap();
    assert_eq!(client.get(&format!("/api/v1/leads/{}", changed.lead)).json()["name"], "Changed 0");
    ruined.home.ok(&["queue", "resume", "slow"]);
    eventually("all arrives", || slow(&client)["waiting"] == 0);
    nothing_more_is_lost(&ruined, &[2].into());
}

#[test]
fn killed_in_the_middle_of_saving_it_goes_on_at_the_next_start() {
    let mut random = fastrand::Rng::with_seed(7);
    let ruined = Ruined::new(true, |database| {
        ruin_page(database, 1, &mut random);
        ruin_page(database, 40, &mut random);
    });
    for pause in [0, 30, 60, 120, 250] {
        let daemon = Daemon::start(&ruined.home);
        std::thread::sleep(std::time::Duration::from_millis(pause));
        daemon.kill();
    }
    let _daemon = recover(&ruined);
    assert_eq!(ruined.aside().len(), 1);
    nothing_more_is_lost(&ruined, &[1, 40].into());
}

#[test]
fn put_aside_half_way_it_is_finished_by_the_next_start() {
    let mut random = fastrand::Rng::with_seed(8);
    let ruined = Ruined::new(true, |database| ruin_page(database, 2, &mut random));
    let damaged = std::fs::read(ruined.home.database()).unwrap();
    let (daemon, ..) = recover(&ruined);
    daemon.stop();
    let note = std::fs::read_to_string(ruined.home.path("leads.db.damage")).unwrap().replace("\"done\": true", "\"done\": false");
    let aside = ruined.aside().remove(0);
    // Noted and not yet renamed; renamed and no fresh one yet; the fresh one begun; and the note ruined in the end.
    for step in 0..4 {
        for name in ["leads.db", "leads.db-wal", "leads.db-shm"] {
            let _ = std::fs::remove_file(ruined.home.path(name));
        }
        let _ = std::fs::remove_file(&aside);
        std::fs::write(ruined.home.path("leads.db.damage"), if step == 3 { "{" } else { &note }).unwrap();
        std::fs::write(if step == 0 { ruined.home.database() } else { aside.clone() }, &damaged).unwrap();
        if step == 2 {
            std::fs::write(ruined.home.database(), "").unwrap();
        }
        let (daemon, _, storage) = recover(&ruined);
        assert_eq!(storage["put_aside"][0]["events"], filled().events.len(), "step {step}: {storage}");
        assert_eq!(ruined.aside().len(), 1, "step {step}");
        nothing_more_is_lost(&ruined, &[2].into());
        daemon.stop();
    }
}

#[test]
fn damage_that_stops_the_writer_ends_the_daemon_and_the_next_start_saves() {
    let ruined = Ruined::new(true, |_| ());
    ruined.home.ok(&["queue", "pause", "crm"]);
    let mut daemon = Daemon::start(&ruined.home);
    let client = Client::new(daemon.address);
    let mut database = std::fs::read(ruined.home.database()).unwrap();
    let root: i64 = {
        let conn = rusqlite::Connection::open_with_flags(ruined.home.database(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'event'", [], |r| r.get(0)).unwrap()
    };
    ruin_page(&mut database, root as usize, &mut fastrand::Rng::with_seed(1));
    let at = (root as usize - 1) * PAGE;
    let file = std::fs::File::options().write(true).open(ruined.home.database()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &database[at..at + PAGE], at as u64).unwrap();
    // Another process's change makes the writer read the file again.
    ruined.home.ok(&["queue", "resume", "crm"]);
    let mut acknowledged = Vec::new();
    eventually("it ends", || {
        let answer = client.try_json("POST", "/api/v1/leads", &json!({"name":"Refused, or kept"}));
        acknowledged.extend(answer.filter(|a| a.status == 201).map(|a| a.json()["id"].as_str().unwrap().to_owned()));
        daemon.ended()
    });
    assert!(daemon.log().contains("stopping, to be started again: the database is damaged"), "{}", daemon.log());
    drop(daemon);
    let (_daemon, client, _) = recover(&ruined);
    for id in acknowledged {
        assert_eq!(client.get(&format!("/api/v1/leads/{id}")).status, 200, "{id} was acknowledged");
    }
    nothing_more_is_lost(&ruined, &[root as usize].into());
}

#[test]
fn everything_in_a_whole_file_comes_over_as_it_is() {
    let ruined = Ruined::new(true, |_| ());
    let before = everything(&ruined.home.database());
    assert!(ruined.home.ok(&["repair", "--force"]).contains("0 rows lost"));
    let after = everything(&ruined.home.database());
    for (table, rows) in &before {
        assert!(after.get(table) == Some(rows), "{table} differs: {} rows, now {}", rows.len(), after[table].len());
    }
    assert_eq!(before, everything(&ruined.aside()[0]), "what was put aside has changed");
}

/// What is to be carried over, as SQLite sees it.
fn everything(path: &Path) -> BTreeMap<&'static str, BTreeSet<String>> {
    let conn = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let list = |sql: &str| -> BTreeSet<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let columns = statement.column_count();
        let row = |r: &rusqlite::Row<'_>| Ok((0..columns).map(|c| format!("{:?} ", r.get_ref(c).unwrap())).collect::<String>());
        statement.query_map([], row).unwrap().map(Result::unwrap).collect()
    };
    BTreeMap::from([
        ("event", list("SELECT * FROM event")),
        ("lead", list("SELECT * FROM lead")),
        ("submission", list("SELECT digest, event FROM submission")),
        ("destination", list("SELECT dest, name, paused FROM destination")),
        ("pending", list("SELECT dest, event, 0 FROM ready UNION ALL SELECT dest, event, attempts FROM waiting")),
        ("rendered", list("SELECT * FROM rendered")),
        ("dead", list("SELECT * FROM dead")),
        ("history", list("SELECT * FROM history")),
        ("id_key", list("SELECT value FROM meta WHERE key = 'id_key'")),
    ])
}

#[test]
fn damage_in_a_large_file_is_said_while_leads_are_taken_and_saved_from_at_the_next_start() {
    let ruined = Ruined::new(true, |_| ());
    let page = {
        let conn = rusqlite::Connection::open(ruined.home.database()).unwrap();
        let grow = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 11000)
                    INSERT INTO rendered SELECT 999, i, zeroblob(900) FROM n; DELETE FROM rendered;";
        conn.execute_batch(grow).unwrap();
        // Nothing reads this tree before somebody sends a key.
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'submission'", [], |r| r.get::<_, i64>(0)).unwrap() as usize
    };
    let mut database = std::fs::read(ruined.home.database()).unwrap();
    assert!(database.len() > 8 << 20);
    ruin_page(&mut database, page, &mut fastrand::Rng::with_seed(9));
    std::fs::write(ruined.home.database(), database).unwrap();
    let daemon = Daemon::start(&ruined.home);
    let client = Client::new(daemon.address);
    eventually("it is found", || storage(&client)["state"] == "damaged");
    client.lead(&json!({"name":"Just now"}));
    assert!(ruined.aside().is_empty());
    assert!(String::from_utf8_lossy(&ruined.home.run(&["queue", "status"]).stderr).contains("is damaged"));
    let (_, log) = daemon.stop();
    assert!(log.contains("Restart the daemon soon"), "{log}");
    let (_daemon, ..) = recover(&ruined);
    nothing_more_is_lost(&ruined, &[page].into());
}

#[test]
fn a_damaged_file_of_the_first_schema_is_read_too() {
    let original = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/schema-1.db")).unwrap();
    let events: Vec<String> = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        std::fs::write(&path, &original).unwrap();
        let conn = rusqlite::Connection::open(path).unwrap();
        let mut statement = conn.prepare("SELECT body FROM event").unwrap();
        let rows = statement.query_map([], |r| r.get::<_, Vec<u8>>(0)).unwrap();
        rows.map(|b| serde_json::from_slice::<Value>(&b.unwrap()).unwrap()["id"].as_str().unwrap().to_owned()).collect()
    };
    for page in [1, 2] {
        let home = Home::new("");
        let mut database = original.clone();
        // Its pages are smaller.
        database[(page - 1) * 1024..page * 1024].fill(0xa5);
        std::fs::write(home.database(), database).unwrap();
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        client.lead(&json!({"name":"Just now"}));
        eventually("it is carried over", || storage(&client)["state"] == "salvaged");
        let aside = storage(&client)["put_aside"][0].clone();
        assert_eq!((aside["events"].as_u64(), aside["rows_lost"].as_u64()), (Some(events.len() as u64), Some(0)), "{aside}");
        assert_eq!((aside["dead"].as_u64(), aside["history"].as_u64()), (Some(10), Some(10)), "{aside}");
        assert_eq!(aside["pending"], 30, "{aside}");
        daemon.stop();
    }
}

#[test]
fn commits_behind_a_ruined_part_of_the_log_are_not_lost_in_silence() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let ids: Vec<String> = (0..60).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).0).collect();
    daemon.kill();
    let log = home.path("leads.db-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = 32 + bytes.len() / 2 / (PAGE + 24) * (PAGE + 24);
    bytes[middle..middle + PAGE].fill(0xa5);
    std::fs::write(&log, bytes).unwrap();
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    eventually("it is carried over", || storage(&client)["state"] == "salvaged");
    let there = ids.iter().filter(|id| client.get(&format!("/api/v1/leads/{id}")).status == 200).count();
    // The frame that is ruined may have been the only one with its page's latest rows.
    assert!(there >= ids.len() - 3, "{there} of {} are left", ids.len());
    daemon.stop();
}

#[test]
fn a_row_that_holds_something_else_keeps_no_other_delivery_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::well();
    let rig = Rig::new(folder.path(), &receiver.url(), Policy::default());
    let events: Vec<String> = (0..5).map(|n| rig.capture(&format!("visitor {n}"))).collect();
    // What one bit makes of the head of a row: the same bytes are a text now, or a text is bytes.
    let ruined = "UPDATE event SET body = CAST(body AS TEXT) WHERE seq = 1; UPDATE event SET kind = CAST(kind AS BLOB) WHERE seq = 2";
    rusqlite::Connection::open(folder.path().join("leads.db")).unwrap().execute_batch(ruined).unwrap();
    rig.live(60_000);
    let arrived: BTreeSet<String> = receiver.taken().iter().map(|d| d.event_id().to_owned()).collect();
    assert_eq!(arrived, [&events[0], &events[2], &events[3], &events[4]].into_iter().cloned().collect());
    assert!(rig.store.settle(std::time::Duration::from_secs(10)));
    assert_eq!(rig.store.read(|v| v.counts(1)).unwrap(), Counts { dead: 1, ..Counts::default() });
    rig.writer.stop();
}

#[test]
fn the_files_beside_the_database_are_readable_for_their_owner_alone() {
    let home = Home::new("");
    std::fs::write(home.database(), b"nonsense").unwrap();
    let daemon = Daemon::start(&home);
    daemon.stop();
    for name in ["leads.db", "leads.db.identity", "leads.db.damage"] {
        assert_eq!(std::fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_database_that_is_taken_away_takes_no_lead_and_nothing_that_was_kept_is_lost_with_it() {
    let files = |home: &Home, ends: &[&str]| ends.iter().for_each(|end| drop(std::fs::remove_file(home.path(&format!("leads.db{end}")))));
    for (name, kept) in [("moved", true), ("deleted", false), ("without its log", true)] {
        let home = Home::new("");
        let mut daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        let (lead, _) = client.lead(&json!({"name":"Before"}));
        let moved = home.path("moved.db");
        match name {
            "moved" => std::fs::rename(home.database(), &moved).unwrap(),
            "deleted" => files(&home, &["", "-wal", "-shm"]),
            _ => files(&home, &["-wal"]),
        }
        let refused = client.json("POST", "/api/v1/leads", &json!({"name":"After"}));
        assert_eq!((refused.status, refused.code().as_str()), (503, "storage_failed"), "{name}");
        assert_eq!(client.get("/healthz").status, 503, "{name}");
        eventually("it ends, so that it can be started again", || daemon.ended());
        assert!(daemon.log().contains("was moved or deleted, or its disk is gone; no lead is taken any more"), "{name}: {}", daemon.log());
        drop(daemon);
        if moved.exists() {
            std::fs::rename(&moved, home.database()).unwrap();
        }
        let daemon = Daemon::start(&home);
        assert_eq!(daemon.log().contains("there is no database"), !kept, "{name}: {}", daemon.log());
        let client = Client::new(daemon.address);
        assert_eq!(client.get(&format!("/api/v1/leads/{lead}")).status, if kept { 200 } else { 404 }, "{name}");
        client.lead(&json!({"name":"Again"}));
    }
}
