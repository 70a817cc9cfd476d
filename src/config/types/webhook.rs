//! `type = "webhook"`.

use super::super::read::{At, Table};
use super::super::secrets;
use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::Batch;
use crate::destination::webhook::{Body, Webhook};
use crate::mapping::{Event, Expr, Template};
use crate::secret::{Hidden, Secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;
use url::Url;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let method = method(given.table);
    let address = address(given);
    let secrets = if given.table.flag("sign", true) { secrets::several(given.table, given.warnings) } else { unsigned(given.table) };
    let body = body(given);
    let content_type = content_type(given.table, &body);
    let Headers { mut fixed, made } = headers(given);
    fixed.extend(authorization(given, &fixed));
    let success = given.table.name("success").and_then(|text| success(given.table, &text));
    let batch = batch(given, &address, &made, &body);
    let (url, url_template) = address?;
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let connector =
        Webhook { method, url, url_template, secrets, body, content_type, headers: fixed, header_templates: made, success, batch };
    Some(Made { connector: Box::new(connector), wire })
}

fn method(table: &Table<'_, '_, '_>) -> Method {
    match table.name("method") {
        None => Method::POST,
        Some(name) => match name.value.as_str() {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            _ => {
                table.fault_at(&name, "must be POST, PUT or PATCH");
                Method::POST
            }
        },
    }
}

/// The address and, if it has `{{ … }}` in it, what makes it. The host stands fast: an event decides on path and query only.
fn address(given: &Given<'_, '_, '_, '_>) -> Option<(Url, Option<Template>)> {
    let text = given.table.required("url")?;
    let Some(begins) = text.value.find("{{").or_else(|| text.value.find("{%")) else {
        return Some((given.checked(&text)?, None));
    };
    let fixed = text.value.get(..begins).unwrap_or_default();
    let host_ends = fixed.find("://").and_then(|at| fixed.get(at + 3..)).is_some_and(|rest| rest.contains('/'));
    if !host_ends {
        given.table.fault_at(&text, "may have {{ }} in its path and query only; the host must be plain");
        return None;
    }
    let template = given.samples.template(given.table.report(), "url", &text);
    let base = At { value: fixed.to_owned(), at: text.at, key: text.key.clone() };
    Some((given.checked(&base)?, Some(template?)))
}

fn unsigned(table: &Table<'_, '_, '_>) -> Vec<Secret> {
    for key in ["secret", "secret_file", "secret_env", "secret_credential", "secrets"] {
        if table.has(key) {
            table.fault_of(key, "is given beside sign = false; take out one of them");
        }
    }
    Vec::new()
}

fn body(given: &Given<'_, '_, '_, '_>) -> Body {
    let table = given.table;
    let ways: Vec<&str> = ["body", "map", "template"].into_iter().filter(|k| table.has(k)).collect();
    if let [first, second, ..] = ways.as_slice() {
        table.fault_of(first, format!("is given beside {second}; give one of them"));
    }
    let as_form = table.name("format").is_some_and(|format| match format.value.as_str() {
        "json" => false,
        "form" => true,
        _ => {
            table.fault_at(&format, "must be json or form");
            false
        }
    });
    if as_form && !table.has("map") {
        table.fault_of("format", "needs a map, whose keys are the form's fields");
    }
    if let Some(map) = given.map("map") {
        return if as_form { Body::Form(map) } else { Body::Map(map) };
    }
    if let Some(template) = given.template("template") {
        return Body::Text(template);
    }
    match table.name("body").as_ref().map(|n| n.value.as_str()) {
        None | Some("full") => Body::Full,
        Some("leadsbot") => Body::Leadsbot,
        Some(_) => {
            table.fault_of("body", "must be full or leadsbot");
            Body::Full
        }
    }
}

fn content_type(table: &Table<'_, '_, '_>, body: &Body) -> String {
    match table.name("content_type") {
        None => body.content_type().to_owned(),
        Some(text) => {
            if text.value.parse::<mime::Mime>().is_err() {
                table.fault_at(&text, "is no media type, as in text/plain; charset=utf-8");
            }
            text.value
        }
    }
}

