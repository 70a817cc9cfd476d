//! A lead, and how what people send becomes one: names, aliases, limits, checks. Pure: no clock, no disk, no socket.
//!
//! Nothing a person sent may be dropped silently: what is not a known field is kept in `fields`, under the name it came with.

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// What a request may hold. Each has a default and is configurable under `[server.limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How many fields, known and unknown together.
    pub fields_max: usize,
    /// Bytes of one field's name.
    pub name_bytes_max: usize,
    /// Bytes of one field's value (of its JSON text when it is no string).
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { fields_max: 100, name_bytes_max: 64, value_bytes_max: 8 * 1024 }
    }
}

/// Whether the sender may set what only the business decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The holder of an API token: `score`, `status` and `source` are taken.
    Api,
    /// Anybody at a form or capture URL: those three are ordinary fields.
    Public,
}

/// Why a submission or a change cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// HTTP status the fault is answered with: 400 when it cannot be read, 422 when it can but is not acceptable.
    pub status: u16,
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for people; never holds what the person typed.
    pub message: String,
    /// The field it is about.
    pub field: Option<String>,
}

impl Fault {
    fn unreadable(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code, message: message.into(), field: None }
    }

    /// A fault of one field, 422.
    pub fn invalid(code: &'static str, field: &str, message: impl Into<String>) -> Self {
        Self { status: 422, code, message: message.into(), field: Some(field.to_owned()) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// What the person agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// The words shown.
    pub text: String,
    /// Which version of them.
    pub version: Option<String>,
    /// When, RFC 3339.
    pub at: String,
}

/// The statuses a lead can have, in the order of a sale.
pub const STATUSES: [&str; 5] = ["new", "contacted", "qualified", "won", "lost"];

/// A person's details as they stand now; serialised, it is `data` of every event about the lead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lead {
    /// `lead_…`
    pub id: String,
    /// Full name.
    pub name: Option<String>,
    /// E-mail address, as typed, trimmed.
    pub email: Option<String>,
    /// Telephone number, as typed, trimmed.
    pub phone: Option<String>,
    /// Company or organisation.
    pub company: Option<String>,
    /// What the person wrote.
    pub message: Option<String>,
    /// 0 to 100.
    pub score: u8,
    /// Where the lead came from.
    pub source: String,
    /// One of [`STATUSES`].
    pub status: String,
    /// All other fields.
    pub fields: Map<String, Value>,
    /// What the person agreed to, if asked.
    pub consent: Option<Consent>,
}

/// What a request said, sorted into known and other fields; not yet a lead.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Submission {
    /// See [`Lead`].
    pub name: Option<String>,
    /// See [`Lead`].
    pub email: Option<String>,
    /// See [`Lead`].
    pub phone: Option<String>,
    /// See [`Lead`].
    pub company: Option<String>,
    /// See [`Lead`].
    pub message: Option<String>,
    /// Only from the API.
    pub score: Option<u8>,
    /// Only from the API.
    pub source: Option<String>,
    /// Only from the API.
    pub status: Option<String>,
    /// Everything else.
    pub fields: Map<String, Value>,
    /// `consent`: `{text, version?}` from JSON; a form sets it itself.
    pub consent: Option<(String, Option<String>)>,
    /// `_submission_id`: makes a repeat harmless.
    pub submission_id: Option<String>,
    /// `_next`: where the visitor wants to go afterwards.
    pub next: Option<String>,
    /// `_gotcha` was filled in: people cannot see that field, programs can.
    pub honeypot: bool,
    /// `page_url`.
    pub page_url: Option<String>,
    /// `referrer`.
    pub referrer: Option<String>,
    /// `utm_*`, without the prefix.
    pub utm: Map<String, Value>,
}

/// Other names under which the known fields arrive.
const ALIASES: [(&str, &[&str]); 5] = [
    ("name", &["full_name", "fullName", "customer_name", "customerName"]),
    ("email", &["e_mail", "customer_email", "customerEmail"]),
    ("phone", &["tel", "telephone", "mobile", "customer_phone", "customerPhone"]),
    ("message", &["notes", "comment", "description", "body"]),
    ("company", &["organization", "organisation"]),
];

