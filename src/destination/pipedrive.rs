//! The `pipedrive` type: a person, found by e-mail address or telephone or created, and a lead of that person with a note. Pure.
//!
//! Pipedrive has no upsert, so each step looks before it creates. The lead is known again by a mark at the end of its title, asked for among
//! the person's leads: the list is never behind, as a search is. Nothing that exists is changed.

use super::crm::{Fields, bytes, delivered, kept, shown_with_path, unclear, under, word};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Response, Verdict, judge, place};
use crate::mapping::{Event, MappingError, Template};
use crate::secret::Hidden;
use http::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;
use url::Url;

/// What the title says when `title` does not.
pub const TITLE: &str =
    "{{ data.name or data.company or data.email or data.phone or 'Lead' }}{% if data.source %} ({{ data.source }}){% endif %}";
/// What the note says, likewise. Notes are HTML.
pub const NOTE: &str = "{% if data.message %}{{ data.message | escape_html }}<br>{% endif %}\
{% if data.company %}Company: {{ data.company | escape_html }}<br>{% endif %}\
{% if data.source %}Source: {{ data.source | escape_html }}<br>{% endif %}\
{% if data.score is defined %}Score: {{ data.score }}{% endif %}";
/// Characters of a title before its mark.
const TITLE_CHARS_MAX: usize = 200;
/// Digits of the lead's id in the mark: 40 bits, among the leads of one person.
const MARK_DIGITS: usize = 8;
/// Leads of a person that are looked through, newest first; one page of Pipedrive's.
const LEADS_MAX: &str = "500";
/// Such a page is long.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// Leads of a Pipedrive company.
#[derive(Debug)]
pub struct Pipedrive {
    /// `https://mycompany.pipedrive.com`
    pub url: Url,
    /// The API token of a user.
    pub token: Hidden,
    /// `/api/v2/persons`
    pub persons_path: String,
    /// `/api/v1/leads`
    pub leads_path: String,
    /// `/api/v1/notes`
    pub notes_path: String,
    /// The lead's title.
    pub title: Template,
    /// The lead's note; an empty one is not made.
    pub note: Template,
    /// More of the lead: labels, an owner, fields of one's own.
    pub fields: Fields,
}

/// The answers, one after the other.
struct Said<'a> {
    connector: &'a Pipedrive,
    left: std::slice::Iter<'a, Answer>,
    moment: &'a Moment,
}

/// The exchange does not go on from here by itself: a request, or the end.
enum Stop {
    Ask(Box<HttpRequest>),
    End(Box<Verdict>),
    Fault(MappingError),
}

impl From<Verdict> for Stop {
    fn from(verdict: Verdict) -> Self {
        Stop::End(Box::new(verdict))
    }
}

impl From<MappingError> for Stop {
    fn from(fault: MappingError) -> Self {
        Stop::Fault(fault)
    }
}

impl Said<'_> {
    /// The body of the answer to this request, if it has been asked and was granted.
    fn to(&mut self, request: HttpRequest) -> Result<Value, Stop> {
        let Some(answer) = self.left.next() else { return Err(Stop::Ask(Box::new(request))) };
        let mut verdict = judge(&self.connector.url, answer, self.moment);
        let Answer::Response(response) = answer else { return Err(verdict.into()) };
        let said = response.json().unwrap_or_default();
        if verdict.class == Class::Delivered {
            // A good status is not enough: <https://pipedrive.readme.io/docs/core-api-concepts-responses>.
            if said.get("success") == Some(&Value::Bool(true)) {
                return Ok(said);
            }
            return Err(unclear(response.status, "Pipedrive").into());
        }
        refine(&mut verdict, response, &said);
        Err(verdict.into())
    }
}

