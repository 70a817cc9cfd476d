//! The `nats` type: each event into a stream of JetStream, done when the stream has it. Pure.
//!
//! The event's id goes along as `Nats-Msg-Id`: within its window (two minutes unless configured) the stream keeps one of several with the same.
//! Headers and answers: <https://docs.nats.io/nats-concepts/jetstream/headers>; error codes: `server/errors.json` of
//! <https://github.com/nats-io/nats-server>.

use super::broker::{Message, Messages, address, judged};
use super::webhook::Body;
use super::{Answer, Batch, Class, Connector, Incoming, Memory, Moment, Next, Record, Reply, Request, Verdict, printable};
use crate::mapping::{MappingError, Template};
use crate::secret::Secret;
use crate::signature;
use serde::Deserialize;

/// Messages that are under way at once.
const BATCH: Batch = Batch::of(32);

/// The code of the stream's own reply, whose text is JSON.
pub const ACK: &str = "ack";
/// The code of a reply by which the server says that nobody is there for the subject: the status 503.
pub const NOBODY: &str = "503";
/// The code of what the server says of the connection.
pub const ERR: &str = "-ERR";
/// The code for a message that is larger than the server takes and was not sent.
pub const TOO_LARGE: &str = "too large";
/// The code for a server that offers less than is needed.
pub const UNFIT: &str = "unfit";

/// A subject of a stream.
#[derive(Debug)]
pub struct Nats {
    /// Scheme, host and port.
    pub place: String,
    /// Which subject.
    pub subject: Template,
    /// The stream that must take it; `None`: whichever does.
    pub stream: Option<String>,
    /// What a message says.
    pub body: Body,
    /// Signing secrets, the current one first; at most two.
    pub secrets: Vec<Secret>,
}

/// Characters that would lead a value out of its token, or make it a pattern.
pub fn leaves_token(c: char) -> bool {
    matches!(c, '.' | '*' | '>' | '$') || c.is_whitespace()
}

/// Whether a subject may be published to: <https://docs.nats.io/nats-concepts/subjects>.
pub fn fit(subject: &str) -> Result<(), &'static str> {
    if subject.is_empty() || subject.split('.').any(str::is_empty) {
        return Err("a subject must not be empty, nor have an empty part between its dots");
    }
    if subject.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>')) {
        return Err("a subject that is published to must not hold *, > or blanks");
    }
    // The server's own limit for a whole line is 4096 bytes.
    if subject.len() > 2048 {
        return Err("the subject is longer than 2048 bytes");
    }
    Ok(())
}

impl Connector for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    fn batch(&self) -> Batch {
        BATCH
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        self.body.render(incoming.bytes)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        match said.last() {
            None => {
                let messages = records.iter().map(|record| self.message(record)).collect::<Result<Vec<_>, _>>()?;
                Ok(Next::Send(Request::Publish(Box::new(Messages { shown: self.place.clone(), messages }))))
            }
            Some(answer) => Ok(Next::Judged(judged(records.len(), answer, moment, "NATS", verdict))),
        }
    }
}

impl Nats {
    fn message(&self, record: &Record<'_>) -> Result<Message, MappingError> {
        let event_id = record.identity.event_id;
        let mut headers = vec![("Nats-Msg-Id".to_owned(), event_id.to_owned())];
        headers.extend(self.stream.as_ref().map(|stream| ("Nats-Expected-Stream".to_owned(), stream.clone())));
        headers.push(("Content-Type".to_owned(), self.body.content_type().to_owned()));
        headers.push(("X-LeadsBot-Event".to_owned(), record.identity.kind.to_owned()));
        let names = [signature::HEADER, signature::HEADER_NEXT].into_iter();
        headers.extend(names.zip(&self.secrets).map(|(name, secret)| (name.to_owned(), signature::leadsbot(secret, record.body))));
        Ok(Message {
            address: address(&self.subject, record, fit)?,
            event_id: event_id.to_owned(),
            headers,
            body: record.body.to_vec(),
            ..Message::default()
        })
    }
}

/// What a stream says when it has a message, or why it has not.
#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u16,
    #[serde(default)]
    description: String,
}

const NO_STREAM: &str =
    "no stream takes this subject; make one with it (nats stream add), or compare subject, and see that JetStream is on (nats-server -js)";

fn verdict(reply: &Reply) -> Verdict {
    let verdict = match reply.code.as_str() {
        ACK => acknowledged(&reply.text),
        NOBODY => Verdict::new(Class::Refused, "receiver_4xx", NO_STREAM),
        TOO_LARGE => Verdict::new(Class::Rejected, "rejected_body", "the message is larger than the server takes (max_payload)"),
        UNFIT => {
            Verdict::new(Class::Refused, "protocol_error", "the server is older than NATS 2.2 and knows no headers; bring it up to date")
        }
        ERR => told(&reply.text),
        _ => Verdict::internal("a reply that is none of NATS"),
    };
    Verdict { answer: printable(reply.text.as_bytes()), ..verdict }
}

