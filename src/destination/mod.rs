//! What to send to a destination and how to judge its answer. Pure: no socket, no disk, no clock.
//!
//! Each type of destination is one file with a [`Connector`]. The transports of `delivery` turn a [`Request`] into an [`Answer`] and know
//! nothing of either; a connector must never know how its requests travel.

pub mod airtable;
pub mod alarm;
pub mod alertmanager;
pub mod broker;
pub mod clickhouse;
pub mod columns;
pub mod crm;
pub mod discord;
#[cfg(feature = "email")]
pub mod email;
mod exchange;
pub mod files;
pub mod google_sheets;
pub mod hubspot;
mod judge;
pub mod mailchimp;
pub mod matrix;
pub mod message;
pub mod mqtt;
pub mod nats;
pub mod ntfy;
pub mod oauth;
pub mod pagerduty;
pub mod pipedrive;
pub mod postgres;
pub mod row;
pub mod s3;
pub mod salesforce;
pub mod slack;
pub mod teams;
pub mod telegram;
#[cfg(test)]
mod trial;
pub mod webhook;
pub mod zoho;

pub use exchange::exchange;
pub use judge::{failure, judge, printable};

use crate::mapping::{Event, Expr, MappingError};
use crate::secret::{Hidden, Secret};
use crate::time::{Tick, Wall};
use http::Method;
use std::fmt;
use std::time::Duration;
use url::Url;

/// One configured receiver, checked.
#[derive(Debug)]
pub struct Spec {
    /// Its name: what its queue is kept under.
    pub name: String,
    /// Which kinds of event: exact names, `lead.*`, `*`.
    pub events: Vec<String>,
    /// Only events for which this holds.
    pub when: Option<Expr>,
    /// What is said to it, and what its answers mean.
    pub connector: Box<dyn Connector>,
    /// Exchanges under way at once.
    pub workers: usize,
}

impl Spec {
    /// Whether this destination wants the event.
    pub fn wants(&self, kind: &str, event: &Event) -> Result<bool, MappingError> {
        if !crate::event::matches(&self.events, kind) {
            return Ok(false);
        }
        self.when.as_ref().map_or(Ok(true), |when| when.holds(event))
    }
}

/// One type of destination: what is said, and what the answers mean. Pure; everything that changes is an argument.
pub trait Connector: fmt::Debug + Send + Sync {
    /// The word for it in the configuration: `webhook`, …
    fn kind(&self) -> &'static str;

    /// Where it leads, for logs and people. Never a path or a query: tokens live there.
    fn place(&self) -> String;

    /// What one delivery says. Made at its first attempt and kept for the others; `None`: the event's own bytes.
    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError>;

    /// The secrets that it signs with, the current one first.
    fn secrets(&self) -> &[Secret] {
        &[]
    }

    /// How much one exchange may carry.
    fn batch(&self) -> Batch {
        Batch::ONE
    }

    /// The next step of an exchange about `records`, which are never none and never more than [`Connector::batch`] allows. `said` are the
    /// answers to the requests it has asked for so far. An error is a fault of each of the records, not of the receiver.
    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, memory: &mut Memory) -> Result<Next, MappingError>;
}

/// The identity of an event, the same on every attempt.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// `evt_…`
    pub event_id: &'a str,
    /// `lead.created`, …
    pub kind: &'a str,
    /// The destination's name.
    pub destination: &'a str,
}

/// An event on its way into a delivery.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Which.
    pub identity: Identity<'a>,
    /// Its JSON.
    pub bytes: &'a [u8],
}

/// A delivery in an exchange.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Which event.
    pub identity: Identity<'a>,
    /// What [`Connector::render`] made of it, or the event's own bytes.
    pub body: &'a [u8],
    /// The event's JSON, if it can still be read.
    pub event: Option<&'a [u8]>,
    /// Attempts of this delivery, this one included.
    pub attempt: u32,
}

/// How much one exchange carries at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Deliveries.
    pub records: usize,
    /// Bytes of their bodies together; one that is larger by itself goes alone.
    pub bytes: usize,
    /// How long the first one waits for others.
    pub linger: Duration,
}

impl Batch {
    /// Each delivery by itself, at once.
    pub const ONE: Batch = Batch { records: 1, bytes: usize::MAX, linger: Duration::ZERO };

    /// Up to so many at once, with bodies of a megabyte together.
    pub const fn of(records: usize) -> Batch {
        Batch { records, bytes: 1 << 20, linger: Duration::ZERO }
    }
}

