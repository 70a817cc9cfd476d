//! A real lane over a real store, stepped by hand through simulated time.

use super::SECRET;
use leadsbotd::delivery::{Assignment, Lane, Link, Network, Step, Wire, connect};
use leadsbotd::destination::webhook::{Body, Webhook};
use leadsbotd::destination::{Spec, Timeouts};
use leadsbotd::event::{self, Context, Device};
use leadsbotd::intake::Router;
use leadsbotd::lead::{Limits, Submission, Trust};
use leadsbotd::retry::Policy;
use leadsbotd::secret::Secret;
use leadsbotd::store::{self, Captured, Done, Options, Store, Writer};
use leadsbotd::time::{Clock, Tick, Wall};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

pub const DAY_MS: i64 = 86_400_000;

/// A clock that is set by hand.
#[derive(Debug)]
pub struct Hands {
    pub uptime: AtomicI64,
    pub wall: AtomicI64,
    /// A time service keeps it right.
    pub synced: AtomicBool,
    pub boot: AtomicI64,
}

impl Hands {
    /// Noon of 2026-11-23, a second after the boot, kept right.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            uptime: AtomicI64::new(1_000),
            wall: AtomicI64::new(1_795_435_200_000),
            synced: AtomicBool::new(true),
            boot: AtomicI64::new(1),
        })
    }

    pub fn advance(&self, ms: i64) {
        self.uptime.fetch_add(ms, Ordering::SeqCst);
        self.wall.fetch_add(ms, Ordering::SeqCst);
    }

    /// Somebody sets the clock.
    pub fn set(&self, wall: i64, synced: bool) {
        self.wall.store(wall, Ordering::SeqCst);
        self.synced.store(synced, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn wall(&self) -> Wall {
        Wall(self.wall.load(Ordering::SeqCst))
    }
    fn uptime_ms(&self) -> i64 {
        self.uptime.load(Ordering::SeqCst)
    }
    fn boot_id(&self) -> String {
        format!("boot {}", self.boot.load(Ordering::SeqCst))
    }
    fn synced(&self) -> Option<bool> {
        Some(self.synced.load(Ordering::SeqCst))
    }
}

/// A destination's lane, and where it stands in a router.
fn lane(store: &Store, name: &str, url: &str, policy: Policy) -> (Arc<Lane>, (i64, Arc<Spec>)) {
    let dest = store.register(vec![name.to_owned()]).unwrap()[0];
    let timeouts = Timeouts { connect: Duration::from_secs(2), total: Duration::from_secs(5) };
    let spec = Arc::new(Spec {
        name: name.to_owned(),
        events: vec!["lead.*".to_owned()],
        when: None,
        connector: Box::new(Webhook::new(url.parse().unwrap(), vec![Secret::new(SECRET).unwrap()], Body::Full)),
        workers: 1,
    });
    let wire = Wire::Http { tls: false };
    let link = Link { wire, timeouts, network: Network::default(), allow_http: false, deny_private: false, own: Vec::new() };
    let transport = connect(&link).unwrap();
    let lane = Arc::new(Lane::new(store.clone(), Assignment { dest, spec: Arc::clone(&spec), policy, transport }, Tick::ZERO));
    store.watch(dest, Some(Lane::watcher(&lane)));
    (lane, (dest, spec))
}

/// A lane over a real store, stepped by hand.
pub struct Rig {
    pub clock: Arc<Hands>,
    pub store: Store,
    pub writer: Writer,
    pub lane: Arc<Lane>,
    router: Router,
}

impl Rig {
    pub fn new(folder: &std::path::Path, url: &str, policy: Policy) -> Self {
        Self::with(folder, url, policy, Hands::new())
    }

    /// The same under a clock that may have been used before.
    pub fn with(folder: &std::path::Path, url: &str, policy: Policy, clock: Arc<Hands>) -> Self {
        Self::limited(folder, url, policy, clock, store::Limits::default())
    }

    /// The same with limits on room.
    pub fn limited(folder: &std::path::Path, url: &str, policy: Policy, clock: Arc<Hands>, limits: store::Limits) -> Self {
        let options = Options { limits, ..Options::new(folder.join("leads.db")) };
        let (store, writer) = Store::open(options, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        let (lane, destination) = lane(&store, "crm", url, policy);
        let router = Router { device: Device::default(), limits: Limits::default(), destinations: vec![destination] };
        Self { clock, store, writer, lane, router }
    }

    /// Another destination from now on, with a lane of its own.
    pub fn add(&mut self, name: &str, url: &str) -> Arc<Lane> {
        let (lane, destination) = lane(&self.store, name, url, Policy::default());
        self.router.destinations.push(destination);
        lane
    }

    /// Captures a lead as the edge does; gives the event's id.
    pub fn capture(&self, name: &str) -> String {
        self.submit(name, None).unwrap().event_id
    }

    /// The same with the key of a submission.
    pub fn submit(&self, name: &str, key: Option<[u8; 16]>) -> Result<Captured, store::Error> {
        let clock = if self.store.timeline().trusted() { event::TRUSTED } else { event::UNTRUSTED };
        let context = Context { clock, ..Context::default() };
        let json = format!("{{\"name\":\"{name}\"}}");
        let submission = Submission::from_json(json.as_bytes(), &Limits::default(), Trust::Api).unwrap();
        let event = self.router.created(self.store.ids(), submission, "test", context, self.clock.wall()).unwrap();
        let (tx, rx) = mpsc::channel();
        self.store.capture(event, key, move |done| tx.send(done).unwrap())?;
        match rx.recv().unwrap()? {
            Done::Captured(captured) => Ok(captured),
            other => panic!("{other:?}"),
        }
    }

    /// Steps the lane until `until` ms of uptime, letting time jump to whatever it waits for. Gives the number of attempts.
    pub fn live(&self, until: i64) -> usize {
        let mut attempts = 0;
        while self.clock.uptime_ms() < until {
            if self.lane.step() == Step::Sent {
                attempts += 1;
                continue;
            }
            // What the lane waits for may still be on its way to the disk.
            assert!(self.store.settle(Duration::from_secs(10)));
            match self.lane.step() {
                Step::Sent => attempts += 1,
                Step::Again => {}
                Step::Idle(next) => {
                    let now = self.store.timeline().now();
                    let left = until - self.clock.uptime_ms();
                    let jump = next.map_or(left, |t: Tick| (t.0 - now.0).clamp(1, left));
                    self.clock.advance(jump);
                }
            }
        }
        attempts
    }
}
