//! The `teams` type: an Adaptive Card through a webhook of Microsoft Teams' Workflows. Pure.
//!
//! The flow "Send webhook alerts to a channel" takes `attachments` with cards and answers 202 before it posts them:
//! <https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using>. The URL is the secret and is
//! shown to nobody. Text goes into runs, in which Markdown is not read: <https://adaptivecards.io/explorer/TextRun.html>.

use super::message::{Count, Message, by_status, cut, rendered, response};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::mapping::MappingError;
use http::Method;
use serde_json::{Value, json};
use url::Url;

/// Bytes of text: with the card around each line the message stays below the 28 KB that Teams takes.
const TEXT_MAX: usize = 8 * 1024;
/// Lines of text that become lines of the card; the others stay in the last one.
const LINES_MAX: usize = 80;
/// Characters of a title that are worth reading.
const TITLE_MAX: usize = 250;

/// A channel or chat of Teams.
#[derive(Debug)]
pub struct Teams {
    /// The workflow's webhook.
    pub url: Url,
    /// What is said.
    pub message: Message,
}

impl Connector for Teams {
    fn kind(&self) -> &'static str {
        "teams"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let said = self.message.render(incoming)?;
        let title = cut(&said.title, TITLE_MAX, Count::Units, None);
        let text = cut(&said.text, TEXT_MAX, Count::Bytes, None);
        let line = |run: Value, spacing: &str| json!({ "type": "RichTextBlock", "spacing": spacing, "inlines": [run] });
        let mut body = vec![line(json!({ "type": "TextRun", "text": title, "weight": "Bolder", "size": "Medium" }), "None")];
        for (index, part) in text.splitn(LINES_MAX, '\n').filter(|part| !part.trim().is_empty()).enumerate() {
            body.push(line(json!({ "type": "TextRun", "text": part }), if index == 0 { "Small" } else { "None" }));
        }
        let card = json!({
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": body,
            "msteams": { "width": "Full" },
        });
        let attachment = json!({ "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null, "content": card });
        Ok(rendered(&json!({ "type": "message", "attachments": [attachment] })))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        Ok(match said.last() {
            None => HttpRequest::new(Method::POST, self.url.clone()).body("application/json", record.body.to_vec()).send(),
            Some(answer) => self.judged(answer, moment).into(),
        })
    }
}

impl Teams {
    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        let body = String::from_utf8_lossy(&response.body);
        match response.status {
            // What the connectors before the workflows did: a 200 that tells of a failure.
            200 if body.contains("failed with error") => {
                verdict.means(Class::Temporary, "receiver_5xx", "Teams answers 200 and says that it could not post the message")
            }
            200 | 202 => verdict,
            201..=299 => verdict.unexpected(format!("HTTP {} where a workflow answers 202; is url the webhook of one?", response.status)),
            400 if body.contains("TriggerIsNotEnabled") || body.contains("WorkflowTriggerIsNotEnabled") => {
                verdict.refused("the workflow is turned off; turn it on in Teams' Workflows")
            }
            400 if body.contains("TriggerInputSchemaMismatch") => {
                verdict.refused("the workflow does not take cards; use one that begins with \"When a Teams webhook request is received\"")
            }
            401 | 403 | 404 => verdict.refused(format!(
                "HTTP {}: the workflow is gone, or wants more than its url; let anyone trigger it, or copy its url again",
                response.status
            )),
            _ => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial;
    use super::*;
    use crate::event::Kind;

    fn teams() -> Teams {
        let url = Url::parse(
            "https://default1.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/w/triggers/manual/paths/invoke?api-version=1&sig=s3cr3t",
        );
        Teams { url: url.unwrap(), message: trial::message(None, ("", ""), "> ") }
    }

    #[test]
    fn the_sample_lead_becomes_this_request() {
        let request = trial::request(&teams(), &trial::event(Kind::LeadCreated));
        assert_eq!((request.method, request.shown.as_str()), (Method::POST, "https://default1.environment.api.powerplatform.com"));
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.adaptive","contentUrl":null,"content":{"$schema":"http://adaptivecards.io/schemas/adaptive-card.json","type":"AdaptiveCard","version":"1.4","body":[{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"New lead: Jane Smith","weight":"Bolder","size":"Medium"}]},{"type":"RichTextBlock","spacing":"Small","inlines":[{"type":"TextRun","text":"Name: Jane Smith"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"E-mail: jane@example.com"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Phone: +1 555 0100"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Company: Example Ltd"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Score: 88"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Source: test"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Form: contact"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Device: kiosk-12, Hall 3"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Time: 2026-11-23 12:00 UTC"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"Message:"}]},{"type":"RichTextBlock","spacing":"None","inlines":[{"type":"TextRun","text":"> This is a test by leadsbotd. No person sent it."}]}],"msteams":{"width":"Full"}}}]}"#
        );
    }

    #[test]
    fn what_a_visitor_typed_is_in_no_place_where_markdown_is_read() {
        let evil = "[Log in](https://evil.example) <at>everyone</at>\nScore: 100";
        let body = trial::body(&teams(), &trial::lead(&[("/data/message", evil.into())]));
        assert!(!body.contains(r#""TextBlock""#) && !body.contains("entities"), "{body}");
        assert!(body.contains(r#""text":"> Score: 100""#), "{body}");
    }

    #[test]
    fn a_card_is_never_larger_than_teams_takes() {
        for said in ["x\n".repeat(4000), "\u{1}\"\\".repeat(4000), "漢".repeat(8000)] {
            let body = trial::body(&teams(), &trial::lead(&[("/data/message", said.into())]));
            assert!(body.len() <= 28 * 1024, "{} bytes", body.len());
        }
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &teams(),
            &[
                (202, "", Delivered, "delivered", None),
                (200, "1", Delivered, "delivered", None),
                (
                    200,
                    "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
                    Temporary,
                    "receiver_5xx",
                    None,
                ),
                (204, "", Temporary, "protocol_error", None),
                (400, r#"{"error":{"code":"WorkflowTriggerIsNotEnabled","message":"…"}}"#, Refused, "receiver_4xx", None),
                (400, r#"{"error":{"code":"TriggerInputSchemaMismatch"}}"#, Refused, "receiver_4xx", None),
                (400, "", Rejected, "rejected_body", None),
                (401, "", Refused, "receiver_4xx", None),
                (403, "", Refused, "receiver_4xx", None),
                (404, r#"{"error":{"code":"WorkflowNotFound"}}"#, Refused, "receiver_4xx", None),
                (413, "", Rejected, "rejected_body", None),
                (429, "", Throttled, "throttled", None),
                (504, "", Temporary, "receiver_5xx", None),
            ],
        );
    }
}