/// The time at which an exchange is made, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The wall clock.
    pub wall: Wall,
    /// The daemon's own clock, for what a connector remembers.
    pub tick: Tick,
    /// Whether the wall clock is believed.
    pub clock_trusted: bool,
    /// Others get through at present: an answer of the receiver is not the clock's fault.
    pub vouched: bool,
}

/// What a connector remembers from one exchange to the next. Lost at a stop: nothing in it may be more than a saving.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// An access token.
    pub token: Option<Token>,
    /// Where the receiver said that it has moved to.
    pub moved_to: Option<String>,
}

/// An access token for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What goes into the header.
    pub value: Hidden,
    /// Not to be used after this.
    pub until: Tick,
}

/// A step of an exchange.
#[derive(Debug)]
pub enum Next {
    /// Ask this.
    Send(Request),
    /// It is over.
    Judged(Judgement),
}

/// What an exchange came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The same for all its deliveries. Where that is a rejection of several, each is tried again by itself.
    All(Verdict),
    /// For each of its deliveries, in order.
    Each(Vec<Verdict>),
}

impl From<Verdict> for Next {
    fn from(verdict: Verdict) -> Self {
        Next::Judged(Judgement::All(verdict))
    }
}

/// Deadlines of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first packet to a TLS session.
    pub connect: Duration,
    /// Everything, from looking the name up to the last byte of the answer.
    pub total: Duration,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Over HTTP.
    Http(Box<HttpRequest>),
    /// Lines at the end of files.
    Append(Box<files::Append>),
    /// A mail over SMTP.
    Mail(Box<MailRequest>),
    /// Messages to a broker.
    Publish(Box<broker::Messages>),
    /// Rows for a table of a database.
    Insert(Box<Insert>),
}

/// A mail to hand over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailRequest {
    /// How the server is shown to people.
    pub shown: String,
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients, never none.
    pub to: Vec<String>,
    /// The whole mail as it travels, but for the dots that SMTP doubles. ASCII, lines end with CRLF.
    pub message: Vec<u8>,
    /// While the server puts some of the recipients off, nobody gets it.
    pub all_or_none: bool,
}

/// Rows for a table of an SQL database, all or none of them. Answered by one [`Reply`] with the SQLSTATE.
#[derive(Debug, Clone, PartialEq)]
pub struct Insert {
    /// Where the database is: host and port.
    pub place: String,
    /// The statement, with a parameter for every value.
    pub statement: String,
    /// What makes the table, if it may be made.
    pub create: Option<String>,
    /// The values, row by row, in the order of the parameters.
    pub rows: Vec<Vec<serde_json::Value>>,
}

/// A request over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRequest {
    /// `POST`, …
    pub method: Method,
    /// Where to. May hold tokens.
    pub url: Url,
    /// How the URL is shown to people.
    pub shown: String,
    /// Header names and values, in the order they are sent.
    pub headers: Vec<(String, String)>,
    /// Headers whose values are shown to nobody; sent after the others.
    pub hidden: Vec<(String, Hidden)>,
    /// The raw body.
    pub body: Vec<u8>,
    /// How the body is shown to people, where it holds a secret.
    pub shown_body: Option<Vec<u8>>,
    /// Headers of the answer that are wanted beside the usual ones, in small letters.
    pub wanted: &'static [&'static str],
    /// Bytes of the answer's body that are read.
    pub answer_bytes_max: usize,
    /// Neither its body nor that of its answer is shown to people: access is asked for and given in them.
    pub confidential: bool,
}

/// Bytes of an answer that tell enough, where it is not told by the record.
pub const ANSWER_BYTES: usize = 4096;

impl HttpRequest {
    /// A request without a header or body.
    pub fn new(method: Method, url: Url) -> Self {
        let shown = place(&url);
        Self {
            method,
            url,
            shown,
            headers: Vec::new(),
            hidden: Vec::new(),
            body: Vec::new(),
            wanted: &[],
            answer_bytes_max: ANSWER_BYTES,
            confidential: false,
            shown_body: None,
        }
    }

    /// The value of a header that is shown.
    pub fn value_of(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// With a header more that is shown to nobody.
    #[must_use]
    pub fn secret_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.hidden.push((name.to_owned(), Hidden(value.into())));
        self
    }

    /// With this body; its type goes before the other headers.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.headers.insert(0, ("Content-Type".to_owned(), content_type.to_owned()));
        self.headers.insert(1, ("User-Agent".to_owned(), USER_AGENT.to_owned()));
        self.body = body;
        self
    }

    /// As the step of an exchange.
    pub fn send(self) -> Next {
        Next::Send(Request::Http(Box::new(self)))
    }
}

