//! The `webhook` type: the event, signed, to the business's own receiver. Pure.
//!
//! What is signed is what is sent: the body is rendered once, and every attempt repeats its bytes.

use super::{Answer, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, judge, place};
use crate::mapping::{Event, MappingError, Shape};
use crate::secret::{Hidden, Secret};
use crate::time::Wall;
use crate::{id, signature};
use http::Method;
use serde::Serialize;
use serde_json::Value;
use url::Url;

/// A receiver of the business's own.
#[derive(Debug)]
pub struct Webhook {
    /// Where to.
    pub url: Url,
    /// Signing secrets, the current one first; at most two.
    pub secrets: Vec<Secret>,
    /// What the body is.
    pub body: Body,
    /// Headers added to each request.
    pub headers: Vec<(String, Hidden)>,
}

/// What a delivery's body is made of.
#[derive(Debug)]
pub enum Body {
    /// The event as it is stored.
    Full,
    /// Exactly `{"event":…,"data":{"name","email","score","source"}}`.
    Leadsbot,
    /// What `map` says.
    Map(Shape),
}

impl Body {
    /// What it makes of an event; `None`: the event itself.
    pub fn render(&self, event: &[u8]) -> Result<Option<Vec<u8>>, MappingError> {
        let unreadable =
            |e: serde_json::Error| MappingError { at: "event".to_owned(), message: format!("the stored event is no JSON: {e}") };
        match self {
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

    /// The type it has unless another one is configured.
    pub fn content_type(&self) -> &'static str {
        match self {
            Body::Full | Body::Leadsbot | Body::Map(_) => "application/json",
        }
    }
}

impl Connector for Webhook {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        self.body.render(incoming.bytes)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        Ok(match said.last() {
            None => self.request(record, moment.wall).send(),
            Some(answer) => judge(&self.url, answer, moment).into(),
        })
    }
}

impl Webhook {
    fn request(&self, record: &Record<'_>, now: Wall) -> HttpRequest {
        let (identity, body) = (record.identity, record.body);
        let timestamp = now.seconds();
        let mut request = HttpRequest::new(Method::POST, self.url.clone()).body("application/json", body.to_vec());
        let headers = &mut request.headers;
        let mut secrets = self.secrets.iter();
        if let Some(current) = secrets.next() {
            headers.push((signature::HEADER.into(), signature::leadsbot(current, body)));
        }
        if let Some(next) = secrets.next() {
            headers.push((signature::HEADER_NEXT.into(), signature::leadsbot(next, body)));
        }
        headers.extend([
            ("X-LeadsBot-Event".into(), identity.kind.to_owned()),
            ("X-LeadsBot-Event-Id".into(), identity.event_id.to_owned()),
            ("X-LeadsBot-Delivery-Id".into(), id::delivery(identity.event_id, identity.destination)),
            ("X-LeadsBot-Attempt".into(), record.attempt.to_string()),
            ("X-LeadsBot-Timestamp".into(), timestamp.to_string()),
            ("webhook-id".into(), identity.event_id.to_owned()),
            ("webhook-timestamp".into(), timestamp.to_string()),
            ("webhook-signature".into(), signature::standard(&self.secrets, identity.event_id, timestamp, body)),
        ]);
        request.hidden.clone_from(&self.headers);
        request
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
