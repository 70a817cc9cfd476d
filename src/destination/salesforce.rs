//! The `salesforce` type: leads by the Web-to-Lead form, or by the REST API, which can update them. Pure.
//!
//! The form is answered 200 whatever happens: it must never be told as more than "Salesforce took the form".

use super::crm::{Fields, bytes, delivered, kept, shown_with_path, text, under, word};
use super::oauth::{Access, OAuth};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Response, Verdict, judge, place};
use crate::mapping::{Event, MappingError};
use crate::secret::Hidden;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;

const LAST_NAME: &str =
    "data.name | last_words | default(data.name, true) | default(data.email, true) | default('Unknown', true) | truncate(80, '')";
const FIRST_NAME: &str = "(data.name | first_word | truncate(40, '')) if data.name | last_words";
const COMPANY: &str = "data.company | default(data.name, true) | default('Unknown', true) | truncate(255, '')";
const DESCRIPTION: &str = "[data.message, ('Score: ' ~ data.score) if data.score is defined] | select | join('\\n') | truncate(32000)";

/// Names of the form's inputs, cut to the lengths of the lead's fields. `last_name` and `company` are mandatory.
pub const FORM_DEFAULTS: &[(&str, &str)] = &[
    ("first_name", FIRST_NAME),
    ("last_name", LAST_NAME),
    ("company", COMPANY),
    ("email", "data.email | truncate(80, '')"),
    ("phone", "data.phone | truncate(40, '')"),
    ("lead_source", "data.source | truncate(40, '')"),
    ("description", DESCRIPTION),
];

/// Fields of the object Lead, likewise.
pub const REST_DEFAULTS: &[(&str, &str)] = &[
    ("FirstName", FIRST_NAME),
    ("LastName", LAST_NAME),
    ("Company", COMPANY),
    ("Email", "data.email"),
    ("Phone", "data.phone | truncate(40, '')"),
    ("LeadSource", "data.source | truncate(40, '')"),
    ("Description", DESCRIPTION),
];

/// The Web-to-Lead form.
#[derive(Debug)]
pub struct WebToLead {
    /// The servlet, whole.
    pub url: Url,
    /// The organization's id.
    pub oid: String,
    /// What the form's inputs hold.
    pub fields: Fields,
}

impl Connector for WebToLead {
    fn kind(&self) -> &'static str {
        "salesforce"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let record = self.fields.record(&Event::parse(incoming.bytes)?)?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("oid", &self.oid);
        for (name, value) in &record {
            form.append_pair(name, &text(value));
        }
        Ok(Some(form.finish().into_bytes()))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        let Some(answer) = said.last() else {
            let mut request = HttpRequest::new(Method::POST, self.url.clone())
                .body("application/x-www-form-urlencoded;charset=UTF-8", record.body.to_vec());
            request.wanted = &["is-processed"];
            return Ok(shown_with_path(request).send());
        };
        let mut verdict = judge(&self.url, answer, moment);
        if let (Class::Delivered, Answer::Response(response)) = (verdict.class, answer) {
            match response.header("is-processed").map(str::to_ascii_lowercase) {
                Some(said) if said.contains("exception") || said.trim().starts_with("false") => {
                    (verdict.class, verdict.code) = (Class::Refused, "rejected_body");
                    verdict.reason = format!(
                        "HTTP {}, but Salesforce says that it could not process the form; check oid and that Web-to-Lead is switched on",
                        response.status
                    );
                    verdict.answer = super::printable(said.as_bytes());
                }
                _ => {
                    verdict.reason = format!("HTTP {}: Salesforce took the form; whether it made a lead of it is not told", response.status)
                }
            }
        }
        Ok(verdict.into())
    }
}

/// The REST API.
#[derive(Debug)]
pub struct Rest {
    /// The organization's own domain.
    pub url: Url,
    /// `v62.0`
    pub version: String,
    /// `Lead`
    pub object: String,
    /// A field of it that is an External ID and unique.
    pub external_id_field: String,
    /// Whose id is written there.
    pub id_of: IdOf,
    /// Access.
    pub oauth: OAuth,
    /// What is written.
    pub fields: Fields,
}

/// What makes a record of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdOf {
    /// Each lead: later events update its record.
    Lead,
    /// Each event.
    Event,
}

