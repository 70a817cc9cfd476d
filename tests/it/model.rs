//! Whatever happens, in whatever order: the real store on a real disk and the real lanes against a small model of what was promised.
//!
//! Sequences are generated; each is the life of one kiosk, and ends with a time in which everything is well. After every operation the
//! database and what the receivers saw are held against `books::Model`. `LEADSBOT_MODEL_CASES` sets how many lives are lived.

mod books;

use crate::support::SECRET;
use crate::support::rig::Hands;
use books::{Attempt, Fact, Found, Key, Model, Note, Row, Says, Seen};
use leadsbotd::delivery::{Assignment, Lane, Step, Transport};
use leadsbotd::destination::webhook::{Body, Webhook};
use leadsbotd::destination::{Answer, Failure, Identity, Incoming, Request, Response, Spec};
use leadsbotd::event::{Context, Device};
use leadsbotd::id::{Kind, Seed};
use leadsbotd::intake::Router;
use leadsbotd::lead::{Limits, Patch, Reply, Submission, Trust};
use leadsbotd::mapping::{Expr, Shape};
use leadsbotd::retry::Policy;
use leadsbotd::secret::Secret;
use leadsbotd::store::{Captured, ChangeFn, Desk, Done, Error, Options, Store, Writer, unpack};
use leadsbotd::time::{Clock, Tick};
use proptest::prelude::*;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// A kiosk's destinations; their numbers count from 1. See [`targets`] for who wants what.
const DESTINATIONS: [&str; 3] = ["everything", "hot", "some"];
const STATUSES: [&str; 3] = ["new", "contacted", "won"];
/// The filter of the third destination cannot be worked out for this score.
const ODD_SCORE: u8 = 13;
/// Ends a test whose other side has fallen silent; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);
const NOON_2026: i64 = 1_795_435_200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Full,
    Leadsbot,
    Map(u8),
}

/// A destination's part of the configuration.
#[derive(Debug, Clone, Copy)]
struct Setup {
    present: bool,
    policy: u8,
    body: Shown,
    workers: usize,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Score(u8),
    Status(usize),
    Both(u8, usize),
    Reply,
}

#[derive(Debug, Clone, Copy)]
enum Jump {
    To(i64),
    By(i64),
}

/// What an operator does.
#[derive(Debug, Clone, Copy)]
enum Hand {
    Pause,
    Resume,
    Retry(usize),
    Drop(usize),
}

