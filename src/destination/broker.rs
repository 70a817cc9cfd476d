//! What the types for message brokers have in common: a message, its address, and answers to several of them. Pure.

use super::{Answer, Class, Failure, Judgement, Moment, Record, Reply, Shown, Verdict, failure};
use crate::mapping::{Event, MappingError, Template};

/// Messages in one exchange: all are sent, then all are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Messages {
    /// How the broker is shown to people.
    pub shown: String,
    /// One for each delivery, in order.
    pub messages: Vec<Message>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Topic or subject.
    pub address: String,
    /// Which event, for a broker that is asked to know it again.
    pub event_id: String,
    /// Names and values that go with it: user properties, or headers.
    pub headers: Vec<(String, String)>,
    /// The body's type; empty where the protocol has no place for it.
    pub content_type: String,
    /// The broker keeps it for those who subscribe later.
    pub retain: bool,
    /// Seconds after which the broker forgets it, if it does.
    pub expiry_seconds: Option<u32>,
    /// What it says.
    pub body: Vec<u8>,
}

impl Messages {
    /// What people are shown: the first of them.
    pub fn shown(&self) -> Shown {
        let mut shown = Shown { verb: "PUBLISH".to_owned(), place: self.shown.clone(), headers: Vec::new(), body: Vec::new() };
        let Some(first) = self.messages.first() else { return shown };
        shown.headers.push(("to".to_owned(), first.address.clone()));
        if !first.content_type.is_empty() {
            shown.headers.push(("content type".to_owned(), first.content_type.clone()));
        }
        if first.retain {
            shown.headers.push(("retain".to_owned(), "yes".to_owned()));
        }
        shown.headers.extend(first.expiry_seconds.map(|seconds| ("expires after".to_owned(), format!("{seconds} s"))));
        shown.headers.extend(first.headers.iter().cloned());
        shown.body.clone_from(&first.body);
        shown
    }
}

/// The address of a record, which must be `fit`.
pub fn address(template: &Template, record: &Record<'_>, fit: fn(&str) -> Result<(), &'static str>) -> Result<String, MappingError> {
    let fault = |message: &str| MappingError { at: "address".to_owned(), message: message.to_owned() };
    let event = record.event.ok_or_else(|| fault("the stored event cannot be read any more"))?;
    let address = template.render(&Event::parse(event)?)?;
    fit(&address).map_err(fault)?;
    Ok(address)
}

/// The code of a reply to a message that was on its way when the connection broke, after others had been answered.
pub const LOST: &str = "lost";

/// The judgement of an exchange about `count` messages. `protocol` is what should have been spoken; `one` says what a reply means.
pub fn judged(count: usize, answer: &Answer, moment: &Moment, protocol: &str, one: impl Fn(&Reply) -> Verdict) -> Judgement {
    let one = |reply: &Reply| match reply.code.as_str() {
        LOST => failure(Failure::Reset, &reply.text, moment.clock_trusted),
        _ => one(reply),
    };
    match answer {
        Answer::Failure { kind: Failure::Protocol, detail } => {
            let mut verdict = failure(Failure::Protocol, "", moment.clock_trusted);
            verdict.reason = format!("what answers at this address does not speak {protocol} ({detail})");
            Judgement::All(verdict)
        }
        Answer::Failure { kind, detail } => {
            let mut verdict = failure(*kind, detail, moment.clock_trusted);
            // rustls's name for bytes that are no TLS at all.
            if verdict.class == Class::Refused && detail.contains("InvalidContentType") {
                "what answers at this address does not speak TLS; compare the beginning of url, and its port"
                    .clone_into(&mut verdict.reason);
            }
            Judgement::All(verdict)
        }
        Answer::Replies(replies) => match replies.as_slice() {
            [reply] => Judgement::All(one(reply)),
            several if several.len() == count => Judgement::Each(several.iter().map(one).collect()),
            _ => Judgement::All(Verdict::internal("the broker was heard on another number of messages")),
        },
        Answer::Response(_) => Judgement::All(Verdict::internal("an answer over HTTP to a message")),
    }
}
