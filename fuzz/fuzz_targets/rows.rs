//! A database whose rows were changed by a stranger, or whose bytes were: opened, listed, claimed from, written to. Everything may fail,
//! nothing may panic, and no lane may spin.
#![no_main]

use arbitrary::Arbitrary;
use leadsbotd::delivery::{Assignment, Lane, Step, Transport};
use leadsbotd::destination::webhook::{Body, Webhook};
use leadsbotd::destination::{Answer, Request, Response, Spec};
use leadsbotd::event::{Context, Device};
use leadsbotd::intake::Router;
use leadsbotd::lead::{Limits, Patch, Submission, Trust};
use leadsbotd::mapping::{Expr, Shape};
use leadsbotd::retry::Policy;
use leadsbotd::secret::Secret;
use leadsbotd::store::{Desk, Error, Options, Store, View};
use leadsbotd::time::{SystemClock, Tick, Wall};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    rows: Vec<Change<'a>>,
    bytes: Vec<(u32, u8)>,
    cut_off: Option<u16>,
}

#[derive(Debug, Arbitrary)]
struct Change<'a> {
    table: u8,
    column: u8,
    row: u8,
    value: Val<'a>,
}

#[derive(Debug, Arbitrary)]
enum Val<'a> {
    Null,
    Small(i8),
    Edge(u8),
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

const EDGES: [i64; 6] = [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX, i64::MAX >> 42, u32::MAX as i64];

/// Tables with their keys and columns.
const TABLES: [(&str, &str, &[&str]); 11] = [
    ("meta", "key", &["key", "value"]),
    ("boot", "boot", &["boot", "id", "\"offset\"", "seen", "open"]),
    ("event", "seq", &["seq", "lead", "kind", "at", "tick", "random", "body"]),
    ("lead", "lead", &["lead", "version", "at", "state"]),
    ("submission", "bucket, digest", &["bucket", "digest", "event"]),
    ("destination", "dest", &["dest", "name", "paused", "nudge", "state", "since", "reason"]),
    ("ready", "dest, event", &["dest", "event", "at", "attempts", "status"]),
    ("waiting", "dest, event", &["dest", "event", "due", "attempts", "age", "seen", "code", "reason"]),
    ("rendered", "dest, event", &["dest", "event", "body"]),
    ("dead", "dest, event", &["dest", "event", "at", "attempts", "class", "code", "status", "reason", "answer"]),
    ("history", "event, dest", &["event", "dest", "at", "attempts", "result", "status"]),
];

/// Answers by the attempt's number and the event's id: some are taken, some refused, some put off.
#[derive(Debug)]
struct Mixed;

impl Transport for Mixed {
    fn send(&self, request: &Request) -> Answer {
        let id = request.http().and_then(|r| r.value_of("X-LeadsBot-Event-Id")).unwrap_or_default();
        let status = [200, 422, 500, 200][id.bytes().map(usize::from).sum::<usize>() % 4];
        Answer::Response(Response { status, ..Response::default() })
    }
}

const NAMES: [&str; 2] = ["full", "mapped"];

fn spec(name: &str) -> Spec {
    let body = match name {
        "mapped" => Body::Map(Shape::Leaf(Expr::new("map", "data.name").expect("an expression"))),
        _ => Body::Full,
    };
    Spec {
        name: name.to_owned(),
        events: vec!["*".to_owned()],
        when: None,
        connector: Box::new(Webhook::new(
            "http://127.0.0.1:1/".parse().expect("a URL"),
            vec![Secret::new("0123456789abcdef0123456789abcdef").expect("a secret")],
            body,
        )),
        workers: 1,
    }
}