/// Numbers that choose (a lead, a delivery, an attempt) count round whatever there is.
#[derive(Debug, Clone)]
enum Op {
    Capture {
        score: u8,
        key: Option<u8>,
    },
    Change {
        lead: usize,
        change: Change,
    },
    /// A lane begins an attempt, which stays under way.
    Claim {
        dest: usize,
    },
    /// An attempt under way ends.
    Finish {
        attempt: usize,
        says: Says,
    },
    /// Both at once; `patient`: if the lane waits for a moment, that moment comes first.
    Attempt {
        dest: usize,
        says: Says,
        patient: bool,
    },
    /// The writer gets everything done that it has to do.
    Settle,
    Advance {
        ms: i64,
    },
    ClockJump(Jump),
    /// The process is gone from one moment to the next; `took`: the receivers have what was under way. `unanswered` people were just
    /// handing their details in.
    Kill {
        took: bool,
        unanswered: usize,
    },
    /// The same, and the machine starts anew; the daemon this long after it.
    Reboot {
        took: bool,
        uptime: i64,
    },
    /// An orderly stop, which lets attempts under way end, and a start.
    Reopen {
        says: Says,
    },
    /// `noticed`: by the daemon, before anything else happens.
    ByHand {
        dest: usize,
        hand: Hand,
        noticed: bool,
    },
    Configure {
        dest: usize,
        setup: Setup,
    },
    /// A planted fault: these statements, done to the database behind everybody's back.
    Sabotage(&'static str),
}

/// What the thread of an attempt says to the test.
enum Said {
    Asks(Request, Sender<Says>),
    Stepped(Step),
}

/// Shows each request to the test and answers what the test decides, when it decides.
#[derive(Debug)]
struct Wire(Mutex<Sender<Said>>);

impl Transport for Wire {
    fn send(&self, request: &Request) -> Answer {
        let (tx, rx) = channel();
        let asked = self.0.lock().unwrap().send(Said::Asks(request.clone(), tx));
        match asked.ok().and_then(|()| rx.recv().ok()) {
            Some(says) => answer(says),
            // The test has let go of this process: nobody will hear of it.
            None => failure(Failure::Timeout),
        }
    }
}

fn failure(kind: Failure) -> Answer {
    Answer::Failure { kind, detail: String::new() }
}

fn answer(says: Says) -> Answer {
    let status = |status, retry_after: Option<u64>| {
        Answer::Response(Response { status, retry_after: retry_after.map(|s| s.to_string()), ..Response::default() })
    };
    match says {
        Says::Taken | Says::Lie => status(200, None),
        Says::Rejected => status(400, None),
        Says::Unauthorised => status(401, None),
        Says::NotFound => status(404, None),
        Says::TooMany { retry_after } => status(429, retry_after),
        Says::Unavailable { retry_after } => status(503, Some(retry_after)),
        Says::Broken => status(500, None),
        Says::NoName => failure(Failure::Dns),
        Says::NobodyThere => failure(Failure::Refused),
        Says::Silent { .. } => failure(Failure::Timeout),
        Says::Reset { .. } => failure(Failure::Reset),
        Says::BadCertificate => failure(Failure::Tls),
        // Without the hook, which would fill the test's output.
        Says::Panic => std::panic::resume_unwind(Box::new("the transport has a fault")),
    }
}

fn policy(number: u8) -> Policy {
    match number % 3 {
        0 => Policy { ramp: Duration::ZERO, ..Policy::default() },
        1 => {
            Policy { ramp: Duration::ZERO, rejected_attempts: 1, breaker_after: 2, wait_max: Duration::from_secs(600), ..Policy::default() }
        }
        _ => Policy {
            ramp: Duration::ZERO,
            rejected_attempts: 2,
            give_up_attempts: Some(3),
            give_up_after: Some(Duration::from_secs(3600)),
            retry_max: Duration::from_secs(60),
            ..Policy::default()
        },
    }
}

fn spec(dest: usize, setup: &Setup) -> Spec {
    let leaf = |key: &str, source: &str| (key.to_owned(), Shape::Leaf(Expr::new(key, source).unwrap()));
    let when = match dest {
        0 => None,
        1 => Some("data.score >= 50".to_owned()),
        _ => Some(format!("data.nothing() if data.score == {ODD_SCORE} else data.score < 90")),
    };
    let body = match setup.body {
        Shown::Full => Body::Full,
        Shown::Leadsbot => Body::Leadsbot,
        Shown::Map(n) => Body::Map(Shape::Object(vec![leaf("map", &n.to_string()), leaf("event", "id"), leaf("score", "data.score")])),
    };
    let url = format!("https://receiver.example/{dest}").parse().unwrap();
    Spec {
        name: DESTINATIONS[dest].to_owned(),
        events: if dest == 1 { vec!["lead.created".to_owned(), "lead.updated".to_owned()] } else { vec!["lead.*".to_owned()] },
        when: when.map(|source| Expr::new("when", &source).unwrap()),
        connector: Box::new(Webhook::new(url, vec![Secret::new(SECRET).unwrap()], body)),
        workers: setup.workers,
    }
}

/// What a destination says of an event, if not the event itself.
fn rendered(spec: &Spec, event: &[u8]) -> Option<Vec<u8>> {
    let identity = Identity { event_id: "", kind: "", destination: &spec.name };
    spec.connector.render(&Incoming { identity, bytes: event }).unwrap()
}

/// Which destinations get an event of this kind about a lead with this score, and whether their filter fails on it.
fn targets(setups: &[Setup; 3], kind: &str, score: u8) -> Vec<(i64, bool)> {
    let wanted = [true, ["lead.created", "lead.updated"].contains(&kind) && score >= 50, score < 90];
    (0..3).filter(|d| setups[*d].present && wanted[*d]).map(|d| (number(d), d == 2 && score == ODD_SCORE)).collect()
}

fn number(dest: usize) -> i64 {
    dest as i64 + 1
}

/// The real parts, as one process has them.
struct Process {
    store: Store,
    writer: Writer,
    desk: Desk,
    /// Looks into the file past all code under test.
    raw: Connection,
    lanes: [Option<Arc<Lane>>; 3],
    wire: Arc<Wire>,
    said: Receiver<Said>,
    router: Arc<Router>,
}

impl Process {
    fn start(folder: &TempDir, clock: &Arc<Hands>, setups: &[Setup; 3]) -> Result<Self, String> {
        let path = folder.path().join("leads.db");
        // Outcomes stay in memory until something else is committed or there are eight of them, so that a kill finds some.
        let options = Options { flush_after: Duration::from_secs(3600), flush_at: 8, ..Options::new(&path) };
        let (store, writer) = Store::open(options, Arc::clone(clock) as Arc<dyn Clock>).map_err(|e| format!("it does not start: {e}"))?;
        let names: Vec<String> = DESTINATIONS.iter().map(|n| (*n).to_owned()).collect();
        let numbers = store.register(names).map_err(|e| e.to_string())?;
        if numbers != [1, 2, 3] {
            return Err(format!("the destinations have other numbers now: {numbers:?}"));
        }
        let (tx, said) = channel();
        let mut process = Self {
            desk: Desk::open(&path).map_err(|e| e.to_string())?,
            raw: Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap(),
            lanes: [const { None }; 3],
            wire: Arc::new(Wire(Mutex::new(tx))),
            said,
            router: Arc::new(Router { device: Device::default(), limits: Limits::default(), destinations: Vec::new() }),
            store,
            writer,
        };
        for dest in 0..3 {
            process.configure(dest, setups);
        }
        Ok(process)
    }

    /// As `delivery::Lanes` does it, without threads: a lane that is taken out rests, one that is put back goes on.
    fn configure(&mut self, dest: usize, setups: &[Setup; 3]) {
        let specs: Vec<Arc<Spec>> = (0..3).map(|d| Arc::new(spec(d, &setups[d]))).collect();
        let destinations = (0..3).filter(|d| setups[*d].present).map(|d| (number(d), Arc::clone(&specs[d]))).collect();
        self.router = Arc::new(Router { device: Device::default(), limits: Limits::default(), destinations });
        if !setups[dest].present {
            return;
        }
        let assignment = Assignment {
            dest: number(dest),
            spec: Arc::clone(&specs[dest]),
            policy: policy(setups[dest].policy),
            transport: Arc::clone(&self.wire) as Arc<dyn Transport>,
        };
        match &self.lanes[dest] {
            Some(lane) => lane.reassign(assignment),
            None => {
                let lane = Arc::new(Lane::new(self.store.clone(), assignment, Tick::ZERO));
                self.store.watch(number(dest), Some(Lane::watcher(&lane)));
                self.lanes[dest] = Some(lane);
            }
        }
    }

