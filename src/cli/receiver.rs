//! A receiver in this process, for `listen` and `demo`: verifies before anything else, drops duplicates, answers as told.

use crate::secret::Secret;
use crate::signature::{self, Invalid};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// Larger bodies are refused.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Ids remembered for telling duplicates.
const IDS_MAX: usize = 100_000;

/// How it answers.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// This status instead of 200.
    pub answer: Option<StatusCode>,
    /// With this `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// After this long.
    pub delay: Duration,
    /// So many in a hundred fail with 500.
    pub fail_percent: u8,
}

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as it came.
    pub body: Bytes,
    /// Whether `X-LeadsBot-Signature` holds.
    pub signature: Result<(), Invalid>,
    /// Whether `webhook-signature` holds.
    pub standard: Result<(), Invalid>,
    /// The event id was seen before.
    pub duplicate: bool,
    /// What was answered.
    pub answered: StatusCode,
}

impl Received {
    /// A header as text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
}

/// Called with every delivery, before it is answered.
pub type Tell = Box<dyn Fn(Received) + Send + Sync>;

struct Shared {
    secrets: Vec<Secret>,
    manners: Manners,
    seen: Mutex<(HashSet<String>, VecDeque<String>)>,
    tell: Tell,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, secrets: Vec<Secret>, manners: Manners, tell: Tell) {
    let shared = Arc::new(Shared { secrets, manners, seen: Mutex::default(), tell });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(60))
                .serve_connection(TokioIo::new(stream), service);
            // A sender that breaks off is its own affair.
            let _ = connection.await;
        });
    }
}

/// Binds `address`; when its port is taken and `or_any` says so, any free port of the same address.
pub async fn bind(address: SocketAddr, or_any: bool) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = match TcpListener::bind(address).await {
        Err(e) if or_any && e.kind() == std::io::ErrorKind::AddrInUse => TcpListener::bind((address.ip(), 0)).await?,
        other => other?,
    };
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return respond(StatusCode::METHOD_NOT_ALLOWED, "this is a receiver of webhooks; it takes POST", None);
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return respond(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off", None);
        };
        let body = body.to_bytes();
        let text = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap_or(""));
        let signature = self.any(|s| signature::verify_leadsbot(s, &body, text(signature::HEADER)));
        let (id, timestamp) = (text("webhook-id").unwrap_or(""), text("webhook-timestamp").unwrap_or(""));
        let standard = self.any(|s| signature::verify_standard(s, id, timestamp, &body, text("webhook-signature")));
        let event_id = text("x-leadsbot-event-id").unwrap_or("").to_owned();
        let failing = self.manners.fail_percent > 0 && fastrand::u8(0..100) < self.manners.fail_percent;
        let answered = match (signature, self.manners.answer) {
            (Err(_), _) => StatusCode::UNAUTHORIZED,
            (Ok(()), Some(status)) => status,
            (Ok(()), None) if failing => StatusCode::INTERNAL_SERVER_ERROR,
            (Ok(()), None) => StatusCode::OK,
        };
        if !self.manners.delay.is_zero() {
            tokio::time::sleep(self.manners.delay).await;
        }
        // Only what was taken is remembered: a delivery that was answered with an error will come again and is then no duplicate.
        let duplicate = answered.is_success() && !self.remember(event_id);
        (self.tell)(Received { headers: parts.headers, body, signature, standard, duplicate, answered });
        let message = match (signature, duplicate) {
            (Err(e), _) => e.to_string(),
            (Ok(()), _) if !answered.is_success() => "this receiver was told to answer so".to_owned(),
            (Ok(()), true) => "duplicate".to_owned(),
            (Ok(()), false) => "stored".to_owned(),
        };
        respond(answered, &message, self.manners.retry_after.filter(|_| !answered.is_success()))
    }

    fn any(&self, check: impl Fn(&Secret) -> Result<(), Invalid>) -> Result<(), Invalid> {
        let mut outcome = Err(Invalid::Mismatch);
        for secret in &self.secrets {
            outcome = check(secret);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn remember(&self, id: String) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.0.insert(id.clone()) {
            return false;
        }
        seen.1.push_back(id);
        if seen.1.len() > IDS_MAX
            && let Some(oldest) = seen.1.pop_front()
        {
            seen.0.remove(&oldest);
        }
        true
    }
}

fn respond(status: StatusCode, message: &str, retry_after: Option<u32>) -> Response<Full<Bytes>> {
    let key = if status.is_success() { "status" } else { "error" };
    let body = serde_json::json!({ key: message }).to_string();
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from(seconds));
    }
    answer
}