fn acknowledged(json: &str) -> Verdict {
    let Ok(ack) = serde_json::from_str::<PubAck>(json) else {
        let what = "what answers for this subject is no stream; compare it with the subjects of the streams";
        return Verdict::new(Class::Refused, "protocol_error", what);
    };
    match ack.error {
        Some(refusal) => refused(&refusal),
        None if ack.stream.is_empty() || ack.seq == 0 => {
            let what = "what answers for this subject is no stream; compare it with the subjects of the streams";
            Verdict::new(Class::Refused, "protocol_error", what)
        }
        None if ack.duplicate => Verdict::new(Class::Delivered, "delivered", "the stream has it from an earlier attempt"),
        None => Verdict::new(Class::Delivered, "delivered", "the stream has it"),
    }
}

fn refused(refusal: &Refusal) -> Verdict {
    let number = refusal.err_code;
    let (class, code, what) = match number {
        // Its description tells what is full; one subject alone is the trouble of its own messages.
        10077 if refusal.description.contains("per subject") => {
            (Class::Rejected, "rejected_body", "the stream has as many messages of this subject as it may (max_msgs_per_subject)")
        }
        10077 if refusal.description.contains("exceeded") => {
            (Class::Throttled, "throttled", "the stream is full and set to take no more; raise its limits or let somebody read it")
        }
        10002 | 10023 | 10028 | 10047 => {
            (Class::Throttled, "throttled", "the server has no room left for the stream; give it more, or let somebody read it")
        }
        10054 => (Class::Rejected, "rejected_body", "the message is larger than the stream takes (max_msg_size)"),
        10097 => (Class::Rejected, "rejected_body", "the message's headers are larger than the stream takes"),
        10060 => (Class::Refused, "receiver_4xx", "another stream than the configured one takes this subject; compare stream and subject"),
        10059 => (Class::Refused, "receiver_4xx", NO_STREAM),
        10039 | 10076 | 10035 => (Class::Refused, "receiver_4xx", "JetStream is not on for this account; switch it on"),
        10109 => (Class::Refused, "receiver_4xx", "the stream is sealed and takes nothing any more; name another subject"),
        _ if refusal.code / 100 == 4 => (Class::Rejected, "rejected_body", "the stream refuses this one message"),
        _ => (Class::Temporary, "receiver_5xx", "the stream could not keep it"),
    };
    Verdict::new(class, code, format!("JetStream error {number}: {what}"))
}

