//! The queue at any length, through the library's own store: filling it, and what its operations cost then.

use crate::Res;
use crate::load;
use crate::machine::float;
use leadsbotd::event::{Context, Draft};
use leadsbotd::id::IdKey;
use leadsbotd::intake::{Router, random};
use leadsbotd::lead::{Limits, Submission, Trust};
use leadsbotd::store::{Done, End, Error, Job, NewEvent, Options, Outcome, Store, Target, Watcher, Writer};
use leadsbotd::time::{SystemClock, Wall};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The name of the destination whose queue is filled.
pub const DESTINATION: &str = "sink";
/// A disk that has not taken the leads by then is measured with those it has.
const FILL_MAX: Duration = Duration::from_secs(900);
/// Outcomes on their way at once: as many as a lane may have.
const OUTCOMES: usize = 256;
/// No confirmation is waited for any longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store with a queue in it.
pub struct Filled {
    store: Store,
    writer: Writer,
    dest: i64,
    draft: Draft,
    ear: Arc<Ear>,
    told: u64,
    /// Deliveries that wait.
    pub waiting: u64,
}

/// Hears what is on the disk.
#[derive(Default)]
struct Ear {
    confirmed: Mutex<u64>,
    signal: Condvar,
}

impl Watcher for Ear {
    fn work(&self) {}
    fn confirmed(&self, events: &[i64]) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) += u64::try_from(events.len()).unwrap_or(0);
        self.signal.notify_all();
    }
    fn changed(&self) {}
}

/// What the event of a lead is as long as.
pub fn event_bytes() -> Res<usize> {
    Ok(draft(&IdKey::new([0; 32]), &load::lead())?.bytes().len())
}

fn draft(ids: &IdKey, lead: &str) -> Res<Draft> {
    let limits = Limits::default();
    let submission = Submission::from_json(lead.as_bytes(), &limits, Trust::Api).map_err(|fault| fault.message)?;
    let router = Router { device: leadsbotd::event::Device::default(), limits, destinations: Vec::new() };
    let context = Context { channel: "api", ip: Some("127.0.0.1".to_owned()), clock: "trusted", ..Context::default() };
    Ok(router.created(ids, submission, "api", context, Wall(1_795_435_200_123))?.draft)
}

impl Filled {
    /// A new database at `path` with this many deliveries of `lead` waiting that were never tried.
    pub fn new(path: &Path, waiting: u64, lead: &str) -> Res<Self> {
        let (store, writer) = Store::open(Options::new(path), Arc::new(SystemClock))?;
        let dest = *store.register(vec![DESTINATION.to_owned()])?.first().ok_or("the store gave no number")?;
        let (ear, draft) = (Arc::new(Ear::default()), draft(store.ids(), lead)?);
        store.watch(dest, Some(Arc::clone(&ear) as Arc<dyn Watcher>));
        let mut filled = Self { store, writer, dest, draft, ear, told: 0, waiting: 0 };
        filled.add(waiting)?;
        Ok(filled)
    }

