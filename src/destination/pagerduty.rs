//! The `pagerduty` type: the device's alarms as alert events. Pure.
//!
//! <https://developer.pagerduty.com/docs/send-alert-event> (Events API v2). The routing key is part of the body, which is shown without it.

use super::alarm::{Alarm, Severity};
use super::message::{Count, by_status, cut, rendered, response, with};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::mapping::{Event, MappingError, Template};
use crate::secret::Hidden;
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;
use url::Url;

/// Characters of `payload.summary`.
const SUMMARY_MAX: usize = 1024;
/// Characters of `dedup_key`.
const KEY_MAX: usize = 255;
/// "Preferably with a backoff of a few minutes": <https://developer.pagerduty.com/docs/events-api-v2-overview>.
const WAIT: Duration = Duration::from_secs(120);

/// A service of PagerDuty.
#[derive(Debug)]
pub struct PagerDuty {
    /// Where events are taken.
    pub url: Url,
    /// The integration's key.
    pub routing_key: Hidden,
    /// Of every alarm, instead of the one it has by itself.
    pub severity: Option<Severity>,
    /// The alert in one line.
    pub title: Template,
}

impl Connector for PagerDuty {
    fn kind(&self) -> &'static str {
        "pagerduty"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let alarm = Alarm::of(incoming.bytes)?;
        let action = if alarm.over { "resolve" } else { "trigger" };
        let title = self.title.render(&Event::parse(incoming.bytes)?)?;
        let title = if title.trim().is_empty() { alarm.name.as_str() } else { title.trim() };
        let mut payload = json!({
            "summary": cut(title, SUMMARY_MAX, Count::Units, None),
            "source": alarm.device,
            "severity": self.severity.unwrap_or(alarm.severity).name(),
            "class": alarm.name,
            "component": alarm.destination.as_deref().unwrap_or("leadsbotd"),
            "custom_details": alarm.data,
        });
        if let Some(object) = payload.as_object_mut() {
            object.extend(alarm.at.map(|at| ("timestamp".to_owned(), at.rfc3339().into())));
            object.extend(alarm.site.as_deref().map(|site| ("group".to_owned(), site.into())));
        }
        Ok(rendered(&json!({ "event_action": action, "dedup_key": dedup_key(&alarm), "client": "leadsbotd", "payload": payload })))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        let Some(answer) = said.last() else {
            let keyed = |key: &str| with(&[("routing_key", Value::from(key))], record.body);
            let mut request = HttpRequest::new(Method::POST, self.url.clone()).body("application/json", keyed(&self.routing_key.0)?);
            request.shown_body = Some(keyed("(hidden)")?);
            return Ok(request.send());
        };
        Ok(self.judged(answer, moment).into())
    }
}

