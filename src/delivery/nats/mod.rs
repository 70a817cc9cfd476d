//! Messages to one NATS server, each answered by the stream that keeps it. It judges nothing.
//!
//! The connection stays open between exchanges, without a thread: what the server asks meanwhile (PING) is answered at the next one, and a
//! connection that it has closed by then is opened anew. It must never say anything that is secret before there is TLS, where TLS is asked for.

mod codec;
pub mod nkey;

use super::dial::{Stream, dial, secure, tls_config};
use super::line::Line;
use super::{Link, NatsLogin, NatsServer, Transport};
use crate::destination::broker::{LOST, Message};
use crate::destination::nats::{ACK, ERR, NOBODY, TOO_LARGE, UNFIT};
use crate::destination::{Answer, Failure, Reply, Request, USER_AGENT, Unanswered};
use codec::{Malformed, Op};
use nkey::Nkey;
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so long without a word the way to the server may have been forgotten by what stands between.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// See the module.
pub struct Nats {
    link: Link,
    server: NatsServer,
    tls: Arc<ClientConfig>,
    session: Mutex<Option<Session>>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nats({}:{})", self.server.host, self.server.port)
    }
}

/// A connection that the server has accepted.
struct Session {
    line: Line,
    /// Where answers come to: subjects that begin with this.
    inbox: String,
    /// Bytes of a message that the server takes, its headers included.
    payload_max: usize,
    next: u64,
}

/// What a server says of itself first.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    tls_available: bool,
    #[serde(default)]
    headers: bool,
    #[serde(default)]
    max_payload: usize,
    #[serde(default)]
    nonce: String,
}

/// Why an exchange ended before all its messages were answered.
enum Broken {
    Unanswered(Unanswered),
    Told(Reply),
}

impl From<Unanswered> for Broken {
    fn from(unanswered: Unanswered) -> Self {
        Broken::Unanswered(unanswered)
    }
}

impl Nats {
    /// For one destination. Fails with a sentence when the CA file is not usable.
    pub fn new(link: &Link, server: &NatsServer) -> Result<Self, String> {
        let tls = tls_config(&link.network)?;
        let mut link = link.clone();
        // The server speaks first and unencrypted; with tls nothing is said to it before the handshake.
        link.allow_http |= server.tls;
        Ok(Self { link, server: server.clone(), tls, session: Mutex::default() })
    }

    fn connect(&self, deadline: Instant) -> Result<Session, Broken> {
        let mut line = Line::new(dial(&self.link, &self.server.host, self.server.port, None)?);
        let Op::Info(info) = hear(&mut line, deadline)? else { return Err(strange("a greeting that is not NATS").into()) };
        let info: Info = serde_json::from_slice(&info).map_err(|_| strange("a greeting that cannot be read"))?;
        let encrypted = self.server.tls || info.tls_required;
        if encrypted {
            line = self.encrypt(line, &info)?;
        }
        if !info.headers {
            return Err(Broken::Told(Reply { code: UNFIT.to_owned(), text: String::new() }));
        }
        let inbox = format!("_INBOX.{:016x}{:016x}.", fastrand::u64(..), fastrand::u64(..));
        let mut hello = format!("CONNECT {}\r\n", self.hello(&info, encrypted)).into_bytes();
        hello.extend(format!("SUB {inbox}* 1\r\nPING\r\n").into_bytes());
        line.write(&hello, deadline)?;
        loop {
            match hear(&mut line, deadline)? {
                Op::Pong => break,
                Op::Err(text) => return Err(Broken::Told(Reply { code: ERR.to_owned(), text })),
                Op::Ping => line.write(b"PONG\r\n", deadline)?,
                Op::Ok | Op::Info(_) | Op::Msg { .. } => {}
            }
        }
        let payload_max = if info.max_payload == 0 { usize::MAX } else { info.max_payload };
        Ok(Session { line, inbox, payload_max, next: 0 })
    }

    fn encrypt(&self, line: Line, info: &Info) -> Result<Line, Unanswered> {
        if !info.tls_required && !info.tls_available {
            return Err(Unanswered {
                kind: Failure::Tls,
                detail: "the server offers no TLS; begin url with nats:// if it should not".to_owned(),
            });
        }
        match line.into_stream() {
            Some(Stream::Plain(socket)) => Ok(Line::new(secure(&self.server.host, socket, &self.tls)?)),
            // Somebody on the way could have put it there.
            _ => Err(strange("more than a greeting before TLS")),
        }
    }