    /// Captures this many leads more.
    fn add(&mut self, leads: u64) -> Res<()> {
        let (kept, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (begun, mut sent) = (Instant::now(), 0);
        while sent < leads && begun.elapsed() < FILL_MAX {
            let random = random()?;
            let event = NewEvent {
                draft: self.draft.clone(),
                event: self.store.ids().event(random),
                lead: self.store.ids().lead(random),
                targets: vec![Target { dest: self.dest, fault: None }],
            };
            let (kept, refused) = (Arc::clone(&kept), Arc::clone(&refused));
            let reply = move |done: Result<Done, Error>| {
                let counter = if done.is_ok() { kept } else { refused };
                counter.fetch_add(1, Ordering::AcqRel);
            };
            match self.store.capture(event, None, reply) {
                Ok(_) => sent += 1,
                Err(Error::Busy) => std::thread::sleep(Duration::from_millis(1)),
                Err(e) => return Err(e.into()),
            }
        }
        while kept.load(Ordering::Acquire) < sent {
            if refused.load(Ordering::Acquire) > 0 || begun.elapsed() > FILL_MAX + PATIENCE {
                return Err("the store refused to be filled".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.waiting += sent;
        Ok(())
    }

    /// Commits everything and closes the file.
    pub fn close(self) {
        self.writer.stop();
    }

    fn claim(&self, count: usize) -> Res<Vec<Job>> {
        Ok(self.store.read(|view| view.claim_ready(self.dest, 0, count))?)
    }

    fn claim_due(&self, count: usize) -> Res<Vec<Job>> {
        let now = self.store.timeline().now();
        Ok(self.store.read(|view| view.claim_waiting(self.dest, now, count))?)
    }

    /// Hands these to the writer and waits until they are on the disk.
    fn report(&mut self, jobs: &[Job], end: impl Fn(&Job) -> End) -> Res<()> {
        for job in jobs {
            self.store.outcome(Outcome { dest: self.dest, event: job.event, end: end(job), rendered: None });
        }
        self.told += u64::try_from(jobs.len())?;
        let told = self.told;
        let confirmed = self.ear.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ear.signal.wait_timeout_while(confirmed, PATIENCE, |c| *c < told).unwrap_or_else(PoisonError::into_inner);
        if waited.1.timed_out() { Err("the writer did not confirm outcomes within a minute".into()) } else { Ok(()) }
    }

    fn complete(&mut self, jobs: &[Job]) -> Res<()> {
        let at = self.store.timeline().wall();
        self.report(jobs, |_| End::Done { at, attempts: 1, status: Some(204) })
    }

    /// Puts them off until now: they are due, behind all others that are.
    fn put_off(&mut self, jobs: &[Job]) -> Res<()> {
        let now = self.store.timeline().now();
        let (code, reason) = ("http_500", "the receiver answered 500 Internal Server Error");
        self.report(jobs, |job| End::Later {
            due: now,
            attempts: job.attempts + 1,
            age_ms: 1000,
            seen: now,
            code: code.to_owned(),
            reason: reason.to_owned(),
        })
    }

    /// Lets a tenth of the queue, and one full window at least, have failed once.
    pub fn fail_a_tenth(&mut self) -> Res<()> {
        let mut left = usize::try_from(self.waiting / 10)?.max(OUTCOMES);
        while left > 0 {
            let jobs = self.claim(OUTCOMES)?;
            self.put_off(&jobs)?;
            left = left.saturating_sub(jobs.len().max(1));
        }
        Ok(())
    }

    /// Microseconds of each operation, by its name. The queue is as long afterwards as before.
    pub fn operations(&mut self) -> Res<BTreeMap<&'static str, f64>> {
        let (mut spent, rounds) = (BTreeMap::new(), 16_u64);
        let mut time = |what: &'static str, per_round: u64, begun: Instant| {
            *spent.entry(what).or_insert(0.0) += begun.elapsed().as_secs_f64() * 1e6 / float(rounds * per_round);
        };
        for _ in 0..rounds {
            let begun = Instant::now();
            for _ in 0..16 {
                // What a lane reads ahead.
                self.claim(32)?;
                self.claim_due(8)?;
            }
            time("claim", 16, begun);
            let begun = Instant::now();
            for _ in 0..16 {
                self.store.read(|view| view.oldest(self.dest))?;
            }
            time("oldest", 16, begun);
            let begun = Instant::now();
            for _ in 0..4 {
                self.store.counts(self.dest)?;
            }
            time("counts", 4, begun);
            let jobs = self.claim(OUTCOMES)?;
            let begun = Instant::now();
            self.complete(&jobs)?;
            time("complete", u64::try_from(jobs.len().max(1))?, begun);
            self.add(u64::try_from(jobs.len())?)?;
            self.waiting -= u64::try_from(jobs.len())?;
            let jobs = self.claim_due(OUTCOMES)?;
            let begun = Instant::now();
            self.put_off(&jobs)?;
            time("reschedule", u64::try_from(jobs.len().max(1))?, begun);
        }
        Ok(spent)
    }
}
