//! What chats have in common: a title and a text for people about any kind of event, cut to what a service takes. Pure.
//!
//! A visitor's words must never mention anybody, bring markup, or look like a line of ours: templates escape what they insert, and what
//! is left of it that changes the reading of a text is taken out here.

use super::{Answer, Class, Incoming, Moment, Response, Verdict, judge};
use crate::mapping::{Chat, Event, MappingError, Template};
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// Bytes of an answer that repeats the message, however it is escaped.
pub const ECHO_BYTES: usize = 128 * 1024;

/// The default of `title`: one line, never with markup.
pub const TITLE: &str = "\
{%- set who = (data.name or data.email or data.phone or data.company or 'no name') | truncate(100) -%}
{%- set device = context.device.name or context.device.id -%}
{%- if event == 'lead.created' %}New lead: {{ who }}
{%- elif event == 'lead.updated' %}Lead changed: {{ who }}
{%- elif event == 'lead.status_changed' %}Lead {{ data.from }} → {{ data.to }}: {{ who }}
{%- elif event == 'lead.replied' %}Reply {{ 'from' if data.reply.direction == 'inbound' else 'to' }} {{ who }}
{%- elif event == 'lead.erased' %}Lead erased
{%- elif event == 'storage.low' %}{{ device }}: storage is {{ data.level }}
{%- elif event == 'storage.wear' %}{{ device }}: more was written than the day's budget
{%- elif event == 'destination.failing' %}{{ device }}: {{ data.destination }} is failing
{%- elif event == 'destination.recovered' %}{{ device }}: {{ data.destination }} is well again
{%- elif event == 'device.heartbeat' %}{{ device }}: alive
{%- elif event == 'test.ping' %}{{ device }}: a test
{%- else %}{{ device }}: {{ event }}
{%- endif %}";

/// The default of `text`; `[` and `]` stand for the marks around bold words. The message comes last and each of its lines is quoted: a
/// line of the visitor's is never one of ours, and a long one leaves room for the others. Lines beyond the first few hundred are left out:
/// a template may take only so many steps, and a lead of nothing but line feeds is to be told of as well.
const TEXT: &str = "\
{%- if event is startingwith('lead.') or event == 'test.ping' %}
{%- if data.from %}[Status:] {{ data.from }} → {{ data.to }}
{% endif %}
{%- if data.changed %}[Changed:] {{ data.changed | join(', ') }}
{% endif %}
{%- if data.reply %}[Reply] ({{ data.reply.direction }}{% if data.reply.channel %}, {{ data.reply.channel }}{% endif %}\
{% if data.reply.author %}, {{ data.reply.author }}{% endif %}):
{% for line in (data.reply.text | lines){FIRST} %}{QUOTE}{{ line }}
{% endfor %}{% endif %}
{%- if data.name %}[Name:] {{ data.name | truncate(200) }}
{% endif %}
{%- if data.email %}[E-mail:] {{ data.email | truncate(200) }}
{% endif %}
{%- if data.phone %}[Phone:] {{ data.phone | truncate(200) }}
{% endif %}
{%- if data.company %}[Company:] {{ data.company | truncate(200) }}
{% endif %}
{%- if data.score is defined %}[Score:] {{ data.score }}
{% endif %}
{%- if data.source %}[Source:] {{ data.source | truncate(200) }}
{% endif %}
{%- if context.form %}[Form:] {{ context.form }}
{% endif %}
{%- elif event == 'storage.low' %}
{{- '' }}[Room:] {{ data.level }}
[In use:] {{ (data.used_bytes / 1000000) | round(1) }} MB\
{% if data.max_bytes %} of {{ (data.max_bytes / 1000000) | round(1) }} MB{% endif %}
[Free on the file system:] {{ (data.free_bytes / 1000000) | round(1) }} MB
{% elif event == 'storage.wear' %}
{{- '' }}[Written on {{ data.day }}:] {{ (data.written_bytes / 1000000) | round(1) }} MB
[Budget:] {{ (data.budget_bytes / 1000000) | round(1) }} MB
[Leads:] {{ data.leads }}, deliveries {{ data.deliveries }}
{% elif event is startingwith('destination.') %}
{{- '' }}[Destination:] {{ data.destination }}
{% if data.state %}[State:] {{ data.state }}{% if data.since %} since {{ data.since }}{% endif %}
{% endif %}
{%- if data.waiting is defined %}[Waiting:] {{ data.waiting }}{% if data.oldest_at %}, the oldest since {{ data.oldest_at }}{% endif %}
{% endif %}
{%- if data.reason %}[Reason:] {{ data.reason }}
{% endif %}
{%- endif %}
{{- '' }}[Device:] {{ context.device.name or context.device.id }}{% if context.device.site %}, {{ context.device.site }}{% endif %}
[Time:] {{ created_at | date('%Y-%m-%d %H:%M') }} UTC
{%- if data.message and not data.from and not data.reply %}
[Message:]
{% for line in (data.message | lines){FIRST} %}{QUOTE}{{ line }}
{% endfor %}{% endif %}";

