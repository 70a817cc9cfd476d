//! `[[form]]`.

use super::read::Table;
use super::{SLUG, is_slug};
use crate::capture::{Consent, Field, FieldKind, Form, Pattern};

/// Forms in the order of the file; the built-in one when there is none.
pub fn forms(root: &Table<'_, '_, '_>) -> Vec<Form> {
    let tables = root.tables("form");
    if tables.is_empty() {
        return vec![builtin()];
    }
    let mut out: Vec<Form> = Vec::new();
    for table in &tables {
        if let Some(form) = form(table, &out) {
            out.push(form);
        }
        table.finish();
    }
    out
}

/// The form of a configuration that names none: enough to call somebody back.
pub fn builtin() -> Form {
    let field = |name: &str, label: &str, kind, required| Field {
        name: name.to_owned(),
        label: label.to_owned(),
        kind,
        required,
        options: Vec::new(),
        pattern: None,
    };
    Form {
        id: "contact".to_owned(),
        title: "Leave us your details".to_owned(),
        text: Some("We will get back to you.".to_owned()),
        source: "contact".to_owned(),
        submit: "Send".to_owned(),
        thanks: "Thank you. We have your details.".to_owned(),
        language: "en".to_owned(),
        fields: vec![
            field("name", "Name", FieldKind::Text, true),
            field("email", "E-mail", FieldKind::Email, true),
            field("phone", "Phone", FieldKind::Tel, false),
            field("message", "Message", FieldKind::Textarea, false),
        ],
        consent: None,
    }
}

fn form(table: &Table<'_, '_, '_>, before: &[Form]) -> Option<Form> {
    let defaults = builtin();
    let id = table.required("id");
    if let Some(id) = &id {
        if !is_slug(&id.value) {
            table.fault_at(id, SLUG);
        }
        if before.iter().any(|f| f.id == id.value) {
            table.fault_at(id, "another form has the same id");
        }
    }
    let text_or = |key, default: String| table.name(key).map_or(default, |v| v.value);
    let title = text_or("title", defaults.title);
    let text = table.name("text").map(|v| v.value);
    let source = table.name("source").map(|v| v.value);
    let submit = text_or("submit", defaults.submit);
    let thanks = text_or("thanks", defaults.thanks);
    let language = text_or("language", defaults.language);
    let consent = table.table_if_given("consent").and_then(|inner| consent(&inner));
    let tables = table.tables("field");
    if tables.is_empty() {
        table.fault("has no field; add at least one [[form.field]]");
    }
    let mut fields: Vec<Field> = Vec::new();
    for inner in &tables {
        if let Some(field) = field(inner, &fields) {
            fields.push(field);
        }
        inner.finish();
    }
    let id = id?.value;
    Some(Form { source: source.unwrap_or_else(|| id.clone()), id, title, text, submit, thanks, language, fields, consent })
}

fn consent(table: &Table<'_, '_, '_>) -> Option<Consent> {
    let text = table.required("text").map(|v| v.value);
    let version = table.name("version").map(|v| v.value);
    let required = table.flag("required", true);
    table.finish();
    Some(Consent { text: text?, version, required })
}

fn field(table: &Table<'_, '_, '_>, before: &[Field]) -> Option<Field> {
    let name = table.required("name");
    if let Some(name) = &name {
        let plain = name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !plain || name.value.len() > 64 || name.value.starts_with('_') {
            table.fault_at(name, "must have 1 to 64 characters, each a letter, a digit, - or _, and must not begin with _");
        }
        if before.iter().any(|f| f.name == name.value) {
            table.fault_at(name, "another field of this form has the same name");
        }
    }
    let kind = match table.text("type") {
        None => FieldKind::Text,
        Some(text) => FieldKind::parse(&text.value).unwrap_or_else(|| {
            table.fault_at(&text, format!("must be one of {}", FieldKind::NAMES.map(|(n, _)| n).join(", ")));
            FieldKind::Text
        }),
    };
    let label = table.name("label").map(|v| v.value);
    let required = table.flag("required", false);
    let options: Vec<String> = table.texts("options").unwrap_or_default().into_iter().map(|v| v.value).collect();
    match kind {
        FieldKind::Select | FieldKind::Radio if options.is_empty() => table.fault("needs options, the values to choose from"),
        FieldKind::Select | FieldKind::Radio | FieldKind::Checkbox => {}
        _ if !options.is_empty() => table.fault("has options, but its type offers no choice; use select, radio or checkbox"),
        _ => {}
    }
    let pattern = table.name("pattern").and_then(|text| match Pattern::new(&text.value) {
        Ok(pattern) => Some(pattern),
        Err(e) => {
            table.fault_at(&text, format!("is no regular expression: {e}"));
            None
        }
    });
    let name = name?.value;
    Some(Field { label: label.unwrap_or_else(|| name.clone()), name, kind, required, options, pattern })
}
