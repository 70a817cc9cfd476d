//! Receives leadsbotd webhooks:
//!
//! ```text
//! LEADSBOT_SECRET=... cargo run --release
//! ```
//!
//! Every event becomes one file, `STORE/<event id>.json`, holding the exact bytes that were signed.
//! A file per event lets the file system decide which of two deliveries came first, so it stays
//! right with several processes and after a crash at any moment.
//!
//! It must never answer 2xx before the event would survive a power cut: after a 2xx the sender
//! considers the event delivered and does not send it again.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

const BODY_BYTES_MAX: usize = 1024 * 1024;

struct Receiver {
    secrets: Vec<String>,
    store: PathBuf,
}

type Answer = (StatusCode, Json<Value>);

#[tokio::main]
async fn main() -> ExitCode {
    // An empty secret is no secret: with "" as a key anybody could sign.
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let Some(secret) = variable("LEADSBOT_SECRET") else {
        eprintln!("LEADSBOT_SECRET is not set: give it the secret of the destination in leadsbotd");
        return ExitCode::from(2);
    };
    let receiver = Receiver {
        secrets: [Some(secret), variable("LEADSBOT_SECRET_NEXT")].into_iter().flatten().collect(),
        store: variable("STORE").unwrap_or_else(|| "events".into()).into(),
    };
    let host = variable("HOST").unwrap_or_else(|| "127.0.0.1".into());
    let port = variable("PORT").unwrap_or_else(|| "9000".into());
    match serve(receiver, &format!("{host}:{port}")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(receiver: Receiver, address: &str) -> io::Result<()> {
    // People's details: for this user only.
    DirBuilder::new().recursive(true).mode(0o700).create(&receiver.store)?;
    sync_directory(&receiver.store.join(".."))?;
    let app = Router::new()
        .route("/", post(receive))
        .route("/{*path}", post(receive))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(receiver));
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}

/// Takes `Bytes`, never `Json`: what was signed are the bytes, not what they mean.
async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Answer {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return error(rejection.status(), &rejection.body_text()),
    };
    if !receiver.is_signed(&headers, &body) {
        return error(StatusCode::UNAUTHORIZED, "no valid signature");
    }
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return error(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let Some(id) = event_id(&headers, &event) else {
        return error(StatusCode::BAD_REQUEST, "no usable event id");
    };
    // On a thread that may block. It finishes even if the sender hangs up meanwhile.
    let kept = tokio::task::spawn_blocking(move || {
        let kept = keep(&receiver.store, &id, &body);
        if let Err(error) = &kept {
            eprintln!("{id}: not stored: {error}");
        }
        kept
    });
    // Do slow work (mail, CRM, ...) from the store, not here: the sender waits for this answer.
    match kept.await {
        Ok(Ok(true)) => (StatusCode::OK, Json(json!({ "status": "stored" }))),
        Ok(Ok(false)) => (StatusCode::OK, Json(json!({ "status": "duplicate" }))),
        Ok(Err(_)) | Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the event could not be stored"),
    }
}

impl Receiver {
    /// True when a signature header was made from these bytes with one of our secrets.
    fn is_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        ["x-leadsbot-signature", "x-leadsbot-signature-next"]
            .into_iter()
            .filter_map(|name| signature(headers, name))
            .any(|given| self.secrets.iter().any(|secret| is_signature(&given, secret, body)))
    }
}

fn is_signature(given: &[u8; 32], secret: &str, body: &[u8]) -> bool {
    // `verify_slice` compares in constant time. A key of any length is fine for HMAC.
    Hmac::<Sha256>::new_from_slice(secret.as_bytes()).is_ok_and(|mac| mac.chain_update(body).verify_slice(given).is_ok())
}

/// The header's 64 lower-case hex digits as bytes; `None` for anything else, also for two headers.
fn signature(headers: &HeaderMap, name: &str) -> Option<[u8; 32]> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let digits = value.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The id to tell duplicates by; strict, because it becomes a file name.
fn event_id(headers: &HeaderMap, event: &Value) -> Option<String> {
    let in_body = event.get("id").and_then(Value::as_str);
    let id = match headers.get("x-leadsbot-event-id") {
        Some(value) => value.to_str().ok()?,
        None => in_body?,
    };
    // The signature covers the body, not the headers: nobody may pass an old event off as a new one.
    if in_body.is_some_and(|in_body| in_body.starts_with("evt_") && in_body != id) {
        return None;
    }
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    ((1..=64).contains(&id.len()) && id.bytes().all(is_plain)).then(|| id.to_owned())
}

/// Puts the event on the disk; false when it was there already.
fn keep(store: &Path, id: &str, body: &[u8]) -> io::Result<bool> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = store.join(format!(".{id}.{}.{number}", std::process::id()));

    let linked = write_synced(&draft, body)
        // All or nothing, and only one can win.
        .and_then(|()| fs::hard_link(&draft, store.join(format!("{id}.json"))));
    // What stays behind after a crash is a hidden file that nobody reads.
    let _ = fs::remove_file(&draft);
    let is_new = match linked {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    // For a duplicate too: the delivery that created the file may not have got this far yet.
    sync_directory(store)?;
    Ok(is_new)
}

fn write_synced(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(body)?;
    file.sync_all()
}

/// A new name in a directory survives a power cut only once the directory itself is synced.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn error(status: StatusCode, message: &str) -> Answer {
    (status, Json(json!({ "error": message })))
}
