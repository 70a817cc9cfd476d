//! The `airtable` type: a record of a table for each event, found again by the event's id. Pure.
//!
//! It must never make a record twice: every request is an upsert on a field that holds the id.
//! <https://airtable.com/developers/web/api/update-multiple-records>

use super::columns::{Columns, capped, listed};
use super::{Answer, Batch, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, judge, place};
use crate::mapping::MappingError;
use crate::secret::Hidden;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;

/// Records that one request may hold.
const RECORDS_MAX: usize = 10;
/// Characters of a long text field.
const TEXT_CHARS_MAX: usize = 100_000;
/// The answer repeats the records.
const ANSWER_BYTES_MAX: usize = 2 << 20;
/// How long nothing succeeds after the rate was exceeded: <https://airtable.com/developers/web/api/rate-limits>.
const RATE_WAIT: Duration = Duration::from_secs(30);

/// A table of an Airtable base.
#[derive(Debug)]
pub struct Airtable {
    /// Its address in the API, whole.
    pub url: Url,
    /// The personal access token.
    pub token: Hidden,
    /// Fields; the first holds the event's id.
    pub fields: Columns,
    /// The field that tells whether a record is there already.
    pub merge_on: String,
    /// Whether Airtable makes the right type of texts, and new choices of select fields.
    pub typecast: bool,
}

impl Connector for Airtable {
    fn kind(&self) -> &'static str {
        "airtable"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let mut fields = self.fields.object(incoming)?;
        for value in fields.values_mut() {
            if let Value::String(text) = value {
                *text = capped(std::mem::take(text), TEXT_CHARS_MAX);
            }
        }
        Ok(Some(json!({ "fields": fields }).to_string().into_bytes()))
    }

    fn batch(&self) -> Batch {
        Batch::of(RECORDS_MAX)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        match said.last() {
            None => Ok(self.request(records).send()),
            Some(answer) => Ok(self.judge(records.len(), answer, moment).into()),
        }
    }
}

