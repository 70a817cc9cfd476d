//! The `zoho` type: leads in Zoho CRM, created or updated, up to a hundred at once. Pure.
//!
//! <https://www.zoho.com/crm/developer/docs/api/v8/upsert-records.html>: the results stand in the order of the request, each with a code.

use super::crm::{
    ANSWER_BYTES_MAX, Fields, Verdicts, bytes, delivered, kept, rejected, rounds, shown_with_path, text, unclear, under, word,
};
use super::oauth::{Access, OAuth};
use super::{Answer, Batch, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Response, Verdict, judge, place};
use crate::mapping::{Event, MappingError};
use crate::secret::Hidden;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;

/// Records of one request, by its documentation.
pub const RECORDS_MAX: usize = 100;

/// Fields that the module Leads has from the beginning, cut to the lengths they have there. `Last_Name` is mandatory.
pub const DEFAULTS: &[(&str, &str)] = &[
    ("First_Name", "(data.name | first_word | truncate(40, '')) if data.name | last_words"),
    (
        "Last_Name",
        "data.name | last_words | default(data.name, true) | default(data.company, true) | default(data.email, true) | default('Unknown', true) | truncate(80, '')",
    ),
    ("Email", "data.email"),
    ("Phone", "data.phone | truncate(30, '')"),
    ("Company", "data.company | truncate(100, '')"),
    ("Lead_Source", "data.source | truncate(120, '')"),
    ("Description", "[data.message, ('Score: ' ~ data.score) if data.score is defined] | select | join('\\n') | truncate(32000)"),
];

/// Leads of a Zoho CRM account.
#[derive(Debug)]
pub struct Zoho {
    /// The API's domain in the account's data centre.
    pub url: Url,
    /// `crm/v8/Leads/upsert`
    pub path: String,
    /// Access.
    pub oauth: OAuth,
    /// What is written.
    pub fields: Fields,
    /// By which fields a lead is found again.
    pub duplicate_check_fields: Vec<String>,
    /// Which automations run; `None`: all of them.
    pub trigger: Option<Vec<String>>,
}

impl Connector for Zoho {
    fn kind(&self) -> &'static str {
        "zoho"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        bytes(&Value::Object(self.fields.record(&Event::parse(incoming.bytes)?)?)).map(Some)
    }

    fn batch(&self) -> Batch {
        Batch::of(RECORDS_MAX)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, memory: &mut Memory) -> Result<Next, MappingError> {
        let (token, answers) = match self.oauth.access(said, moment, memory, is_expired) {
            Access::Ask(request) => return Ok(request.send()),
            Access::Denied(verdict) => return Ok(verdict.into()),
            Access::Granted(token, answers) => (token, answers),
        };
        let leads: Vec<Value> = records.iter().map(kept).collect::<Result<_, _>>()?;
        let (plan, left) = rounds(&leads.iter().enumerate().map(|(index, lead)| (index, self.key(lead))).collect::<Vec<_>>());
        let mut verdicts = Verdicts::new(records.len());
        verdicts.wait(&left);
        for (round, answer) in plan.iter().zip(&answers) {
            if let Err(verdict) = self.judge_round(round, answer, moment, &mut verdicts) {
                return Ok(Next::Judged(verdicts.failed(verdict)));
            }
        }
        Ok(match plan.get(answers.len()) {
            Some(round) => self.request(round, &leads, &token)?.send(),
            None => Next::Judged(verdicts.judged(Verdict::internal("nothing was asked about it"))),
        })
    }
}

impl Zoho {
    /// What a lead is found by, all fields together; nothing if it has none of them.
    fn key(&self, lead: &Value) -> Option<String> {
        let values: Vec<String> =
            self.duplicate_check_fields.iter().filter_map(|name| Some(text(lead.get(name)?).trim().to_lowercase())).collect();
        (!values.is_empty()).then(|| values.join("\n"))
    }

    fn request(&self, round: &[usize], leads: &[Value], Hidden(token): &Hidden) -> Result<HttpRequest, MappingError> {
        let data: Vec<&Value> = round.iter().filter_map(|index| leads.get(*index)).collect();
        let mut body = json!({ "data": data, "duplicate_check_fields": self.duplicate_check_fields });
        if let (Some(trigger), Some(object)) = (&self.trigger, body.as_object_mut()) {
            object.insert("trigger".to_owned(), json!(trigger));
        }
        let mut request = HttpRequest::new(Method::POST, under(&self.url, &self.path, &[]))
            .body("application/json", bytes(&body)?)
            .secret_header("Authorization", format!("Zoho-oauthtoken {token}"));
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        Ok(shown_with_path(request))
    }