/// The known field that comes under this name, its own or another accepted one.
pub fn known(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(known, aliases)| *known == name || aliases.contains(&name)).map(|(known, _)| *known)
}

impl Submission {
    /// Reads a JSON object. Duplicate keys, at any depth, are refused: two readers could see two different leads.
    pub fn from_json(bytes: &[u8], limits: &Limits, trust: Trust) -> Result<Self, Fault> {
        let object = json_object(bytes)?;
        let mut flat = Map::new();
        for (key, value) in object {
            match (key.as_str(), value) {
                ("fields", Value::Object(inner)) => {
                    for (key, value) in inner {
                        insert_new(&mut flat, key, value)?;
                    }
                }
                ("utm", Value::Object(inner)) => {
                    for (key, value) in inner {
                        insert_new(&mut flat, format!("utm_{key}"), value)?;
                    }
                }
                (_, value) => insert_new(&mut flat, key, value)?,
            }
        }
        Self::sort(flat, limits, trust)
    }

    /// Takes the pairs of a urlencoded or multipart form. A name that comes more than once becomes a list.
    pub fn from_pairs(pairs: Vec<(String, String)>, limits: &Limits, trust: Trust) -> Result<Self, Fault> {
        let mut flat = Map::new();
        for (key, value) in pairs {
            let value = Value::String(value);
            match flat.get_mut(&key) {
                None => {
                    flat.insert(key, value);
                }
                Some(Value::Array(list)) => list.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
            }
            if flat.len() > limits.fields_max {
                break;
            }
        }
        Self::sort(flat, limits, trust)
    }

    fn sort(mut flat: Map<String, Value>, limits: &Limits, trust: Trust) -> Result<Self, Fault> {
        check_sizes(&flat, limits)?;
        let mut out = Submission {
            submission_id: take_text(&mut flat, "_submission_id")?,
            next: take_text(&mut flat, "_next")?,
            honeypot: take_text(&mut flat, "_gotcha")?.is_some(),
            page_url: take_text(&mut flat, "page_url")?,
            referrer: take_text(&mut flat, "referrer")?,
            name: take_known(&mut flat, "name")?,
            email: take_known(&mut flat, "email")?,
            phone: take_known(&mut flat, "phone")?,
            company: take_known(&mut flat, "company")?,
            message: take_known(&mut flat, "message")?,
            ..Submission::default()
        };
        if out.name.is_none() {
            // Both parts stay in `fields` as well: a CRM that wants them apart must not have to guess.
            let part = |key| flat.get(key).and_then(Value::as_str).unwrap_or_default();
            let joined = format!("{} {}", part("first_name"), part("last_name"));
            out.name = single_line(&joined);
        }
        if let Some(consent) = flat.shift_remove("consent") {
            out.consent = read_consent(consent, &mut flat)?;
        }
        if trust == Trust::Api {
            out.source = take_text(&mut flat, "source")?.and_then(|s| single_line(&s));
            out.status = take_text(&mut flat, "status")?;
            out.score = match flat.shift_remove("score") {
                None | Some(Value::Null) => None,
                Some(value) => Some(score(&value)?),
            };
        }
        let utm: Vec<String> = flat.keys().filter(|k| k.starts_with("utm_")).cloned().collect();
        for key in utm {
            if let Some(value) = flat.shift_remove(&key) {
                out.utm.insert(key.trim_start_matches("utm_").to_owned(), value);
            }
        }
        out.fields = flat;
        out.check()?;
        Ok(out)
    }

    fn check(&mut self) -> Result<(), Fault> {
        for line in [&mut self.name, &mut self.email, &mut self.phone, &mut self.company] {
            *line = line.take().and_then(|text| single_line(&text));
        }
        check_email(self.email.as_deref())?;
        check_phone(self.phone.as_deref())?;
        if let Some(status) = &self.status {
            check_status(status)?;
        }
        let filled = |v: &Value| !matches!(v, Value::Null) && v.as_str() != Some("");
        let known = [&self.name, &self.email, &self.phone, &self.company, &self.message];
        if known.iter().all(|f| f.is_none()) && !self.fields.values().any(filled) {
            return Err(Fault {
                status: 422,
                code: "empty_lead",
                message: "the lead has no field with a value; send at least one, such as name or email".to_owned(),
                field: None,
            });
        }
        Ok(())
    }