    /// What the writer keeps count of is what there is.
    fn counts(&self) -> Checked {
        for dest in 0..3 {
            let failed = |e: Error| format!("the counts cannot be read: {e}");
            let known = self.store.counts(number(dest)).map_err(failed)?;
            let counted = self.store.read(|view| view.counts(number(dest))).map_err(failed)?;
            if known != counted {
                return Err(format!("destination {dest} is said to have {known:?} and has {counted:?}"));
            }
        }
        Ok(())
    }

    /// Twice, because the lanes hear of a commit only after its callers.
    fn settle(&self) -> Result<(), String> {
        self.store.ping(PATIENCE).and_then(|()| self.store.ping(PATIENCE)).map_err(|e| format!("the writer does not come round: {e}"))
    }

    fn hear(&self) -> Result<Said, String> {
        self.said.recv_timeout(PATIENCE).map_err(|_| "a lane neither sends nor rests".to_owned())
    }

    fn look(&self) -> Result<Found, String> {
        self.look_inside().map_err(|e| format!("the database cannot be read: {e}"))
    }

    fn look_inside(&self) -> rusqlite::Result<Found> {
        let tx = self.raw.unchecked_transaction()?;
        let mut found = Found::default();
        let mut events = tx.prepare_cached("SELECT seq, lead, kind, random, body FROM event")?;
        let mut rows = events.query([])?;
        while let Some(row) = rows.next()? {
            let (seq, random): (i64, i64) = (row.get(0)?, row.get(3)?);
            let id = self.store.ids().event(random.cast_unsigned()).id(seq);
            let stored: Vec<u8> = row.get(4)?;
            let body = unpack(&stored).map_or_else(|_| stored.clone(), |body| body.into_owned());
            found.events.insert(seq, Fact { id, lead: row.get(1)?, kind: row.get(2)?, body });
        }
        let mut deliveries = tx.prepare_cached(
            "SELECT dest, event, iif(at IS NULL, 'ready', 'delivered'), 0, iif(at IS NULL, 0, attempts) FROM ready UNION ALL SELECT dest, event, 'waiting', due, attempts FROM waiting
             UNION ALL SELECT dest, event, 'dead', 0, attempts FROM dead UNION ALL SELECT dest, event, result, 0, attempts FROM history",
        )?;
        let mut rows = deliveries.query([])?;
        while let Some(row) = rows.next()? {
            let found = found.rows.entry((row.get(0)?, row.get(1)?)).or_default();
            found.push(Row { place: row.get(2)?, due: row.get(3)?, attempts: row.get(4)? });
        }
        let mut kept = tx.prepare_cached("SELECT dest, event, body FROM rendered")?;
        let mut rows = kept.query([])?;
        while let Some(row) = rows.next()? {
            found.kept.insert((row.get(0)?, row.get(1)?), row.get(2)?);
        }
        Ok(found)
    }

    /// The files as they are at this moment, copied as a dead process leaves them.
    fn snapshot(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        // While somebody reads, the log is not begun anew; so the file and then its log are one moment, whatever the writer does.
        let tx = self.raw.unchecked_transaction().unwrap();
        tx.query_row("SELECT count(*) FROM event", [], |_| Ok(())).unwrap();
        let folder = self.raw.path().map(|p| std::path::Path::new(p).parent().unwrap().to_owned()).unwrap();
        for name in ["leads.db", "leads.db-wal"] {
            std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
        }
        copy
    }
}

/// An attempt under way.
struct Flight {
    dest: usize,
    attempt: Attempt,
    answer: Sender<Says>,
    thread: JoinHandle<()>,
}

struct Person {
    id: String,
    number: i64,
    score: u8,
    status: usize,
    version: i64,
}

/// One kiosk and its model.
struct Life {
    folder: TempDir,
    clock: Arc<Hands>,
    process: Option<Process>,
    setups: [Setup; 3],
    /// The policy each lane was given last; one that is taken out keeps its own.
    policies: [u8; 3],
    /// How often each destination's body was reconfigured.
    versions: [u32; 3],
    flights: Vec<Flight>,
    model: Model,
    people: Vec<Person>,
    keys: BTreeMap<u8, (String, String)>,
    threads: u64,
}

type Checked = Result<(), String>;

impl Life {
    fn new(setups: [Setup; 3]) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let clock = Hands::new();
        let process = Process::start(&folder, &clock, &setups)?;
        let model = Model::new((0..3).map(number));
        let (flights, people, keys) = (Vec::new(), Vec::new(), BTreeMap::new());
        Ok(Self {
            folder,
            clock,
            process: Some(process),
            setups,
            policies: setups.map(|s| s.policy),
            versions: [0; 3],
            flights,
            model,
            people,
            keys,
            threads: 0,
        })
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("a running process")
    }