/// What people are shown of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What is done: `POST`, …
    pub verb: String,
    /// Where.
    pub place: String,
    /// Headers and the like; secret ones without their value.
    pub headers: Vec<(String, String)>,
    /// What is said.
    pub body: Vec<u8>,
}

impl Request {
    /// The request over HTTP, if it is one.
    pub fn http(&self) -> Option<&HttpRequest> {
        match self {
            Request::Http(request) => Some(request),
            Request::Mail(_) | Request::Publish(_) | Request::Insert(_) | Request::Append(_) => None,
        }
    }

    /// Whether what is said and answered is shown to nobody.
    pub fn confidential(&self) -> bool {
        self.http().is_some_and(|request| request.confidential)
    }

    /// What people are shown of it.
    pub fn shown(&self) -> Shown {
        match self {
            Request::Http(request) => {
                let hidden = request.hidden.iter().map(|(name, _)| (name.clone(), "(hidden)".to_owned()));
                Shown {
                    verb: request.method.to_string(),
                    place: request.shown.clone(),
                    headers: request.headers.iter().cloned().chain(hidden).collect(),
                    body: match &request.shown_body {
                        _ if request.confidential => b"(hidden)".to_vec(),
                        Some(shown) => shown.clone(),
                        None => request.body.clone(),
                    },
                }
            }
            Request::Mail(mail) => Shown {
                verb: "MAIL".to_owned(),
                place: mail.shown.clone(),
                headers: vec![("MAIL FROM".to_owned(), mail.from.clone()), ("RCPT TO".to_owned(), mail.to.join(", "))],
                body: mail.message.clone(),
            },
            Request::Publish(messages) => messages.shown(),
            Request::Insert(insert) => Shown {
                verb: "INSERT".to_owned(),
                place: insert.place.clone(),
                headers: vec![("statement".to_owned(), insert.statement.clone())],
                body: serde_json::to_vec(&insert.rows).unwrap_or_default(),
            },
            Request::Append(append) => append.shown(),
        }
    }
}

/// Who asks.
pub const USER_AGENT: &str = concat!("leadsbotd/", env!("CARGO_PKG_VERSION"));

/// Scheme, host and port of a URL: what may be shown of it.
pub fn place(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |p| format!(":{p}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

/// What the network gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP answer.
    Response(Response),
    /// Answers in another protocol: one for each record of the request, in order, or a single one for all.
    Replies(Vec<Reply>),
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
    /// Those the request wanted, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The first bytes of the body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header the request wanted.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON, if it is that.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Answer {
    /// Whether bytes of the request may have reached a receiver.
    pub fn may_have_reached(&self) -> bool {
        match self {
            Answer::Response(_) | Answer::Replies(_) => true,
            Answer::Failure { kind, .. } => kind.may_have_sent(),
        }
    }
}

/// No answer, and why: [`Answer::Failure`] by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// What kept it from coming.
    pub kind: Failure,
    /// The transport's words; they may name hosts, never payloads.
    pub detail: String,
}

impl Unanswered {
    /// The same on a connection that stood and may have carried bytes of a request: the receiver may have them, whatever broke.
    #[must_use]
    pub fn while_talking(self) -> Self {
        let kind = if self.kind.may_have_sent() { self.kind } else { Failure::Reset };
        Self { kind, ..self }
    }
}

impl From<Unanswered> for Answer {
    fn from(Unanswered { kind, detail }: Unanswered) -> Self {
        Answer::Failure { kind, detail }
    }
}

/// An answer in another protocol than HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Its code, as the protocol writes it: `250`, `23505`, …
    pub code: String,
    /// Its words; they may repeat what the lead said.
    pub text: String,
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
    /// An address inside the own network, which was denied; nothing was sent.
    PrivateAddress,
    /// The daemon's own address; nothing was sent.
    Itself,
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
    /// HTTP status or SMTP reply code, when there was one.
    pub status: Option<u16>,
    /// How long the receiver asked to wait.
    pub wait: Option<Duration>,
    /// A sentence for the operator: what happened and what to do. Holds nothing of the payload.
    pub reason: String,
    /// The first bytes of the answer's body as text, for dead letters; may repeat what the lead said, so it never goes into a log.
    pub answer: String,
}

impl Verdict {
    /// One that rests on no answer.
    pub fn new(class: Class, code: &'static str, reason: impl Into<String>) -> Self {
        Self { class, code, status: None, wait: None, reason: reason.into(), answer: String::new() }
    }

    /// A fault of our own.
    pub fn internal(reason: impl Into<String>) -> Self {
        Self::new(Class::Internal, "internal", reason)
    }
}