    fn judge_round(&self, round: &[usize], answer: &Answer, moment: &Moment, verdicts: &mut Verdicts) -> Result<(), Verdict> {
        let mut whole = judge(&self.url, answer, moment);
        let Answer::Response(response) = answer else { return Err(whole) };
        let said = response.json().unwrap_or_default();
        // A request whose records all fail may be answered 400, with their codes all the same.
        let results = said.get("data").and_then(Value::as_array).filter(|_| matches!(response.status, 200..=299 | 400));
        let Some(results) = results else {
            if whole.class == Class::Delivered {
                return Err(unclear(response.status, "Zoho"));
            }
            refine(&mut whole, response, &said);
            return Err(whole);
        };
        if results.len() != round.len() {
            return Err(unclear(response.status, "Zoho"));
        }
        for (index, result) in round.iter().zip(results) {
            verdicts.set(*index, one(response.status, result));
        }
        Ok(())
    }
}

/// What the code of one record means; <https://www.zoho.com/crm/developer/docs/api/v8/status-codes.html>.
fn one(status: u16, result: &Value) -> Verdict {
    let field = match word(result.pointer("/details/api_name")) {
        "an unnamed fault" => String::new(),
        name => format!(" at {name}"),
    };
    let code = word(result.get("code"));
    let verdict = rejected(status, format!("Zoho does not take this lead ({code}{field}); see the answer"), result);
    match code {
        "SUCCESS" => delivered(status),
        "INTERNAL_ERROR" | "RECORD_LOCKED" => Verdict { class: Class::Temporary, code: "receiver_5xx", ..verdict },
        "NO_PERMISSION" | "PERMISSION_DENIED" | "INVALID_MODULE" => Verdict { class: Class::Refused, code: "receiver_4xx", ..verdict },
        "LIMIT_EXCEEDED" | "TOO_MANY_REQUESTS" => {
            Verdict { class: Class::Throttled, code: "throttled", wait: Some(Duration::from_secs(60)), ..verdict }
        }
        _ => verdict,
    }
}

/// Whether the access token has had its day; a missing scope is no matter of its age.
fn is_expired(response: &Response) -> bool {
    response.status == 401
        && response.json().is_some_and(|said| matches!(word(said.get("code")), "INVALID_TOKEN" | "AUTHENTICATION_FAILURE"))
}

