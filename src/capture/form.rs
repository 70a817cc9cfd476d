//! A form: its fields, and what of a submission does not fit them. Pure.

use crate::lead;
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

/// The box of the agreement.
pub const CONSENT: &str = "_consent";

/// What is wrong, by field name; [`CONSENT`] for the agreement.
pub type Complaints = BTreeMap<String, String>;

/// What was typed, by the name of the field in the form, in the order it came.
pub type Typed = Vec<(String, Vec<String>)>;

impl Form {
    /// Checks what was typed against the fields. Empty when all is well.
    ///
    /// It goes by the names of the form, not by those of the lead: a field `tel` has become `phone` there.
    pub fn check(&self, typed: &Typed, agreed: bool) -> Complaints {
        let mut complaints = Complaints::new();
        for field in &self.fields {
            let values = typed.iter().find(|(name, _)| *name == field.name).map(|(_, values)| values.as_slice()).unwrap_or_default();
            if let Some(message) = field.check(values) {
                complaints.insert(field.name.clone(), message);
            }
        }
        if self.consent.as_ref().is_some_and(|c| c.required) && !agreed {
            let message = "Please tick the box if you agree; without it we may not keep your details.";
            complaints.insert(CONSENT.to_owned(), message.to_owned());
        }
        complaints
    }

    /// The names complained about, from the top of the page to its end.
    pub fn complained<'a>(&'a self, complaints: &'a Complaints) -> impl Iterator<Item = &'a str> {
        self.fields.iter().map(|f| f.name.as_str()).chain(std::iter::once(CONSENT)).filter(|name| complaints.contains_key(*name))
    }

    /// The field that fills this field of a lead, under its own name or another accepted one.
    pub fn field_of(&self, known: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == known).or_else(|| self.fields.iter().find(|f| lead::known(&f.name) == Some(known)))
    }
}

impl Field {
    fn check(&self, values: &[String]) -> Option<String> {
        let filled: Vec<&str> = values.iter().map(|v| v.trim()).filter(|v| !v.is_empty()).collect();
        if filled.is_empty() {
            let asked = match self.kind {
                FieldKind::Select | FieldKind::Radio => "Please choose one.",
                FieldKind::Checkbox if self.options.is_empty() => "Please tick this box.",
                FieldKind::Checkbox => "Please choose at least one.",
                _ => "Please fill this in.",
            };
            return self.required.then(|| asked.to_owned());
        }
        for value in filled {
            let fits = match self.kind {
                FieldKind::Select | FieldKind::Radio => self.options.iter().any(|o| o.trim() == value),
                FieldKind::Checkbox => self.options.is_empty() || self.options.iter().any(|o| o.trim() == value),
                FieldKind::Number => value.parse::<f64>().is_ok_and(f64::is_finite),
                FieldKind::Date => Date::parse(value, format_description!("[year]-[month]-[day]")).is_ok(),
                FieldKind::Url => url::Url::parse(value).is_ok_and(|u| matches!(u.scheme(), "http" | "https")),
                FieldKind::Email => lead::is_email(value),
                FieldKind::Tel => lead::is_phone(value),
                FieldKind::Text | FieldKind::Textarea | FieldKind::Hidden => true,
            };
            if !fits {
                return Some(match self.kind {
                    FieldKind::Email => "Please enter an e-mail address, such as jane@example.com.".to_owned(),
                    FieldKind::Tel => "Please enter a telephone number, such as +49 30 123456.".to_owned(),
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
