//! What a request says, sorted into the known fields and the others. Nothing may fall through.

use super::json::{Members, json_object};
use super::{Consent, Fault, Lead, Limits, Trust, check_email, check_phone, check_sizes, check_status, score, single_line, text};
use serde::Serialize;
use serde_json::{Map, Value};

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
pub(super) const ALIASES: [(&str, &[&str]); 5] = [
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
        let mut flat = Members::default();
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
        let mut flat = Members::default();
        for (key, value) in pairs {
            let value = Value::String(value);
            match flat.value_mut(&key) {
                None => insert_new(&mut flat, key, value)?,
                Some(Value::Array(list)) => list.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
            }
            if flat.iter().len() > limits.fields_max {
                break;
            }
        }
        Self::sort(flat, limits, trust)
    }

    fn sort(mut flat: Members, limits: &Limits, trust: Trust) -> Result<Self, Fault> {
        check_sizes(flat.iter(), limits)?;
        let mut take = |key| text(flat.take(key), key);
        let mut out = Submission {
            submission_id: take("_submission_id")?,
            next: take("_next")?,
            honeypot: take("_gotcha")?.is_some(),
            page_url: take("page_url")?,
            referrer: take("referrer")?,
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
            out.name = single_line(joined);
        }
        if let Some(consent) = flat.take("consent") {
            out.consent = read_consent(consent, &mut flat)?;
        }
        if trust == Trust::Api {
            out.source = text(flat.take("source"), "source")?.and_then(single_line);
            out.status = text(flat.take("status"), "status")?;
            out.score = match flat.take("score") {
                None | Some(Value::Null) => None,
                Some(value) => Some(score(&value)?),
            };
        }
        for (key, value) in flat {
            match key.strip_prefix("utm_") {
                Some(name) => out.utm.insert(name.to_owned(), value),
                None => out.fields.insert(key, value),
            };
        }
        out.check()?;
        Ok(out)
    }

    fn check(&mut self) -> Result<(), Fault> {
        for line in [&mut self.name, &mut self.email, &mut self.phone, &mut self.company] {
            *line = line.take().and_then(single_line);
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

fn insert_new(members: &mut Members, key: String, value: Value) -> Result<(), Fault> {
    members.insert(key, value).map_err(|key| Fault {
        status: 400,
        code: "duplicate_key",
        message: "the same field is given twice, once of them inside fields or utm".to_owned(),
        field: Some(key),
    })
}

/// The first name of a known field that is given wins; what comes under its other names stays in `fields`.
fn take_known(flat: &mut Members, name: &str) -> Result<Option<String>, Fault> {
    let aliases = ALIASES.iter().find(|(known, _)| *known == name).map(|(_, a)| *a).unwrap_or_default();
    for key in std::iter::once(name).chain(aliases.iter().copied()) {
        if let Some(value) = flat.take(key)
            && let Some(text) = text(Some(value), key)?
        {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// `consent` is `{"text":…,"version"?}`; what else it holds stays in `fields`, and so does `true` or a text, which do not say what was
/// agreed to.
fn read_consent(value: Value, flat: &mut Members) -> Result<Option<(String, Option<String>)>, Fault> {
    match value {
        Value::Object(mut object) => {
            let said = text(object.shift_remove("text"), "text")?
                .ok_or_else(|| Fault::invalid("missing_field", "consent", "consent needs the text that was agreed to"))?;
            let version = text(object.shift_remove("version"), "version")?;
            if !object.is_empty() {
                insert_new(flat, "consent".to_owned(), Value::Object(object))?;
            }
            Ok(Some((said, version)))
        }
        Value::Null => Ok(None),
        other => {
            insert_new(flat, "consent".to_owned(), other)?;
            Ok(None)
        }
    }
}