impl Connector for Rest {
    fn kind(&self) -> &'static str {
        "salesforce"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let event: Value = serde_json::from_slice(incoming.bytes)
            .map_err(|e| MappingError { at: "event".to_owned(), message: format!("the stored event is no JSON: {e}") })?;
        let lead = event.pointer("/data/id").and_then(Value::as_str);
        let id = match (self.id_of, lead) {
            (IdOf::Lead, Some(lead)) => lead,
            // An event of the device has no lead.
            _ => incoming.identity.event_id,
        };
        bytes(&json!({ "id": id, "fields": self.fields.record(&Event::parse(incoming.bytes)?)? })).map(Some)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, memory: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        let (token, answers) = match self.oauth.access(said, moment, memory, is_expired) {
            Access::Ask(request) => return Ok(request.send()),
            Access::Denied(verdict) => return Ok(verdict.into()),
            Access::Granted(token, answers) => (token, answers),
        };
        match answers.last() {
            Some(answer) => Ok(self.judge(answer, moment).into()),
            None => Ok(self.request(&kept(record)?, &token, memory)?.send()),
        }
    }
}

impl Rest {
    /// Where the records are: the token's answer tells. A token is not taken to where it could be read on the way.
    fn instance(&self, memory: &Memory) -> Url {
        let told = memory.moved_to.as_deref().and_then(|text| Url::parse(text).ok());
        told.filter(|url| url.scheme() == self.url.scheme() && url.host().is_some()).unwrap_or_else(|| self.url.clone())
    }

    fn request(&self, kept: &Value, Hidden(token): &Hidden, memory: &Memory) -> Result<HttpRequest, MappingError> {
        let id = kept.get("id").and_then(Value::as_str).unwrap_or_default();
        let path = format!("services/data/{}/sobjects/{}/{}/{id}", self.version, self.object, self.external_id_field);
        let request = HttpRequest::new(Method::PATCH, under(&self.instance(memory), &path, &[]))
            .body("application/json", bytes(kept.get("fields").unwrap_or(&Value::Null))?)
            .secret_header("Authorization", format!("Bearer {token}"));
        Ok(shown_with_path(request))
    }

    /// <https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/errorcodes.htm>
    fn judge(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = judge(&self.url, answer, moment);
        let Answer::Response(response) = answer else { return verdict };
        if matches!(response.status, 200 | 201 | 204) && verdict.class == Class::Delivered {
            return delivered(response.status);
        }
        if response.status == 300 {
            (verdict.class, verdict.code) = (Class::Rejected, "rejected_body");
            verdict.reason = format!("HTTP 300: several records have this {}; make the field unique in Salesforce", self.external_id_field);
            return verdict;
        }
        let code = error_code(response);
        let status = response.status;
        let (class, word, reason) = match code.as_str() {
            _ if verdict.class == Class::Clock => return verdict,
            "REQUEST_LIMIT_EXCEEDED" => {
                verdict.wait = verdict.wait.or(Some(Duration::from_secs(900)));
                (Class::Throttled, "throttled", "the organization's API requests of the last 24 hours are used up")
            }
            "UNABLE_TO_LOCK_ROW" | "SERVER_UNAVAILABLE" => (Class::Temporary, "receiver_5xx", "Salesforce is busy"),
            "INVALID_SESSION_ID" => {
                (Class::Refused, "receiver_4xx", "Salesforce does not take a fresh access token; check the app's policies and scopes (api)")
            }
            "API_DISABLED_FOR_ORG" | "API_CURRENTLY_DISABLED" => {
                (Class::Refused, "receiver_4xx", "this organization has no API access; use mode = \"web_to_lead\"")
            }
            "NOT_FOUND" => (
                Class::Refused,
                "receiver_4xx",
                "there is no such object or external id field, or the app's user may not see it; check object, external_id_field and version",
            ),
            "INVALID_FIELD" | "INVALID_FIELD_FOR_INSERT_UPDATE" | "INVALID_TYPE" => (
                Class::Refused,
                "receiver_4xx",
                "map names a field that this organization does not have, or that the app's user may not write",
            ),
            "INSUFFICIENT_ACCESS" | "INSUFFICIENT_ACCESS_OR_READONLY" => {
                (Class::Refused, "receiver_4xx", "the app's user may not write such records; check its permissions")
            }
            "CANNOT_UPDATE_CONVERTED_LEAD" => {
                (Class::Rejected, "rejected_body", "the lead has been converted and can no longer be updated")
            }
            "DUPLICATES_DETECTED" => (Class::Rejected, "rejected_body", "a duplicate rule keeps the record out"),
            _ if verdict.class == Class::Rejected => {
                (Class::Rejected, "rejected_body", "Salesforce does not take this record; see the answer")
            }
            _ => return verdict,
        };
        (verdict.class, verdict.code) = (class, word);
        verdict.reason = format!("HTTP {status}: {reason} ({code})");
        verdict
    }
}

/// `[{"errorCode": …}]`
fn error_code(response: &Response) -> String {
    let said = response.json().unwrap_or_default();
    word(said.pointer("/0/errorCode")).to_owned()
}

fn is_expired(response: &Response) -> bool {
    response.status == 401 && error_code(response) == "INVALID_SESSION_ID"
}

#[cfg(test)]
mod tests {
    use super::super::crm::trying::{self, EVENT, reply};
    use super::super::{Judgement, Memory};
    use super::*;