    /// The lead this becomes. `source` is used when the sender gave none; `now` stamps the consent.
    pub fn into_lead(self, id: String, source: &str, now: &str) -> Lead {
        Lead {
            id,
            name: self.name,
            email: self.email,
            phone: self.phone,
            company: self.company,
            message: self.message,
            score: self.score.unwrap_or(0),
            source: self.source.unwrap_or_else(|| source.to_owned()),
            status: self.status.unwrap_or_else(|| "new".to_owned()),
            fields: self.fields,
            consent: self.consent.map(|(text, version)| Consent { text, version, at: now.to_owned() }),
        }
    }
}

/// A change somebody with an API token asks for. What is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    status: Option<String>,
    score: Option<u8>,
    texts: Vec<(&'static str, Option<String>)>,
    fields: Map<String, Value>,
}

impl Patch {
    /// Reads `{"status":…,"score":…,"name":…,…,"fields":{…}}`. A `null` clears a known field and removes one of `fields`.
    pub fn from_json(bytes: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let mut object = json_object(bytes)?;
        check_sizes(&object, limits)?;
        let mut patch = Patch::default();
        if let Some(status) = take_text(&mut object, "status")? {
            check_status(&status)?;
            patch.status = Some(status);
        }
        if let Some(value) = object.shift_remove("score") {
            patch.score = Some(score(&value)?);
        }
        for name in ["name", "email", "phone", "company", "message"] {
            if object.contains_key(name) {
                let text = take_text(&mut object, name)?;
                patch.texts.push((name, if name == "message" { text } else { text.and_then(|t| single_line(&t)) }));
            }
        }
        for (name, text) in &patch.texts {
            match *name {
                "email" => check_email(text.as_deref())?,
                "phone" => check_phone(text.as_deref())?,
                _ => {}
            }
        }
        match object.shift_remove("fields") {
            None => {}
            Some(Value::Object(fields)) => {
                check_sizes(&fields, limits)?;
                patch.fields = fields;
            }
            Some(_) => return Err(Fault::invalid("wrong_type", "fields", "fields must be an object")),
        }
        if let Some(key) = object.keys().next() {
            return Err(Fault::invalid(
                "unknown_field",
                key,
                "a change may hold status, score, name, email, phone, company, message and fields; put anything else into fields",
            ));
        }
        Ok(patch)
    }

    /// The lead after the change, the names of what changed besides the status, and the status move if there is one.
    pub fn apply(&self, lead: &Lead, limits: &Limits) -> Result<Changed, Fault> {
        let mut after = lead.clone();
        if let Some(score) = self.score {
            after.score = score;
        }
        for (name, text) in &self.texts {
            let slot = match *name {
                "name" => &mut after.name,
                "email" => &mut after.email,
                "phone" => &mut after.phone,
                "company" => &mut after.company,
                _ => &mut after.message,
            };
            slot.clone_from(text);
        }
        for (key, value) in &self.fields {
            if value.is_null() {
                after.fields.shift_remove(key);
            } else {
                after.fields.insert(key.clone(), value.clone());
            }
        }
        check_sizes(&after.fields, limits)?;
        let mut names = Vec::new();
        let mut differs = |name: &str, yes: bool| {
            if yes {
                names.push(name.to_owned());
            }
        };
        differs("name", after.name != lead.name);
        differs("email", after.email != lead.email);
        differs("phone", after.phone != lead.phone);
        differs("company", after.company != lead.company);
        differs("message", after.message != lead.message);
        differs("score", after.score != lead.score);
        differs("fields", after.fields != lead.fields);
        let status = match &self.status {
            Some(to) if *to != lead.status => {
                after.status.clone_from(to);
                Some((lead.status.clone(), to.clone()))
            }
            _ => None,
        };
        Ok(Changed { lead: after, names, status })
    }
}