/// The default of `text`, with a service's own marks around bold words and before each line of what somebody wrote.
pub fn text(bold: (&str, &str), quote: &str) -> String {
    // The brackets first: what else is put in has some.
    TEXT.replace('[', bold.0).replace(']', bold.1).replace("{QUOTE}", quote).replace("{FIRST}", "[:300]")
}

/// What is said of an event.
#[derive(Debug)]
pub struct Message {
    /// One line. Inserted as it is: where a service reads markup in it, its connector escapes it.
    pub title: Template,
    /// The rest, with the service's own markup.
    pub text: Template,
}

/// A message for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// One line.
    pub title: String,
    /// Lines.
    pub text: String,
}

impl Message {
    /// The message about an event.
    pub fn render(&self, incoming: &Incoming<'_>) -> Result<Said, MappingError> {
        let event = Event::parse(incoming.bytes)?;
        let title = readable(&self.title.render(&event)?).replace('\n', " ").trim().to_owned();
        let text = readable(&self.text.render(&event)?).trim().to_owned();
        // No service takes an empty message.
        let title = if title.is_empty() { incoming.identity.kind.to_owned() } else { title };
        Ok(Said { title, text })
    }
}

/// Without what ends a line elsewhere than at a line feed, and without what turns the direction of writing, which can make one text
/// look like another (Unicode Technical Report 36, section 2.6).
fn readable(text: &str) -> String {
    text.replace("\r\n", "\n")
        .chars()
        .filter(|c| !matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .map(|c| if c != '\n' && (c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) { ' ' } else { c })
        .collect()
}

/// How a service counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// UTF-16 units, which are never fewer than characters: safe whichever of the two a service means.
    Units,
    /// Bytes of UTF-8.
    Bytes,
}

impl Count {
    /// How much this is.
    pub fn of(self, text: &str) -> usize {
        match self {
            Count::Units => text.encode_utf16().count(),
            Count::Bytes => text.len(),
        }
    }
}

/// The text cut to `max`, an ellipsis included. What `markup` writes with several characters is kept or left whole.
pub fn cut(text: &str, max: usize, count: Count, markup: Option<Chat>) -> String {
    if weight(text, count, markup) <= max {
        return text.to_owned();
    }
    let room = max.saturating_sub(count.of("…"));
    let (mut out, mut used, mut rest) = (String::new(), 0, text);
    while let Some((piece, after)) = next_piece(rest, markup) {
        used += piece_weight(piece, count, markup);
        if used > room {
            break;
        }
        out.push_str(piece);
        rest = after;
    }
    out.truncate(out.trim_end().len());
    out.push('…');
    out
}

fn weight(text: &str, count: Count, markup: Option<Chat>) -> usize {
    let (mut sum, mut rest) = (0, text);
    while let Some((piece, after)) = next_piece(rest, markup) {
        sum += piece_weight(piece, count, markup);
        rest = after;
    }
    sum
}

/// Telegram counts after it has read tags and entities; the others count what is sent.
fn piece_weight(piece: &str, count: Count, markup: Option<Chat>) -> usize {
    match piece.chars().next() {
        Some('<') if markup == Some(Chat::Telegram) && piece.len() > 1 => 0,
        Some('&') if markup == Some(Chat::Telegram) => 1,
        _ => count.of(piece),
    }
}

/// The first thing of a text that may not be cut into, and what follows it.
pub fn next_piece(text: &str, markup: Option<Chat>) -> Option<(&str, &str)> {
    let first = text.chars().next()?;
    let to = |end: char, most: usize| text.char_indices().take(most).find(|(_, c)| *c == end).map(|(at, c)| at + c.len_utf8());
    let length = match (markup, first) {
        (Some(Chat::Slack | Chat::Telegram), '&') => to(';', 12),
        (Some(Chat::Slack | Chat::Telegram), '<') => to('>', 2048),
        (Some(Chat::Discord), '\\') => Some(1 + text.chars().nth(1).map_or(0, char::len_utf8)),
        _ => None,
    };
    text.split_at_checked(length.unwrap_or(first.len_utf8()))
}

