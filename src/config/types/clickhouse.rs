//! `type = "clickhouse"`.

use super::super::secrets;
use super::warehouse::{batch, columns, table};
use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::clickhouse::{ClickHouse, ID_ONLY, OWN};
use crate::destination::row::Row;
use crate::secret::Hidden;
use toml::de::DeValue;

const NAME_BYTES_MAX: usize = 200;
/// Set by leadsbotd or by keys of their own.
const RESERVED: [&str; 6] = ["query", "user", "password", "async_insert", "wait_for_async_insert", "insert_deduplication_token"];

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url("url");
    if let Some(query) = url.as_ref().and_then(|url| url.query()) {
        let what = if query.contains("password") {
            "must not hold a password; see user and secret"
        } else {
            "must not hold a query; see settings"
        };
        given.table.fault_of("url", what);
    }
    let user = given.table.name("user").map_or_else(|| "default".to_owned(), |user| user.value);
    if http::HeaderValue::from_str(&user).is_err() {
        given.table.fault_of("user", "cannot be sent in a header; it must be one line of text");
    }
    let password = if secrets::given(given.table) { secrets::hidden(given.table, given.warnings) } else { None };
    if let Some(password) = &password
        && http::HeaderValue::from_str(&password.value).is_err()
    {
        given.table.fault_at(password, "cannot be sent in a header; it must be one line of text");
    }
    let name = table(given, NAME_BYTES_MAX);
    let own = if given.table.has("map") { ID_ONLY } else { OWN };
    let map = columns(given, own, NAME_BYTES_MAX);
    let asynchronous = given.table.flag("async_insert", true);
    let dedup_token = given.table.flag("dedup_token", true);
    let settings = settings(given, asynchronous);
    let batch = batch(given, 256, 200, 5);
    let url = url?;
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let password = password.map(|text| Hidden(text.value));
    let connector = ClickHouse { url, user, password, table: name?, row: Row { own, map }, settings, dedup_token, batch };
    Some(Made { connector: Box::new(connector), wire })
}

fn settings(given: &Given<'_, '_, '_, '_>, asynchronous: bool) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if asynchronous {
        // Never without the second: an insert that nobody waited for is no delivery.
        out.push(("async_insert".to_owned(), "1".to_owned()));
        out.push(("wait_for_async_insert".to_owned(), "1".to_owned()));
    }
    let table = given.table.table("settings");
    for (key, value) in table.entries() {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Boolean(flag) => u8::from(*flag).to_string(),
            _ => {
                table.fault_at(&key, "must be a text, a whole number, or true or false");
                continue;
            }
        };
        if RESERVED.contains(&key.value.as_str()) {
            table.fault_at(&key, "is set by a key of its own or by leadsbotd itself; take it out");
        }
        out.push((key.value, text));
    }
    table.take_all();
    let times = "date_time_input_format";
    if out.iter().all(|(name, _)| name != times) {
        // Without it only '2026-11-23 12:00:00' is a time there, in whatever zone the column has.
        out.push((times.to_owned(), "best_effort".to_owned()));
    }
    out
}