/// `bearer`, or `user` with `password`.
fn authorization(given: &mut Given<'_, '_, '_, '_>, headers: &[(String, Hidden)]) -> Option<(String, Hidden)> {
    let bearer = given.hidden_if_given("bearer");
    let user = given.table.name("user");
    let password = given.hidden_if_given("password");
    let value = match (bearer, user, password) {
        (None, None, None) => return None,
        (Some(bearer), None, None) => format!("Bearer {}", bearer.value),
        (None, Some(user), Some(password)) => format!("Basic {}", STANDARD.encode(format!("{}:{}", user.value, password.value))),
        (None, Some(_), None) | (None, None, Some(_)) => {
            given.table.fault("has user or password alone; give both");
            return None;
        }
        (Some(bearer), ..) => {
            given.table.fault_at(&bearer, "is given beside user and password; give one of the two");
            return None;
        }
    };
    if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
        given.table.fault_of("headers", "has an Authorization beside bearer or user and password; give one of them");
    }
    if http::HeaderValue::from_str(&value).is_err() {
        given.table.fault("has a bearer, user or password that cannot be sent in a header; it must be one line of text");
    }
    Some(("Authorization".to_owned(), Hidden(value)))
}

/// An expression over an answer, tried on two of them.
fn success(table: &Table<'_, '_, '_>, text: &At<String>) -> Option<Expr> {
    let expr = Expr::new("success", &text.value);
    let tried = expr.and_then(|expr| {
        for body in [json!({"ok": true}), json!("ok")] {
            expr.holds(&Event::from_json(json!({"status": 200, "body": body})))?;
        }
        Ok(expr)
    });
    tried.map_err(|e| table.fault_at(text, e.message)).ok()
}

fn batch<T, M>(given: &Given<'_, '_, '_, '_>, address: &Option<(Url, Option<T>)>, made: &[M], body: &Body) -> Batch {
    let table = given.table;
    let records = usize::try_from(table.number("batch", 1..=256, 1)).unwrap_or(1);
    let linger = Duration::from_secs(table.number("linger_seconds", 0..=86_400, 0));
    if records == 1 && !linger.is_zero() {
        table.fault_of("linger_seconds", "needs a batch of more than 1; who goes alone waits for nobody");
    }
    if records == 1 {
        return Batch::ONE;
    }
    if matches!(address, Some((_, Some(_)))) || !made.is_empty() {
        table.fault_of("batch", "cannot go with {{ }} in url or headers, which may differ from event to event");
    }
    if matches!(body, Body::Form(_) | Body::Text(_)) {
        table.fault_of("batch", "needs JSON, as it is sent as a list: body, or map without format = \"form\"");
    }
    Batch { linger, ..Batch::of(records) }
}

const RESERVED: [&str; 8] =
    ["content-type", "content-length", "user-agent", "host", "connection", "transfer-encoding", "expect", "upgrade"];

struct Headers {
    fixed: Vec<(String, Hidden)>,
    made: Vec<(String, Template)>,
}

fn headers(given: &mut Given<'_, '_, '_, '_>) -> Headers {
    let table = given.table.table("headers");
    let mut out = Headers { fixed: Vec::new(), made: Vec::new() };
    let mut names = BTreeSet::new();
    for (key, value) in table.entries() {
        let lower = key.value.to_ascii_lowercase();
        if !names.insert(lower.clone()) {
            table.fault_at(&key, "is given twice; capitals do not matter in a header's name");
        }
        if http::HeaderName::from_bytes(key.value.as_bytes()).is_err() {
            table.fault_at(&key, "is no header name; it may have letters, digits and -, but no blank");
        } else if RESERVED.contains(&lower.as_str()) || lower.starts_with("x-leadsbot-") || lower.starts_with("webhook-") {
            table.fault_at(&key, "is set by leadsbotd itself; take it out");
        }
        let Some(text) = header_value(&table, &key, value, given.warnings) else { continue };
        if value.get_ref().is_str() && text.contains("{{") {
            let text = At { value: text, at: value.span().start, key: key.key.clone() };
            let name = format!("headers.{}", key.value);
            out.made.extend(given.samples.template(table.report(), &name, &text).map(|template| (key.value.clone(), template)));
            continue;
        }
        if http::HeaderValue::from_str(&text).is_err() {
            table.fault_at(&key, "has a value that cannot be sent in a header; it must be one line of text");
        }
        out.fixed.push((key.value.clone(), Hidden(text)));
    }
    out
}

fn header_value<'t, 'v>(
    table: &Table<'_, 't, 'v>,
    key: &At<String>,
    value: &'v Spanned<DeValue<'t>>,
    warnings: &mut Vec<String>,
) -> Option<String> {
    if let DeValue::String(text) = value.get_ref() {
        warnings.push(secrets::INLINE.to_owned());
        return Some(text.to_string());
    }
    let Some(inner) = table.entry_table(key, value) else {
        table.fault_at(key, "must be a text, or a table with secret_file, secret_env or secret_credential");
        return None;
    };
    if !secrets::given(&inner) {
        inner.fault(format!("holds no value; {}", secrets::NEEDED));
    }
    let text = secrets::hidden(&inner, warnings);
    inner.finish();
    text.map(|t| t.value)
}
