//! The `alertmanager` type: the device's alarms as alerts. Pure.
//!
//! <https://prometheus.io/docs/alerting/latest/alerts_api/>. Alertmanager knows an alert by its labels: those of an alarm and of its end
//! must be the same, so nothing that changes meanwhile may be one.

use super::alarm::{Alarm, Severity};
use super::message::{Message, by_status, rendered, response};
use super::{Answer, Batch, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::mapping::MappingError;
use crate::secret::Hidden;
use crate::time::Wall;
use http::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;
use url::Url;

/// Alerts of one request.
const BATCH: usize = 50;
/// What has no end of its own and comes again every day is over after one.
const DAY: Duration = Duration::from_secs(86_400);

/// An Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    /// Its address, without `/api/v2/alerts`.
    pub url: Url,
    /// The `Authorization` header, if it wants one.
    pub authorization: Option<Hidden>,
    /// Labels of every alert.
    pub labels: Vec<(String, String)>,
    /// Of every alarm, instead of the one it has by itself.
    pub severity: Option<Severity>,
    /// How long an alarm lasts whose end is never told.
    pub resolve_after: Duration,
    /// The annotations.
    pub message: Message,
}

impl Connector for Alertmanager {
    fn kind(&self) -> &'static str {
        "alertmanager"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let alarm = Alarm::of(incoming.bytes)?;
        let said = self.message.render(incoming)?;
        let mut labels = Map::new();
        let own = [("alertname", Some(alarm.name.clone())), ("job", Some("leadsbotd".to_owned())), ("device", Some(alarm.device.clone()))];
        let more = [("site", alarm.site.clone()), ("destination", alarm.destination.clone())];
        labels.extend(own.into_iter().chain(more).filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
        labels.insert("severity".to_owned(), self.severity.unwrap_or(alarm.severity).name().into());
        labels.extend(self.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
        let mut alert = json!({ "labels": labels, "annotations": { "summary": said.title, "description": said.text } });
        if let (Some(object), Some(at)) = (alert.as_object_mut(), alarm.at) {
            let lasts = if alarm.about == "storage.wear" { self.resolve_after.min(DAY) } else { self.resolve_after };
            let end = if alarm.over { at } else { later(at, lasts) };
            object.insert("startsAt".to_owned(), alarm.since.unwrap_or(at).rfc3339().into());
            object.insert("endsAt".to_owned(), end.rfc3339().into());
        } else if let (Some(object), true) = (alert.as_object_mut(), alarm.over) {
            // Nobody knows when, but it is over.
            object.insert("endsAt".to_owned(), Wall(0).rfc3339().into());
        }
        Ok(rendered(&alert))
    }

    fn batch(&self) -> Batch {
        Batch::of(BATCH)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        if records.is_empty() {
            return Err(MappingError::nothing());
        }
        Ok(match said.last() {
            None => self.request(records).send(),
            Some(answer) => self.judged(answer, moment).into(),
        })
    }
}

fn later(at: Wall, by: Duration) -> Wall {
    Wall(at.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

impl Alertmanager {
    fn request(&self, records: &[Record<'_>]) -> HttpRequest {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v2", "alerts"]);
        }
        let alerts: Vec<&[u8]> = records.iter().map(|record| record.body).collect();
        let body = [b"[".as_slice(), &alerts.join(&b","[..]), b"]"].concat();
        let request = HttpRequest::new(Method::POST, url).body("application/json", body);
        match &self.authorization {
            Some(Hidden(value)) => request.secret_header("Authorization", value.as_str()),
            None => request,
        }
    }

    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        match response.status {
            200 => verdict,
            201..=299 => verdict.unexpected(format!("HTTP {} where Alertmanager answers 200; check url", response.status)),
            400 => verdict.means(Class::Rejected, "rejected_body", "Alertmanager does not take this alert; check labels"),
            _ => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial;
    use super::*;

    fn alertmanager() -> Alertmanager {
        Alertmanager {
            url: Url::parse("http://127.0.0.1:9093/am/").unwrap(),
            authorization: None,
            labels: vec![("team".into(), "sales".into())],
            severity: None,
            resolve_after: Duration::from_secs(7 * 86_400),
            message: trial::message(None, ("", ""), "> "),
        }
    }

    fn of(kind: &str) -> Vec<u8> {
        trial::of_device(kind, &json!({ "destination": "crm", "state": "offline", "since": "2026-11-23T11:00:00.000Z", "waiting": 3 }))
    }

    fn alert(event: &[u8]) -> Value {
        serde_json::from_slice(&trial::render(&alertmanager(), event)).unwrap()
    }

    #[test]
    fn a_failing_destination_becomes_this_request() {
        let request = trial::request(&alertmanager(), &of("destination.failing"));
        assert_eq!((request.method, request.url.as_str()), (Method::POST, "http://127.0.0.1:9093/am/api/v2/alerts"));
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"[{"labels":{"alertname":"DestinationFailing","job":"leadsbotd","device":"kiosk-12","site":"Hall 3","destination":"crm","severity":"error","team":"sales"},"annotations":{"summary":"kiosk-12: crm is failing","description":"Destination: crm\nState: offline since 2026-11-23T11:00:00.000Z\nWaiting: 3\nDevice: kiosk-12, Hall 3\nTime: 2026-11-23 12:00 UTC"},"startsAt":"2026-11-23T11:00:00.000Z","endsAt":"2026-11-30T12:00:00.123Z"}]"#
        );
    }

    #[test]
    fn what_is_well_again_ends_the_alert_with_the_same_labels() {
        let (raised, over) = (alert(&of("destination.failing")), alert(&of("destination.recovered")));
        assert_eq!(raised["labels"], over["labels"]);
        assert_eq!((&raised["startsAt"], &raised["endsAt"]), (&json!("2026-11-23T11:00:00.000Z"), &json!("2026-11-30T12:00:00.123Z")));
        assert_eq!((&over["startsAt"], &over["endsAt"]), (&json!("2026-11-23T11:00:00.000Z"), &json!("2026-11-23T12:00:00.123Z")));
    }

    #[test]
    fn a_time_nobody_believes_is_left_to_alertmanager() {
        let untrusted = |kind| String::from_utf8(of(kind)).unwrap().replace("\"trusted\"", "\"untrusted\"").into_bytes();
        let (raised, over) = (alert(&untrusted("destination.failing")), alert(&untrusted("destination.recovered")));
        assert_eq!((raised.get("startsAt"), raised.get("endsAt")), (None, None));
        assert_eq!((over.get("startsAt"), &over["endsAt"]), (None, &json!("1970-01-01T00:00:00.000Z")));
    }

    #[test]
    fn several_alerts_go_together() {
        let bodies = [of("destination.failing"), of("storage.low")].map(|event| match event {
            event if event.windows(11).any(|w| w == b"storage.low") => trial::of_device(
                "storage.wear",
                &json!({
                "day": "2026-11-23", "written_bytes": 2_000_000, "budget_bytes": 1_000_000, "leads": 1, "deliveries": 2 }),
            ),
            event => event,
        });
        let bodies = bodies.map(|event| trial::render(&alertmanager(), &event));
        let identity = super::super::Identity { event_id: trial::EVENT_ID, kind: "storage.wear", destination: "am" };
        let records = bodies.each_ref().map(|body| Record { identity, body, event: None, attempt: 1 });
        let request = trial::asked(alertmanager().next(&records, &[], &trial::MOMENT, &mut Memory::default()).unwrap());
        let sent: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(
            (sent[0]["labels"]["alertname"].as_str(), sent[1]["labels"]["alertname"].as_str()),
            (Some("DestinationFailing"), Some("StorageWear"))
        );
        assert_eq!(sent[1]["endsAt"], "2026-11-24T12:00:00.123Z", "it comes again the next day if it goes on");
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &alertmanager(),
            &[
                (200, "", Delivered, "delivered", None),
                (202, "", Temporary, "protocol_error", None),
                (400, "\"bad labels\"", Rejected, "rejected_body", None),
                (401, "", Refused, "receiver_4xx", None),
                (404, "", Refused, "receiver_4xx", None),
                (429, "", Throttled, "throttled", None),
                (500, "", Temporary, "receiver_5xx", None),
            ],
        );
    }
}
