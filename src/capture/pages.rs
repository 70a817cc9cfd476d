//! The pages people see. Templates are in `pages/`, embedded; all text is escaped by the template engine.

use super::answer::{Answer, with_body};
use super::form::{CONSENT, Complaints, FieldKind, Form, Typed};
use super::{Live, Source};
use http::header::{CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, REFERRER_POLICY};
use http::{HeaderMap, StatusCode};
use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The style sheet of all pages.
const CSS: &str = include_str!("pages/page.css");

/// The templates, compiled.
#[derive(Debug)]
pub struct Pages {
    templates: Environment<'static>,
    css_etag: String,
}

/// What a form page shows beside the form itself.
#[derive(Debug, Default)]
pub struct Shown<'a> {
    /// Values typed so far, by field name.
    pub values: Typed,
    /// What is wrong with them.
    pub complaints: Complaints,
    /// What is wrong otherwise.
    pub trouble: Option<&'a str>,
    /// Makes a second click harmless.
    pub submission_id: String,
    /// Where to go afterwards.
    pub next: Option<String>,
    /// Hidden pairs carried from the page's address, such as `utm_source`.
    pub carried: Vec<(String, String)>,
    /// The box of the agreement is ticked.
    pub agreed: bool,
}

#[derive(Serialize)]
struct FieldView<'a> {
    name: &'a str,
    label: &'a str,
    kind: &'static str,
    required: bool,
    options: &'a [String],
    pattern: Option<&'a str>,
    autocomplete: Option<&'static str>,
    complaint: Option<&'a str>,
    value: String,
    values: Vec<String>,
}

#[derive(Serialize)]
struct FormView<'a> {
    language: &'a str,
    title: &'a str,
    text: Option<&'a str>,
    id: &'a str,
    submit: &'a str,
    fields: Vec<FieldView<'a>>,
    carried: Vec<Pair<'a>>,
    wrong_fields: Vec<Wrong<'a>>,
    trouble: Option<&'a str>,
    submission_id: &'a str,
    next: Option<&'a str>,
    consent: Option<ConsentView<'a>>,
    agreed: bool,
}

#[derive(Serialize)]
struct ConsentView<'a> {
    name: &'static str,
    text: &'a str,
    required: bool,
    complaint: Option<&'a str>,
}

/// A field that needs another look, as named at the top of the page.
#[derive(Serialize)]
struct Wrong<'a> {
    name: &'a str,
    label: &'a str,
}

#[derive(Serialize)]
struct MessageView<'a> {
    language: &'a str,
    title: &'a str,
    text: Option<&'a str>,
    done: bool,
    back: Option<String>,
    back_label: &'a str,
}

#[derive(Serialize)]
struct Pair<'a> {
    name: &'a str,
    value: &'a str,
}

impl Pages {
    pub fn new() -> Self {
        let mut env = Environment::new();
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
        for (name, source) in [
            ("layout.html", include_str!("pages/layout.html")),
            ("form.html", include_str!("pages/form.html")),
            ("message.html", include_str!("pages/message.html")),
        ] {
            if let Err(e) = env.add_template(name, source) {
                log::error!("the built-in page {name} is broken: {e}");
            }
        }
        // Of its bytes, so that a new style reaches a phone that has the old one, whatever the version says.
        let digest = Sha256::digest(CSS.as_bytes());
        let css_etag = digest.iter().take(8).fold(String::from("\""), |etag, byte| format!("{etag}{byte:02x}")) + "\"";
        Self { templates: env, css_etag }
    }

    fn render(&self, live: &Live, status: StatusCode, name: &str, values: impl Serialize) -> Answer {
        match self.templates.get_template(name).and_then(|t| t.render(Value::from(Serde(values)))) {
            Ok(html) => page(live, status, html),
            Err(e) => {
                log::error!("the built-in page {name} cannot be shown: {e}");
                page(live, StatusCode::INTERNAL_SERVER_ERROR, "This page cannot be shown. Please tell the staff.".to_owned())
            }
        }
    }

