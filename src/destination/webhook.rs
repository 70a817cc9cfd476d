//! The `webhook` type: the event, signed, to the business's own receiver. Pure.
//!
//! What is signed is what is sent: the body is rendered once, and every attempt repeats its bytes.

use super::{
    Answer, Batch, Class, Connector, HttpRequest, Incoming, Judgement, Memory, Moment, Next, Record, Response, Verdict, judge, place,
};
use crate::mapping::{Event, Expr, MappingError, Shape, Template};
use crate::secret::{Hidden, Secret};
use crate::time::Wall;
use crate::{id, signature};
use form_urlencoded::Serializer;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use url::Url;

/// Bytes of an answer about a batch that are read: it may say something of each delivery.
const BATCH_ANSWER_BYTES: usize = 64 << 10;
/// RFC 4918's Multi-Status: the answer tells each delivery's own.
const MULTI_STATUS: u16 = 207;

/// A receiver of the business's own.
#[derive(Debug)]
pub struct Webhook {
    /// `POST`, `PUT` or `PATCH`.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// The same with `{{ … }}` in its path or query; what it makes must have the scheme, host and port of `url`.
    pub url_template: Option<Template>,
    /// Signing secrets, the current one first; at most two.
    pub secrets: Vec<Secret>,
    /// What the body is.
    pub body: Body,
    /// Its type.
    pub content_type: String,
    /// Headers added to each request.
    pub headers: Vec<(String, Hidden)>,
    /// The same with `{{ … }}` in them.
    pub header_templates: Vec<(String, Template)>,
    /// What must hold of a 2xx answer, its `status` and `body`, if that alone is not enough.
    pub success: Option<Expr>,
    /// How many deliveries go into one request.
    pub batch: Batch,
}

/// What a delivery's body is made of.
#[derive(Debug)]
pub enum Body {
    /// The event as it is stored.
    Full,
    /// Exactly `{"event":…,"data":{"name","email","score","source"}}`.
    Leadsbot,
    /// What `map` says, as JSON.
    Map(Shape),
    /// What `map` says, as a form's fields.
    Form(Shape),
    /// A text.
    Text(Template),
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
            Body::Form(shape) => {
                let mut form = Serializer::new(String::new());
                for (name, value) in shape.render(&Event::parse(event)?)?.as_object().into_iter().flatten() {
                    match value {
                        Value::Null => {}
                        Value::String(text) => drop(form.append_pair(name, text)),
                        other => drop(form.append_pair(name, &other.to_string())),
                    }
                }
                Ok(Some(form.finish().into_bytes()))
            }
            Body::Text(template) => Ok(Some(template.render(&Event::parse(event)?)?.into_bytes())),
        }
    }

    /// The type it has unless another one is configured.
    pub fn content_type(&self) -> &'static str {
        match self {
            Body::Full | Body::Leadsbot | Body::Map(_) => "application/json",
            Body::Form(_) => "application/x-www-form-urlencoded",
            Body::Text(_) => "text/plain; charset=utf-8",
        }
    }
}

