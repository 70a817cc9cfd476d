//! The `slack` type: a message through an incoming webhook. Pure.
//!
//! <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>; the words of its errors are those of
//! <https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks>. The URL is the secret and is shown to nobody.

use super::message::{Count, Message, by_status, cut, rendered, response};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::mapping::{Chat, MappingError};
use http::Method;
use serde_json::json;
use url::Url;

/// Characters of a section's text: <https://docs.slack.dev/reference/block-kit/blocks/section-block>.
const SECTION_MAX: usize = 3000;
/// Characters of a title that are worth reading.
const TITLE_MAX: usize = 250;

/// A channel of Slack.
#[derive(Debug)]
pub struct Slack {
    /// The webhook.
    pub url: Url,
    /// What is said.
    pub message: Message,
}

impl Connector for Slack {
    fn kind(&self) -> &'static str {
        "slack"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let said = self.message.render(incoming)?;
        let title = cut(&Chat::Slack.escape(&said.title), TITLE_MAX, Count::Units, Some(Chat::Slack));
        // verbatim: no channel, person or address is made a link that the text did not write as one.
        let section = |text: String| json!({ "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true } });
        let mut blocks = vec![section(format!("*{title}*"))];
        if !said.text.is_empty() {
            blocks.push(section(cut(&said.text, SECTION_MAX, Count::Units, Some(Chat::Slack))));
        }
        Ok(rendered(&json!({ "text": title, "blocks": blocks, "unfurl_links": false, "unfurl_media": false })))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        Ok(match said.last() {
            None => HttpRequest::new(Method::POST, self.url.clone()).body("application/json", record.body.to_vec()).send(),
            Some(answer) => self.judged(answer, moment).into(),
        })
    }
}

impl Slack {
    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        let word = String::from_utf8_lossy(&response.body).trim().to_owned();
        match (response.status, word.as_str()) {
            (200..=299, "ok") => verdict,
            (200..=299, _) => verdict.unexpected("HTTP 200 without Slack's ok; is url a webhook of Slack?"),
            (400..=499, "invalid_payload" | "no_text" | "invalid_blocks" | "msg_too_long" | "too_many_attachments") => {
                verdict.means(Class::Rejected, "rejected_body", format!("Slack says {word}: it cannot read this message; check text"))
            }
            (400..=499, "channel_not_found" | "channel_is_archived" | "user_not_found") => {
                verdict.refused(format!("Slack says {word}: the webhook's channel is gone; make a webhook for another one"))
            }
            (400..=499, "action_prohibited" | "posting_to_general_channel_denied") => {
                verdict.refused(format!("Slack says {word}: the workspace does not let this webhook post; ask its administrator"))
            }
            (400..=499, "invalid_token" | "no_service" | "no_service_id" | "no_active_hooks" | "no_team" | "team_disabled") => {
                verdict.refused(format!("Slack says {word}: the webhook was removed or its url is wrong; make a new one"))
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
    use std::time::Duration;

    fn slack() -> Slack {
        let url = Url::parse("https://hooks.slack.com/services/T0/B0/s3cr3t").unwrap();
        Slack { url, message: trial::message(Some(Chat::Slack), ("*", "*"), "> ") }
    }

    #[test]
    fn the_sample_lead_becomes_this_request() {
        let request = trial::request(&slack(), &trial::event(Kind::LeadCreated));
        assert_eq!(
            (request.method, request.url.path(), request.shown.as_str()),
            (Method::POST, "/services/T0/B0/s3cr3t", "https://hooks.slack.com")
        );
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"text":"New lead: Jane Smith","blocks":[{"type":"section","text":{"type":"mrkdwn","text":"*New lead: Jane Smith*","verbatim":true}},{"type":"section","text":{"type":"mrkdwn","text":"*Name:* Jane Smith\n*E-mail:* jane@example.com\n*Phone:* +1 555 0100\n*Company:* Example Ltd\n*Score:* 88\n*Source:* test\n*Form:* contact\n*Device:* kiosk-12, Hall 3\n*Time:* 2026-11-23 12:00 UTC\n*Message:*\n> This is a test by leadsbotd. No person sent it.","verbatim":true}}],"unfurl_links":false,"unfurl_media":false}"#
        );
    }

    #[test]
    fn what_a_visitor_typed_mentions_nobody_and_brings_no_link() {
        let evil = "<!channel> <@U1> <https://evil.example|Slack> *bold* _it_ `x`\n*Score:* 100";
        let body = trial::body(&slack(), &trial::lead(&[("/data/name", evil.replace('\n', " ").into()), ("/data/message", evil.into())]));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let texts = [&body["text"], &body["blocks"][0]["text"]["text"], &body["blocks"][1]["text"]["text"]].map(|t| t.as_str().unwrap());
        for text in texts {
            assert!(!text.contains('<') && text.contains("&lt;!channel&gt;") && text.contains("∗bold∗ ˍitˍ ˋxˋ"), "{text}");
        }
        assert!(texts[2].ends_with("\n> ∗Score:∗ 100"), "{}", texts[2]);
        assert_eq!(body["blocks"][1]["text"]["verbatim"], true);
        let address = trial::body(&slack(), &trial::lead(&[("/data/email", "jane_van_dyke@example.com".into())]));
        assert!(address.contains("jane_van_dyke@example.com"), "an address stays as it is");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_and_no_entity_with_it() {
        let body =
            trial::body(&slack(), &trial::lead(&[("/data/name", "&".repeat(2000).into()), ("/data/message", "<".repeat(5000).into())]));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        for text in [&body["text"], &body["blocks"][1]["text"]["text"]].map(|t| t.as_str().unwrap()) {
            assert!(text.encode_utf16().count() <= SECTION_MAX && text.ends_with(";…"), "{text}");
        }
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &slack(),
            &[
                (200, "ok", Delivered, "delivered", None),
                (200, "ok\n", Delivered, "delivered", None),
                (200, "", Temporary, "protocol_error", None),
                (200, "<html>login</html>", Temporary, "protocol_error", None),
                (400, "invalid_payload", Rejected, "rejected_body", None),
                (400, "no_text", Rejected, "rejected_body", None),
                (400, "user_not_found", Refused, "receiver_4xx", None),
                (403, "action_prohibited", Refused, "receiver_4xx", None),
                (403, "invalid_token", Refused, "receiver_4xx", None),
                (404, "channel_not_found", Refused, "receiver_4xx", None),
                (404, "no_service", Refused, "receiver_4xx", None),
                (410, "channel_is_archived", Refused, "receiver_4xx", None),
                (429, "", Throttled, "throttled", None),
                (500, "rollup_error", Temporary, "receiver_5xx", None),
                (302, "", Refused, "redirect", None),
            ],
        );
        let limited = super::super::Response { status: 429, retry_after: Some("1".into()), ..super::super::Response::default() };
        assert_eq!(trial::judged(&slack(), Answer::Response(limited)).wait, Some(Duration::from_secs(1)));
    }
}
