//! The `email` type: a mail for each event, or one about many. Pure.
//!
//! What a visitor typed may be read in a mail, but can never be a header of it, a line of its own between headers, or markup. A mail that is
//! tried again is the same, byte for byte, with the same `Message-ID`: a server or a reader that knows it already may drop it.

mod compose;
mod reply;

pub use compose::{Mailbox, addresses, mailbox};
pub use reply::{HANDED_OVER, NO_LOGIN, NO_STARTTLS, Step};

use super::{Answer, Batch, Connector, Incoming, MailRequest, Memory, Moment, Next, Record, Request};
use crate::lead::is_email;
use crate::mapping::{Event, MappingError, Template};
use crate::time::Wall;
use compose::{Headers, Part, compose};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// The text of a mail about one event, where the configuration has none.
pub const TEXT: &str = include_str!("lead.txt");
/// The same in HTML.
pub const HTML: &str = include_str!("lead.html");
/// Its subject.
pub const SUBJECT: &str = include_str!("subject.txt");
/// The subject of a mail about several; it knows `count` and the `kinds` of its events.
pub const DIGEST_SUBJECT: &str =
    "{% if kinds == ['lead.created'] %}{{ count }} new leads{% elif count == 1 %}1 event{% else %}{{ count }} events{% endif %}";

/// Characters of a subject. RFC 5322 asks for lines of 78; nobody reads more of it.
const SUBJECT_CHARS_MAX: usize = 200;
/// Bytes of what a template made for one event. A lead is far below; what is longer is cut, or, as HTML, left out.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Attempts in which some recipients may hold the mail back from all: a quarter of an hour with the usual waits, enough for greylisting
/// (RFC 6647 section 5 advises servers to make an unknown sender wait for less).
const PATIENT_ATTEMPTS: u32 = 10;

/// Mails to people of the business.
#[derive(Debug)]
pub struct Email {
    /// How the server is shown to people: `smtp://mail.example.com:587`.
    pub shown: String,
    /// Who they are from.
    pub from: Mailbox,
    /// Who they are to, never none.
    pub to: Vec<Mailbox>,
    /// Who else gets them.
    pub cc: Vec<Mailbox>,
    /// Where an answer goes.
    pub reply_to: ReplyTo,
    /// Of a mail about one event.
    pub subject: Template,
    /// What it says as text.
    pub text: Template,
    /// What it says as HTML, if it does.
    pub html: Option<Template>,
    /// One mail for several events.
    pub digest: Option<Digest>,
}

/// Where an answer to a mail goes.
#[derive(Debug)]
pub enum ReplyTo {
    /// To the lead, if its address can be used.
    Lead,
    /// To `from`.
    Sender,
    /// To this address.
    Fixed(Mailbox),
}

/// One mail for several events.
#[derive(Debug)]
pub struct Digest {
    /// How long the first event waits for others.
    pub linger: Duration,
    /// Events in a mail.
    pub events_max: usize,
    /// See [`DIGEST_SUBJECT`].
    pub subject: Template,
}

/// What is kept of an event that goes into a mail about several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    subject: String,
    text: String,
    html: Option<String>,
    reply_to: Option<String>,
    /// Milliseconds since the epoch.
    at: i64,
}

impl Connector for Email {
    fn kind(&self) -> &'static str {
        "email"
    }

    fn place(&self) -> String {
        self.shown.clone()
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let piece = self.piece(incoming.bytes)?;
        if self.digest.is_some() {
            return serde_json::to_vec(&piece).map(Some).map_err(|e| fault("text", &e));
        }
        self.mail(incoming.identity.destination, &[(incoming.identity.event_id, incoming.identity.kind, piece)]).map(Some)
    }

    fn batch(&self) -> Batch {
        match &self.digest {
            Some(digest) => Batch { linger: digest.linger, ..Batch::of(digest.events_max) },
            None => Batch::ONE,
        }
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(first) = records.first() else { return Err(MappingError::nothing()) };
        if let Some(answer) = said.last() {
            return Ok(reply::judge(answer, moment).into());
        }
        let message = match records {
            // Made before mails about several were asked for, or after: it is what it is.
            [one] if !is_piece(one.body) => one.body.to_vec(),
            _ => {
                let pieces: Result<Vec<_>, _> = records.iter().map(|r| Ok((r.identity.event_id, r.identity.kind, self.kept(r)?))).collect();
                self.mail(first.identity.destination, &pieces?)?
            }
        };
        let request = MailRequest {
            shown: self.shown.clone(),
            from: self.from.email.to_string(),
            to: addresses(&self.to, &self.cc),
            message,
            all_or_none: first.attempt <= PATIENT_ATTEMPTS,
        };
        Ok(Next::Send(Request::Mail(Box::new(request))))
    }
}