/// What a [`Patch`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The lead as it is now.
    pub lead: Lead,
    /// Fields that differ, the status aside.
    pub names: Vec<String>,
    /// `(from, to)` when the status moved.
    pub status: Option<(String, String)>,
}

/// An answer to a lead, or from one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reply {
    /// What was said.
    pub text: String,
    /// `email`, `phone`, `chat`, …: free text.
    pub channel: Option<String>,
    /// `inbound` (from the person) or `outbound` (to the person).
    pub direction: String,
    /// Who said it.
    pub author: Option<String>,
}

impl Reply {
    /// Reads `{"text":…,"channel"?,"direction"?,"author"?}`.
    pub fn from_json(bytes: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let mut object = json_object(bytes)?;
        check_sizes(&object, limits)?;
        let text = take_text(&mut object, "text")?.ok_or_else(|| Fault::invalid("missing_field", "text", "a reply needs its text"))?;
        let direction = take_text(&mut object, "direction")?.unwrap_or_else(|| "outbound".to_owned());
        if !matches!(direction.as_str(), "inbound" | "outbound") {
            return Err(Fault::invalid("invalid_direction", "direction", "direction is inbound or outbound"));
        }
        let reply = Reply { text, direction, channel: take_text(&mut object, "channel")?, author: take_text(&mut object, "author")? };
        match object.keys().next() {
            Some(key) => Err(Fault::invalid("unknown_field", key, "a reply may hold text, channel, direction and author")),
            None => Ok(reply),
        }
    }
}

/// Parses a JSON object, refusing duplicate keys at any depth.
fn json_object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Fault::unreadable("invalid_utf8", format!("the body is not UTF-8 (byte {})", e.valid_up_to())))?;
    if text.trim().is_empty() {
        return Err(Fault::unreadable("empty_body", "the body is empty; send a JSON object"));
    }
    let mut de = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut de).and_then(|v| de.end().map(|()| v)).map_err(|e| {
        let text = e.to_string();
        let code = if text.starts_with("duplicate key") { "duplicate_key" } else { "invalid_json" };
        // serde_json quotes the offending text only for type errors, which `Strict` cannot raise.
        Fault::unreadable(code, format!("the body is not acceptable JSON: {text}"))
    })?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Fault::unreadable("not_an_object", "the body must be a JSON object, as in {\"name\":\"Jane Smith\"}")),
    }
}

/// Builds a [`Value`] and refuses an object that names a key twice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Strict)?;
            if key.chars().any(char::is_control) {
                return Err(de::Error::custom("a key holds a control character"));
            }
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(map))
    }
}

fn insert_new(map: &mut Map<String, Value>, key: String, value: Value) -> Result<(), Fault> {
    if map.contains_key(&key) {
        return Err(Fault {
            status: 400,
            code: "duplicate_key",
            message: "the same field is given twice, once of them inside fields or utm".to_owned(),
            field: Some(key),
        });
    }
    map.insert(key, value);
    Ok(())
}

fn check_sizes(map: &Map<String, Value>, limits: &Limits) -> Result<(), Fault> {
    if map.len() > limits.fields_max {
        return Err(Fault {
            status: 422,
            code: "too_many_fields",
            message: format!("more than {} fields", limits.fields_max),
            field: None,
        });
    }
    for (key, value) in map {
        if key.is_empty() || key.len() > limits.name_bytes_max || key.chars().any(char::is_control) {
            return Err(Fault {
                status: 422,
                code: "invalid_field_name",
                message: format!("a field's name must have 1 to {} bytes and no control character", limits.name_bytes_max),
                field: None,
            });
        }
        let bytes = match value {
            Value::String(text) => text.len(),
            Value::Array(_) | Value::Object(_) if key != "fields" => value.to_string().len(),
            _ => 0,
        };
        if bytes > limits.value_bytes_max {
            return Err(Fault::invalid(
                "field_too_long",
                key,
                format!("the value has {bytes} bytes, at most {} are taken", limits.value_bytes_max),
            ));
        }
    }
    Ok(())
}

