//! Reading a request's body, within its bounds, and making one submission of JSON, urlencoded and multipart.

use super::Options;
use super::answer::Refusal;
use crate::lead::{Limits, Submission, Trust};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};

/// How a body is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Json,
    Urlencoded,
    Multipart { boundary: String },
}

impl Kind {
    /// From `Content-Type`. UTF-8 is the only charset taken: guessing would garble names.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let unsupported = |code, message: &str| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, message);
        let wanted = "send application/json, application/x-www-form-urlencoded or multipart/form-data";
        if headers.get_all(CONTENT_TYPE).iter().count() > 1 {
            return Err(unsupported("unsupported_media_type", "there is more than one Content-Type"));
        }
        let value = headers.get(CONTENT_TYPE).ok_or_else(|| unsupported("unsupported_media_type", wanted))?;
        // What nearly every program says.
        if value == "application/json" {
            return Ok(Kind::Json);
        }
        let mime: mime::Mime =
            value.to_str().ok().and_then(|v| v.parse().ok()).ok_or_else(|| unsupported("unsupported_media_type", wanted))?;
        if mime.get_param(mime::CHARSET).is_some_and(|c| c != mime::UTF_8 && c != "utf8") {
            return Err(unsupported("unsupported_charset", "the only charset taken is UTF-8"));
        }
        match (mime.type_().as_str(), mime.subtype().as_str(), mime.suffix().map(|s| s.as_str())) {
            ("application", "json", None) | ("application", _, Some("json")) => Ok(Kind::Json),
            ("application", "x-www-form-urlencoded", _) => Ok(Kind::Urlencoded),
            ("multipart", "form-data", _) => match mime.get_param(mime::BOUNDARY) {
                Some(boundary) => Ok(Kind::Multipart { boundary: boundary.to_string() }),
                None => Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_multipart", "Content-Type names no boundary")),
            },
            _ => Err(unsupported("unsupported_media_type", wanted)),
        }
    }
}

/// Reads the whole body of the request with these headers.
pub async fn read(headers: &HeaderMap, body: Incoming, options: &Options) -> Result<Bytes, Refusal> {
    let max = options.body_bytes_max;
    let too_large =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body has more than {max} bytes")).closing();
    // Said before the body is sent at all.
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|n| usize::try_from(n).map_or(true, |n| n > max)) {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(options.body_timeout, Limited::new(body, max).collect()).await;
    match collected {
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time").closing()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body broke off or is not well framed").closing()),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

/// Makes a submission of the bytes.
pub async fn submission(kind: Kind, bytes: Bytes, limits: &Limits, trust: Trust) -> Result<Submission, Refusal> {
    match kind {
        Kind::Json => Ok(Submission::from_json(&bytes, limits, trust)?),
        form => Ok(Submission::from_pairs(pairs(form, bytes, limits).await?, limits, trust)?),
    }
}

/// The names and values of a form; JSON has none.
pub async fn pairs(kind: Kind, bytes: Bytes, limits: &Limits) -> Result<Vec<(String, String)>, Refusal> {
    match kind {
        Kind::Json => Ok(Vec::new()),
        Kind::Urlencoded => urlencoded(&bytes),
        Kind::Multipart { boundary } => multipart(bytes, &boundary, limits).await,
    }
}

/// The pairs of a urlencoded body. Bytes that are no UTF-8 are refused, not replaced: a garbled name helps nobody.
fn urlencoded(bytes: &[u8]) -> Result<Vec<(String, String)>, Refusal> {
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "invalid_utf8", "the form is not UTF-8");
    // What curl -d makes of JSON without being told. Taken for a form it would be a lead with one very odd field.
    if bytes.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body is JSON, but Content-Type says that it is a form; send Content-Type: application/json",
        ));
    }
    let mut pairs = Vec::new();
    for pair in bytes.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
        let strict = percent_encoding::percent_decode(pair).decode_utf8();
        if strict.is_err() {
            return Err(bad());
        }
        pairs.extend(form_urlencoded::parse(pair).into_owned());
    }
    Ok(pairs)
}

async fn multipart(bytes: Bytes, boundary: &str, limits: &Limits) -> Result<Vec<(String, String)>, Refusal> {
    let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, "invalid_multipart", message);
    let stream = futures_util::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>(bytes)));
    let mut parts = multer::Multipart::new(stream, boundary);
    let mut pairs = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(|_| bad("the body is no well-formed multipart/form-data"))? {
        if pairs.len() > limits.fields_max {
            return Err(Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_fields",
                format!("more than {} fields", limits.fields_max),
            ));
        }
        let name = part.name().map(str::to_owned).ok_or_else(|| bad("a part has no name"))?;
        let file = part.file_name().map(|f| !f.is_empty());
        let value = part.bytes().await.map_err(|_| bad("the body breaks off inside a part"))?;
        match file {
            // A file field left empty.
            Some(false) => continue,
            Some(true) => {
                return Err(Refusal {
                    field: Some(name),
                    ..Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "uploads_not_taken", "files are not taken here; send text fields only")
                });
            }
            None => {}
        }
        let value = String::from_utf8(value.to_vec())
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "invalid_utf8", "the form is not UTF-8"))?;
        pairs.push((name, value));
    }
    Ok(pairs)
}