/// What the server says of the connection: <https://docs.nats.io/reference/reference-protocols/nats-protocol#okerr>.
fn told(words: &str) -> Verdict {
    let words = words.to_ascii_lowercase();
    let has = |part: &str| words.contains(part);
    let (class, code, what) = if has("permissions violation") {
        (Class::Refused, "receiver_4xx", "this user may not publish to the subject, or not hear of it; compare its permissions")
    } else if has("authorization") || has("authentication") || has("credentials") {
        (Class::Refused, "receiver_4xx", "the server does not let this user in; compare user and secret")
    } else if has("tls required") {
        (Class::Refused, "tls_error", "the server wants TLS; begin url with tls://")
    } else if has("maximum payload") {
        (Class::Rejected, "rejected_body", "the message is larger than the server takes (max_payload)")
    } else if has("invalid") && has("subject") {
        (Class::Rejected, "rejected_body", "the server does not take this subject")
    } else if has("connections exceeded") {
        (Class::Throttled, "throttled", "the server has as many connections as it takes")
    } else {
        (Class::Temporary, "receiver_5xx", "the server broke off")
    };
    Verdict::new(class, code, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{Identity, Judgement};
    use crate::time::{Tick, Wall};

    const EVENT: &[u8] = br#"{"id":"evt_1","event":"lead.created","data":{"name":"Zo\u00eb","source":"stand 4.>"}}"#;
    const MOMENT: Moment = Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: true, vouched: false };

    fn asked(subject: &str) -> Result<Messages, MappingError> {
        let nats = Nats {
            place: "nats://bus.lan:4222".to_owned(),
            subject: Template::address("subject", subject, leaves_token).unwrap(),
            stream: Some("LEADS".to_owned()),
            body: Body::Leadsbot,
            secrets: vec![Secret::new("0123456789abcdef0123456789abcdef").unwrap()],
        };
        let identity = Identity { event_id: "evt_1", kind: "lead.created", destination: "bus" };
        let body = nats.render(&Incoming { identity, bytes: EVENT })?.unwrap();
        let record = Record { identity, body: &body, event: Some(EVENT), attempt: 1 };
        match nats.next(&[record], &[], &MOMENT, &mut Memory::default())? {
            Next::Send(Request::Publish(messages)) => Ok(*messages),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_says_by_which_id_the_stream_knows_it_again() {
        let messages = asked("leads.{{ event }}.{{ data.source }}.{{ data.company }}").unwrap();
        let message = &messages.messages[0];
        assert_eq!(message.address, "leads.lead_created.stand_4__._");
        let body = "{\"event\":\"lead.created\",\"data\":{\"name\":\"Zoë\",\"email\":null,\"score\":null,\"source\":\"stand 4.>\"}}";
        assert_eq!(String::from_utf8_lossy(&message.body), body);
        let secret = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let wanted = [
            pair("Nats-Msg-Id", "evt_1"),
            pair("Nats-Expected-Stream", "LEADS"),
            pair("Content-Type", "application/json"),
            pair("X-LeadsBot-Event", "lead.created"),
            pair("X-LeadsBot-Signature", &signature::leadsbot(&secret, body.as_bytes())),
        ];
        assert_eq!(message.headers, wanted);
    }

    #[test]
    fn a_subject_that_cannot_be_published_to_is_a_fault_of_the_delivery() {
        for subject in ["a..b", ".a", "a.", "a.*", "a.>", "a b", ""] {
            assert!(asked(subject).is_err(), "{subject}");
        }
    }

    #[test]
    fn every_answer_has_its_class() {
        let error = |code: u16, err_code: u16, description: &str| {
            format!(r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"{description}"}},"stream":"LEADS","seq":0}}"#)
        };
        for (code, text, class, word) in [
            (ACK, r#"{"stream":"LEADS","seq":7}"#.to_owned(), Class::Delivered, "delivered"),
            (ACK, r#"{"stream":"LEADS","domain":"hub","seq":7,"duplicate":true}"#.to_owned(), Class::Delivered, "delivered"),
            (ACK, r#"{"stream":"LEADS"}"#.to_owned(), Class::Refused, "protocol_error"),
            (ACK, "thanks".to_owned(), Class::Refused, "protocol_error"),
            (ACK, error(503, 10077, "maximum messages exceeded"), Class::Throttled, "throttled"),
            (ACK, error(503, 10077, "maximum bytes exceeded"), Class::Throttled, "throttled"),
            (ACK, error(503, 10077, "maximum messages per subject exceeded"), Class::Rejected, "rejected_body"),
            (ACK, error(503, 10077, "no space left on device"), Class::Temporary, "receiver_5xx"),
            (ACK, error(500, 10047, "insufficient storage resources available"), Class::Throttled, "throttled"),
            (ACK, error(400, 10054, "message size exceeds maximum allowed"), Class::Rejected, "rejected_body"),
            (ACK, error(400, 10060, "expected stream does not match"), Class::Refused, "receiver_4xx"),
            (ACK, error(503, 10039, "JetStream not enabled for account"), Class::Refused, "receiver_4xx"),
            (ACK, error(400, 10109, "invalid operation on sealed stream"), Class::Refused, "receiver_4xx"),
            (ACK, error(400, 10071, "wrong last sequence: 3"), Class::Rejected, "rejected_body"),
            (ACK, error(503, 10008, "JetStream system temporarily unavailable"), Class::Temporary, "receiver_5xx"),
            (NOBODY, String::new(), Class::Refused, "receiver_4xx"),
            (TOO_LARGE, String::new(), Class::Rejected, "rejected_body"),
            (UNFIT, String::new(), Class::Refused, "protocol_error"),
            (ERR, "Authorization Violation".to_owned(), Class::Refused, "receiver_4xx"),
            (ERR, "User Authentication Expired".to_owned(), Class::Refused, "receiver_4xx"),
            (ERR, "Permissions Violation for Publish to \"leads.Jane\"".to_owned(), Class::Refused, "receiver_4xx"),
            (ERR, "Secure Connection - TLS Required".to_owned(), Class::Refused, "tls_error"),
            (ERR, "Maximum Payload Violation".to_owned(), Class::Rejected, "rejected_body"),
            (ERR, "Invalid Publish Subject".to_owned(), Class::Rejected, "rejected_body"),
            (ERR, "maximum connections exceeded".to_owned(), Class::Throttled, "throttled"),
            (ERR, "Stale Connection".to_owned(), Class::Temporary, "receiver_5xx"),
            ("?", String::new(), Class::Internal, "internal"),
        ] {
            let answer = Answer::Replies(vec![Reply { code: code.to_owned(), text: text.clone() }]);
            let Judgement::All(verdict) = judged(1, &answer, &MOMENT, "NATS", verdict) else { panic!("{text}") };
            assert_eq!((verdict.class, verdict.code), (class, word), "{code} {text}");
            assert!(!verdict.reason.contains("Jane"), "{text}");
        }
    }
}