impl Airtable {
    fn request(&self, records: &[Record<'_>]) -> HttpRequest {
        let before = format!(r#"{{"performUpsert":{},"records":"#, json!({ "fieldsToMergeOn": [self.merge_on] }));
        let after = format!(r#","typecast":{}}}"#, self.typecast);
        let mut request = HttpRequest::new(Method::PATCH, self.url.clone())
            .body("application/json", [before.as_bytes(), &listed(records), after.as_bytes()].concat())
            .secret_header("Authorization", format!("Bearer {}", self.token.0));
        // Ids of a base and a table are no secrets, and tell which of several it is.
        request.shown = self.url.to_string();
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        request
    }

    fn judge(&self, records: usize, answer: &Answer, moment: &Moment) -> Verdict {
        let verdict = judge(&self.url, answer, moment);
        let Answer::Response(response) = answer else { return verdict };
        let body = response.json().unwrap_or_default();
        // An error is an object with a type, or for a few just the type.
        let kind = body.pointer("/error/type").or_else(|| body.get("error")).and_then(Value::as_str).unwrap_or_default();
        let told =
            |class, code, reason: &str| Verdict { class, code, reason: format!("HTTP {}: {reason}", response.status), ..verdict.clone() };
        match (response.status, kind) {
            (200..=299, _) if body.get("records").and_then(Value::as_array).is_some_and(|made| made.len() == records) => {
                Verdict { answer: String::new(), ..verdict }
            }
            (200..=299, _) if verdict.class != Class::Delivered => verdict,
            (200..=299, _) => told(
                Class::Temporary,
                "protocol_error",
                "the answer does not name the records that were made, so it is not Airtable's; check base_url",
            ),
            (429, "PUBLIC_API_BILLING_LIMIT_EXCEEDED") => told(
                Class::Refused,
                "throttled",
                "the workspace has used up the API calls of its plan for this month; upgrade the plan, or wait for the next month",
            ),
            (429, _) => Verdict { wait: verdict.wait.or(Some(RATE_WAIT)), ..verdict },
            (503, _) => told(Class::Throttled, "throttled", "Airtable is overloaded and asks to come back later"),
            (401, _) => {
                told(Class::Refused, "receiver_4xx", "Airtable does not know the token; make a new one at airtable.com/create/tokens")
            }
            (403 | 404, _) => told(
                Class::Refused,
                "receiver_4xx",
                "the token has no access to this base and table, or they do not exist; give it the scope data.records:write and the base, and compare base and table",
            ),
            (422, "UNKNOWN_FIELD_NAME") => told(
                Class::Refused,
                "receiver_4xx",
                "the table has no field of one of the names; the answer names it (leadsbotd trigger): add the field to the table, or change fields",
            ),
            (422, "INVALID_PERMISSIONS" | "INVALID_PERMISSIONS_OR_MODEL_NOT_FOUND") => {
                told(Class::Refused, "receiver_4xx", "the token's user may not write this table or one of its fields")
            }
            (422, _) => told(
                Class::Rejected,
                "rejected_body",
                "a field does not take the value it was given, or the id stands in several records; the answer says which",
            ),
            (413, _) => told(Class::Rejected, "rejected_body", "the record is larger than Airtable takes"),
            _ => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::tests::{columns, incoming};
    use super::*;
    use crate::destination::{Request, Response};
    use crate::time::{Tick, Wall};

    fn airtable() -> Airtable {
        Airtable {
            url: Url::parse("https://api.airtable.com/v0/app123/Leads").unwrap(),
            token: Hidden("patSECRET".to_owned()),
            fields: columns("Event ID"),
            merge_on: "Event ID".to_owned(),
            typecast: true,
        }
    }

    const MOMENT: Moment = Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: true, vouched: false };

    #[test]
    fn a_request_is_an_upsert_on_the_event() {
        let airtable = airtable();
        let incoming = incoming();
        let body = airtable.render(&incoming).unwrap().unwrap();
        let record = Record { identity: incoming.identity, body: &body, event: None, attempt: 1 };
        let Next::Send(request) = airtable.next(&[record], &[], &MOMENT, &mut Memory::default()).unwrap() else {
            panic!("nothing is sent")
        };
        let shown = request.shown();
        assert_eq!((shown.verb.as_str(), shown.place.as_str()), ("PATCH", "https://api.airtable.com/v0/app123/Leads"));
        assert_eq!(
            String::from_utf8(shown.body).unwrap(),
            r#"{"performUpsert":{"fieldsToMergeOn":["Event ID"]},"records":[{"fields":{"Event ID":"evt_aaaaaaaaaaaaaaaaaaaaaaaaaa","created_at":"2026-11-23T12:00:00.123Z","event":"lead.created","lead_id":"lead_bbbbbbbbbbbbbbbbbbbbbbbbbb","name":"Zoë \"Z\" Smith, Ltd","email":"zoe@example.com","phone":"+43 664 1234567","message":"=1+1\r\ntwo\nlines","score":88,"source":"booth-a","status":"new","fields":"{\"vip\":true}","site":"Hall 3"}}],"typecast":true}"#
        );
        assert!(!format!("{request:?}{airtable:?}").contains("SECRET"));
        let Request::Http(request) = request else { panic!("not over HTTP") };
        assert_eq!(request.hidden, [("Authorization".to_owned(), Hidden("Bearer patSECRET".to_owned()))]);
    }

    #[test]
    fn every_answer_has_its_class() {
        use Class::*;
        let error = |kind: &str| format!(r#"{{"error":{{"type":"{kind}","message":"about it"}}}}"#);
        let two = r#"{"records":[{"id":"rec1"},{"id":"rec2"}],"createdRecords":["rec1"],"updatedRecords":["rec2"]}"#.to_owned();
        for (status, body, class, code, wait) in [
            (200, two, Delivered, "delivered", None),
            (200, r#"{"records":[{"id":"rec1"}]}"#.to_owned(), Temporary, "protocol_error", None),
            (200, "<html>".to_owned(), Temporary, "protocol_error", None),
            (401, error("AUTHENTICATION_REQUIRED"), Refused, "receiver_4xx", None),
            (403, error("INVALID_PERMISSIONS_OR_MODEL_NOT_FOUND"), Refused, "receiver_4xx", None),
            (404, r#"{"error":"NOT_FOUND"}"#.to_owned(), Refused, "receiver_4xx", None),
            (413, error("REQUEST_TOO_LARGE"), Rejected, "rejected_body", None),
            (422, error("UNKNOWN_FIELD_NAME"), Refused, "receiver_4xx", None),
            (422, error("INVALID_PERMISSIONS"), Refused, "receiver_4xx", None),
            (422, error("INVALID_VALUE_FOR_COLUMN"), Rejected, "rejected_body", None),
            (422, error("INVALID_MULTIPLE_CHOICE_OPTIONS"), Rejected, "rejected_body", None),
            (429, error("RATE_LIMIT_REACHED"), Throttled, "throttled", Some(30)),
            (429, String::new(), Throttled, "throttled", Some(30)),
            (429, error("PUBLIC_API_BILLING_LIMIT_EXCEEDED"), Refused, "throttled", None),
            (500, String::new(), Temporary, "receiver_5xx", None),
            (502, String::new(), Temporary, "receiver_5xx", None),
            (503, String::new(), Throttled, "throttled", None),
        ] {
            let answer = Answer::Response(Response { status, body: body.clone().into_bytes(), ..Response::default() });
            let verdict = airtable().judge(2, &answer, &MOMENT);
            assert_eq!((verdict.class, verdict.code), (class, code), "{status} {body}");
            assert_eq!(verdict.wait, wait.map(Duration::from_secs), "{status} {body}");
            assert!(!verdict.reason.contains("about it"), "{}", verdict.reason);
        }
    }
}
