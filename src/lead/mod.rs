//! A lead, and how what people send becomes one: names, aliases, limits, checks. Pure: no clock, no disk, no socket.
//!
//! Nothing a person sent may be dropped silently: what is not a known field is kept in `fields`, under the name it came with.

mod json;
mod patch;
mod submission;

pub use patch::{Changed, Patch, Reply};
pub use submission::{Submission, known};

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

fn has_control(text: &str) -> bool {
    text.bytes().any(|b| !(b' '..=b'~').contains(&b)) && text.chars().any(char::is_control)
}

fn check_sizes<'a>(fields: impl ExactSizeIterator<Item = (&'a String, &'a Value)>, limits: &Limits) -> Result<(), Fault> {
    if fields.len() > limits.fields_max {
        return Err(Fault {
            status: 422,
            code: "too_many_fields",
            message: format!("more than {} fields", limits.fields_max),
            field: None,
        });
    }
    for (key, value) in fields {
        if key.is_empty() || key.len() > limits.name_bytes_max || has_control(key) {
            return Err(Fault {
                status: 422,
                code: "invalid_field_name",
                message: format!("a field's name must have 1 to {} bytes and no control character", limits.name_bytes_max),
                field: None,
            });
        }
        let bytes = match value {
            Value::String(text) => text.len(),
            Value::Array(_) | Value::Object(_) => value.to_string().len(),
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

/// A text field, taken from under `key`. Numbers are taken as their text; empty text counts as absent.
fn text(value: Option<Value>, key: &str) -> Result<Option<String>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let trimmed = text.trim();
            Ok(match trimmed.len() {
                0 => None,
                all if all == text.len() => Some(text),
                _ => Some(trimmed.to_owned()),
            })
        }
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::Array(_)) => Err(Fault::invalid("wrong_type", key, "this field takes one text, not a list")),
        Some(_) => Err(Fault::invalid("wrong_type", key, "this field must be a text")),
    }
}

/// Control characters (line ends above all) become spaces: such a value may end up in a mail header or a log of somebody else's.
fn single_line(text: String) -> Option<String> {
    if is_single_line(&text) {
        return Some(text);
    }
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    (!clean.is_empty()).then_some(clean)
}

/// Whether [`single_line`] has nothing to change in it: words with one space between them.
fn is_single_line(text: &str) -> bool {
    let mut in_word = false;
    for c in text.chars() {
        in_word = match c {
            ' ' if in_word => false,
            c if c.is_whitespace() || c.is_control() => return false,
            _ => true,
        };
    }
    in_word
}

/// Loose on purpose: what a mail system would surely refuse is refused, everything else is the receiver's to judge.
pub fn is_email(text: &str) -> bool {
    let fits = text.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.starts_with('.') && !domain.ends_with('.') && !domain.contains("..")
    });
    fits && text.len() <= 254 && !text.contains(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';' | '(' | ')'))
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

#[cfg(test)]
mod tests {
    use super::submission::ALIASES;
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
    fn campaign_parameters_do_not_push_each_other_out() {
        let got = public(r#"{"name":"A","utm_source":"poster","utm_utm_source":"flyer","utm":{"utm_utm_source":"radio"}}"#).unwrap();
        let utm: Vec<(&str, &str)> = got.utm.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
        assert_eq!(utm, [("source", "poster"), ("utm_source", "flyer"), ("utm_utm_source", "radio")]);
    }

    #[test]
    fn what_a_consent_says_beside_its_text_and_version_is_kept() {
        let got = public(r#"{"consent":{"text":"You may call me.","version":"3","shown_at":"the door"},"name":"A"}"#).unwrap();
        assert_eq!(got.consent, Some(("You may call me.".to_owned(), Some("3".to_owned()))));
        assert_eq!(got.fields["consent"], serde_json::json!({"shown_at":"the door"}));
        let plain = public(r#"{"consent":{"text":"You may call me."},"name":"A"}"#).unwrap();
        assert!(plain.fields.is_empty());
    }

    #[test]
    fn a_number_keeps_all_its_digits_however_often_it_is_read() {
        let got = public(r#"{"name":"A","n":1.8446233720368446e+36}"#).unwrap();
        let written = got.fields["n"].to_string();
        assert_eq!(written, "1.8446233720368446e+36");
        assert_eq!(public(&format!(r#"{{"name":"A","n":{written}}}"#)).unwrap().fields, got.fields);
    }

    #[test]
    fn a_field_named_fields_has_the_limits_of_any_other() {
        let long = "x".repeat(Limits::default().value_bytes_max);
        for json in [format!(r#"{{"fields":["{long}"]}}"#), format!(r#"{{"fields":{{"fields":{{"a":"{long}"}}}}}}"#)] {
            assert_eq!(public(&json).unwrap_err().code, "field_too_long");
        }
        let many = format!(r#"{{"fields":{{"a":"{long}","b":"{long}"}}}}"#);
        assert!(public(&many).is_ok() && Patch::from_json(many.as_bytes(), &Limits::default()).is_ok());
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
