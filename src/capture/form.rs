//! A form: its fields, and what of a submission does not fit them. Pure.

use crate::lead::Submission;
use serde_json::Value;
use std::collections::BTreeMap;
use time::Date;
use time::macros::format_description;

/// One capture page.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// Its part of the URL, `/f/{id}`.
    pub id: String,
    /// Heading.
    pub title: String,
    /// A line below it.
    pub text: Option<String>,
    /// `data.source` of its leads.
    pub source: String,
    /// Words on the button.
    pub submit: String,
    /// Words on the page after it.
    pub thanks: String,
    /// BCP 47 tag of the language these words are in.
    pub language: String,
    /// What is asked.
    pub fields: Vec<Field>,
    /// What the person is asked to agree to.
    pub consent: Option<Consent>,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Name in the submission.
    pub name: String,
    /// Words beside it.
    pub label: String,
    /// How it is asked.
    pub kind: FieldKind,
    /// May not be left empty.
    pub required: bool,
    /// Values to choose from.
    pub options: Vec<String>,
    /// The whole value must match.
    pub pattern: Option<Pattern>,
}

/// What a person may be asked to agree to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// The words.
    pub text: String,
    /// Their version.
    pub version: Option<String>,
    /// Without it nothing is taken.
    pub required: bool,
}

/// A regular expression for a whole value.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: regex_lite::Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Pattern {
    /// Compiles it, anchored at both ends as HTML's `pattern` is.
    pub fn new(source: &str) -> Result<Self, regex_lite::Error> {
        // Alone first: "a)(b" is no expression, but becomes one between the brackets below.
        regex_lite::Regex::new(source)?;
        Ok(Self { source: source.to_owned(), regex: regex_lite::Regex::new(&format!("^(?:{source})$"))? })
    }

    /// As configured.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// How a field is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the HTML control of its name")]
pub enum FieldKind {
    Text,
    Email,
    Tel,
    Url,
    Number,
    Date,
    Textarea,
    Select,
    Radio,
    Checkbox,
    Hidden,
}

impl FieldKind {
    /// The names used in the configuration.
    pub const NAMES: [(&'static str, FieldKind); 11] = [
        ("text", FieldKind::Text),
        ("email", FieldKind::Email),
        ("tel", FieldKind::Tel),
        ("url", FieldKind::Url),
        ("number", FieldKind::Number),
        ("date", FieldKind::Date),
        ("textarea", FieldKind::Textarea),
        ("select", FieldKind::Select),
        ("radio", FieldKind::Radio),
        ("checkbox", FieldKind::Checkbox),
        ("hidden", FieldKind::Hidden),
    ];

    /// Finds a kind by its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, k)| *k)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, k)| *k == self).map_or("text", |(n, _)| n)
    }
}

/// What is wrong, by field name; `_consent` for the agreement.
pub type Complaints = BTreeMap<String, String>;

impl Form {
    /// Checks a submission against the fields. Empty when all is well.
    pub fn check(&self, submission: &Submission, agreed: bool) -> Complaints {
        let mut complaints = Complaints::new();
        for field in &self.fields {
            let values = values(submission, &field.name);
            if let Some(message) = field.check(&values) {
                complaints.insert(field.name.clone(), message);
            }
        }
        if let Some(consent) = &self.consent
            && consent.required
            && !agreed
        {
            complaints
                .insert("_consent".to_owned(), "Please tick the box if you agree; without it we may not keep your details.".to_owned());
        }
        complaints
    }
}

impl Field {
    fn check(&self, values: &[String]) -> Option<String> {
        let filled: Vec<&String> = values.iter().filter(|v| !v.is_empty()).collect();
        if filled.is_empty() {
            return self.required.then(|| "Please fill this in.".to_owned());
        }
        for value in filled {
            let fits = match self.kind {
                FieldKind::Select | FieldKind::Radio => self.options.contains(value),
                FieldKind::Checkbox => self.options.is_empty() || self.options.contains(value),
                FieldKind::Number => value.parse::<f64>().is_ok_and(f64::is_finite),
                FieldKind::Date => Date::parse(value, format_description!("[year]-[month]-[day]")).is_ok(),
                FieldKind::Url => url::Url::parse(value).is_ok_and(|u| matches!(u.scheme(), "http" | "https")),
                // E-mail and telephone are checked for every lead, whichever way it comes.
                _ => true,
            };
            if !fits {
                return Some(match self.kind {
                    FieldKind::Number => "Please enter a number.".to_owned(),
                    FieldKind::Date => "Please enter a date as YYYY-MM-DD.".to_owned(),
                    FieldKind::Url => "Please enter an address that begins with https://.".to_owned(),
                    _ => "Please choose one of the values offered.".to_owned(),
                });
            }
            if self.pattern.as_ref().is_some_and(|p| !p.regex.is_match(value)) {
                return Some("This does not have the form we expect.".to_owned());
            }
        }
        None
    }
}

/// What a submission says for a field, known or not.
pub fn values(submission: &Submission, name: &str) -> Vec<String> {
    let known = match name {
        "name" => &submission.name,
        "email" => &submission.email,
        "phone" => &submission.phone,
        "company" => &submission.company,
        "message" => &submission.message,
        _ => &None,
    };
    if let Some(value) = known {
        return vec![value.clone()];
    }
    match submission.fields.get(name) {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}
