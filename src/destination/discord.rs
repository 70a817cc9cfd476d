//! The `discord` type: a message through a channel's webhook. Pure.
//!
//! <https://discord.com/developers/docs/resources/webhook#execute-webhook>. The URL is the secret and is shown to nobody.

use super::message::{Count, ECHO_BYTES, Message, by_status, cut, rendered, response, seconds};
use super::{Answer, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::mapping::{Chat, MappingError};
use http::Method;
use serde_json::json;
use url::Url;

/// Characters of an embed's description: <https://discord.com/developers/docs/resources/message#embed-object-embed-limits>. Together
/// with the title that is less than the 6000 of all embeds and, of `content`, less than its 2000.
const DESCRIPTION_MAX: usize = 4096;
/// Characters of a title that are worth reading.
const TITLE_MAX: usize = 250;
/// Error codes that are about the webhook and not about the message: a forum wants a thread, a channel has none.
const OF_THE_WEBHOOK: [i64; 3] = [220_001, 220_002, 220_003];

/// A channel of Discord.
#[derive(Debug)]
pub struct Discord {
    /// The webhook, as given; may name a thread.
    pub url: Url,
    /// What is said.
    pub message: Message,
}

impl Connector for Discord {
    fn kind(&self) -> &'static str {
        "discord"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let said = self.message.render(incoming)?;
        let title = cut(&Chat::Discord.escape(&said.title), TITLE_MAX, Count::Units, Some(Chat::Discord));
        let mut body = json!({ "content": format!("**{title}**"), "allowed_mentions": { "parse": [] } });
        if let Some(object) = body.as_object_mut().filter(|_| !said.text.is_empty()) {
            let description = cut(&said.text, DESCRIPTION_MAX, Count::Units, Some(Chat::Discord));
            object.insert("embeds".to_owned(), json!([{ "description": description }]));
        }
        Ok(rendered(&body))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        Ok(match said.last() {
            None => {
                let mut request = HttpRequest::new(Method::POST, self.waiting()).body("application/json", record.body.to_vec());
                request.answer_bytes_max = ECHO_BYTES;
                request.send()
            }
            Some(answer) => self.judged(answer, moment).into(),
        })
    }
}

impl Discord {
    /// With `wait=true`: otherwise Discord answers before it knows whether it can keep the message.
    fn waiting(&self) -> Url {
        let mut url = self.url.clone();
        let others: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(key, _)| key != "wait").collect();
        url.query_pairs_mut().clear().extend_pairs(others).append_pair("wait", "true");
        url
    }

    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        let json = response.json().unwrap_or_default();
        match response.status {
            // Something between us and Discord took `wait` out: it was taken, and to send it again would show it twice.
            204 => verdict,
            200..=299 if json.get("id").is_none() => {
                verdict.unexpected("a 2xx without the message that Discord has kept; is url a webhook of Discord?")
            }
            400 if json.get("code").and_then(serde_json::Value::as_i64).is_some_and(|code| OF_THE_WEBHOOK.contains(&code)) => verdict
                .refused("Discord says that this channel's messages need a thread, or have none; add ?thread_id=… to url, or take it out"),
            401 | 403 | 404 => verdict.refused(format!(
                "HTTP {}: Discord does not know this webhook (any more); make a new one, and do not go on with this url",
                response.status
            )),
            429 => {
                verdict.wait = seconds(json.get("retry_after")).or(verdict.wait);
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
    use std::time::Duration;

    fn discord() -> Discord {
        let url = Url::parse("https://discord.com/api/webhooks/1/t0k3n?thread_id=5").unwrap();
        Discord { url, message: trial::message(Some(Chat::Discord), ("**", "**"), "> ") }
    }

    #[test]
    fn the_sample_lead_becomes_this_request() {
        let request = trial::request(&discord(), &trial::event(Kind::LeadCreated));
        assert_eq!(request.url.as_str(), "https://discord.com/api/webhooks/1/t0k3n?thread_id=5&wait=true");
        assert_eq!((request.method, request.shown.as_str()), (Method::POST, "https://discord.com"));
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"content":"**New lead\\: Jane Smith**","allowed_mentions":{"parse":[]},"embeds":[{"description":"**Name:** Jane Smith\n**E-mail:** jane\\@example.com\n**Phone:** \\+1 555 0100\n**Company:** Example Ltd\n**Score:** 88\n**Source:** test\n**Form:** contact\n**Device:** kiosk\\-12, Hall 3\n**Time:** 2026\\-11\\-23 12\\:00 UTC\n**Message:**\n> This is a test by leadsbotd. No person sent it."}]}"#
        );
    }

    #[test]
    fn what_a_visitor_typed_mentions_nobody_and_brings_no_link() {
        let evil = "@everyone <@1> [Log in](https://evil.example) **x** # y";
        let body = trial::body(&discord(), &trial::lead(&[("/data/name", evil.into()), ("/data/message", evil.into())]));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["allowed_mentions"], json!({ "parse": [] }));
        for text in [&body["content"], &body["embeds"][0]["description"]].map(|t| t.as_str().unwrap()) {
            assert!(text.contains("\\@everyone \\<\\@1\\> \\[Log in\\]\\(https\\:\\/\\/evil.example\\) \\*\\*x\\*\\* \\# y"), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_and_no_escape_with_it() {
        let body =
            trial::body(&discord(), &trial::lead(&[("/data/name", "*".repeat(2000).into()), ("/data/message", "@".repeat(8000).into())]));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let (content, description) = (body["content"].as_str().unwrap(), body["embeds"][0]["description"].as_str().unwrap());
        assert!(content.len() <= 2000 && content.ends_with("\\*…**"), "{content}");
        assert!(description.encode_utf16().count() <= DESCRIPTION_MAX && description.ends_with("\\@…"), "{description}");
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &discord(),
            &[
                (200, r#"{"id":"1","content":"x"}"#, Delivered, "delivered", None),
                (204, "", Delivered, "delivered", None),
                (200, "", Temporary, "protocol_error", None),
                (400, r#"{"message":"Invalid Form Body","code":50035}"#, Rejected, "rejected_body", None),
                (400, r#"{"message":"…","code":220001}"#, Refused, "receiver_4xx", None),
                (401, r#"{"message":"401: Unauthorized","code":0}"#, Refused, "receiver_4xx", None),
                (403, "", Refused, "receiver_4xx", None),
                (404, r#"{"message":"Unknown Webhook","code":10015}"#, Refused, "receiver_4xx", None),
                (429, r#"{"message":"…","retry_after":0.25,"global":false}"#, Throttled, "throttled", Some(Duration::from_millis(250))),
                (429, r#"{"retry_after":-1}"#, Throttled, "throttled", None),
                (429, "error code: 1015", Throttled, "throttled", None),
                (502, "", Temporary, "receiver_5xx", None),
            ],
        );
    }
}