/// The first name of a known field that is given wins; what comes under its other names stays in `fields`.
fn take_known(flat: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    let aliases = ALIASES.iter().find(|(known, _)| *known == name).map(|(_, a)| *a).unwrap_or_default();
    for key in std::iter::once(name).chain(aliases.iter().copied()) {
        if flat.contains_key(key)
            && let Some(text) = take_text(flat, key)?
        {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Removes a text field. Numbers are taken as their text; empty text counts as absent.
fn take_text(flat: &mut Map<String, Value>, key: &str) -> Result<Option<String>, Fault> {
    match flat.shift_remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let trimmed = text.trim();
            Ok((!trimmed.is_empty()).then(|| trimmed.to_owned()))
        }
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::Array(_)) => Err(Fault::invalid("wrong_type", key, "this field takes one text, not a list")),
        Some(_) => Err(Fault::invalid("wrong_type", key, "this field must be a text")),
    }
}

/// Control characters (line ends above all) become spaces: such a value may end up in a mail header or a log of somebody else's.
fn single_line(text: &str) -> Option<String> {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    (!clean.is_empty()).then_some(clean)
}

/// Loose on purpose: what a mail system would surely refuse is refused, everything else is the receiver's to judge.
pub fn is_email(text: &str) -> bool {
    let fits = text.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.starts_with('.') && !domain.ends_with('.') && !domain.contains("..")
    });
    fits && text.len() <= 254 && !text.contains(|c: char| c.is_whitespace() || "<>,;()".contains(c))
}

/// As loose: people write telephone numbers in many ways.
pub fn is_phone(text: &str) -> bool {
    text.chars().filter(|c| c.is_numeric()).count() >= 3 && text.chars().count() <= 40
}

fn check_email(email: Option<&str>) -> Result<(), Fault> {
    match email {
        Some(text) if !is_email(text) => {
            Err(Fault::invalid("invalid_email", "email", "this is no e-mail address, such as jane@example.com"))
        }
        _ => Ok(()),
    }
}

fn check_phone(phone: Option<&str>) -> Result<(), Fault> {
    match phone {
        Some(text) if !is_phone(text) => {
            Err(Fault::invalid("invalid_phone", "phone", "this is no telephone number, such as +49 30 123456"))
        }
        _ => Ok(()),
    }
}

/// Whether `status` is one a lead can have.
pub fn check_status(status: &str) -> Result<(), Fault> {
    if STATUSES.contains(&status) {
        Ok(())
    } else {
        Err(Fault::invalid("invalid_status", "status", format!("status is one of {}", STATUSES.join(", "))))
    }
}

fn score(value: &Value) -> Result<u8, Fault> {
    value
        .as_u64()
        .and_then(|n| u8::try_from(n).ok())
        .filter(|n| *n <= 100)
        .ok_or_else(|| Fault::invalid("invalid_score", "score", "score is a whole number from 0 to 100"))
}

