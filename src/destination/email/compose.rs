//! A mail as bytes: RFC 5322, RFC 2045 to 2047. Pure, and the same for the same arguments.
//!
//! Everything is ASCII with lines below 998 octets, so that every server takes it: no 8BITMIME (RFC 6152), no SMTPUTF8 (RFC 6531).

use crate::mapping::MappingError;
use lettre::Message;
pub use lettre::message::Mailbox;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{MultiPart, SinglePart};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// The last second that a date in a header can name.
const SECONDS_MAX: u64 = 253_402_300_799;
/// Hexadecimal digits of what tells destinations apart.
const TAG_CHARS: usize = 12;
/// Octets of an address: RFC 5321 section 4.5.3.1.3, brackets taken off.
const ADDRESS_BYTES_MAX: usize = 254;

/// What stands above a mail.
pub struct Headers<'a> {
    pub from: &'a Mailbox,
    pub to: &'a [Mailbox],
    pub cc: &'a [Mailbox],
    pub reply_to: Option<Mailbox>,
    /// One line.
    pub subject: String,
    /// The events in it.
    pub ids: &'a [&'a str],
    pub destination: &'a str,
    /// Milliseconds since the epoch.
    pub at: i64,
}

/// What it says.
pub struct Part {
    pub text: String,
    pub html: Option<String>,
}

/// `jane@example.com` or `Jane Smith <jane@example.com>`; `None` for what is neither, or needs a server that takes other than ASCII.
pub fn mailbox(text: &str) -> Option<Mailbox> {
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').map(|rest| rest.split_once('<')) {
        None => ("", text),
        Some(Some((name, address))) => (name.trim(), address.trim()),
        Some(None) => return None,
    };
    let name = name.strip_prefix('"').and_then(|n| n.strip_suffix('"')).unwrap_or(name);
    let named = !name.contains(|c: char| c.is_control() || matches!(c, '"' | '<' | '>' | '\\'));
    let fits = address.is_ascii() && address.len() <= ADDRESS_BYTES_MAX && !address.contains(|c: char| c.is_control() || c == ' ');
    if !named || !fits {
        return None;
    }
    Some(Mailbox::new((!name.is_empty()).then(|| name.to_owned()), address.parse().ok()?))
}

/// The addresses of all of them, each once.
pub fn addresses(to: &[Mailbox], cc: &[Mailbox]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for mailbox in to.iter().chain(cc) {
        let address = mailbox.email.to_string();
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// The whole mail.
pub fn compose(headers: &Headers<'_>, part: Part) -> Result<Vec<u8>, MappingError> {
    let failed = |e: &dyn std::fmt::Display| MappingError { at: "mail".to_owned(), message: format!("it cannot be made: {e}") };
    let id = message_id(headers);
    let seconds = u64::try_from(headers.at.div_euclid(1000)).unwrap_or(0).min(SECONDS_MAX);
    let mut builder = Message::builder().message_id(Some(id.clone())).date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    builder = builder.from(headers.from.clone());
    for mailbox in headers.to {
        builder = builder.to(mailbox.clone());
    }
    for mailbox in headers.cc {
        builder = builder.cc(mailbox.clone());
    }
    if let Some(reply_to) = &headers.reply_to {
        builder = builder.reply_to(reply_to.clone());
    }
    let raw = |name, value: String| HeaderValue::new(HeaderName::new_from_ascii_str(name), value);
    builder = builder
        .subject(headers.subject.clone())
        // RFC 3834: no answer by a machine, please.
        .raw_header(raw("Auto-Submitted", "auto-generated".to_owned()))
        .raw_header(raw("X-LeadsBot-Event-Id", headers.ids.join(" ")));
    let message = match part.html {
        None => builder.singlepart(SinglePart::plain(part.text)),
        Some(html) => {
            // Made from the id, which no visitor knows, so that no text can hold it.
            let boundary = format!("lb_{}", hex(id.as_bytes(), 32));
            let parts = MultiPart::alternative().boundary(boundary);
            builder.multipart(parts.singlepart(SinglePart::plain(part.text)).singlepart(SinglePart::html(page(&html))))
        }
    };
    Ok(message.map_err(|e| failed(&e))?.formatted())
}

/// `<event.destination@domain of from>`; the event's place is taken by a digest of the ids where there are several.
fn message_id(headers: &Headers<'_>) -> String {
    let tag = hex(headers.destination.as_bytes(), TAG_CHARS);
    let event = match headers.ids {
        [one] => (*one).to_owned(),
        several => format!("digest_{}", hex(several.join("\n").as_bytes(), 32)),
    };
    format!("<{event}.{tag}@{}>", headers.from.email.domain())
}

/// HTML that is only a piece of a page gets what a page needs.
fn page(html: &str) -> String {
    if html.to_ascii_lowercase().contains("<html") {
        return html.to_owned();
    }
    format!("<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"></head><body>\n{html}\n</body></html>\n")
}

/// The first `chars` hexadecimal digits of a digest.
fn hex(bytes: &[u8], chars: usize) -> String {
    let mut out = String::with_capacity(chars + 1);
    for byte in Sha256::digest(bytes).iter().take(chars.div_ceil(2)) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}