/// The same for an alarm and its end.
fn dedup_key(alarm: &Alarm) -> String {
    let key = format!("leadsbotd/{}/{}", alarm.device, alarm.about);
    if key.chars().count() <= KEY_MAX {
        return key;
    }
    Sha256::digest(&key).iter().fold("leadsbotd/".to_owned(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

impl PagerDuty {
    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        let body = String::from_utf8_lossy(&response.body);
        match response.status {
            202 => verdict,
            200..=299 => verdict.unexpected(format!("HTTP {} where PagerDuty answers 202; check url", response.status)),
            400 if body.contains("routing_key") || body.contains("routing key") => {
                verdict.refused("PagerDuty does not know this routing key; compare it with the integration's (Events API V2)")
            }
            400 => verdict.means(Class::Rejected, "rejected_body", "PagerDuty does not take this event"),
            429 => {
                verdict.wait = verdict.wait.or(Some(WAIT));
                verdict
            }
            _ => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{message, trial};
    use super::*;
    use crate::event::Kind;

    fn pagerduty() -> PagerDuty {
        PagerDuty {
            url: Url::parse("https://events.pagerduty.com/v2/enqueue").unwrap(),
            routing_key: Hidden("0123456789abcdef0123456789abcdef".into()),
            severity: None,
            title: Template::new("title", message::TITLE).unwrap(),
        }
    }

    fn failing(kind: &str) -> Vec<u8> {
        let data = json!({
            "destination": "crm", "state": "offline", "reason": "nobody listens at the receiver's address",
            "since": "2026-11-23T11:00:00.000Z", "waiting": 12, "oldest_at": "2026-11-23T10:59:00.000Z",
        });
        trial::of_device(kind, &data)
    }

    #[test]
    fn a_failing_destination_becomes_this_request() {
        let request = trial::request(&pagerduty(), &failing("destination.failing"));
        assert_eq!((request.method, request.url.as_str()), (Method::POST, "https://events.pagerduty.com/v2/enqueue"));
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"routing_key":"0123456789abcdef0123456789abcdef","event_action":"trigger","dedup_key":"leadsbotd/kiosk-12/destination/crm","client":"leadsbotd","payload":{"summary":"kiosk-12: crm is failing","source":"kiosk-12","severity":"error","class":"DestinationFailing","component":"crm","custom_details":{"destination":"crm","state":"offline","reason":"nobody listens at the receiver's address","since":"2026-11-23T11:00:00.000Z","waiting":12,"oldest_at":"2026-11-23T10:59:00.000Z"},"timestamp":"2026-11-23T12:00:00.123Z","group":"Hall 3"}}"#
        );
        let shown = String::from_utf8(request.shown_body.unwrap()).unwrap();
        assert!(shown.starts_with(r#"{"routing_key":"(hidden)","event_action""#), "{shown}");
    }

    #[test]
    fn what_is_well_again_resolves_what_was_triggered() {
        let body = |event: &[u8]| serde_json::from_str::<Value>(&trial::body(&pagerduty(), event)).unwrap();
        let (raised, over) = (body(&failing("destination.failing")), body(&failing("destination.recovered")));
        assert_eq!((&raised["event_action"], &over["event_action"]), (&json!("trigger"), &json!("resolve")));
        assert_eq!(raised["dedup_key"], over["dedup_key"]);
        let (low, full) =
            (trial::of_device("storage.low", &json!({"level":"low"})), trial::of_device("storage.low", &json!({"level":"full"})));
        assert_eq!(body(&low)["dedup_key"], body(&full)["dedup_key"]);
        assert_eq!((&body(&low)["payload"]["severity"], &body(&full)["payload"]["severity"]), (&json!("warning"), &json!("critical")));
        assert_eq!(body(&trial::event(Kind::LeadCreated))["payload"]["severity"], "info");
    }

    #[test]
    fn caps_are_kept_and_a_long_key_stays_the_same_for_alarm_and_end() {
        let of = |kind: &str| trial::of_device(kind, &json!({ "destination": "x".repeat(2000) }));
        let body = |event: &[u8]| serde_json::from_str::<Value>(&trial::body(&pagerduty(), event)).unwrap();
        let (raised, over) = (body(&of("destination.failing")), body(&of("destination.recovered")));
        assert_eq!(raised["dedup_key"], over["dedup_key"]);
        assert!(raised["dedup_key"].as_str().unwrap().len() <= KEY_MAX);
        assert_eq!(raised["payload"]["summary"].as_str().unwrap().chars().count(), SUMMARY_MAX);
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &pagerduty(),
            &[
                (202, r#"{"status":"success","message":"Event processed","dedup_key":"k"}"#, Delivered, "delivered", None),
                (200, "", Temporary, "protocol_error", None),
                (400, r#"{"status":"invalid event","errors":["'payload.severity' is invalid"]}"#, Rejected, "rejected_body", None),
                (
                    400,
                    r#"{"status":"invalid event","message":"Event object is invalid","errors":["Invalid routing key"]}"#,
                    Refused,
                    "receiver_4xx",
                    None,
                ),
                (403, "", Refused, "receiver_4xx", None),
                (429, "", Throttled, "throttled", Some(WAIT)),
                (500, "", Temporary, "receiver_5xx", None),
            ],
        );
    }
}