    fn now(&self) -> Tick {
        self.process().store.timeline().now()
    }

    /// Holds the database against the model. `by_hand`: what an operator has just done. `all`: no outcome may be missing.
    fn compare(&mut self, by_hand: &[Note], all: bool) -> Checked {
        let found = self.process().look()?;
        self.model.compare(&found, by_hand, all)
    }

    fn settle(&mut self) -> Checked {
        self.process().settle()?;
        self.process().counts()?;
        self.model.told();
        self.compare(&[], true)
    }

    fn perform(&mut self, op: &Op) -> Checked {
        match *op {
            Op::Capture { score, key } => self.capture(score, key)?,
            Op::Change { lead, change } => self.change(lead, change)?,
            Op::Claim { dest } => drop(self.claim(dest)?),
            Op::Finish { attempt, says } if !self.flights.is_empty() => self.finish(attempt % self.flights.len(), says)?,
            Op::Finish { .. } => {}
            Op::Attempt { dest, says, patient } => {
                let mut idle = self.claim(dest)?;
                if let Some(until) = idle.take_if(|_| patient) {
                    self.clock.advance(until.0 - self.now().0);
                    idle = self.claim(dest)?;
                }
                if idle.is_none() && self.flights.last().is_some_and(|f| f.dest == dest) {
                    self.finish(self.flights.len() - 1, says)?;
                }
            }
            Op::Settle => self.settle()?,
            Op::Advance { ms } => self.clock.advance(ms),
            Op::ClockJump(Jump::To(wall)) => self.clock.wall.store(wall, Ordering::SeqCst),
            Op::ClockJump(Jump::By(ms)) => drop(self.clock.wall.fetch_add(ms, Ordering::SeqCst)),
            Op::Kill { took, unanswered } => self.die(took, unanswered)?,
            Op::Reboot { took, uptime } => {
                self.clock.boot.fetch_add(1, Ordering::SeqCst);
                self.clock.uptime.store(uptime, Ordering::SeqCst);
                self.die(took, 0)?;
                self.model.all_due(self.now())?;
            }
            Op::Reopen { says } => self.reopen(says)?,
            Op::ByHand { dest, hand, noticed } => self.by_hand(dest, hand, noticed)?,
            Op::Configure { dest, setup } => {
                self.versions[dest] += u32::from(self.setups[dest].body != setup.body);
                self.setups[dest] = setup;
                if setup.present {
                    self.policies[dest] = setup.policy;
                }
                let setups = self.setups;
                self.process.as_mut().expect("a running process").configure(dest, &setups);
                self.model.reconfigured(number(dest));
            }
            Op::Sabotage(sql) => {
                let conn = Connection::open(self.folder.path().join("leads.db")).unwrap();
                conn.busy_timeout(PATIENCE).unwrap();
                conn.execute_batch(sql).unwrap();
            }
        }
        self.compare(&[], false)
    }

    /// Hands a lead to the store. Gives what its event's id will be made of, and where the answer comes.
    fn submit(&self, score: u8, key: Option<u8>) -> Result<(Seed, Receiver<Result<Done, Error>>), String> {
        let process = self.process();
        let text = json!({"name": format!("Visitor {}", self.people.len()), "score": score}).to_string();
        let submission = Submission::from_json(text.as_bytes(), &Limits::default(), Trust::Api).unwrap();
        let wall = process.store.timeline().wall();
        let event = process.router.created(process.store.ids(), submission, "test", Context::default(), wall).unwrap();
        let (seed, (tx, rx)) = (event.event, channel());
        let refused = |e| format!("a lead was refused: {e}");
        process.store.capture(event, key.map(|k| [k; 16]), move |done| drop(tx.send(done))).map_err(refused)?;
        Ok((seed, rx))
    }

    fn capture(&mut self, score: u8, key: Option<u8>) -> Checked {
        let (_, rx) = self.submit(score, key)?;
        let captured = match rx.recv_timeout(PATIENCE).map_err(|_| "no answer to a capture".to_owned())? {
            Ok(Done::Captured(captured)) => captured,
            other => return Err(format!("a lead was refused: {other:?}")),
        };
        self.process().store.ping(PATIENCE).map_err(|e| e.to_string())?;
        self.model.told();
        let ids = (captured.lead_id.clone(), captured.event_id.clone());
        match key.and_then(|k| self.keys.get(&k)) {
            Some(first) if captured.repeated && *first == ids => {}
            None if !captured.repeated => {
                self.keys.extend(key.map(|k| (k, ids)));
                self.arrive(&captured, score)?;
            }
            first => return Err(format!("submission {key:?} is answered {captured:?}, it was {first:?}")),
        }
        self.compare(&[], true)
    }

    fn arrive(&mut self, captured: &Captured, score: u8) -> Checked {
        let number = self.accept(&captured.event_id, None, "lead.created", score)?;
        self.people.push(Person { id: captured.lead_id.clone(), number, score, status: 0, version: 0 });
        Ok(())
    }

