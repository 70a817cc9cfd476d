//! The `ntfy` type: a notification for a topic, at ntfy.sh or a server of one's own. Pure.
//!
//! <https://docs.ntfy.sh/publish/#publish-as-json>.

use super::message::{Count, Message, by_status, cut, rendered, response, with};
use super::{Answer, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::mapping::{Event, MappingError, Template};
use crate::secret::Hidden;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;

/// Bytes of a message; a longer one becomes an attachment: <https://docs.ntfy.sh/publish/#limitations>.
const MESSAGE_MAX: usize = 4096;
/// Bytes of a title that are worth reading.
const TITLE_MAX: usize = 250;
/// How long the daily quota, which the server does not say the end of, is waited for.
const QUOTA_WAIT: Duration = Duration::from_secs(3600);

/// A topic.
#[derive(Debug)]
pub struct Ntfy {
    /// The server.
    pub url: Url,
    /// The topic's name.
    pub topic: String,
    /// The `Authorization` header, if the topic wants one.
    pub authorization: Option<Hidden>,
    /// 1 to 5; 3 is the service's default.
    pub priority: u64,
    /// Tags, of which ntfy makes emojis if it can.
    pub tags: Vec<String>,
    /// What opens when the notification is tapped.
    pub click: Option<Template>,
    /// What is said.
    pub message: Message,
}

impl Connector for Ntfy {
    fn kind(&self) -> &'static str {
        "ntfy"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let said = self.message.render(incoming)?;
        let title = cut(&said.title, TITLE_MAX, Count::Bytes, None);
        let message = if said.text.is_empty() { title.clone() } else { cut(&said.text, MESSAGE_MAX, Count::Bytes, None) };
        let mut body = json!({ "title": title, "message": message });
        let click = self.click.as_ref().map(|click| click.render(&Event::parse(incoming.bytes)?)).transpose()?;
        if let (Some(object), Some(url)) = (body.as_object_mut(), click.and_then(|text| link(&text))) {
            object.insert("click".to_owned(), url.into());
        }
        Ok(rendered(&body))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        let Some(answer) = said.last() else { return self.request(record) };
        Ok(self.judged(answer, moment).into())
    }
}

/// What a tap may open: a page, a mail, a call.
fn link(text: &str) -> Option<String> {
    let leads = |url: &Url| match url.scheme() {
        "https" | "http" => true,
        // Of a lead without an address or number nothing but the scheme is left.
        "mailto" | "tel" => !url.path().is_empty(),
        _ => false,
    };
    Url::parse(text.trim()).ok().filter(leads).map(Into::into)
}

impl Ntfy {
    fn request(&self, record: &Record<'_>) -> Result<Next, MappingError> {
        let mut first = vec![("topic", Value::from(self.topic.as_str())), ("priority", self.priority.into())];
        if !self.tags.is_empty() {
            first.push(("tags", self.tags.clone().into()));
        }
        let mut request = HttpRequest::new(Method::POST, self.url.clone()).body("application/json", with(&first, record.body)?);
        if let Some(Hidden(value)) = &self.authorization {
            request = request.secret_header("Authorization", value.as_str());
        }
        request.answer_bytes_max = super::message::ECHO_BYTES;
        Ok(request.send())
    }

    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        let json = response.json().unwrap_or_default();
        let code = json.get("code").and_then(Value::as_i64).unwrap_or_default();
        match (response.status, code) {
            (200..=299, _) if json.get("id").is_none() => {
                verdict.unexpected("a 2xx without the message that ntfy has published; is url the root of an ntfy server?")
            }
            (401 | 403, _) => verdict.refused("ntfy does not let this sender publish to the topic; check the token, or user and password"),
            (400, 40_009 | 40_010) => verdict.refused("ntfy says that this is no topic it may use; check topic"),
            (429, 42_908) => {
                verdict.wait = verdict.wait.or(Some(QUOTA_WAIT));
                verdict
            }
            _ => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, trial};
    use super::*;
    use crate::event::Kind;

    fn ntfy() -> Ntfy {
        Ntfy {
            url: Url::parse("https://ntfy.sh").unwrap(),
            topic: "leads".into(),
            authorization: Some(Hidden("Bearer tk_1".into())),
            priority: 4,
            tags: vec!["tada".into()],
            click: Template::new("click", "mailto:{{ data.email }}").ok(),
            message: trial::message(None, ("", ""), "> "),
        }
    }

    #[test]
    fn the_sample_lead_becomes_this_request() {
        let request = trial::request(&ntfy(), &trial::event(Kind::LeadCreated));
        assert_eq!((request.method, request.url.as_str()), (Method::POST, "https://ntfy.sh/"));
        assert_eq!(request.hidden, [("Authorization".to_owned(), Hidden("Bearer tk_1".into()))]);
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"topic":"leads","priority":4,"tags":["tada"],"title":"New lead: Jane Smith","message":"Name: Jane Smith\nE-mail: jane@example.com\nPhone: +1 555 0100\nCompany: Example Ltd\nScore: 88\nSource: test\nForm: contact\nDevice: kiosk-12, Hall 3\nTime: 2026-11-23 12:00 UTC\nMessage:\n> This is a test by leadsbotd. No person sent it.","click":"mailto:jane@example.com"}"#
        );
    }

    #[test]
    fn a_line_of_the_visitors_is_never_one_of_ours() {
        let said = "Hello\r\nScore: 100\rScore: 99\u{2028}Score: 98\u{202e}001";
        let body = trial::body(&ntfy(), &trial::lead(&[("/data/message", said.into())]));
        let body: Value = serde_json::from_str(&body).unwrap();
        let lines: Vec<&str> = body["message"].as_str().unwrap().lines().filter(|line| line.contains("Score")).collect();
        assert_eq!(lines, ["Score: 88", "> Score: 100 Score: 99 Score: 98001"]);
    }

    #[test]
    fn a_message_never_becomes_an_attachment_and_a_click_leads_only_where_one_expects() {
        let body = trial::body(&ntfy(), &trial::lead(&[("/data/message", "ä".repeat(5000).into()), ("/data/email", Value::Null)]));
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["message"].as_str().unwrap().len() <= MESSAGE_MAX && body.get("click").is_none());
        let script = Ntfy { click: Template::new("click", "intent:{{ data.email }}").ok(), ..ntfy() };
        assert!(!trial::body(&script, &trial::event(Kind::LeadCreated)).contains("click"));
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &ntfy(),
            &[
                (200, r#"{"id":"a","time":1,"event":"message","topic":"leads"}"#, Delivered, "delivered", None),
                (200, "<!DOCTYPE html>", Temporary, "protocol_error", None),
                (400, r#"{"code":40009,"http":400,"error":"invalid request: topic invalid"}"#, Refused, "receiver_4xx", None),
                (400, r#"{"code":40024,"http":400,"error":"…"}"#, Rejected, "rejected_body", None),
                (401, r#"{"code":40101,"http":401,"error":"unauthorized"}"#, Refused, "receiver_4xx", None),
                (403, r#"{"code":40301,"http":403,"error":"forbidden"}"#, Refused, "receiver_4xx", None),
                (413, r#"{"code":41301,"http":413}"#, Rejected, "rejected_body", None),
                (429, r#"{"code":42901,"http":429}"#, Throttled, "throttled", None),
                (429, r#"{"code":42908,"http":429}"#, Throttled, "throttled", Some(QUOTA_WAIT)),
                (507, "", Temporary, "receiver_5xx", None),
            ],
        );
    }
}
