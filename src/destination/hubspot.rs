//! The `hubspot` type: contacts, created or updated by their e-mail address, up to a hundred at once. Pure.
//!
//! <https://developers.hubspot.com/docs/api-reference/latest/crm/objects/contacts/batch/upsert-contacts>: each input has a trace id, which
//! comes back with its result or its error. A property that does not exist fails the whole batch, so that each is tried by itself.

use super::crm::{
    ANSWER_BYTES_MAX, Fields, Verdicts, bytes, delivered, kept, nothing_to_send, rejected, rounds, shown_with_path, text, unclear, under,
    word,
};
use super::{Answer, Batch, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Response, Verdict, judge, place};
use crate::mapping::{Event, MappingError};
use crate::secret::Hidden;
use http::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;
use url::Url;

/// Inputs of one request, by its documentation.
pub const RECORDS_MAX: usize = 100;

/// Only properties that every account has; one that it lacks would fail the batch.
pub const DEFAULTS: &[(&str, &str)] = &[
    ("email", "data.email"),
    ("firstname", "data.name | first_word"),
    ("lastname", "data.name | last_words"),
    ("phone", "data.phone"),
    ("company", "data.company"),
    (
        "message",
        "[data.message, ('Source: ' ~ data.source) if data.source, ('Score: ' ~ data.score) if data.score is defined] | select | join('\\n')",
    ),
];

/// Contacts of a HubSpot account.
#[derive(Debug)]
pub struct HubSpot {
    /// Scheme and host.
    pub url: Url,
    /// Of the objects, with the API's version: `/crm/objects/2026-03/contacts`.
    pub path: String,
    /// The private app's access token.
    pub token: Hidden,
    /// The unique property by which a contact is found.
    pub id_property: String,
    /// What is written.
    pub fields: Fields,
    /// Leads that lack that property.
    pub without_id: WithoutId,
}

/// What becomes of a lead that cannot be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutId {
    /// A contact is created at `lead.created`; nothing is sent for later events.
    Create,
    /// A dead letter.
    Reject,
    /// Nothing is sent, and the delivery is done.
    Skip,
}

struct Round {
    create: bool,
    of: Vec<usize>,
}

impl Connector for HubSpot {
    fn kind(&self) -> &'static str {
        "hubspot"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let record = self.fields.record(&Event::parse(incoming.bytes)?)?;
        // HubSpot's schema wants texts.
        let properties: Map<String, Value> = record.iter().map(|(name, value)| (name.clone(), text(value).into())).collect();
        bytes(&Value::Object(properties)).map(Some)
    }

    fn batch(&self) -> Batch {
        Batch::of(RECORDS_MAX)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let contacts: Vec<Value> = records.iter().map(kept).collect::<Result<_, _>>()?;
        let mut verdicts = Verdicts::new(records.len());
        let plan = self.plan(records, &contacts, &mut verdicts);
        for (round, answer) in plan.iter().zip(said) {
            if let Err(verdict) = self.judge_round(round, answer, records, moment, &mut verdicts) {
                return Ok(Next::Judged(verdicts.failed(verdict)));
            }
        }
        Ok(match plan.get(said.len()) {
            Some(round) => self.request(round, records, &contacts)?.send(),
            None => Next::Judged(verdicts.judged(Verdict::internal("nothing was asked about it"))),
        })
    }
}