/// The judgement by status alone. No such service looks at the time of a request, so an answer is never the clock's fault.
pub fn by_status(url: &Url, answer: &Answer, moment: &Moment) -> Verdict {
    judge(url, answer, &Moment { vouched: true, ..*moment })
}

/// The response, if there was one and it is no page of somebody between us and the service.
pub fn response<'a>(answer: &'a Answer, verdict: &Verdict) -> Option<&'a Response> {
    match answer {
        Answer::Response(response) if !matches!(verdict.class, Class::Offline | Class::Clock) => Some(response),
        _ => None,
    }
}

impl Verdict {
    /// The same answer, understood better.
    #[must_use]
    pub fn means(mut self, class: Class, code: &'static str, reason: impl Into<String>) -> Self {
        (self.class, self.code, self.reason) = (class, code, reason.into());
        self
    }

    /// The destination is wrong.
    #[must_use]
    pub fn refused(self, reason: impl Into<String>) -> Self {
        self.means(Class::Refused, "receiver_4xx", reason)
    }

    /// A 2xx that is not the service's way to say yes.
    #[must_use]
    pub fn unexpected(self, reason: impl Into<String>) -> Self {
        self.means(Class::Temporary, "protocol_error", reason)
    }
}

/// Seconds, whole or not, as a wait. Nonsense is none.
pub fn seconds(value: Option<&Value>) -> Option<Duration> {
    Duration::try_from_secs_f64(value?.as_f64()?).ok()
}

/// The object that was rendered, with `first` before its own members: what depends on the configuration and not on the event is added
/// when it is sent, so that a change holds for what waits, too.
pub fn with(first: &[(&str, Value)], rendered: &[u8]) -> Result<Vec<u8>, MappingError> {
    let unreadable = |e: serde_json::Error| MappingError { at: "body".to_owned(), message: format!("what was kept is no object: {e}") };
    let rest: Map<String, Value> = serde_json::from_slice(rendered).map_err(unreadable)?;
    let mut whole: Map<String, Value> = first.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    whole.extend(rest);
    serde_json::to_vec(&whole).map_err(unreadable)
}