impl Email {
    fn piece(&self, bytes: &[u8]) -> Result<Piece, MappingError> {
        let event = Event::parse(bytes)?;
        let json: Value = serde_json::from_slice(bytes).map_err(|e| fault("event", &e))?;
        let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str);
        let html = self.html.as_ref().map(|html| html.render(&event)).transpose()?.map(|html| printed(&html));
        let reply_to = match &self.reply_to {
            ReplyTo::Lead => text("/data/email").filter(|address| is_email(address)).and_then(mailbox).map(|m| m.email.to_string()),
            ReplyTo::Sender | ReplyTo::Fixed(_) => None,
        };
        Ok(Piece {
            subject: subject(&self.subject.render(&event)?),
            text: cut(printed(&self.text.render(&event)?)),
            html: html.filter(|html| html.len() <= TEXT_BYTES_MAX),
            reply_to,
            at: text("/created_at").and_then(Wall::parse).map_or(0, |wall| wall.0),
        })
    }

    /// What was kept of a delivery, or, of one that was made into a mail of its own once, made anew.
    fn kept(&self, record: &Record<'_>) -> Result<Piece, MappingError> {
        if let Ok(piece) = serde_json::from_slice(record.body) {
            return Ok(piece);
        }
        self.piece(record.event.ok_or_else(MappingError::nothing)?)
    }

    /// The mail about these: event id, kind and what is said of it. The same pieces make the same mail.
    fn mail(&self, destination: &str, pieces: &[(&str, &str, Piece)]) -> Result<Vec<u8>, MappingError> {
        let ids: Vec<&str> = pieces.iter().map(|(id, _, _)| *id).collect();
        let headers = |subject: String, reply_to: Option<Mailbox>| Headers {
            from: &self.from,
            to: &self.to,
            cc: &self.cc,
            reply_to: if let ReplyTo::Fixed(fixed) = &self.reply_to { Some(fixed.clone()) } else { reply_to },
            subject,
            ids: &ids,
            destination,
            at: pieces.iter().map(|(_, _, piece)| piece.at).max().unwrap_or(0),
        };
        if let [(_, _, piece)] = pieces {
            let part = Part { text: piece.text.clone(), html: piece.html.clone() };
            return compose(&headers(piece.subject.clone(), piece.reply_to.as_deref().and_then(mailbox)), part);
        }
        let mut kinds: Vec<&str> = Vec::new();
        for (_, kind, _) in pieces {
            if !kinds.contains(kind) {
                kinds.push(kind);
            }
        }
        let about = json!({ "count": pieces.len(), "kinds": kinds }).to_string();
        let title = match &self.digest {
            Some(digest) => subject(&digest.subject.render(&Event::parse(about.as_bytes())?)?),
            None => subject(&format!("{} events", pieces.len())),
        };
        compose(&headers(title, None), together(pieces))
    }
}

fn fault(at: &str, e: &dyn std::fmt::Display) -> MappingError {
    MappingError { at: at.to_owned(), message: e.to_string() }
}

fn is_piece(body: &[u8]) -> bool {
    serde_json::from_slice::<Piece>(body).is_ok()
}

/// One below the other.
fn together(pieces: &[(&str, &str, Piece)]) -> Part {
    let mut text = String::new();
    let mut html = Some(String::new());
    for (index, (_, _, piece)) in pieces.iter().enumerate() {
        let title = format!("{}/{}  {}", index + 1, pieces.len(), piece.subject);
        text.push_str(&format!("{title}\n{}\n\n{}\n\n", "=".repeat(title.chars().count().min(72)), piece.text.trim_matches('\n')));
        // One without HTML would be missing there: then none has it.
        html = html.zip(piece.html.as_ref()).map(|(mut all, own)| {
            all.push_str(&format!("<h3 style=\"font-family:sans-serif\">{}</h3>\n{own}\n<hr>\n", escaped(&title)));
            all
        });
    }
    Part { text, html }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One line for a header: no control character, no start of an encoded word, which a reader would decode into whatever it says (RFC 2047).
fn subject(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ").replace("=?", "= ?");
    let short: String = line.chars().take(SUBJECT_CHARS_MAX).collect();
    short.trim_end().to_owned()
}

/// Without control characters other than tabs and ends of lines, which are a line feed each.
fn printed(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("…\n");
    }
    text
}

#[cfg(test)]
mod tests;