    const GRANT: &str = r#"{"access_token":"at-1","instance_url":"https://eu12.salesforce.com"}"#;

    fn form() -> WebToLead {
        WebToLead {
            url: Url::parse("https://webto.salesforce.com/servlet/servlet.WebToLead?encoding=UTF-8").unwrap(),
            oid: "00D1".to_owned(),
            fields: Fields::new(FORM_DEFAULTS, None).unwrap(),
        }
    }

    fn rest() -> Rest {
        let form = vec![("grant_type", Hidden("client_credentials".to_owned()))];
        let url = Url::parse("https://x.my.salesforce.com").unwrap();
        Rest {
            oauth: OAuth { url: under(&url, "services/oauth2/token", &[]), form, lifetime: Duration::from_secs(3600) },
            url,
            version: "v62.0".to_owned(),
            object: "Lead".to_owned(),
            external_id_field: "Id__c".to_owned(),
            id_of: IdOf::Lead,
            fields: Fields::new(REST_DEFAULTS, None).unwrap(),
        }
    }

    #[test]
    fn the_form_is_filled_as_a_browser_would() {
        let request = trying::first(&form(), EVENT);
        assert_eq!(request.url.as_str(), "https://webto.salesforce.com/servlet/servlet.WebToLead?encoding=UTF-8");
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            "oid=00D1&first_name=Jane&last_name=van+Dyke&company=Jane+van+Dyke&email=Jane%40Example.com&phone=%2B43+1&lead_source=booth&description=Hello%0AScore%3A+88"
        );
    }

    #[test]
    fn only_the_header_tells_that_a_form_came_to_nothing() {
        for (header, class) in [
            (None, Class::Delivered),
            (Some("true"), Class::Delivered),
            (Some("true Exception:common.page.ServletException"), Class::Refused),
            (Some("false"), Class::Refused),
        ] {
            let headers = header.map(|value| ("is-processed".to_owned(), value.to_owned())).into_iter().collect();
            let answer = Answer::Response(Response { status: 200, headers, ..Response::default() });
            assert_eq!(trying::judged(&form(), EVENT, &[answer]).class, class, "{header:?}");
        }
    }

    #[test]
    fn a_record_is_written_where_the_answer_with_the_token_says() {
        let answers = [reply(200, GRANT), reply(201, r#"{"id":"00Q","success":true}"#)];
        let (judgement, asked) = trying::exchanged(&rest(), &[EVENT], &answers, &mut Memory::default());
        assert!(matches!(judgement, Judgement::All(v) if v.class == Class::Delivered));
        assert_eq!(asked[1].method, Method::PATCH);
        assert_eq!(
            asked[1].url.as_str(),
            "https://eu12.salesforce.com/services/data/v62.0/sobjects/Lead/Id__c/lead_0123456789ABCDEFGHJKMNPQRS"
        );
        let plain = [reply(200, &GRANT.replace("https", "http")), reply(204, "")];
        let (_, asked) = trying::exchanged(&rest(), &[EVENT], &plain, &mut Memory::default());
        assert_eq!(asked[1].url.host_str(), Some("x.my.salesforce.com"), "a token never goes where all can read it");
    }

    #[test]
    fn every_answer_has_its_meaning() {
        let error = |code: &str| format!(r#"[{{"errorCode":"{code}","message":"jane@example.com"}}]"#);
        for (status, errors, class, code) in [
            (200, "", Class::Delivered, "delivered"),
            (204, "", Class::Delivered, "delivered"),
            (300, "", Class::Rejected, "rejected_body"),
            (400, "REQUIRED_FIELD_MISSING", Class::Rejected, "rejected_body"),
            (400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", Class::Rejected, "rejected_body"),
            (400, "CANNOT_UPDATE_CONVERTED_LEAD", Class::Rejected, "rejected_body"),
            (400, "INVALID_FIELD", Class::Refused, "receiver_4xx"),
            (400, "UNABLE_TO_LOCK_ROW", Class::Temporary, "receiver_5xx"),
            (401, "INVALID_SESSION_ID", Class::Refused, "receiver_4xx"),
            (403, "REQUEST_LIMIT_EXCEEDED", Class::Throttled, "throttled"),
            (403, "INSUFFICIENT_ACCESS", Class::Refused, "receiver_4xx"),
            (404, "NOT_FOUND", Class::Refused, "receiver_4xx"),
            (503, "SERVER_UNAVAILABLE", Class::Temporary, "receiver_5xx"),
        ] {
            let verdict = trying::judged(&rest(), EVENT, &[reply(200, GRANT), reply(status, &error(errors))]);
            assert_eq!((verdict.class, verdict.code), (class, code), "{status} {errors}");
            assert!(!verdict.reason.contains("jane"), "{}", verdict.reason);
        }
    }
}
