//! What to send to a destination and how to judge its answer. Pure: no socket, no disk, no clock.
//!
//! Each type is one file; `webhook` is the first. The transport turns a [`Request`] into an [`Answer`] and knows nothing of either.

mod judge;
pub mod webhook;

pub use judge::judge;

use crate::mapping::{Expr, Shape};
use crate::secret::{Hidden, Secret};
use std::fmt;
use std::time::Duration;
use url::Url;

/// One configured receiver, checked.
#[derive(Debug)]
pub struct Spec {
    /// Its name: what its queue is kept under.
    pub name: String,
    /// Where to.
    pub url: Url,
    /// Signing secrets, the current one first; at most two.
    pub secrets: Vec<Secret>,
    /// Which kinds of event: exact names, `lead.*`, `*`.
    pub events: Vec<String>,
    /// Only events for which this holds.
    pub when: Option<Expr>,
    /// What the body is.
    pub body: Body,
    /// Headers added to each request.
    pub headers: Vec<(String, Hidden)>,
    /// Deliveries under way at once.
    pub workers: usize,
    /// Deadlines of one attempt.
    pub timeouts: Timeouts,
}

/// Deadlines of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first packet to a TLS session.
    pub connect: Duration,
    /// Everything, from looking the name up to the last byte of the answer.
    pub total: Duration,
}

/// What a delivery's body is made of.
#[derive(Debug)]
pub enum Body {
    /// The event as it is stored.
    Full,
    /// Exactly `{"event":…,"data":{"name","email","score","source"}}`.
    Leadsbot,
    /// What `map` says.
    Map(Shape),
}

/// What one attempt sends, headers that differ by attempt aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Header names and values, in the order they are sent.
    pub headers: Vec<(String, String)>,
    /// The raw body.
    pub body: Vec<u8>,
}

/// What the network gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP answer.
    Response(Response),
    /// None.
    Failure {
        /// What kept it from coming.
        kind: Failure,
        /// The transport's words; they may name hosts, never payloads.
        detail: String,
    },
}

/// The parts of an HTTP answer that matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// `Retry-After`, as sent.
    pub retry_after: Option<String>,
    /// `Date`, as sent: the receiver's clock, against which a date in `Retry-After` is read.
    pub date: Option<String>,
    /// `Location`, as sent.
    pub location: Option<String>,
    /// The first bytes of the body.
    pub body: Vec<u8>,
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The name could not be looked up.
    Dns,
    /// Nobody listens there.
    Refused,
    /// No route, network down.
    Unreachable,
    /// No connection within the deadline.
    ConnectTimeout,
    /// The certificate or the handshake was not acceptable.
    Tls,
    /// The connection broke while talking.
    Reset,
    /// Connected, but no whole answer within the deadline.
    Timeout,
    /// What came back is not HTTP.
    Protocol,
    /// Plain http to a public address, which was not allowed; nothing was sent.
    PublicHttp,
}

impl Failure {
    /// Whether bytes of the request may have reached a receiver.
    pub const fn may_have_sent(self) -> bool {
        matches!(self, Failure::Reset | Failure::Timeout | Failure::Protocol)
    }
}

/// What an answer means for the delivery; the classes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The receiver has it.
    Delivered,
    /// The network is not there.
    Offline,
    /// The device's own clock is wrong.
    Clock,
    /// The receiver asks to wait.
    Throttled,
    /// The receiver is ill; it may pass.
    Temporary,
    /// The destination is wrong, not the lead.
    Refused,
    /// This one delivery is not acceptable.
    Rejected,
    /// A fault of our own.
    Internal,
}

impl Class {
    /// The word used in logs, the database and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Delivered => "delivered",
            Class::Offline => "offline",
            Class::Clock => "clock",
            Class::Throttled => "throttled",
            Class::Temporary => "temporary",
            Class::Refused => "refused",
            Class::Rejected => "rejected",
            Class::Internal => "internal",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A judged attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it means.
    pub class: Class,
    /// A stable word for the cause: `dns_error`, `connection_refused`, `receiver_5xx`, …
    pub code: &'static str,
    /// HTTP status, when there was one.
    pub status: Option<u16>,
    /// How long the receiver asked to wait.
    pub wait: Option<Duration>,
    /// A sentence for the operator: what happened and what to do. Holds nothing of the payload.
    pub reason: String,
    /// The first bytes of the answer's body as text, for dead letters; may repeat what the lead said, so it never goes into a log.
    pub answer: String,
}