    fn change(&mut self, lead: usize, change: Change) -> Checked {
        if self.people.is_empty() {
            return Ok(());
        }
        let index = lead % self.people.len();
        let process = self.process();
        let person = &self.people[index];
        let (mut score, mut status) = (person.score, person.status);
        match change {
            Change::Score(to) => score = to,
            Change::Status(to) => status = to,
            Change::Both(to, step) => (score, status) = (to, step),
            Change::Reply => {}
        }
        let mut kinds = Vec::new();
        if let Change::Reply = change {
            kinds.push("lead.replied");
        }
        if score != person.score {
            kinds.push("lead.updated");
        }
        if status != person.status {
            kinds.push("lead.status_changed");
        }
        let (router, store, wall) = (Arc::clone(&process.router), process.store.clone(), process.store.timeline().wall());
        let limits = Limits::default();
        let work: ChangeFn = if let Change::Reply = change {
            let reply = Reply::from_json(br#"{"text":"We will call you."}"#, &limits).unwrap();
            Box::new(move |record| router.replied(store.ids(), record, &reply, &Context::default(), wall))
        } else {
            let text = json!({"score": score, "status": STATUSES[status]}).to_string();
            let patch = Patch::from_json(text.as_bytes(), &limits).unwrap();
            Box::new(move |record| router.patched(store.ids(), record, &patch, &Context::default(), wall))
        };
        let (tx, rx) = channel();
        process.store.change(&person.id, work, move |done| drop(tx.send(done))).map_err(|e| format!("a change was refused: {e}"))?;
        let (record, events) = match rx.recv_timeout(PATIENCE).map_err(|_| "no answer to a change".to_owned())? {
            Ok(Done::Changed(changed)) => *changed,
            other => return Err(format!("a change of {} was refused: {other:?}", person.id)),
        };
        process.store.ping(PATIENCE).map_err(|e| e.to_string())?;
        self.model.told();
        if events.len() != kinds.len() {
            return Err(format!("{change:?} of {} made {} events, not {kinds:?}", record.lead.id, events.len()));
        }
        let number = self.people[index].number;
        for (event, kind) in events.iter().zip(&kinds) {
            self.accept(event, Some(number), kind, score)?;
        }
        let person = &mut self.people[index];
        person.version += i64::from(score != person.score || status != person.status);
        (person.score, person.status) = (score, status);
        self.compare(&[], true)
    }

    /// An event was acknowledged with this id. Gives its number.
    fn accept(&mut self, id: &str, lead: Option<i64>, kind: &str, score: u8) -> Result<i64, String> {
        let process = self.process();
        let event = process.store.ids().seq(Kind::Event, id).ok_or_else(|| format!("{id} is no id of this store"))?;
        let body =
            process.look()?.events.remove(&event).map(|f| f.body).ok_or_else(|| format!("{id} was acknowledged and is not there"))?;
        let told: serde_json::Value = serde_json::from_slice(&body).map_err(|e| format!("{id} is no JSON: {e}"))?;
        if told["id"] != id || told["event"] != kind || told["data"]["score"] != score {
            return Err(format!("{id}, {kind}, says of itself {told}"));
        }
        let fact = Fact { id: id.to_owned(), lead: lead.unwrap_or(event), kind: kind.to_owned(), body };
        self.model.accept(event, fact, &targets(&self.setups, kind, score))?;
        Ok(event)
    }

    /// Lets a lane begin an attempt, if it will. Gives the moment it waits for, if it waits for one.
    fn claim(&mut self, dest: usize) -> Result<Option<Tick>, String> {
        let setup = self.setups[dest];
        if !setup.present || self.flights.iter().filter(|f| f.dest == dest).count() >= setup.workers {
            return Ok(None);
        }
        self.model.step_begins(number(dest));
        let lane = self.process().lanes[dest].clone().expect("a configured destination has a lane");
        let (back, seed) = (self.process().wire.0.lock().unwrap().clone(), self.threads);
        self.threads += 1;
        let thread = std::thread::spawn(move || {
            // A lane draws its pauses from the generator of its thread; the same life must draw the same ones.
            fastrand::seed(seed);
            let step = loop {
                match lane.step() {
                    Step::Again => {}
                    step => break step,
                }
            };
            drop(lane);
            let _ = back.send(Said::Stepped(step));
        });
        let (request, answer) = match self.process().hear()? {
            Said::Asks(request, answer) => (request, answer),
            Said::Stepped(Step::Sent | Step::Again) => return Err(format!("destination {dest}: an attempt without a request")),
            Said::Stepped(Step::Idle(until)) => {
                thread.join().unwrap();
                return match until {
                    Some(until) if until <= self.now() => Err(format!("destination {dest} waits for {until:?}, which has passed")),
                    _ => Ok(until),
                };
            }
        };
        self.compare(&[], false)?;
        let now = self.now();
        let (version, spec) = (self.versions[dest], spec(dest, &setup));
        let seen = seen(dest, &request, version);
        let attempt = self.model.begun(seen, now, |event| rendered(&spec, event))?;
        self.flights.push(Flight { dest, attempt, answer, thread });
        Ok(None)
    }

    fn finish(&mut self, index: usize, says: Says) -> Checked {
        let flight = self.flights.remove(index);
        let (now, trusted) = (self.now(), self.process().store.timeline().trusted());
        flight.answer.send(says).map_err(|_| "an attempt ended by itself".to_owned())?;
        match self.process().hear()? {
            Said::Stepped(Step::Sent) => flight.thread.join().unwrap(),
            Said::Stepped(step) => return Err(format!("an attempt ended as {step:?}")),
            Said::Asks(..) => return Err("one step made two attempts".to_owned()),
        }
        let mut possible = self.model.ended(flight.attempt, says, now, trusted, &policy(self.policies[flight.dest]));
        let last = possible.pop().flatten();
        for note in possible {
            self.process().settle()?;
            self.model.told();
            self.model.note(note.clone());
            if self.compare(&[], true).is_ok() {
                return Ok(());
            }
            self.model.unnote(&note);
        }
        self.model.note(last);
        Ok(())
    }

    fn die(&mut self, took: bool, unanswered: usize) -> Checked {
        const SCORE: u8 = 60;
        let submitted: Vec<_> = (0..unanswered).map(|_| self.submit(SCORE, None)).collect::<Result<_, _>>()?;
        let answered: Vec<bool> = submitted.iter().map(|(_, rx)| rx.try_recv().is_ok()).collect();
        let copy = self.process().snapshot();
        let lost: Vec<(Key, bool)> = self.flights.iter().map(|f| (f.attempt.key, took)).collect();
        for flight in self.flights.drain(..) {
            drop(flight.answer);
            flight.thread.join().unwrap();
        }
        self.process = None;
        self.folder = copy;
        let setups = self.setups;
        let process = Process::start(&self.folder, &self.clock, &setups)?;
        let (found, ids) = (process.look()?, process.store.ids().clone());
        self.process = Some(process);
        // What nobody was told of may be there or not, but in the order in which it came, and what somebody was told of must.
        let mut last = self.model.events.last_key_value().map_or(0, |(n, _)| *n);
        for ((seed, _), answered) in submitted.iter().zip(answered) {
            last += 1;
            let (event_id, lead_id) = (seed.id(last), ids.lead(seed.random()).id(last));
            if found.events.get(&last).is_some_and(|f| f.id == event_id) {
                self.arrive(&Captured { lead_id, event_id, repeated: false }, SCORE)?;
            } else if answered {
                return Err(format!("{event_id} was acknowledged and is gone"));
            }
        }
        self.compare(&[], false)?;
        self.model.died(&lost);
        Ok(())
    }

    fn reopen(&mut self, says: Says) -> Checked {
        while !self.flights.is_empty() {
            self.finish(0, says)?;
        }
        let Process { writer, .. } = self.process.take().expect("a running process");
        writer.stop();
        self.process = Some(Process::start(&self.folder, &self.clock, &self.setups)?);
        self.compare(&[], true)?;
        self.model.died(&[]);
        Ok(())
    }

    fn by_hand(&mut self, dest: usize, hand: Hand, noticed: bool) -> Checked {
        let number = number(dest);
        let at = self.clock.wall();
        // Every other time one with which something has happened already: there the most can go wrong.
        let pick = |n: usize| {
            let unfinished = self.model.unfinished(number);
            let touched: Vec<Key> = unfinished.iter().filter(|(_, touched)| *touched).map(|(key, _)| *key).collect();
            let all: Vec<Key> = unfinished.into_iter().map(|(key, _)| key).collect();
            let from = if n.is_multiple_of(2) && !touched.is_empty() { touched } else { all };
            from.get(n / 2 % from.len().max(1)).copied()
        };
        let chosen = match hand {
            Hand::Retry(n) | Hand::Drop(n) => pick(n),
            Hand::Pause | Hand::Resume => None,
        };
        let desk = &mut self.process.as_mut().expect("a running process").desk;
        let note = match hand {
            Hand::Pause | Hand::Resume => {
                let paused = matches!(hand, Hand::Pause);
                desk.set_paused(number, paused).map_err(|e| e.to_string())?;
                self.model.paused(number, paused);
                None
            }
            Hand::Retry(_) => chosen.map(|key| desk.retry(number, &[key.1]).map(|_| Note::Retry(key))),
            Hand::Drop(_) => chosen.map(|key| desk.drop_deliveries(number, &[key.1], at).map(|_| Note::Drop(key))),
        };
        let note = note.transpose().map_err(|e| e.to_string())?;
        if let Some(note) = &note {
            self.model.by_hand(note);
        }
        self.compare(note.as_slice(), false)?;
        if noticed { self.settle() } else { Ok(()) }
    }

    /// Everybody is well, for as long as it takes.
    fn all_is_well(&mut self) -> Checked {
        self.clock.wall.store(NOON_2026 + self.clock.uptime_ms(), Ordering::SeqCst);
        while !self.flights.is_empty() {
            self.finish(0, Says::Taken)?;
        }
        for dest in 0..3 {
            let setup = Setup { present: true, ..self.setups[dest] };
            self.perform(&Op::Configure { dest, setup })?;
            self.perform(&Op::ByHand { dest, hand: Hand::Resume, noticed: true })?;
        }
        for _ in 0..1000 {
            let mut next: Option<Tick> = None;
            let mut sent = false;
            for dest in 0..3 {
                loop {
                    let idle = self.claim(dest)?;
                    if self.flights.is_empty() {
                        next = next.into_iter().chain(idle).min();
                        break;
                    }
                    self.finish(0, Says::Taken)?;
                    sent = true;
                }
            }
            self.settle()?;
            match next {
                _ if self.model.waits() == 0 => return Ok(()),
                _ if sent => {}
                Some(until) => self.clock.advance((until.0 - self.now().0).max(1)),
                None => return Err(format!("the lanes rest and {} deliveries wait: {:?}", self.model.waits(), self.model.books)),
            }
        }
        Err(format!("{} deliveries still wait", self.model.waits()))
    }

    fn end(mut self) -> Checked {
        self.all_is_well()?;
        self.reopen(Says::Taken)?;
        self.model.end()?;
        let process = self.process();
        for person in &self.people {
            let found = process.store.read(|view| view.lead(process.store.ids(), &person.id)).map_err(|e| e.to_string())?;
            let same = found.as_ref().is_some_and(|r| {
                (r.lead.id.as_str(), r.number, r.version, r.lead.score, r.lead.status.as_str())
                    == (person.id.as_str(), person.number, person.version, person.score, STATUSES[person.status])
            });
            if !same {
                return Err(format!("{} was acknowledged and is now {found:?}", person.id));
            }
        }
        Ok(())
    }
}

fn seen(dest: usize, request: &Request, version: u32) -> Seen {
    let request = request.http().unwrap();
    let header = |name: &str| request.value_of(name).unwrap_or_default().to_owned();
    Seen {
        dest: number(dest),
        event_id: header("X-LeadsBot-Event-Id"),
        delivery_id: header("X-LeadsBot-Delivery-Id"),
        kind: header("X-LeadsBot-Event"),
        attempt: header("X-LeadsBot-Attempt").parse().unwrap_or(0),
        body: request.body.clone(),
        version,
    }
}

/// Lives this life to its end. What is wrong with it, if anything.
fn live(setups: [Setup; 3], ops: &[Op]) -> Checked {
    let mut life = Life::new(setups)?;
    for (n, op) in ops.iter().enumerate() {
        life.perform(op).map_err(|e| format!("operation {n}, {op:?}: {e}"))?;
    }
    life.end().map_err(|e| format!("at the end: {e}"))
}

fn says() -> impl Strategy<Value = Says> {
    let wait = prop::sample::select(vec![1_u64, 60, 7200, 1_000_000_000]);
    prop_oneof![
        6 => Just(Says::Taken),
        3 => Just(Says::Rejected),
        2 => Just(Says::Unauthorised),
        2 => Just(Says::NotFound),
        2 => prop::option::of(wait.clone()).prop_map(|retry_after| Says::TooMany { retry_after }),
        1 => wait.prop_map(|retry_after| Says::Unavailable { retry_after }),
        4 => Just(Says::Broken),
        2 => Just(Says::NoName),
        1 => Just(Says::NobodyThere),
        2 => any::<bool>().prop_map(|took| Says::Silent { took }),
        2 => any::<bool>().prop_map(|took| Says::Reset { took }),
        1 => Just(Says::BadCertificate),
        1 => Just(Says::Panic),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let body = prop_oneof![2 => Just(Shown::Full), 1 => Just(Shown::Leadsbot), 3 => (1..3_u8).prop_map(Shown::Map)];
    (prop::bool::weighted(0.85), 0..3_u8, body, prop::sample::select(vec![1_usize, 2, 3, 3]))
        .prop_map(|(present, policy, body, workers)| Setup { present, policy, body, workers })
}

fn score() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![5, ODD_SCORE, 60, 95])
}