impl Webhook {
    /// One that is sent to as usual: a POST for each delivery, and a 2xx means that it was taken.
    pub fn new(url: Url, secrets: Vec<Secret>, body: Body) -> Self {
        let content_type = body.content_type().to_owned();
        Self {
            method: Method::POST,
            url,
            url_template: None,
            secrets,
            body,
            content_type,
            headers: Vec::new(),
            header_templates: Vec::new(),
            success: None,
            batch: Batch::ONE,
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

    fn batch(&self) -> Batch {
        self.batch
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        Ok(match said.last() {
            None => self.request(records, moment.wall)?.send(),
            Some(answer) => Next::Judged(self.judged(records.len(), answer, moment)?),
        })
    }
}

impl Webhook {
    fn request(&self, records: &[Record<'_>], now: Wall) -> Result<HttpRequest, MappingError> {
        let Some(first) = records.first() else { return Err(MappingError::nothing()) };
        let (url, made) = self.made_for(first)?;
        let body = if self.batch == Batch::ONE { Cow::Borrowed(first.body) } else { Cow::Owned(array(records)) };
        let timestamp = now.seconds();
        let mut request = HttpRequest::new(self.method.clone(), url).body(&self.content_type, body.to_vec());
        let headers = &mut request.headers;
        let mut secrets = self.secrets.iter();
        if let Some(current) = secrets.next() {
            headers.push((signature::HEADER.into(), signature::leadsbot(current, &body)));
        }
        if let Some(next) = secrets.next() {
            headers.push((signature::HEADER_NEXT.into(), signature::leadsbot(next, &body)));
        }
        let about = if let [one] = records
            && self.batch == Batch::ONE
        {
            headers.push(("X-LeadsBot-Event".into(), one.identity.kind.to_owned()));
            headers.push(("X-LeadsBot-Event-Id".into(), one.identity.event_id.to_owned()));
            Cow::Borrowed(one.identity.event_id)
        } else {
            let ids: Vec<&str> = records.iter().map(|r| r.identity.event_id).collect();
            headers.push(("X-LeadsBot-Event".into(), "batch".to_owned()));
            headers.push(("X-LeadsBot-Event-Ids".into(), ids.join(",")));
            Cow::Owned(id::batch(&ids))
        };
        let attempt = records.iter().map(|r| r.attempt).max().unwrap_or(1);
        headers.extend([
            ("X-LeadsBot-Delivery-Id".into(), id::delivery(&about, first.identity.destination)),
            ("X-LeadsBot-Attempt".into(), attempt.to_string()),
            ("X-LeadsBot-Timestamp".into(), timestamp.to_string()),
        ]);
        if !self.secrets.is_empty() {
            headers.extend([
                ("webhook-id".into(), about.clone().into_owned()),
                ("webhook-timestamp".into(), timestamp.to_string()),
                ("webhook-signature".into(), signature::standard(&self.secrets, &about, timestamp, &body)),
            ]);
        }
        request.hidden.clone_from(&self.headers);
        request.headers.extend(made);
        if self.batch != Batch::ONE {
            request.answer_bytes_max = BATCH_ANSWER_BYTES;
        }
        Ok(request)
    }

    /// The address and the headers that are made anew for each event.
    fn made_for(&self, record: &Record<'_>) -> Result<(Url, Vec<(String, String)>), MappingError> {
        if self.url_template.is_none() && self.header_templates.is_empty() {
            return Ok((self.url.clone(), Vec::new()));
        }
        let fault = |at: &str, message: &str| MappingError { at: at.to_owned(), message: message.to_owned() };
        let event = Event::parse(record.event.ok_or_else(|| fault("event", "the stored event cannot be read any more"))?)?;
        let url = match &self.url_template {
            None => self.url.clone(),
            Some(template) => {
                let made = Url::parse(&template.render(&event)?).map_err(|_| fault("url", "makes no URL of this event"))?;
                // Whatever a visitor typed, the leads go to the host that was configured.
                if made.origin() != self.url.origin() || !made.username().is_empty() || made.password().is_some() {
                    return Err(fault("url", "makes a URL with another host of this event"));
                }
                made
            }
        };
        let mut headers = Vec::with_capacity(self.header_templates.len());
        for (name, template) in &self.header_templates {
            let value = template.render(&event)?;
            if http::HeaderValue::from_str(&value).is_err() {
                return Err(fault(&format!("headers.{name}"), "makes a value of this event that cannot be sent in a header"));
            }
            headers.push((name.clone(), value));
        }
        Ok((url, headers))
    }

    fn judged(&self, count: usize, answer: &Answer, moment: &Moment) -> Result<Judgement, MappingError> {
        let whole = self.tested(judge(&self.url, answer, moment), answer)?;
        let Answer::Response(response) = answer else { return Ok(Judgement::All(whole)) };
        if self.batch == Batch::ONE || response.status != MULTI_STATUS || whole.class != Class::Delivered {
            return Ok(Judgement::All(whole));
        }
        Ok(match each(response) {
            Some(each) if each.len() == count => Judgement::Each(each.iter().map(|r| judge(&self.url, r, moment)).collect()),
            _ => Judgement::All(Verdict {
                class: Class::Temporary,
                code: "protocol_error",
                reason: format!("HTTP 207 without the list of {count} results that it announces"),
                ..whole
            }),
        })
    }

    /// A 2xx is taken at its word only if what must hold of it holds.
    fn tested(&self, verdict: Verdict, answer: &Answer) -> Result<Verdict, MappingError> {
        let (Some(success), Answer::Response(response), Class::Delivered) = (&self.success, answer, verdict.class) else {
            return Ok(verdict);
        };
        let body = response.json().unwrap_or_else(|| String::from_utf8_lossy(&response.body).into());
        let told = Event::from_json(json!({ "status": response.status, "body": body }));
        if success.holds(&told)? {
            return Ok(verdict);
        }
        let reason = format!("HTTP {}, but the destination's success test does not hold for this answer", response.status);
        Ok(Verdict { class: Class::Rejected, code: "rejected_body", reason, ..verdict })
    }
}

/// The bodies, which are JSON, as one array.
fn array(records: &[Record<'_>]) -> Vec<u8> {
    let mut out = vec![b'['];
    for (index, record) in records.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(record.body);
    }
    out.push(b']');
    out
}

/// What a 207 says of each delivery: `{"results":[{"status":200},{"status":422,"error":"…"}]}`, as answers of their own.
fn each(response: &Response) -> Option<Vec<Answer>> {
    let json = response.json()?;
    let one = |result: &Value| {
        let status = result.get("status").and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok())?;
        let body = result.get("error").map(Value::to_string).unwrap_or_default().into_bytes();
        Some(Answer::Response(Response { status, body, date: response.date.clone(), ..Response::default() }))
    };
    json.get("results")?.as_array()?.iter().map(one).collect()
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
