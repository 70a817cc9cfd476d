//! Delivery: a lane, which is one or more threads, for each destination. Blocking on purpose; a sick receiver stops its own lane only.

mod ahead;
pub mod dial;
mod ear;
mod file;
mod lane;
#[cfg(any(feature = "mqtt", feature = "nats"))]
mod line;
#[cfg(feature = "mqtt")]
mod mqtt;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "postgres")]
mod postgres;
mod resolver;
#[cfg(feature = "email")]
mod smtp;
mod transport;

pub use file::Files;
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
use std::path::PathBuf;
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
    /// Nothing: lines are put at the end of files.
    File {
        /// Nothing is written outside of it.
        folder: PathBuf,
        /// Where a file system must be mounted first; the folder is in it.
        mount: Option<PathBuf>,
    },
    /// SMTP.
    Smtp(MailServer),
    /// MQTT.
    Mqtt(Box<MqttServer>),
    /// NATS.
    Nats(Box<NatsServer>),
    /// PostgreSQL.
    Postgres(PostgresWire),
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

/// A broker that speaks MQTT, and who is there for it.
#[derive(Debug, Clone)]
pub struct MqttServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Everything goes over TLS.
    pub tls: bool,
    /// What is spoken.
    pub version: MqttVersion,
    /// Who is there. A broker has one connection for each.
    pub client_id: String,
    /// User, and password if there is one.
    pub login: Option<(String, Option<Hidden>)>,
}

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1, which calls itself 4: <https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html>.
    V4,
    /// 5: <https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html>.
    V5,
}

/// A NATS server, and who is there for it.
#[derive(Debug, Clone)]
pub struct NatsServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Nothing is said before there is TLS; else the server decides.
    pub tls: bool,
    /// Who is there.
    pub login: NatsLogin,
}

/// The ways to tell a NATS server who is there.
#[derive(Debug, Clone)]
pub enum NatsLogin {
    /// Not at all.
    Nobody,
    /// User and password.
    Password(String, Hidden),
    /// A token.
    Token(Hidden),
    /// An nkey's seed; with the token (JWT) of a credentials file, if it came with one.
    Nkey(Hidden, Option<Hidden>),
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
        #[cfg(feature = "email")]
        Wire::Smtp(server) => Ok(Arc::new(smtp::Smtp::new(link, server)?)),
        #[cfg(not(feature = "email"))]
        Wire::Smtp(_) => Err("this leadsbotd was built without email".to_owned()),
        #[cfg(feature = "mqtt")]
        Wire::Mqtt(server) => Ok(Arc::new(mqtt::Mqtt::new(link, server)?)),
        #[cfg(not(feature = "mqtt"))]
        Wire::Mqtt(_) => Err("this leadsbotd was built without mqtt".to_owned()),
        #[cfg(feature = "nats")]
        Wire::Nats(server) => Ok(Arc::new(nats::Nats::new(link, server)?)),
        #[cfg(not(feature = "nats"))]
        Wire::Nats(_) => Err("this leadsbotd was built without nats".to_owned()),
        #[cfg(feature = "postgres")]
        Wire::Postgres(wire) => postgres::transport(link, wire),
        #[cfg(not(feature = "postgres"))]
        Wire::Postgres(_) => Err("this leadsbotd was built without the feature postgres".to_owned()),
        Wire::File { folder, mount } => Ok(Arc::new(Files::new(folder.clone(), mount.clone()))),
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