fn op() -> impl Strategy<Value = Op> {
    // The first destination gets most: a lane shows more the more it has to do.
    let dest = || prop::sample::select(vec![0_usize, 0, 0, 1, 2, 2]);
    let change = prop_oneof![
        score().prop_map(Change::Score),
        (0..3_usize).prop_map(Change::Status),
        (score(), 0..3_usize).prop_map(|(score, status)| Change::Both(score, status)),
        Just(Change::Reply),
    ];
    let hand = prop_oneof![
        1 => Just(Hand::Pause),
        1 => Just(Hand::Resume),
        3 => (0..16_usize).prop_map(Hand::Retry),
        3 => (0..16_usize).prop_map(Hand::Drop),
    ];
    let jump = prop::sample::select(vec![
        Jump::To(0),
        Jump::To(2_147_483_648_000),
        Jump::To(NOON_2026),
        Jump::By(-3_600_000),
        Jump::By(315_360_000_000),
    ]);
    let advance = prop::sample::select(vec![1, 1_000, 60_000, 3_600_000, 200_000_000]);
    prop_oneof![
        6 => (score(), prop::option::weighted(0.2, 0..4_u8)).prop_map(|(score, key)| Op::Capture { score, key }),
        6 => (0..16_usize, change).prop_map(|(lead, change)| Op::Change { lead, change }),
        10 => dest().prop_map(|dest| Op::Claim { dest }),
        10 => (0..8_usize, says()).prop_map(|(attempt, says)| Op::Finish { attempt, says }),
        12 => (dest(), says(), prop::bool::weighted(0.85)).prop_map(|(dest, says, patient)| Op::Attempt { dest, says, patient }),
        2 => Just(Op::Settle),
        3 => advance.prop_map(|ms| Op::Advance { ms }),
        1 => jump.prop_map(Op::ClockJump),
        1 => (any::<bool>(), 0..4_usize).prop_map(|(took, unanswered)| Op::Kill { took, unanswered }),
        1 => (any::<bool>(), prop::sample::select(vec![5, 30_000])).prop_map(|(took, uptime)| Op::Reboot { took, uptime }),
        1 => says().prop_map(|says| Op::Reopen { says }),
        5 => (dest(), hand, any::<bool>()).prop_map(|(dest, hand, noticed)| Op::ByHand { dest, hand, noticed }),
        2 => (dest(), setup()).prop_map(|(dest, setup)| Op::Configure { dest, setup }),
    ]
}

