//! `type = "webhook"`.

use super::super::read::{At, Table};
use super::super::secrets;
use super::{Given, Made, shape};
use crate::delivery::Wire;
use crate::destination::webhook::{Body, Webhook};
use crate::secret::Hidden;
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::DeValue;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url("url");
    let secrets = secrets::several(given.table, given.warnings);
    let body = body(given);
    let headers = headers(&given.table.table("headers"), given.warnings);
    let url = url?;
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(Webhook { url, secrets, body, headers }), wire })
}

/// What a delivery says: shared by types that carry the event itself.
pub fn body(given: &Given<'_, '_, '_, '_>) -> Body {
    let (table, samples) = (given.table, given.samples);
    let named = table.name("body");
    if table.has("map") {
        if let Some(named) = named {
            table.fault_at(&named, "is given beside map; give one of them");
        }
        return table.table_if_given("map").map_or(Body::Full, |map| {
            if map.entries().is_empty() {
                map.fault("is empty, so nothing would be sent");
            }
            Body::Map(shape(&map, samples))
        });
    }
    match named.as_ref().map(|n| n.value.as_str()) {
        None | Some("full") => Body::Full,
        Some("leadsbot") => Body::Leadsbot,
        Some(_) => {
            table.fault_of("body", "must be full or leadsbot");
            Body::Full
        }
    }
}

const RESERVED: [&str; 8] =
    ["content-type", "content-length", "user-agent", "host", "connection", "transfer-encoding", "expect", "upgrade"];

fn headers(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Vec<(String, Hidden)> {
    let mut out = Vec::new();
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
        if let Some(text) = header_value(table, &key, value, warnings) {
            if http::HeaderValue::from_str(&text).is_err() {
                table.fault_at(&key, "has a value that cannot be sent in a header; it must be one line of text");
            }
            out.push((key.value.clone(), Hidden(text)));
        }
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