    /// A form, empty or with what was typed and what is wrong with it.
    pub fn form(&self, live: &Live, status: StatusCode, form: &Form, shown: &Shown<'_>) -> Answer {
        let typed = |name: &str| shown.values.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
        let complaint = |name: &str| shown.complaints.get(name).map(String::as_str);
        let fields: Vec<FieldView<'_>> = form
            .fields
            .iter()
            .map(|f| {
                let values = typed(&f.name);
                FieldView {
                    name: &f.name,
                    label: &f.label,
                    kind: f.kind.name(),
                    required: f.required,
                    options: &f.options,
                    pattern: f.pattern.as_ref().map(|p| p.source()),
                    autocomplete: autocomplete(&f.name, f.kind),
                    complaint: complaint(&f.name),
                    value: values.first().cloned().unwrap_or_default(),
                    values,
                }
            })
            .collect();
        let label = |name: &str| form.fields.iter().find(|f| f.name == name).map(|f| f.label.as_str());
        let wrong_fields = form.complained(&shown.complaints).map(|name| Wrong { name, label: label(name).unwrap_or("Your agreement") });
        let view = FormView {
            language: &form.language,
            title: &form.title,
            text: form.text.as_deref(),
            id: &form.id,
            submit: &form.submit,
            fields,
            carried: shown.carried.iter().map(|(name, value)| Pair { name, value }).collect(),
            wrong_fields: wrong_fields.collect(),
            trouble: shown.trouble,
            submission_id: &shown.submission_id,
            next: shown.next.as_deref(),
            consent: form.consent.as_ref().map(|c| ConsentView {
                name: CONSENT,
                text: &c.text,
                required: c.required,
                complaint: complaint(CONSENT),
            }),
            agreed: shown.agreed,
        };
        self.render(live, status, "form.html", &view)
    }

    /// The page after a form.
    pub fn thanks(&self, live: &Live, form: &Form) -> Answer {
        let view = MessageView {
            language: &form.language,
            title: &form.thanks,
            text: None,
            done: true,
            back: Some(format!("/f/{}", form.id)),
            back_label: "Next person",
        };
        self.render(live, StatusCode::OK, "message.html", &view)
    }

    /// A plain message.
    pub fn message(&self, live: &Live, status: StatusCode, title: &str, text: &str) -> Answer {
        let view = MessageView { language: "en", title, text: Some(text), done: status.is_success(), back: None, back_label: "" };
        self.render(live, status, "message.html", &view)
    }

    /// The style sheet, or 304 for who has it already.
    pub fn css(&self, headers: &HeaderMap) -> Answer {
        let listed = headers.get_all(http::header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        let known = listed.map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.css_etag);
        let mut answer = if known {
            super::answer::empty(StatusCode::NOT_MODIFIED)
        } else {
            with_body(StatusCode::OK, "text/css; charset=utf-8", CSS.as_bytes().to_vec())
        };
        if let Ok(etag) = HeaderValue::from_str(&self.css_etag) {
            answer.headers_mut().insert(ETAG, etag);
        }
        answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        answer
    }
}

fn page(live: &Live, status: StatusCode, html: String) -> Answer {
    let mut answer = with_body(status, "text/html; charset=utf-8", html.into_bytes());
    // Browsers hold a form's redirect to form-action too, so the places `_next` may lead to are named.
    let next = live.options.sources.iter().flat_map(|s: &Source| &s.allowed_origins).filter(|o| *o != "*");
    let policy = next.fold(
        "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'self'; form-action 'self'"
            .to_owned(),
        |policy, origin| policy + " " + origin,
    );
    if let Ok(value) = HeaderValue::from_str(&policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, value);
    }
    answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    answer.headers_mut().insert(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("SAMEORIGIN"));
    answer
}

/// Browsers fill these in for a person on their own phone.
fn autocomplete(name: &str, kind: FieldKind) -> Option<&'static str> {
    Some(match name {
        "name" | "full_name" | "fullName" | "customer_name" | "customerName" => "name",
        "first_name" => "given-name",
        "last_name" => "family-name",
        "company" | "organization" | "organisation" => "organization",
        "city" => "address-level2",
        "zip" | "postcode" | "postal_code" => "postal-code",
        "country" => "country-name",
        _ => match kind {
            FieldKind::Email => "email",
            FieldKind::Tel => "tel",
            _ => return None,
        },
    })
}
