//! Delivery: a lane, which is one or more threads, for each destination. Blocking on purpose; a sick receiver stops its own lane only.

mod ahead;
pub mod dial;
mod ear;
mod lane;
#[cfg(feature = "postgres")]
mod postgres;
mod resolver;
mod transport;

pub use lane::{Lane, Status, Step};
pub use resolver::is_local;
pub use transport::{Http, Transport, certificates, io_failure, proxy_is_usable};

use crate::destination::{Spec, Timeouts};
use crate::retry::Policy;
use crate::secret::Hidden;
use crate::store::Store;
use crate::time::Tick;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a destination is reached.
#[derive(Debug, Clone)]
pub struct Link {
    /// What is spoken.
    pub wire: Wire,
    /// Deadlines of a request.
    pub timeouts: Timeouts,
    /// Certificates and proxy.
    pub network: Network,
    /// Plain http to public addresses is allowed.
    pub allow_http: bool,
}

/// What is spoken with a destination.
#[derive(Debug, Clone)]
pub enum Wire {
    /// HTTP; the requests say where to.
    Http {
        /// All of them go over TLS.
        tls: bool,
    },
    /// PostgreSQL.
    Postgres(PostgresWire),
}

/// What a connection to PostgreSQL needs.
#[derive(Debug, Clone)]
pub struct PostgresWire {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who we are there.
    pub user: String,
    /// How we show it.
    pub password: Hidden,
    /// The database's name.
    pub database: String,
    /// Over TLS, with a certificate that holds.
    pub tls: bool,
}

/// What connections need beside the address.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// PEM certificates to trust instead of the built-in ones.
    pub roots: Option<Arc<Vec<u8>>>,
    /// `http://host:port` of a proxy; may hold its password.
    pub proxy: Option<Hidden>,
}

/// The transport of a destination. Fails with a sentence when it cannot be had as configured.
pub fn connect(link: &Link) -> Result<Arc<dyn Transport>, String> {
    match &link.wire {
        Wire::Http { tls } => Ok(Arc::new(Http::new(link, *tls)?)),
        #[cfg(feature = "postgres")]
        Wire::Postgres(wire) => postgres::transport(link, wire),
        #[cfg(not(feature = "postgres"))]
        Wire::Postgres(_) => Err("this leadsbotd was built without the feature postgres".to_owned()),
    }
}

/// A destination as a lane needs it.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Its number.
    pub dest: i64,
    /// What to send where.
    pub spec: Arc<Spec>,
    /// When to try again.
    pub policy: Policy,
    /// How it gets there.
    pub transport: Arc<dyn Transport>,
}

/// All lanes. A lane, once made, lives as long as the daemon: a destination that is taken out of the configuration keeps its lane
/// asleep, so that putting it back can never make a second one beside outcomes still on their way.
#[derive(Debug)]
pub struct Lanes {
    store: Store,
    lanes: Mutex<BTreeMap<i64, Arc<Lane>>>,
    not_before: Tick,
}

impl Lanes {
    /// No lanes yet. Those to come send nothing for `pause` from now on.
    pub fn new(store: Store, pause: Duration) -> Self {
        let not_before = store.timeline().now().after(pause);
        Self { store, lanes: Mutex::default(), not_before }
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, BTreeMap<i64, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the lanes be these: new ones start, missing ones go to sleep with their queue, the others go on under the new rules.
    pub fn assign(&self, assignments: Vec<Assignment>) -> std::io::Result<()> {
        let mut lanes = self.lanes();
        for (dest, lane) in lanes.iter() {
            if assignments.iter().all(|a| a.dest != *dest) {
                lane.rest();
            }
        }
        for assignment in assignments {
            let lane = match lanes.get(&assignment.dest) {
                Some(lane) => {
                    lane.reassign(assignment);
                    Arc::clone(lane)
                }
                None => {
                    let dest = assignment.dest;
                    let lane = Arc::new(Lane::new(self.store.clone(), assignment, self.not_before));
                    self.store.watch(dest, Some(Lane::watcher(&lane)));
                    lanes.insert(dest, Arc::clone(&lane));
                    lane
                }
            };
            Lane::start(&lane)?;
        }
        Ok(())
    }

    /// A line a lane for the readiness page.
    pub fn status(&self) -> Vec<Status> {
        self.lanes().values().filter_map(|l| l.status()).collect()
    }

    /// Whether every lane's threads are alive.
    pub fn alive(&self) -> bool {
        self.lanes().values().all(|l| l.alive())
    }

    /// Ends all lanes: what is on its way may finish until `deadline`. What has not by then is sent again after the next start.
    pub fn stop(&self, deadline: Instant) {
        let lanes: Vec<Arc<Lane>> = self.lanes().values().cloned().collect();
        for lane in &lanes {
            lane.rest();
        }
        for lane in &lanes {
            while !lane.idle() {
                if Instant::now() >= deadline {
                    log::warn!("destination {}: an attempt is still under way; it will be made again after the next start", lane.name());
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
