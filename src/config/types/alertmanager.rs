//! `type = "alertmanager"`.

use super::{Given, Made, chat};
use crate::delivery::Wire;
use crate::destination::alertmanager::Alertmanager;
use std::time::Duration;
use toml::de::DeValue;

/// Set from the event.
const OWN: [&str; 6] = ["alertname", "job", "device", "site", "destination", "severity"];

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url("url");
    let authorization = chat::authorization(given);
    let labels = labels(given);
    let severity = chat::severity(given);
    let resolve_after = Duration::from_secs(given.table.number("resolve_after_hours", 1..=8760, 168) * 3600);
    let message = chat::message(given, None, ("", ""), "> ");
    let (url, message, authorization) = (url?, message?, authorization.ok()?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(Alertmanager { url, authorization, labels, severity, resolve_after, message }), wire })
}

fn labels(given: &Given<'_, '_, '_, '_>) -> Vec<(String, String)> {
    let table = given.table.table("labels");
    let mut labels = Vec::new();
    for (key, value) in table.entries() {
        let first = key.value.bytes().next().unwrap_or_default();
        let usable = key.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !first.is_ascii_digit();
        if !usable {
            table.fault_at(&key, "is no name of a label; it may have letters, digits and _, and begins with no digit");
        } else if OWN.contains(&key.value.as_str()) {
            table.fault_at(&key, "is set by leadsbotd itself; take it out");
        }
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => labels.push((key.value, text.to_string())),
            _ => table.fault_at(&key, "must be a text that is not empty"),
        }
    }
    labels
}
