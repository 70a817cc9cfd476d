//! The HTTP edge: what the LAN sees. Reads requests within their limits, hands them to intake and store, and answers.
//!
//! It must never answer 2xx to a lead that is not on the disk, and never wait for a destination. tokio and hyper live here.

mod answer;
mod api;
mod body;
mod form;
mod limit;
mod metrics;
mod pages;
mod public;
mod server;
mod watch;

pub use form::{Consent, Field, FieldKind, Form, Pattern};
pub use server::{Server, ServerError};

use crate::delivery::Lanes;
use crate::intake::Router;
use crate::lead::{Limits, Submission, Trust};
use crate::secret::{Hidden, Secret};
use crate::store::Store;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How the edge works, from `[server]`, `[[form]]` and `[[source]]`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses to listen at; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Who may use the API.
    pub api_tokens: Vec<ApiToken>,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_address_max: usize,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bytes of a request's head.
    pub header_bytes_max: usize,
    /// From the connection, or the last answer, to a whole head.
    pub header_timeout: Duration,
    /// From the head to the whole body.
    pub body_timeout: Duration,
    /// Posts a minute from one address without an API token; 0: no limit.
    pub requests_per_minute: u32,
    /// What a lead may hold.
    pub lead: Limits,
    /// Capture pages; the first is the default one.
    pub forms: Vec<Form>,
    /// Capture URLs.
    pub sources: Vec<Source>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))],
            trusted_proxies: Vec::new(),
            api_tokens: Vec::new(),
            connections_max: 256,
            connections_per_address_max: 100,
            body_bytes_max: 64 << 10,
            header_bytes_max: 16 << 10,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(20),
            requests_per_minute: 600,
            lead: Limits::default(),
            forms: Vec::new(),
            sources: Vec::new(),
        }
    }
}

/// One who may use the API.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// For the log.
    pub name: String,
    /// What they send as `Authorization: Bearer …`.
    pub secret: Secret,
}

/// A capture URL for a website, an app, or another system.
#[derive(Debug, Clone)]
pub struct Source {
    /// `data.source` of its leads.
    pub id: String,
    /// The secret part of its URL.
    pub token: Hidden,
    /// Pages that may post to it from a browser.
    pub allowed_origins: Vec<String>,
}

/// What a request with this `Content-Type` and body says, as the edge reads it, or the code of its refusal. Only for the fuzz targets: the
/// edge itself goes through its parts.
#[doc(hidden)]
pub async fn read(content_type: &str, body: Vec<u8>, limits: &Limits) -> Result<Submission, &'static str> {
    let value = http::HeaderValue::from_str(content_type).map_err(|_| "unsupported_media_type")?;
    let headers = http::HeaderMap::from_iter([(http::header::CONTENT_TYPE, value)]);
    let kind = body::Kind::of(&headers).map_err(|r| r.code)?;
    body::submission(kind, body.into(), limits, Trust::Public).await.map_err(|r| r.code)
}

/// What a request is answered from: replaced as a whole when the configuration is read again.
#[derive(Debug)]
pub struct Live {
    /// See [`Options`].
    pub options: Options,
    /// See [`Router`].
    pub router: Arc<Router>,
    /// What is told of destinations in trouble.
    pub alarms: crate::alarm::Options,
}

/// The parts behind the edge.
#[derive(Debug)]
pub struct Edge {
    live: Mutex<Arc<Live>>,
    store: Store,
    lanes: Arc<Lanes>,
    rates: limit::Rates,
    pages: pages::Pages,
    answers: metrics::Answers,
}

impl Edge {
    /// Puts the parts together.
    pub fn new(live: Live, store: Store, lanes: Arc<Lanes>) -> Self {
        Self {
            live: Mutex::new(Arc::new(live)),
            store,
            lanes,
            rates: limit::Rates::default(),
            pages: pages::Pages::new(),
            answers: metrics::Answers::default(),
        }
    }

    /// From the next request on, answers are given by this.
    pub fn replace(&self, live: Live) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }

    /// Who gets what at the moment.
    pub fn router(&self) -> Arc<Router> {
        Arc::clone(&self.live().router)
    }

    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