/// Some people first, so that there is something to do.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let people = prop::collection::vec(score().prop_map(|score| Op::Capture { score, key: None }), 0..8);
    (people, prop::collection::vec(op(), 1..100)).prop_map(|(people, ops)| people.into_iter().chain(ops).collect())
}

fn cases() -> u32 {
    std::env::var("LEADSBOT_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_invented_mixed_up_or_sent_out_of_turn(
        setups in [setup(), setup(), setup()],
        ops in ops(),
    ) {
        live(setups, &ops).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn an_answer_that_was_under_way_does_not_cut_the_wait_short_that_a_receiver_asked_for() {
    let capture = Op::Capture { score: 5, key: None };
    let attempt = |says| Op::Attempt { dest: 0, says, patient: false };
    for late in [Says::Taken, Says::Rejected, Says::Broken, Says::NoName, Says::NotFound, Says::TooMany { retry_after: Some(1) }] {
        let asked = attempt(Says::Unavailable { retry_after: 7200 });
        let ops = [
            capture.clone(),
            capture.clone(),
            Op::Claim { dest: 0 },
            asked,
            Op::Finish { attempt: 0, says: late },
            Op::Advance { ms: 3_600_000 },
            attempt(Says::Taken),
        ];
        live([Setup { present: true, policy: 0, body: Shown::Full, workers: 2 }; 3], &ops).unwrap_or_else(|e| panic!("{late:?}: {e}"));
    }
}

#[test]
fn what_an_operator_drops_while_it_is_under_way_does_not_go_again() {
    let capture = Op::Capture { score: 5, key: None };
    let ops = [
        capture.clone(),
        capture,
        Op::Claim { dest: 0 },
        Op::ByHand { dest: 0, hand: Hand::Drop(0), noticed: true },
        // The lane hears of it before the attempt ends.
        Op::Claim { dest: 0 },
        Op::Finish { attempt: 0, says: Says::NoName },
        Op::Attempt { dest: 0, says: Says::Taken, patient: true },
    ];
    live([Setup { present: true, policy: 0, body: Shown::Full, workers: 2 }; 3], &ops).unwrap();
}

#[test]
fn a_dead_letter_that_is_tried_again_waits_for_the_earlier_events_of_its_lead() {
    let ops = [
        Op::Capture { score: 5, key: None },
        Op::Change { lead: 0, change: Change::Score(ODD_SCORE) },
        Op::ByHand { dest: 2, hand: Hand::Retry(0), noticed: true },
        Op::Claim { dest: 2 },
        Op::Claim { dest: 2 },
        Op::Kill { took: true, unanswered: 0 },
    ];
    live([Setup { present: true, policy: 0, body: Shown::Full, workers: 2 }; 3], &ops).unwrap();
}

/// A well kiosk with three leads, the second of them with a changed score.
fn ordinary(then: &[Op]) -> Vec<Op> {
    let capture = |score| Op::Capture { score, key: None };
    let mut ops = vec![capture(60), capture(5), Op::Change { lead: 1, change: Change::Score(60) }, capture(95)];
    ops.extend_from_slice(then);
    ops
}

fn planted(then: &[Op]) -> Checked {
    live([Setup { present: true, policy: 0, body: Shown::Map(1), workers: 2 }; 3], &ordinary(then))
}

#[test]
fn the_model_test_sees_planted_faults() {
    let attempt = |says| Op::Attempt { dest: 0, says, patient: false };
    planted(&[]).expect("an ordinary life");
    planted(&[attempt(Says::TooMany { retry_after: None }), Op::Settle]).expect("a life with a kept body");
    for (fault, complaint) in [
        ("DELETE FROM ready WHERE event = 1 AND dest = 1", "is lost"),
        ("DELETE FROM waiting", "is lost"),
        ("INSERT INTO ready (dest, event) VALUES (3, 4)", "was invented"),
        ("INSERT INTO history (event, dest, at, attempts, result) VALUES (1, 1, 0, 1, 'delivered')", "is in 2 places"),
        ("UPDATE waiting SET attempts = 1", "it should be"),
        ("UPDATE waiting SET due = 0", "it should be"),
        ("UPDATE event SET random = random + 1 WHERE seq = 2", "has become"),
        ("UPDATE event SET body = (SELECT body FROM event WHERE seq = 2) WHERE seq = 1", "has become"),
        ("DELETE FROM event WHERE seq = 4", "has become"),
    ] {
        let found = planted(&[Op::Sabotage(fault)]).expect_err(fault);
        assert!(found.contains(complaint), "{fault}: {found}");
    }
    let forgotten = [attempt(Says::TooMany { retry_after: None }), Op::Settle, Op::Sabotage("DELETE FROM rendered")];
    let found = planted(&forgotten).expect_err("a body that was not kept");
    assert!(found.contains("with the kept body None"), "{found}");
    let found = planted(&[attempt(Says::Lie)]).expect_err("a delivery nobody has");
    assert!(found.contains("never was"), "{found}");
}
