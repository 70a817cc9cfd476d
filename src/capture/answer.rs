//! Answers: JSON for programs, pages for people, the same faults for both.

use crate::lead::Fault;
use crate::store;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

/// What hyper sends back.
pub type Answer = Response<Full<Bytes>>;

/// A refusal, before it is known whether a person or a program will read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    pub field: Option<String>,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u32>,
    /// Methods the path does take.
    pub allow: Option<&'static str>,
    /// The connection is not usable any more: part of the request was left unread.
    pub close: bool,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None, retry_after: None, allow: None, close: false }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here")
    }

    pub fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("use {allow} here")) }
    }

    pub fn busy(message: &str) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message) }
    }

    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// The refusal as JSON.
    pub fn json(&self) -> Answer {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let (Some(field), Some(object)) = (&self.field, error.as_object_mut()) {
            object.insert("field".to_owned(), Value::from(field.as_str()));
        }
        let mut answer = json_answer(self.status, &json!({ "error": error }));
        self.decorate(&mut answer);
        answer
    }

    /// Adds the headers that go with it, whatever the body is.
    pub fn decorate(&self, answer: &mut Answer) {
        if let Some(seconds) = self.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            answer.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"leadsbotd\""));
        }
        if self.close {
            answer.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_REQUEST);
        Self { field: fault.field, ..Self::new(status, fault.code, fault.message) }
    }
}

impl From<store::Error> for Refusal {
    fn from(e: store::Error) -> Self {
        match e {
            store::Error::Busy => Self::busy("the device is busy; nothing was kept, send it again in a moment"),
            store::Error::Full => Self {
                retry_after: Some(60),
                ..Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "storage_full",
                    "the device has no room left; nothing was kept, tell the staff",
                )
            },
            store::Error::NotFound => Self::not_found(),
            _ => Self {
                retry_after: Some(10),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "storage_failed",
                    "the device's disk has failed; nothing was kept, tell the staff",
                )
            },
        }
    }
}

/// A JSON answer. Answers hold people's details: no cache may keep them.
pub fn json_answer(status: StatusCode, value: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec());
    with_body(status, "application/json", bytes)
}

/// An answer with a body.
pub fn with_body(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = status;
    answer
}
