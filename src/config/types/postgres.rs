//! `type = "postgres"`.

use super::super::read::At;
use super::warehouse::{batch, columns, table};
use super::{Given, Made, Samples, host_is_local};
use crate::delivery::{PostgresWire, Wire};
use crate::destination::postgres::{ID_ONLY, OWN, OWN_AND_DATA, Postgres};
use crate::destination::row::Row;
use crate::mapping::Shape;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::{Host, Url};

/// Bytes of an identifier (https://www.postgresql.org/docs/current/limits.html).
const NAME_BYTES_MAX: usize = 63;
const DEFAULT_PORT: u16 = 5432;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    if !cfg!(feature = "postgres") {
        given.table.fault_of("type", "is known, but this leadsbotd was built without it (cargo feature postgres)");
    }
    let text = given.table.required("url");
    let url = text.as_ref().and_then(|text| address(given, text));
    let password = given.token("password");
    let tls = sslmode(given, url.as_ref());
    let name = table(given, NAME_BYTES_MAX);
    let create = given.table.flag("create_table", true);
    let own = match (create, given.table.has("map")) {
        (true, true) => OWN,
        (false, true) => ID_ONLY,
        (_, false) => OWN_AND_DATA,
    };
    let map = columns(given, own, NAME_BYTES_MAX);
    let batch = batch(given, 100, 100, 0);
    let create = create.then(|| map.as_ref().map_or_else(Vec::new, |map| types(map, given.samples)));
    let (url, table, tls) = (url?, name?, tls?);
    let host = url.host_str()?.to_owned();
    let port = url.port().unwrap_or(DEFAULT_PORT);
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let wire = PostgresWire {
        user: decoded(url.username()),
        password: password?,
        database: decoded(url.path().trim_start_matches('/')),
        tls,
        host: host.clone(),
        port,
    };
    let connector = Postgres { place: format!("postgres://{host}:{port}"), table, row: Row { own, map }, create, batch };
    Some(Made { connector: Box::new(connector), wire: Wire::Postgres(wire) })
}

fn address(given: &Given<'_, '_, '_, '_>, text: &At<String>) -> Option<Url> {
    const FORM: &str = "postgres://user@db.example.com:5432/database";
    let fault = match Url::parse(&text.value) {
        Err(e) => format!("is no URL ({e}); write it as in {FORM}"),
        Ok(url) if !matches!(url.scheme(), "postgres" | "postgresql") => format!("must begin with postgres://, as in {FORM}"),
        Ok(url) if url.password().is_some() => {
            "must not hold the password; give it by secret, secret_file, secret_env or secret_credential".to_owned()
        }
        Ok(url) if url.host_str().is_none_or(str::is_empty) => format!("has no host; write it as in {FORM}"),
        Ok(url) if url.username().is_empty() => format!("has no user; write it as in {FORM}"),
        Ok(url) if url.path().trim_start_matches('/').is_empty() || url.path().trim_start_matches('/').contains('/') => {
            format!("must end with the name of one database, as in {FORM}")
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "must end after the database; what libpq takes there are keys of their own here, such as sslmode".to_owned()
        }
        Ok(url) => return Some(url),
    };
    given.table.fault_at(text, fault);
    None
}

/// Whether the connection is encrypted. Inside the device and its own network it need not be.
fn sslmode(given: &Given<'_, '_, '_, '_>, url: Option<&Url>) -> Option<bool> {
    // The scheme is none that the url crate knows, so its hosts are only texts.
    let host = url.and_then(|url| Host::parse(url.host_str()?).ok());
    let local = host.as_ref().is_some_and(host_is_local);
    let Some(text) = given.table.name("sslmode") else { return Some(!local) };
    match text.value.as_str() {
        "require" => Some(true),
        "disable" if !local && !given.allow_http && matches!(host, Some(Host::Ipv4(_) | Host::Ipv6(_))) => {
            let fault = "sends leads unencrypted to a public address, where anybody on the way can read them; use require, or set allow_http = true";
            given.table.fault_at(&text, fault);
            None
        }
        "disable" => Some(false),
        _ => {
            given.table.fault_at(&text, "must be require (TLS, and the certificate must hold) or disable");
            None
        }
    }
}

/// The column types of a table that is to be made, by what the expressions give for invented events.
fn types(map: &Shape, samples: &Samples) -> Vec<&'static str> {
    let Shape::Object(entries) = map else { return Vec::new() };
    let of_values = |shape: &Shape| {
        let values = samples.0.iter().filter_map(|(_, event)| shape.render(event).ok());
        values.map(|value| kind(&value)).find(Option::is_some).flatten()
    };
    entries.iter().map(|(_, shape)| of_values(shape).unwrap_or("text")).collect()
}

/// A number is `numeric`: what is whole in one event may have a fraction in the next.
fn kind(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some("boolean"),
        Value::Number(_) => Some("numeric"),
        Value::String(text) if text.parse::<Timestamp>().is_ok() => Some("timestamptz"),
        Value::String(_) => Some("text"),
        Value::Array(_) | Value::Object(_) => Some("jsonb"),
    }
}
