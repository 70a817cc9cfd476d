//! Delivery: a lane, which is one or more threads, for each destination. Blocking on purpose; a sick receiver stops its own lane only.

mod ahead;
pub mod dial;
mod ear;
mod lane;
mod resolver;
#[cfg(feature = "email")]
mod smtp;
mod transport;

pub use lane::{Lane, Status, Step};
use resolver::Guard;
pub use resolver::{is_local, is_ours};
pub use transport::{Http, Transport, certificates, io_failure, proxy_is_usable};

use crate::destination::{Spec, Timeouts};
use crate::retry::Policy;
use crate::secret::Hidden;
use crate::store::Store;
use crate::time::Tick;
use std::collections::BTreeMap;
use std::net::SocketAddr;
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
    /// Loopback, private and link-local addresses are not connected to, whatever a name leads to.
    pub deny_private: bool,
    /// Where this daemon itself listens: not to be connected to.
    pub own: Vec<SocketAddr>,
}

impl Link {
    /// Which addresses may be connected to. `allow_public`: connections that are not encrypted may leave the own network.
    fn guard(&self, allow_public: bool) -> Guard {
        Guard { allow_public: allow_public || self.allow_http, deny_private: self.deny_private, own: self.own.clone() }
    }
}

/// What is spoken with a destination.
#[derive(Debug, Clone)]
pub enum Wire {
    /// HTTP; the requests say where to.
    Http {
        /// All of them go over TLS.
        tls: bool,
    },
    /// SMTP.
    Smtp(MailServer),
}

/// Who takes mails.
#[derive(Debug, Clone)]
pub struct MailServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is kept from others.
    pub security: MailSecurity,
    /// User and password, if it wants them.
    pub login: Option<(String, Hidden)>,
    /// What the client calls itself; `None`: an address of loopback, as one that has no name.
    pub helo: Option<String>,
}

/// How mails are kept from others on the way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS after STARTTLS, or nothing is sent: RFC 3207.
    StartTls,
    /// TLS from the first byte: RFC 8314.
    Tls,
    /// Not at all.
    None,
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
        #[cfg(feature = "email")]
        Wire::Smtp(server) => Ok(Arc::new(smtp::Smtp::new(link, server)?)),
        #[cfg(not(feature = "email"))]
        Wire::Smtp(_) => Err("this leadsbotd was built without email".to_owned()),
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

    /// Makes the lanes be these: new ones start, missing ones go to sleep with their queue, the others go on under the new rules. Those with a
    /// new secret may be refused because of that.
    pub fn assign(&self, assignments: Vec<Assignment>, new_secrets: &[i64]) -> std::io::Result<()> {
        let mut lanes = self.lanes();
        for (dest, lane) in lanes.iter() {
            if assignments.iter().all(|a| a.dest != *dest) {
                lane.rest();
            }
        }
        for assignment in assignments {
            let lane = match lanes.get(&assignment.dest) {
                Some(lane) => {
                    if new_secrets.contains(&assignment.dest) {
                        lane.secret_changed();
                    }
                    lane.reassign(assignment);
                    Arc::clone(lane)
                }
                None => {
                    let dest = assignment.dest;
                    let lane = Arc::new(Lane::new(self.store.clone(), assignment, self.not_before));
                    if new_secrets.contains(&dest) {
                        lane.secret_changed();
                    }
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
