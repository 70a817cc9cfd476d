//! The `matrix` type: a message in a room, sent by an account of a home server. Pure.
//!
//! <https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid>. The transaction's id is that of
//! the delivery, so a server that has taken the message and could not say so takes it for the same one when it comes again.

use super::message::{Count, Message, by_status, cut, rendered, response};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::id;
use crate::mapping::MappingError;
use crate::secret::Hidden;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;

/// Bytes of text. An event may have 65536 with everything around it, and the text is in it twice, once escaped:
/// <https://spec.matrix.org/latest/client-server-api/#size-limits>.
const TEXT_MAX: usize = 6 * 1024;
/// Bytes of a title that are worth reading.
const TITLE_MAX: usize = 250;

/// A room.
#[derive(Debug)]
pub struct Matrix {
    /// The home server.
    pub url: Url,
    /// `!room:server`
    pub room: String,
    /// The account's access token.
    pub token: Hidden,
    /// `m.text`, or `m.notice`, which other programs do not answer.
    pub notice: bool,
    /// What is said.
    pub message: Message,
}

impl Connector for Matrix {
    fn kind(&self) -> &'static str {
        "matrix"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let said = self.message.render(incoming)?;
        // Servers older than m.mentions look for it in the text.
        let quiet = |text: &str| text.replace("@room", "@\u{2060}room");
        let title = quiet(&cut(&said.title, TITLE_MAX, Count::Bytes, None));
        let text = quiet(&cut(&said.text, TEXT_MAX, Count::Bytes, None));
        let formatted = format!("<strong>{}</strong><br>{}", html(&title), html(&text));
        Ok(rendered(&json!({
            "msgtype": if self.notice { "m.notice" } else { "m.text" },
            "body": format!("{title}\n{text}").trim_end(),
            "format": "org.matrix.custom.html",
            "formatted_body": formatted.trim_end_matches("<br>"),
            "m.mentions": {},
        })))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        Ok(match said.last() {
            None => self.request(record).send(),
            Some(answer) => self.judged(answer, moment).into(),
        })
    }
}

/// The text as HTML that shows it, line by line.
fn html(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    escaped.replace('\n', "<br>")
}

