//! The `webhook` type: the event, signed, to the business's own receiver. Pure.
//!
//! What is signed is what is sent: the body is rendered once, and every attempt repeats its bytes.

use super::{Body, Request, Spec};
use crate::mapping::{Event, MappingError};
use crate::time::Wall;
use crate::{id, signature};
use serde::Serialize;
use serde_json::Value;

/// The identity of a delivery, the same on every attempt.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// `evt_…`
    pub event_id: &'a str,
    /// `lead.created`, …
    pub kind: &'a str,
}

/// Whether this destination wants the event; `event` is its JSON.
pub fn wants(spec: &Spec, kind: &str, event: &Event) -> Result<bool, MappingError> {
    if !crate::event::matches(&spec.events, kind) {
        return Ok(false);
    }
    spec.when.as_ref().map_or(Ok(true), |when| when.holds(event))
}

/// The body of a delivery, or `None` when it is the event's own bytes.
pub fn render(spec: &Spec, event: &[u8]) -> Result<Option<Vec<u8>>, MappingError> {
    let unreadable = |e: serde_json::Error| MappingError { at: "event".to_owned(), message: format!("the stored event is no JSON: {e}") };
    match &spec.body {
        Body::Full => Ok(None),
        Body::Leadsbot => {
            let minimal: Minimal = serde_json::from_slice(event).map_err(unreadable)?;
            serde_json::to_vec(&minimal).map(Some).map_err(unreadable)
        }
        Body::Map(shape) => {
            let value: Value = shape.render(&Event::parse(event)?)?;
            serde_json::to_vec(&value).map(Some).map_err(unreadable)
        }
    }
}

/// The published two-key shape.
#[derive(Serialize, serde::Deserialize)]
struct Minimal {
    event: Value,
    data: MinimalData,
}

#[derive(Serialize, serde::Deserialize)]
struct MinimalData {
    // An event of the device has none of these.
    #[serde(default)]
    name: Value,
    #[serde(default)]
    email: Value,
    #[serde(default)]
    score: Value,
    #[serde(default)]
    source: Value,
}

/// The headers and bytes of attempt number `attempt` (from 1) at `now`.
pub fn request(spec: &Spec, identity: Identity<'_>, body: Vec<u8>, attempt: u32, now: Wall) -> Request {
    let delivery_id = id::delivery(identity.event_id, &spec.name);
    let timestamp = now.seconds();
    let mut headers: Vec<(String, String)> = vec![
        ("Content-Type".into(), "application/json".into()),
        ("User-Agent".into(), concat!("leadsbotd/", env!("CARGO_PKG_VERSION")).into()),
    ];
    let mut secrets = spec.secrets.iter();
    if let Some(current) = secrets.next() {
        headers.push((signature::HEADER.into(), signature::leadsbot(current, &body)));
    }
    if let Some(next) = secrets.next() {
        headers.push((signature::HEADER_NEXT.into(), signature::leadsbot(next, &body)));
    }
    headers.extend([
        ("X-LeadsBot-Event".into(), identity.kind.to_owned()),
        ("X-LeadsBot-Event-Id".into(), identity.event_id.to_owned()),
        ("X-LeadsBot-Delivery-Id".into(), delivery_id),
        ("X-LeadsBot-Attempt".into(), attempt.to_string()),
        ("X-LeadsBot-Timestamp".into(), timestamp.to_string()),
        ("webhook-id".into(), identity.event_id.to_owned()),
        ("webhook-timestamp".into(), timestamp.to_string()),
        ("webhook-signature".into(), signature::standard(&spec.secrets, identity.event_id, timestamp, &body)),
    ]);
    headers.extend(spec.headers.iter().map(|(name, value)| (name.clone(), value.0.clone())));
    Request { headers, body }
}