fn refine(verdict: &mut Verdict, response: &Response, said: &Value) {
    let code = word(said.get("code"));
    match (response.status, code) {
        (429, _) | (_, "LIMIT_EXCEEDED" | "TOO_MANY_REQUESTS") => {
            (verdict.class, verdict.code) = (Class::Throttled, "throttled");
            verdict.wait = verdict.wait.or(Some(Duration::from_secs(60)));
            verdict.reason = format!("HTTP {}: too many requests, or the account's API credits are used up ({code})", response.status);
        }
        (401, "OAUTH_SCOPE_MISMATCH") => {
            "HTTP 401: the refresh token may not write leads; make one with the scope ZohoCRM.modules.leads.ALL"
                .clone_into(&mut verdict.reason);
        }
        (400..=499, "INVALID_MODULE" | "INVALID_URL_PATTERN" | "NO_PERMISSION" | "OAUTH_SCOPE_MISMATCH" | "REQUIRED_PARAM_MISSING")
            if verdict.class != Class::Clock =>
        {
            (verdict.class, verdict.code) = (Class::Refused, "receiver_4xx");
            verdict.reason =
                format!("HTTP {}: Zoho refuses every request of this kind ({code}); check module, version and scope", response.status);
        }
        (401 | 403, _) if verdict.class == Class::Refused => {
            verdict.reason = format!(
                "HTTP {}: Zoho does not accept the access token ({code}); is api_url that of the account's data centre?",
                response.status
            );
        }
        (400..=499, _) if verdict.class == Class::Rejected => {
            verdict.reason = format!("HTTP {}: Zoho does not take this ({code}); see the answer", response.status);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::crm::trying::{self, EVENT, reply};
    use super::super::{Judgement, Memory};
    use super::*;

    const GRANT: &str = r#"{"access_token":"at-1","expires_in":3600}"#;

    fn zoho() -> Zoho {
        let form = vec![("grant_type", Hidden("refresh_token".to_owned())), ("refresh_token", Hidden("r&1".to_owned()))];
        Zoho {
            url: Url::parse("https://www.zohoapis.eu").unwrap(),
            path: "crm/v8/Leads/upsert".to_owned(),
            oauth: OAuth { url: Url::parse("https://accounts.zoho.eu/oauth/v2/token").unwrap(), form, lifetime: Duration::from_secs(60) },
            fields: Fields::new(DEFAULTS, None).unwrap(),
            duplicate_check_fields: vec!["Email".to_owned()],
            trigger: Some(vec![]),
        }
    }

    #[test]
    fn a_token_is_asked_for_and_then_the_leads_are_sent() {
        let mut memory = Memory::default();
        let answers = [reply(200, GRANT), reply(200, r#"{"data":[{"code":"SUCCESS"}]}"#)];
        let (judgement, asked) = trying::exchanged(&zoho(), &[EVENT], &answers, &mut memory);
        assert!(matches!(judgement, Judgement::All(v) if v.class == Class::Delivered));
        assert_eq!((asked[0].url.as_str(), asked[0].confidential), ("https://accounts.zoho.eu/oauth/v2/token", true));
        assert_eq!(asked[0].body, b"grant_type=refresh_token&refresh_token=r%261");
        assert_eq!(asked[1].url.as_str(), "https://www.zohoapis.eu/crm/v8/Leads/upsert");
        assert_eq!(asked[1].hidden[0].1.0, "Zoho-oauthtoken at-1");
        assert_eq!(
            String::from_utf8(asked[1].body.clone()).unwrap(),
            r#"{"data":[{"First_Name":"Jane","Last_Name":"van Dyke","Email":"Jane@Example.com","Phone":"+43 1","Lead_Source":"booth","Description":"Hello\nScore: 88"}],"duplicate_check_fields":["Email"],"trigger":[]}"#
        );
        // The next exchange needs none, and one that is no longer taken is renewed once.
        let ended = reply(401, r#"{"code":"INVALID_TOKEN"}"#);
        let again = reply(200, &GRANT.replace("at-1", "at-2"));
        let done = reply(201, r#"{"data":[{"code":"SUCCESS"}]}"#);
        let (judgement, asked) = trying::exchanged(&zoho(), &[EVENT], &[ended.clone(), again.clone(), done], &mut memory);
        assert!(matches!(judgement, Judgement::All(v) if v.class == Class::Delivered));
        assert_eq!(asked[2].hidden[0].1.0, "Zoho-oauthtoken at-2");
        let (judgement, _) = trying::exchanged(&zoho(), &[EVENT], &[ended.clone(), again, ended], &mut memory);
        assert!(matches!(judgement, Judgement::All(v) if v.class == Class::Refused));
    }

    #[test]
    fn every_answer_has_its_meaning() {
        for (status, body, class, code) in [
            (200, r#"{"data":[{"code":"SUCCESS"}]}"#, Class::Delivered, "delivered"),
            (200, "", Class::Temporary, "protocol_error"),
            (200, r#"{"data":[]}"#, Class::Temporary, "protocol_error"),
            (207, r#"{"data":[{"code":"INVALID_DATA","details":{"api_name":"Email"}}]}"#, Class::Rejected, "rejected_body"),
            (400, r#"{"data":[{"code":"MANDATORY_NOT_FOUND"}]}"#, Class::Rejected, "rejected_body"),
            (200, r#"{"data":[{"code":"RECORD_LOCKED"}]}"#, Class::Temporary, "receiver_5xx"),
            (400, r#"{"code":"INVALID_DATA"}"#, Class::Rejected, "rejected_body"),
            (400, r#"{"code":"INVALID_MODULE"}"#, Class::Refused, "receiver_4xx"),
            (401, r#"{"code":"OAUTH_SCOPE_MISMATCH"}"#, Class::Refused, "receiver_4xx"),
            (403, r#"{"code":"NO_PERMISSION"}"#, Class::Refused, "receiver_4xx"),
            (404, r#"{"code":"INVALID_URL_PATTERN"}"#, Class::Refused, "receiver_4xx"),
            (429, r#"{"code":"TOO_MANY_REQUESTS"}"#, Class::Throttled, "throttled"),
            (500, r#"{"code":"INTERNAL_ERROR"}"#, Class::Temporary, "receiver_5xx"),
        ] {
            let verdict = trying::judged(&zoho(), EVENT, &[reply(200, GRANT), reply(status, body)]);
            assert_eq!((verdict.class, verdict.code), (class, code), "{status} {body}");
        }
    }

    #[test]
    fn an_answer_without_a_token_says_why_and_nothing_else() {
        for (status, body, class) in [
            (200, r#"{"error":"invalid_code"}"#, Class::Refused),
            (400, r#"{"error":"invalid_client"}"#, Class::Refused),
            (
                400,
                r#"{"error":"Access Denied","error_description":"You have made too many requests continuously. Please try again after some time."}"#,
                Class::Throttled,
            ),
            (503, "", Class::Temporary),
        ] {
            let verdict = trying::judged(&zoho(), EVENT, &[reply(status, body)]);
            assert_eq!((verdict.class, verdict.answer.as_str()), (class, ""), "{status} {body}");
        }
    }

    #[test]
    fn each_record_is_judged_by_its_place() {
        let bad = EVENT.replace("Jane@Example.com", "bad");
        let answers = [reply(200, GRANT), reply(207, r#"{"data":[{"code":"SUCCESS"},{"code":"INVALID_DATA"}]}"#)];
        let (judgement, _) = trying::exchanged(&zoho(), &[EVENT, &bad], &answers, &mut Memory::default());
        let Judgement::Each(verdicts) = judgement else { panic!("{judgement:?}") };
        assert_eq!(verdicts.iter().map(|v| v.class).collect::<Vec<_>>(), [Class::Delivered, Class::Rejected]);
    }
}