impl Connector for Pipedrive {
    fn kind(&self) -> &'static str {
        "pipedrive"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let event = Event::parse(incoming.bytes)?;
        let whole: Value = serde_json::from_slice(incoming.bytes)
            .map_err(|e| MappingError { at: "event".to_owned(), message: format!("the stored event is no JSON: {e}") })?;
        let text = |name: &str| whole.pointer(&format!("/data/{name}")).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
        let id = text("id").unwrap_or(incoming.identity.event_id);
        let mark: String = id.chars().skip(id.chars().count().saturating_sub(MARK_DIGITS)).collect();
        let title: String = self.title.render(&event)?.split_whitespace().collect::<Vec<_>>().join(" ");
        let title: String = title.chars().take(TITLE_CHARS_MAX).collect();
        let (name, email, phone) = (text("name"), text("email"), text("phone"));
        let mut person = Map::new();
        person.insert("name".to_owned(), name.or(email).or(phone).or(text("company")).unwrap_or("Unknown").into());
        let contact = |value: &str| json!([{ "value": value, "primary": true, "label": "work" }]);
        if let Some(email) = email {
            person.insert("emails".to_owned(), contact(email));
        }
        if let Some(phone) = phone {
            person.insert("phones".to_owned(), contact(phone));
        }
        let mut lead = self.fields.record(&event)?;
        lead.insert("title".to_owned(), format!("{title} [{mark}]").into());
        let note = self.note.render(&event)?;
        bytes(&json!({
            "email": email, "phone": phone, "person": person, "lead": lead, "mark": format!("[{mark}]"), "note": note.trim(),
        }))
        .map(Some)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        let kept = kept(record)?;
        let mut said = Said { connector: self, left: said.iter(), moment };
        match self.steps(&kept, &mut said) {
            Ok(()) => Ok(delivered(200).into()),
            Err(Stop::Ask(request)) => Ok(request.send()),
            Err(Stop::End(verdict)) => Ok((*verdict).into()),
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }
}

impl Pipedrive {
    /// All steps, begun anew at each answer, as far as the answers go.
    fn steps(&self, kept: &Value, said: &mut Said<'_>) -> Result<(), Stop> {
        let person = self.person(kept, said)?;
        let (lead, is_new) = self.lead(kept, person, said)?;
        let note = kept.get("note").and_then(Value::as_str).filter(|note| !note.is_empty());
        let Some((note, id)) = note.zip(lead.as_str()) else { return Ok(()) };
        if !is_new {
            let notes = said.to(self.get(&self.notes_path, &[("lead_id", id), ("limit", "1")]))?;
            if notes.get("data").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
                return Ok(());
            }
        }
        said.to(self.post(&self.notes_path, Some(&json!({ "content": note, "lead_id": id })))?)?;
        Ok(())
    }

    /// The id of the person.
    fn person(&self, kept: &Value, said: &mut Said<'_>) -> Result<Value, Stop> {
        if let Some(request) = self.search(kept) {
            let answer = said.to(request)?;
            if let Some(id) = answer.pointer("/data/items/0/item/id").filter(|id| id.is_number()) {
                return Ok(id.clone());
            }
        }
        let created = said.to(self.post(&self.persons_path, kept.get("person"))?)?;
        Ok(created.pointer("/data/id").filter(|id| id.is_number()).ok_or_else(|| unclear(201, "Pipedrive"))?.clone())
    }

    /// The id of the person's lead with our mark, and whether it has been created just now.
    fn lead(&self, kept: &Value, person: Value, said: &mut Said<'_>) -> Result<(Value, bool), Stop> {
        let number = person.to_string();
        let list = said.to(self.get(&self.leads_path, &[("person_id", &number), ("limit", LEADS_MAX), ("sort", "add_time DESC")]))?;
        let mark = kept.get("mark").and_then(Value::as_str).unwrap_or_default();
        let is_ours = |lead: &&Value| lead.get("title").and_then(Value::as_str).is_some_and(|title| title.ends_with(mark));
        let there = list.get("data").and_then(Value::as_array).and_then(|list| list.iter().find(is_ours));
        if let Some(id) = there.and_then(|lead| lead.get("id")) {
            return Ok((id.clone(), false));
        }
        let mut lead = kept.get("lead").cloned().unwrap_or_default();
        if let Some(lead) = lead.as_object_mut() {
            lead.insert("person_id".to_owned(), person);
        }
        let created = said.to(self.post(&self.leads_path, Some(&lead))?)?;
        Ok((created.pointer("/data/id").cloned().unwrap_or_default(), true))
    }

    /// Looks for the person by what names one: the address, else the telephone.
    fn search(&self, kept: &Value) -> Option<HttpRequest> {
        let by = |field: &'static str| Some((field, kept.get(field)?.as_str()?));
        let (field, term) = by("email").or_else(|| by("phone"))?;
        let query = [("term", term), ("fields", field), ("exact_match", "true"), ("limit", "1")];
        Some(self.get(&format!("{}/search", self.persons_path.trim_end_matches('/')), &query))
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> HttpRequest {
        let mut request = self.with_token(HttpRequest::new(Method::GET, under(&self.url, path, query)));
        request.headers.push(("User-Agent".to_owned(), super::USER_AGENT.to_owned()));
        request
    }

    fn post(&self, path: &str, body: Option<&Value>) -> Result<HttpRequest, MappingError> {
        let body = bytes(body.unwrap_or(&Value::Null))?;
        Ok(self.with_token(HttpRequest::new(Method::POST, under(&self.url, path, &[])).body("application/json", body)))
    }

    fn with_token(&self, request: HttpRequest) -> HttpRequest {
        let mut request = shown_with_path(request).header("Accept", "application/json").secret_header("x-api-token", self.token.0.clone());
        request.wanted = &["x-ratelimit-reset"];
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        request
    }
}