/// Everything a daemon does with its database. `leads` are captured first.
fn serve(path: &Path, leads: usize) -> Result<(), Error> {
    let options = Options { flush_after: Duration::ZERO, ..Options::new(path) };
    let (store, _writer) = Store::open(options, Arc::new(SystemClock))?;
    let numbers = store.register(NAMES.map(str::to_owned).to_vec())?;
    let specs: Vec<_> = numbers.iter().copied().zip(NAMES.map(|name| Arc::new(spec(name)))).collect();
    let router = Router { device: Device::default(), limits: Limits::default(), destinations: specs.clone() };
    for n in 0..leads {
        let said = format!(r#"{{"name":"Visitor {n}"}}"#);
        let submission = Submission::from_json(said.as_bytes(), &Limits::default(), Trust::Public).expect("a lead");
        let event = router.created(store.ids(), submission, "fuzz", Context::default(), Wall(n as i64)).expect("an event");
        store.capture(event, (n % 3 == 0).then_some([n as u8; 16]), |_| ())?;
    }
    let _ = store.ping(Duration::from_secs(1));
    let known = store.read(|view| view.leads(i64::MAX, 4)).unwrap_or_default();
    let patch = Patch::from_json(br#"{"score":7}"#, &Limits::default()).expect("a patch");
    for record in known {
        let (id, patch, ids) = (store.ids().lead(record.random).id(record.number), patch.clone(), store.ids().clone());
        let router = Router { device: Device::default(), limits: Limits::default(), destinations: specs.clone() };
        let change = move |record: &_| router.patched(&ids, record, &patch, &Context::default(), Wall(0));
        store.change(&id, Box::new(change), |_| ())?;
    }
    for (dest, spec) in specs {
        let assignment =
            Assignment { dest, spec, policy: Policy { rejected_attempts: 1, ..Policy::default() }, transport: Arc::new(Mixed) };
        let lane = Arc::new(Lane::new(store.clone(), assignment, Tick::ZERO));
        store.watch(dest, Some(Lane::watcher(&lane)));
        let mut steps = 0;
        while lane.step() == Step::Sent {
            steps += 1;
            assert!(steps < 2000, "a lane that never rests");
        }
        store.watch(dest, None);
    }
    store.settle(Duration::from_millis(50));
    let ids = store.ids().clone();
    store.read(|view| look(view, &ids))
}

/// Everything the commands read.
fn look(view: &View<'_>, ids: &leadsbotd::id::IdKey) -> Result<(), Error> {
    for destination in view.destinations().unwrap_or_default() {
        let dest = destination.dest;
        for state in [None, Some("ready"), Some("held"), Some("retrying"), Some("dead")] {
            for entry in view.deliveries(dest, state, i64::MIN, 50).unwrap_or_default() {
                let _ = (ids.event(entry.random).id(entry.event), entry.at.rfc3339(), entry.finished.map(Wall::rfc3339));
            }
        }
        let _ = (view.counts(dest).map(|c| c.waiting()), view.oldest(dest).map(|o| o.map(Wall::rfc3339)));
    }
    for record in view.leads(i64::MAX, 50)? {
        let id = ids.lead(record.random).id(record.number);
        let _ = (view.lead(ids, &id), record.created.rfc3339());
        for event in view.events_of(ids, record.number).unwrap_or_default() {
            let _ = (view.deliveries_of(event.seq), view.event_number(ids, &event.id), event.at.rfc3339());
        }
    }
    Ok(())
}

/// What an operator does by hand.
fn operate(path: &Path) -> Result<(), Error> {
    let mut desk = Desk::open(path)?;
    let _ = desk.check();
    let ids = desk.ids().clone();
    let _ = desk.read(|view| look(view, &ids));
    for destination in desk.read(|view| view.destinations())? {
        let dest = destination.dest;
        let entries = desk.read(|view| view.deliveries(dest, None, i64::MIN, 50)).unwrap_or_default();
        let events: Vec<i64> = entries.iter().map(|e| e.event).collect();
        let (some, others) = events.split_at(events.len() / 2);
        let _ = (desk.retry(dest, some), desk.drop_deliveries(dest, others, Wall(0)), desk.set_paused(dest, false));
    }
    Ok(())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// A database in which every table has rows.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = folder();
    let path = folder.path().join("leads.db");
    serve(&path, 12).expect("a whole database works");
    let db = rusqlite::Connection::open(&path).expect("it opens");
    // Back into the queue, as if the attempts had not been made.
    db.execute_batch(
        "INSERT OR IGNORE INTO ready (dest, event) SELECT dest, event FROM history WHERE event % 2 = 0;
         INSERT OR IGNORE INTO rendered SELECT dest, event, x'7b7d' FROM waiting;
         DELETE FROM history WHERE event % 2 = 0;",
    )
    .expect("its rows move");
    for (table, ..) in TABLES {
        let rows: i64 = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).expect("a count");
        assert!(rows > 0, "{table} is empty");
    }
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("it is written back");
    drop(db);
    std::fs::read(&path).expect("its bytes")
});

fn change(db: &rusqlite::Connection, change: &Change<'_>) -> rusqlite::Result<usize> {
    let (table, key, columns) = TABLES[usize::from(change.table) % TABLES.len()];
    let column = columns[usize::from(change.column) % columns.len()];
    let rows = format!("({key}) IN (SELECT {key} FROM {table} LIMIT 1 OFFSET {})", change.row % 16);
    let sql = format!("UPDATE OR REPLACE {table} SET {column} = ?1 WHERE {}", if change.row < 240 { &rows } else { "true" });
    match &change.value {
        Val::Null => db.execute(&sql, [rusqlite::types::Null]),
        Val::Small(n) => db.execute(&sql, [n]),
        Val::Edge(n) => db.execute(&sql, [EDGES[usize::from(*n) % EDGES.len()]]),
        Val::Integer(n) => db.execute(&sql, [n]),
        Val::Real(n) => db.execute(&sql, [n]),
        Val::Text(text) => db.execute(&sql, [text]),
        Val::Blob(bytes) => db.execute(&sql, [bytes]),
    }
}

fuzz_target!(|input: Input| {
    let folder = folder();
    let path = folder.path().join("leads.db");
    std::fs::write(&path, &*WHOLE).expect("the database is written");
    if !input.rows.is_empty() {
        let db = rusqlite::Connection::open(&path).expect("it opens");
        for one in &input.rows {
            let _ = change(&db, one);
        }
        let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
    if !input.bytes.is_empty() || input.cut_off.is_some() {
        let mut bytes = std::fs::read(&path).expect("its bytes");
        let length = bytes.len();
        for (at, value) in &input.bytes {
            bytes[*at as usize % length] = *value;
        }
        bytes.truncate(input.cut_off.map_or(length, |left| usize::from(left) * 64));
        std::fs::write(&path, bytes).expect("it is written back");
    }
    let _ = operate(&path);
    let _ = serve(&path, 2);
});