/// `consent` is `{"text":…,"version"?}`, or `true`/a text, which stay in `fields` because they do not say what was agreed to.
fn read_consent(value: Value, fields: &mut Map<String, Value>) -> Result<Option<(String, Option<String>)>, Fault> {
    match value {
        Value::Object(mut object) => {
            let text = take_text(&mut object, "text")?
                .ok_or_else(|| Fault::invalid("missing_field", "consent", "consent needs the text that was agreed to"))?;
            Ok(Some((text, take_text(&mut object, "version")?)))
        }
        Value::Null => Ok(None),
        other => {
            fields.insert("consent".to_owned(), other);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(json: &str) -> Result<Submission, Fault> {
        Submission::from_json(json.as_bytes(), &Limits::default(), Trust::Public)
    }

    #[test]
    fn every_published_alias_finds_its_field() {
        for (known, aliases) in ALIASES {
            for alias in std::iter::once(&known).chain(aliases) {
                let value = if known == "email" { "jane@example.com" } else { "+49 30 123456" };
                let got = public(&format!(r#"{{"{alias}":"{value}"}}"#)).unwrap();
                let slot = match known {
                    "name" => got.name,
                    "email" => got.email,
                    "phone" => got.phone,
                    "message" => got.message,
                    _ => got.company,
                };
                assert_eq!(slot.as_deref(), Some(value), "{alias}");
                assert!(got.fields.is_empty());
            }
        }
        let joined = public(r#"{"first_name":"Jane","last_name":"Smith"}"#).unwrap();
        assert_eq!(joined.name.as_deref(), Some("Jane Smith"));
        assert_eq!(joined.fields.len(), 2);
    }

    #[test]
    fn nothing_sent_is_dropped() {
        let got =
            public(r#"{"name":"A","full_name":"B","budget":5000,"tags":["x"],"score":99,"status":"won","source":"me","nested":{"a":[1]}}"#)
                .unwrap();
        assert_eq!(got.name.as_deref(), Some("A"));
        assert_eq!(got.score, None);
        for key in ["full_name", "budget", "tags", "score", "status", "source", "nested"] {
            assert!(got.fields.contains_key(key), "{key}");
        }
        assert_eq!(got.fields["budget"], 5000);
    }

    #[test]
    fn faults_name_the_field_and_never_the_value() {
        for (json, code) in [
            ("", "empty_body"),
            ("{", "invalid_json"),
            ("[]", "not_an_object"),
            (r#"{"a":1,"a":2}"#, "duplicate_key"),
            (r#"{"x":{"a":1,"a":2}}"#, "duplicate_key"),
            (r#"{"name":"A","fields":{"name":"B"}}"#, "duplicate_key"),
            (r#"{"email":"nobody-here"}"#, "invalid_email"),
            (r#"{"email":"a@b\r\nBcc: c@d"}"#, "invalid_email"),
            (r#"{"phone":"secret"}"#, "invalid_phone"),
            (r#"{"name":["a"]}"#, "wrong_type"),
            (r#"{"name":{"a":1}}"#, "wrong_type"),
            (r#"{"name":""}"#, "empty_lead"),
            (r#"{"name":"x"} trailing"#, "invalid_json"),
        ] {
            let fault = public(json).unwrap_err();
            assert_eq!(fault.code, code, "{json}");
            assert!(!fault.message.contains("secret") && !fault.message.contains("nobody-here"));
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
        assert_eq!(public(&deep).unwrap_err().code, "invalid_json");
    }

    #[test]
    fn a_line_end_cannot_travel_in_a_single_line_field() {
        let got = public(r#"{"name":"Jane\r\nBcc: x@y"}"#).unwrap();
        assert_eq!(got.name.as_deref(), Some("Jane Bcc: x@y"));
    }

    #[test]
    fn a_patch_says_what_changed_and_only_that() {
        let lead = public(r#"{"name":"A","budget":1}"#).unwrap().into_lead("lead_1".into(), "web", "now");
        let limits = Limits::default();
        let patch = Patch::from_json(br#"{"status":"won","score":5,"name":"A","fields":{"budget":null,"x":1}}"#, &limits).unwrap();
        let changed = patch.apply(&lead, &limits).unwrap();
        assert_eq!(changed.names, ["score", "fields"]);
        assert_eq!(changed.status, Some(("new".into(), "won".into())));
        assert!(!changed.lead.fields.contains_key("budget"));
        let same = patch.apply(&changed.lead, &limits).unwrap();
        assert!(same.names.is_empty() && same.status.is_none());
        assert_eq!(Patch::from_json(br#"{"budget":1}"#, &limits).unwrap_err().code, "unknown_field");
        assert_eq!(Patch::from_json(br#"{"score":101}"#, &limits).unwrap_err().code, "invalid_score");
    }

    #[test]
    fn repeated_form_names_become_a_list() {
        let pairs = vec![("topic".to_owned(), "a".to_owned()), ("topic".to_owned(), "b".to_owned()), ("name".to_owned(), "J".to_owned())];
        let got = Submission::from_pairs(pairs, &Limits::default(), Trust::Public).unwrap();
        assert_eq!(got.fields["topic"], serde_json::json!(["a", "b"]));
    }
}