/// <https://pipedrive.readme.io/docs/core-api-concepts-http-status-codes>
fn refine(verdict: &mut Verdict, response: &Response, said: &Value) {
    let code = word(said.get("code").or_else(|| said.get("errorCode")));
    match response.status {
        402 => {
            (verdict.class, verdict.code) = (Class::Refused, "receiver_4xx");
            "HTTP 402: the company's Pipedrive account is not paid or not open".clone_into(&mut verdict.reason);
        }
        403 if code.starts_with("feature_capping") => {
            (verdict.class, verdict.code) = (Class::Refused, "receiver_4xx");
            verdict.reason = format!("HTTP 403: the limit of the Pipedrive plan is reached ({code}); remove leads there or upgrade it");
        }
        401 if verdict.class == Class::Refused => {
            "HTTP 401: Pipedrive does not know the API token; copy it anew from the user's settings".clone_into(&mut verdict.reason);
        }
        429 => {
            let seconds = response.header("x-ratelimit-reset").and_then(|seconds| seconds.trim().parse().ok());
            // What is more than a day is a time, not a wait.
            let reset = seconds.filter(|seconds| *seconds <= 86_400).map(Duration::from_secs);
            verdict.wait = verdict.wait.or(reset);
            "HTTP 429: too many requests, or the day's token budget of the company is used up".clone_into(&mut verdict.reason);
        }
        400..=499 if verdict.class == Class::Rejected => {
            verdict.reason = format!("HTTP {}: Pipedrive does not take this; see the answer", response.status);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::Judgement;
    use super::super::crm::trying::{self, EVENT, reply};
    use super::*;

    fn pipedrive() -> Pipedrive {
        Pipedrive {
            url: Url::parse("https://x.pipedrive.com").unwrap(),
            token: Hidden("t".to_owned()),
            persons_path: "/api/v2/persons".to_owned(),
            leads_path: "/api/v1/leads".to_owned(),
            notes_path: "/api/v1/notes".to_owned(),
            title: Template::new("title", TITLE).unwrap(),
            note: Template::new("note", NOTE).unwrap(),
            fields: Fields::new(&[], None).unwrap(),
        }
    }

    fn steps(answers: &[Answer]) -> (Judgement, Vec<String>) {
        let (judgement, asked) = trying::exchanged(&pipedrive(), &[EVENT], answers, &mut Memory::default());
        let line = |r: &HttpRequest| {
            let query = r.url.query().map(|query| format!("?{query}")).unwrap_or_default();
            format!("{} {}{query} {}", r.method, r.url.path(), String::from_utf8_lossy(&r.body)).trim().to_owned()
        };
        (judgement, asked.iter().map(line).collect())
    }

    const NOBODY: &str = r#"{"success":true,"data":{"items":[]}}"#;
    const NONE: &str = r#"{"success":true,"data":[]}"#;

    #[test]
    fn each_step_looks_before_it_creates() {
        let (judgement, asked) = steps(&[
            reply(200, NOBODY),
            reply(201, r#"{"success":true,"data":{"id":7}}"#),
            reply(200, NONE),
            reply(201, r#"{"success":true,"data":{"id":"adf-1"}}"#),
            reply(201, r#"{"success":true,"data":{"id":1}}"#),
        ]);
        assert!(matches!(judgement, Judgement::All(v) if v.class == Class::Delivered));
        assert_eq!(
            asked,
            [
                "GET /api/v2/persons/search?term=Jane%40Example.com&fields=email&exact_match=true&limit=1",
                r#"POST /api/v2/persons {"name":"Jane van Dyke","emails":[{"value":"Jane@Example.com","primary":true,"label":"work"}],"phones":[{"value":"+43 1","primary":true,"label":"work"}]}"#,
                "GET /api/v1/leads?person_id=7&limit=500&sort=add_time+DESC",
                r#"POST /api/v1/leads {"title":"Jane van Dyke (booth) [JKMNPQRS]","person_id":7}"#,
                r#"POST /api/v1/notes {"content":"Hello<br>Source: booth<br>Score: 88","lead_id":"adf-1"}"#,
            ]
        );
        let (_, asked) = steps(&[
            reply(200, r#"{"success":true,"data":{"items":[{"item":{"id":7}}]}}"#),
            reply(200, r#"{"success":true,"data":[{"id":"adf-0","title":"Other"},{"id":"adf-1","title":"Renamed? [JKMNPQRS]"}]}"#),
            reply(200, r#"{"success":true,"data":[{"id":1}]}"#),
        ]);
        assert_eq!(asked[2], "GET /api/v1/notes?lead_id=adf-1&limit=1");
    }

    #[test]
    fn every_answer_has_its_meaning() {
        for (status, body, class, code) in [
            (200, r#"{"success":false}"#, Class::Temporary, "protocol_error"),
            (200, "", Class::Temporary, "protocol_error"),
            (400, r#"{"success":false,"error":"jane@example.com"}"#, Class::Rejected, "rejected_body"),
            (401, r#"{"success":false,"error":"unauthorized access"}"#, Class::Refused, "receiver_4xx"),
            (402, "", Class::Refused, "receiver_4xx"),
            (403, r#"{"success":false,"code":"feature_capping_deals_limit"}"#, Class::Refused, "receiver_4xx"),
            (429, "", Class::Throttled, "throttled"),
            (500, "", Class::Temporary, "receiver_5xx"),
        ] {
            let verdict = trying::judged(&pipedrive(), EVENT, &[reply(status, body)]);
            assert_eq!((verdict.class, verdict.code), (class, code), "{status} {body}");
            assert!(!verdict.reason.contains("jane"), "{}", verdict.reason);
        }
        let headers = vec![("x-ratelimit-reset".to_owned(), "2".to_owned())];
        let slow = Answer::Response(Response { status: 429, headers, ..Response::default() });
        assert_eq!(trying::judged(&pipedrive(), EVENT, &[slow]).wait, Some(Duration::from_secs(2)));
    }
}