/// A JSON body as [`super::Connector::render`] gives it.
pub fn rendered(body: &Value) -> Option<Vec<u8>> {
    Some(body.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::trial;
    use super::*;
    use crate::event::Kind;
    use serde_json::json;

    fn said(event: &[u8]) -> Said {
        let identity = super::super::Identity { event_id: trial::EVENT_ID, kind: "lead.created", destination: "team" };
        trial::message(None, ("[", "]"), "> ").render(&Incoming { identity, bytes: event }).unwrap()
    }

    #[test]
    fn every_kind_of_event_is_told_in_words() {
        let kinds = [Kind::LeadCreated, Kind::LeadUpdated, Kind::LeadStatusChanged, Kind::LeadReplied, Kind::StorageLow, Kind::StorageWear];
        let told = |kind| {
            let Said { title, text } = said(&trial::event(kind));
            format!("{title}\n{text}\n\n")
        };
        assert_eq!(
            kinds.into_iter().map(told).collect::<String>(),
            "New lead: Jane Smith\n\
             [Name:] Jane Smith\n\
             [E-mail:] jane@example.com\n\
             [Phone:] +1 555 0100\n\
             [Company:] Example Ltd\n\
             [Score:] 88\n\
             [Source:] test\n\
             [Form:] contact\n\
             [Device:] kiosk-12, Hall 3\n\
             [Time:] 2026-11-23 12:00 UTC\n\
             [Message:]\n\
             > This is a test by leadsbotd. No person sent it.\n\
             \n\
             Lead changed: Jane Smith\n\
             [Changed:] score\n\
             [Name:] Jane Smith\n\
             [E-mail:] jane@example.com\n\
             [Phone:] +1 555 0100\n\
             [Company:] Example Ltd\n\
             [Score:] 88\n\
             [Source:] test\n\
             [Form:] contact\n\
             [Device:] kiosk-12, Hall 3\n\
             [Time:] 2026-11-23 12:00 UTC\n\
             [Message:]\n\
             > This is a test by leadsbotd. No person sent it.\n\
             \n\
             Lead new → contacted: Jane Smith\n\
             [Status:] new → contacted\n\
             [Name:] Jane Smith\n\
             [E-mail:] jane@example.com\n\
             [Phone:] +1 555 0100\n\
             [Company:] Example Ltd\n\
             [Score:] 88\n\
             [Source:] test\n\
             [Form:] contact\n\
             [Device:] kiosk-12, Hall 3\n\
             [Time:] 2026-11-23 12:00 UTC\n\
             \n\
             Reply to Jane Smith\n\
             [Reply] (outbound, email):\n\
             > This is a test.\n\
             [Name:] Jane Smith\n\
             [E-mail:] jane@example.com\n\
             [Phone:] +1 555 0100\n\
             [Company:] Example Ltd\n\
             [Score:] 88\n\
             [Source:] test\n\
             [Form:] contact\n\
             [Device:] kiosk-12, Hall 3\n\
             [Time:] 2026-11-23 12:00 UTC\n\
             \n\
             kiosk-12: storage is low\n\
             [Room:] low\n\
             [In use:] 0.0 MB of 0.0 MB\n\
             [Free on the file system:] 0.0 MB\n\
             [Device:] kiosk-12, Hall 3\n\
             [Time:] 2026-11-23 12:00 UTC\n\
             \n\
             kiosk-12: more was written than the day's budget\n\
             [Written on 2026-11-23:] 1.2 MB\n\
             [Budget:] 1.0 MB\n\
             [Leads:] 20, deliveries 40\n\
             [Device:] kiosk-12, Hall 3\n\
             [Time:] 2026-11-23 12:00 UTC\n\
             \n\
             "
        );
    }

    #[test]
    fn events_of_another_version_are_told_in_words_as_well() {
        let data = json!({ "destination": "crm", "state": "offline", "reason": "nobody listens", "since": "2026-11-23T11:00:00Z",
            "waiting": 12, "oldest_at": "2026-11-23T10:59:00Z" });
        let Said { title, text } = said(&trial::of_device("destination.failing", &data));
        assert_eq!(
            format!("{title}\n{text}"),
            "kiosk-12: crm is failing\n\
             [Destination:] crm\n\
             [State:] offline since 2026-11-23T11:00:00Z\n\
             [Waiting:] 12, the oldest since 2026-11-23T10:59:00Z\n\
             [Reason:] nobody listens\n\
             [Device:] kiosk-12, Hall 3\n\
             [Time:] 2026-11-23 12:00 UTC"
        );
        let recovered = said(&trial::of_device("destination.recovered", &json!({ "destination": "crm" })));
        assert_eq!(recovered.title, "kiosk-12: crm is well again");
        let beat = said(&trial::of_device("device.heartbeat", &json!({})));
        assert_eq!(
            (beat.title.as_str(), beat.text.as_str()),
            ("kiosk-12: alive", "[Device:] kiosk-12, Hall 3\n[Time:] 2026-11-23 12:00 UTC")
        );
        assert_eq!(said(&trial::of_device("workflow.failed", &json!({}))).title, "kiosk-12: workflow.failed");
    }

    #[test]
    fn a_message_of_nothing_but_lines_is_told_of() {
        for lines in ["\n".repeat(60_000), "x\n".repeat(30_000)] {
            let event = trial::lead(&[("/data/message", format!("a{lines}b").into())]);
            assert!(said(&event).text.starts_with("[Name:] Jane Smith\n"));
        }
    }

    #[test]
    fn a_text_is_cut_at_whole_signs_and_only_if_it_must_be() {
        assert_eq!(cut("abc", 3, Count::Units, None), "abc");
        assert_eq!(cut("abcd", 3, Count::Units, None), "ab…");
        assert_eq!(cut("😀😀😀", 5, Count::Units, None), "😀😀…");
        assert_eq!(cut("äöü", 5, Count::Bytes, None), "ä…");
        assert_eq!(cut("a&amp;b", 5, Count::Units, Some(Chat::Slack)), "a…");
        assert_eq!(cut("a&amp;b", 3, Count::Units, Some(Chat::Telegram)), "a&amp;b");
        assert_eq!(cut("<b>ab</b>", 2, Count::Units, Some(Chat::Telegram)), "<b>ab</b>");
        assert_eq!(cut("<b>abc</b>", 2, Count::Units, Some(Chat::Telegram)), "<b>a…");
        assert_eq!(cut("a\\*\\*", 4, Count::Units, Some(Chat::Discord)), "a\\*…");
        assert_eq!(cut("abc", 0, Count::Units, None), "…");
    }
}