impl HubSpot {
    /// Updates first: what failed as a whole is begun again, and only they may be repeated without harm.
    fn plan(&self, records: &[Record<'_>], contacts: &[Value], verdicts: &mut Verdicts) -> Vec<Round> {
        let (mut keys, mut create) = (Vec::new(), Vec::new());
        for (index, (record, contact)) in records.iter().zip(contacts).enumerate() {
            match contact.get(&self.id_property).and_then(Value::as_str) {
                Some(id) => keys.push((index, Some(id.trim().to_lowercase()))),
                None => match self.without_id {
                    WithoutId::Create if record.identity.kind == "lead.created" => create.push(index),
                    WithoutId::Create | WithoutId::Skip => {
                        verdicts
                            .set(index, nothing_to_send(&format!("the lead has no {}, so its contact cannot be found", self.id_property)));
                    }
                    WithoutId::Reject => {
                        let reason = format!("the lead has no {}, and without_id is reject", self.id_property);
                        verdicts.set(index, Verdict::new(Class::Rejected, "rejected_body", reason));
                    }
                },
            }
        }
        let (upserts, left) = rounds(&keys);
        verdicts.wait(&left);
        let mut plan: Vec<Round> = upserts.into_iter().map(|of| Round { create: false, of }).collect();
        if !create.is_empty() {
            plan.push(Round { create: true, of: create });
        }
        plan
    }

    fn request(&self, round: &Round, records: &[Record<'_>], contacts: &[Value]) -> Result<HttpRequest, MappingError> {
        let input = |index: &usize| {
            let (record, contact) = (records.get(*index)?, contacts.get(*index)?);
            let trace = record.identity.event_id;
            Some(match contact.get(&self.id_property).and_then(Value::as_str).filter(|_| !round.create) {
                Some(id) => {
                    json!({ "idProperty": self.id_property, "id": id.trim(), "properties": contact, "objectWriteTraceId": trace })
                }
                None => json!({ "properties": contact, "objectWriteTraceId": trace }),
            })
        };
        let inputs: Vec<Value> = round.of.iter().filter_map(input).collect();
        let verb = if round.create { "create" } else { "upsert" };
        let url = under(&self.url, &format!("{}/batch/{verb}", self.path.trim_end_matches('/')), &[]);
        let mut request = HttpRequest::new(Method::POST, url)
            .body("application/json", bytes(&json!({ "inputs": inputs }))?)
            .secret_header("Authorization", format!("Bearer {}", self.token.0));
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        Ok(shown_with_path(request))
    }

    /// What an answer says about each record of its round; an error where it is about all of them.
    fn judge_round(
        &self,
        round: &Round,
        answer: &Answer,
        records: &[Record<'_>],
        moment: &Moment,
        verdicts: &mut Verdicts,
    ) -> Result<(), Verdict> {
        let mut whole = judge(&self.url, answer, moment);
        let Answer::Response(response) = answer else { return Err(whole) };
        if whole.class != Class::Delivered {
            refine(&mut whole, response, round.of.len());
            return Err(whole);
        }
        let status = response.status;
        let said = response.json().filter(Value::is_object).ok_or_else(|| unclear(status, "HubSpot"))?;
        let list = |name: &str| said.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let (results, errors) = (list("results"), list("errors"));
        let index_of = |trace: &str| round.of.iter().copied().find(|i| records.get(*i).is_some_and(|r| r.identity.event_id == trace));
        for result in &results {
            if let Some(index) = result.get("objectWriteTraceId").and_then(Value::as_str).and_then(index_of) {
                verdicts.set(index, delivered(status));
            }
        }
        let mut unnamed = None;
        for error in &errors {
            let traces = error.pointer("/context/objectWriteTraceId").map(|t| t.as_array().cloned().unwrap_or_else(|| vec![t.clone()]));
            let mut found = false;
            for index in traces.iter().flatten().filter_map(Value::as_str).filter_map(index_of) {
                found = true;
                verdicts.set(index, one_failed(status, error));
            }
            if !found {
                unnamed = Some(one_failed(status, error));
            }
        }
        let open: Vec<usize> = round.of.iter().copied().filter(|i| !verdicts.has(*i)).collect();
        match unnamed {
            // Nobody knows whose error it is: each by itself will tell.
            Some(verdict) if !open.is_empty() => return Err(verdict),
            // Without trace ids in the answer its number of results says the same.
            None if errors.is_empty() && results.len() == round.of.len() => {
                open.into_iter().for_each(|index| verdicts.set(index, delivered(status)));
            }
            _ => open.into_iter().for_each(|index| verdicts.set(index, unclear(status, "HubSpot"))),
        }
        Ok(())
    }
}

/// One record of a batch that was taken otherwise.
fn one_failed(status: u16, error: &Value) -> Verdict {
    let category = word(error.get("category"));
    let verdict = rejected(status, format!("HubSpot does not take this contact ({category}); see the answer"), error);
    match category {
        "RATE_LIMITS" => Verdict { class: Class::Throttled, code: "throttled", wait: Some(Duration::from_secs(10)), ..verdict },
        "FORBIDDEN" | "MISSING_SCOPES" => Verdict { class: Class::Refused, code: "receiver_4xx", reason: scopes(status), ..verdict },
        "INTERNAL_ERROR" | "TIMEOUT" => Verdict { class: Class::Temporary, code: "receiver_5xx", ..verdict },
        _ => verdict,
    }
}

fn scopes(status: u16) -> String {
    format!("HTTP {status}: the app may not write contacts; give it the scopes crm.objects.contacts.read and crm.objects.contacts.write")
}

/// A whole request that failed.
fn refine(verdict: &mut Verdict, response: &Response, records: usize) {
    let said = response.json().unwrap_or_default();
    let category = word(said.get("category"));
    match response.status {
        400 if verdict.class == Class::Rejected => {
            let unknown = String::from_utf8_lossy(&response.body).contains("PROPERTY_DOESNT_EXIST");
            if unknown && records == 1 {
                (verdict.class, verdict.code) = (Class::Refused, "receiver_4xx");
                "HTTP 400: map names a property that this account does not have; create it in HubSpot or take it out of map"
                    .clone_into(&mut verdict.reason);
            } else {
                verdict.reason = format!("HTTP 400: HubSpot does not take this ({category}); see the answer");
            }
        }
        401 if verdict.class == Class::Refused => {
            "HTTP 401: HubSpot does not know the access token; copy it anew from the private app".clone_into(&mut verdict.reason);
        }
        403 if verdict.class == Class::Refused => verdict.reason = scopes(403),
        // Others write to the same contact.
        423 => {
            (verdict.class, verdict.code) = (Class::Temporary, "receiver_4xx");
            "HTTP 423: HubSpot is busy with this contact".clone_into(&mut verdict.reason);
        }
        429 => {
            let (wait, which) = match word(said.get("policyName")) {
                "DAILY" => (3600, "the account's requests of the day are used up"),
                "SECONDLY" => (1, "too many requests in a second"),
                _ => (10, "too many requests in ten seconds"),
            };
            verdict.wait = verdict.wait.or(Some(Duration::from_secs(wait)));
            verdict.reason = format!("HTTP 429: {which}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::crm::trying::{self, EVENT, reply};
    use super::super::{Judgement, Memory};
    use super::*;

    fn hubspot() -> HubSpot {
        HubSpot {
            url: Url::parse("https://api.hubapi.com").unwrap(),
            path: "/crm/objects/2026-03/contacts".to_owned(),
            token: Hidden("pat-1".to_owned()),
            id_property: "email".to_owned(),
            fields: Fields::new(DEFAULTS, None).unwrap(),
            without_id: WithoutId::Create,
        }
    }

    #[test]
    fn the_request_is_that_of_the_documentation() {
        let request = trying::first(&hubspot(), EVENT);
        assert_eq!(request.url.as_str(), "https://api.hubapi.com/crm/objects/2026-03/contacts/batch/upsert");
        assert_eq!(request.hidden[0].1.0, "Bearer pat-1");
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"inputs":[{"idProperty":"email","id":"Jane@Example.com","properties":{"email":"Jane@Example.com","firstname":"Jane","lastname":"van Dyke","phone":"+43 1","message":"Hello\nSource: booth\nScore: 88"},"objectWriteTraceId":"evt_1"}]}"#
        );
    }

    #[test]
    fn every_answer_has_its_meaning() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (status, body, class, code, wait) in [
            (200, r#"{"results":[{"objectWriteTraceId":"evt_0"}]}"#, Class::Delivered, "delivered", None),
            (200, r#"{"results":[{"id":"1"}]}"#, Class::Delivered, "delivered", None),
            (200, r#"{"results":[]}"#, Class::Temporary, "protocol_error", None),
            (200, "<html>", Class::Temporary, "protocol_error", None),
            (
                207,
                r#"{"results":[],"errors":[{"category":"VALIDATION_ERROR","context":{"objectWriteTraceId":["evt_0"]}}]}"#,
                Class::Rejected,
                "rejected_body",
                None,
            ),
            (
                207,
                r#"{"results":[],"errors":[{"category":"RATE_LIMITS","context":{"objectWriteTraceId":["evt_0"]}}]}"#,
                Class::Throttled,
                "throttled",
                seconds(10),
            ),
            (207, r#"{"results":[],"errors":[{"category":"VALIDATION_ERROR"}]}"#, Class::Rejected, "rejected_body", None),
            (400, r#"{"category":"VALIDATION_ERROR","message":"jane@example.com is bad"}"#, Class::Rejected, "rejected_body", None),
            (
                400,
                r#"{"category":"VALIDATION_ERROR","message":"[{\"error\":\"PROPERTY_DOESNT_EXIST\"}]"}"#,
                Class::Refused,
                "receiver_4xx",
                None,
            ),
            (401, r#"{"category":"INVALID_AUTHENTICATION"}"#, Class::Refused, "receiver_4xx", None),
            (403, r#"{"category":"MISSING_SCOPES"}"#, Class::Refused, "receiver_4xx", None),
            (423, "", Class::Temporary, "receiver_4xx", None),
            (429, r#"{"policyName":"DAILY"}"#, Class::Throttled, "throttled", seconds(3600)),
            (429, r#"{"policyName":"TEN_SECONDLY_ROLLING"}"#, Class::Throttled, "throttled", seconds(10)),
            (429, r#"{"policyName":"SECONDLY"}"#, Class::Throttled, "throttled", seconds(1)),
            (502, "", Class::Temporary, "receiver_5xx", None),
        ] {
            let verdict = trying::judged(&hubspot(), EVENT, &[reply(status, body)]);
            assert_eq!((verdict.class, verdict.code, verdict.wait), (class, code, wait), "{status} {body}");
            assert!(!verdict.reason.contains("jane"), "{}", verdict.reason);
        }
    }

    #[test]
    fn a_batch_refused_as_a_whole_is_tried_one_by_one_and_nobody_is_twice_in_a_request() {
        let other = EVENT.replace("Jane@Example.com", "joe@example.com");
        let nobody = EVENT.replace("Jane@Example.com", "");
        let unknown = reply(400, r#"{"category":"VALIDATION_ERROR","message":"PROPERTY_DOESNT_EXIST"}"#);
        let (judgement, _) = trying::exchanged(&hubspot(), &[EVENT, &other], &[unknown], &mut Memory::default());
        assert!(matches!(judgement, Judgement::All(v) if v.class == Class::Rejected));

        let answers = [
            reply(
                207,
                r#"{"results":[{"objectWriteTraceId":"evt_1"}],"errors":[{"category":"VALIDATION_ERROR","context":{"objectWriteTraceId":["evt_0"]}}]}"#,
            ),
            reply(200, r#"{"results":[{"objectWriteTraceId":"evt_2"}]}"#),
            reply(429, "{}"),
        ];
        let (judgement, asked) = trying::exchanged(&hubspot(), &[EVENT, &other, EVENT, &nobody], &answers, &mut Memory::default());
        let Judgement::Each(verdicts) = judgement else { panic!("{judgement:?}") };
        let classes: Vec<Class> = verdicts.iter().map(|v| v.class).collect();
        assert_eq!(classes, [Class::Rejected, Class::Delivered, Class::Delivered, Class::Throttled]);
        assert!(asked[2].url.path().ends_with("/batch/create"));
    }
}