    /// The JSON of CONNECT.
    fn hello(&self, info: &Info, encrypted: bool) -> Value {
        let options = json!({
            "verbose": false, "pedantic": false, "tls_required": encrypted, "name": USER_AGENT, "lang": "rust",
            "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "headers": true, "no_responders": true,
        });
        let Value::Object(mut options) = options else { return options };
        let mut say = |key: &str, value: &str| drop(options.insert(key.to_owned(), value.into()));
        match &self.server.login {
            NatsLogin::Nobody => {}
            NatsLogin::Password(user, password) => {
                say("user", user);
                say("pass", &password.0);
            }
            NatsLogin::Token(token) => say("auth_token", &token.0),
            NatsLogin::Nkey(seed, jwt) => {
                if let Some(key) = Nkey::from_seed(&seed.0) {
                    say("sig", &key.sign(&info.nonce));
                    match jwt {
                        Some(jwt) => say("jwt", &jwt.0),
                        None => say("nkey", &key.public()),
                    }
                }
            }
        }
        Value::Object(Map::from_iter(options))
    }

    /// All messages, answered one by one.
    fn exchange(&self, kept: &mut Option<Session>, messages: &[Message]) -> Answer {
        let deadline = Instant::now() + self.link.timeouts.total;
        let mut session = match kept.take().and_then(Session::still_there) {
            Some(session) => session,
            None => match self.connect(deadline) {
                Ok(session) => session,
                Err(Broken::Unanswered(unanswered)) => return unanswered.into(),
                Err(Broken::Told(reply)) => return Answer::Replies(vec![reply]),
            },
        };
        let mut replies: Vec<Option<Reply>> = vec![None; messages.len()];
        let end = session.publish(messages, &mut replies, deadline);
        let any = replies.iter().any(Option::is_some);
        let missing = match end {
            Ok(()) => {
                *kept = Some(session);
                Reply { code: LOST.to_owned(), text: String::new() }
            }
            Err(Broken::Unanswered(unanswered)) if !any => return unanswered.while_talking().into(),
            Err(Broken::Told(reply)) if !any => return Answer::Replies(vec![reply]),
            // What it says of the whole may be the fault of one of those that are left; they are tried again.
            Err(Broken::Told(_)) => Reply { code: LOST.to_owned(), text: "the server complained".to_owned() },
            Err(Broken::Unanswered(Unanswered { detail, .. })) => Reply { code: LOST.to_owned(), text: detail },
        };
        Answer::Replies(replies.into_iter().map(|reply| reply.unwrap_or_else(|| missing.clone())).collect())
    }
}

impl Transport for Nats {
    fn send(&self, request: &Request) -> Answer {
        let Request::Publish(batch) = request else {
            return Answer::Failure { kind: Failure::Protocol, detail: "a request that is no message".to_owned() };
        };
        // One connection for the destination: other workers wait.
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        self.exchange(&mut session, &batch.messages)
    }
}

impl Session {
    /// Itself, if the server has not gone.
    fn still_there(mut self) -> Option<Self> {
        (self.line.idle() < IDLE_MAX && self.line.catch_up()).then_some(self)
    }

    fn publish(&mut self, messages: &[Message], replies: &mut [Option<Reply>], deadline: Instant) -> Result<(), Broken> {
        let mut under_way: BTreeMap<String, usize> = BTreeMap::new();
        let mut bytes = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            self.next += 1;
            let inbox = format!("{}{}", self.inbox, self.next);
            let (packet, size) = codec::publish(message, &inbox);
            if size > self.payload_max {
                set(replies, index, Reply { code: TOO_LARGE.to_owned(), text: format!("{size} bytes of {}", self.payload_max) });
                continue;
            }
            under_way.insert(inbox, index);
            bytes.extend(packet);
        }
        if !bytes.is_empty() {
            self.line.write(&bytes, deadline)?;
        }
        while !under_way.is_empty() {
            match hear(&mut self.line, deadline)? {
                Op::Msg { subject, status, payload } => {
                    if let Some(index) = under_way.remove(&subject) {
                        let text = String::from_utf8_lossy(&payload).into_owned();
                        let code = match status.as_deref() {
                            Some(NOBODY) => NOBODY,
                            _ => ACK,
                        };
                        set(replies, index, Reply { code: code.to_owned(), text });
                    }
                }
                Op::Ping => self.line.write(b"PONG\r\n", deadline)?,
                Op::Err(text) => return Err(Broken::Told(Reply { code: ERR.to_owned(), text })),
                Op::Ok | Op::Pong | Op::Info(_) => {}
            }
        }
        Ok(())
    }
}

/// The next thing the server says.
fn hear(line: &mut Line, deadline: Instant) -> Result<Op, Unanswered> {
    loop {
        if let Some((op, bytes)) = codec::read(line.unread()).map_err(|Malformed| strange("bytes that are not NATS"))? {
            line.used_up(bytes);
            return Ok(op);
        }
        line.more(deadline)?;
    }
}

fn set(replies: &mut [Option<Reply>], index: usize, reply: Reply) {
    if let Some(place) = replies.get_mut(index) {
        *place = Some(reply);
    }
}

fn strange(what: &str) -> Unanswered {
    Unanswered { kind: Failure::Protocol, detail: what.to_owned() }
}