impl Matrix {
    fn request(&self, record: &Record<'_>) -> HttpRequest {
        let transaction = id::delivery(record.identity.event_id, record.identity.destination);
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            let room = self.room.as_str();
            path.pop_if_empty().extend(["_matrix", "client", "v3", "rooms", room, "send", "m.room.message", transaction.as_str()]);
        }
        HttpRequest::new(Method::PUT, url)
            .body("application/json", record.body.to_vec())
            .secret_header("Authorization", format!("Bearer {}", self.token.0))
    }

    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        let json = response.json().unwrap_or_default();
        let code = json.get("errcode").and_then(Value::as_str).unwrap_or_default();
        match (response.status, code) {
            (200..=299, _) if json.get("event_id").is_none() => {
                verdict.unexpected("a 2xx without an event_id; is url the address of a home server's client API?")
            }
            (200..=299, _) => verdict,
            (_, "M_LIMIT_EXCEEDED") => {
                let told = json.get("retry_after_ms").and_then(Value::as_u64).map(Duration::from_millis);
                verdict.wait = verdict.wait.or(told);
                verdict.means(Class::Throttled, "throttled", "the home server asks to slow down (M_LIMIT_EXCEEDED)")
            }
            (_, "M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN" | "M_USER_DEACTIVATED" | "M_USER_LOCKED" | "M_USER_SUSPENDED") => {
                verdict.refused(format!("the home server does not take the account's token ({code}); log in again and give its new token"))
            }
            (_, "M_FORBIDDEN") => {
                verdict.refused("the account may not write in this room (M_FORBIDDEN); invite it, let it join, and check its power level")
            }
            (_, "M_NOT_FOUND" | "M_UNRECOGNIZED") => {
                verdict.refused(format!("the home server knows no such room or call ({code}); check url and room"))
            }
            (_, "M_TOO_LARGE" | "M_BAD_JSON" | "M_NOT_JSON" | "M_INVALID_PARAM") => {
                verdict.means(Class::Rejected, "rejected_body", format!("the home server does not take this message ({code})"))
            }
            _ => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial;
    use super::*;
    use crate::event::Kind;

    fn matrix() -> Matrix {
        Matrix {
            url: Url::parse("https://matrix.example.com/").unwrap(),
            room: "!abc/1:example.com".into(),
            token: Hidden("syt_1".into()),
            notice: false,
            message: trial::message(None, ("", ""), "> "),
        }
    }

    #[test]
    fn the_sample_lead_becomes_this_request_and_a_retry_the_same_transaction() {
        let request = trial::request(&matrix(), &trial::event(Kind::LeadCreated));
        let transaction = id::delivery(trial::EVENT_ID, "team");
        let path = format!("/_matrix/client/v3/rooms/!abc%2F1:example.com/send/m.room.message/{transaction}");
        assert_eq!((&request.method, request.url.path()), (&Method::PUT, path.as_str()));
        assert_eq!(request.hidden, [("Authorization".to_owned(), Hidden("Bearer syt_1".into()))]);
        assert_eq!(trial::request(&matrix(), &trial::event(Kind::LeadCreated)), request);
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"msgtype":"m.text","body":"New lead: Jane Smith\nName: Jane Smith\nE-mail: jane@example.com\nPhone: +1 555 0100\nCompany: Example Ltd\nScore: 88\nSource: test\nForm: contact\nDevice: kiosk-12, Hall 3\nTime: 2026-11-23 12:00 UTC\nMessage:\n> This is a test by leadsbotd. No person sent it.","format":"org.matrix.custom.html","formatted_body":"<strong>New lead: Jane Smith</strong><br>Name: Jane Smith<br>E-mail: jane@example.com<br>Phone: +1 555 0100<br>Company: Example Ltd<br>Score: 88<br>Source: test<br>Form: contact<br>Device: kiosk-12, Hall 3<br>Time: 2026-11-23 12:00 UTC<br>Message:<br>&gt; This is a test by leadsbotd. No person sent it.","m.mentions":{}}"#
        );
    }

    #[test]
    fn what_a_visitor_typed_mentions_nobody_and_brings_no_markup() {
        let evil = "@room <a href=\"https://evil.example\">Log in</a>";
        let body = trial::body(&matrix(), &trial::lead(&[("/data/name", evil.into()), ("/data/message", evil.into())]));
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["m.mentions"], json!({}));
        assert!(!body["body"].as_str().unwrap().contains("@room") && !body["formatted_body"].as_str().unwrap().contains("<a"), "{body}");
    }

    #[test]
    fn an_event_is_never_larger_than_the_protocol_takes() {
        for said in ["<\n".repeat(4000), "\"".repeat(8000), "漢".repeat(8000)] {
            let body = trial::body(&matrix(), &trial::lead(&[("/data/message", said.into())]));
            assert!(body.len() <= 60_000, "{} bytes", body.len());
        }
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &matrix(),
            &[
                (200, r#"{"event_id":"$1"}"#, Delivered, "delivered", None),
                (200, "{}", Temporary, "protocol_error", None),
                (429, r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":2500}"#, Throttled, "throttled", Some(Duration::from_millis(2500))),
                (401, r#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}"#, Refused, "receiver_4xx", None),
                (401, r#"{"errcode":"M_MISSING_TOKEN"}"#, Refused, "receiver_4xx", None),
                (403, r#"{"errcode":"M_FORBIDDEN"}"#, Refused, "receiver_4xx", None),
                (404, r#"{"errcode":"M_UNRECOGNIZED"}"#, Refused, "receiver_4xx", None),
                (413, r#"{"errcode":"M_TOO_LARGE"}"#, Rejected, "rejected_body", None),
                (400, r#"{"errcode":"M_BAD_JSON"}"#, Rejected, "rejected_body", None),
                (500, r#"{"errcode":"M_UNKNOWN"}"#, Temporary, "receiver_5xx", None),
            ],
        );
    }
}
