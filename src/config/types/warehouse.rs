//! What the readers of `postgres`, `clickhouse` and `s3` have in common.

use super::Given;
use crate::destination::Batch;
use crate::destination::row::{EVENT_ID, Own};
use crate::mapping::Shape;
use std::time::Duration;

/// Bytes of the bodies of one exchange together.
const BYTES_MAX: usize = 4 << 20;
/// Columns of a table.
const COLUMNS_MAX: usize = 300;

/// `batch_max` and `linger_seconds`.
pub fn batch(given: &Given<'_, '_, '_, '_>, most: u64, records: u64, linger: u64) -> Batch {
    let records = usize::try_from(given.table.number("batch_max", 1..=most, records)).unwrap_or(1);
    let linger = Duration::from_secs(given.table.number("linger_seconds", 0..=3600, linger));
    Batch { records, bytes: BYTES_MAX, linger }
}

/// `table`: its parts, of which the last is its name. `longest` is how many bytes a name may have there.
pub fn table(given: &Given<'_, '_, '_, '_>, longest: usize) -> Option<Vec<String>> {
    let Some(text) = given.table.name("table") else { return (!given.table.has("table")).then(|| vec!["leads".to_owned()]) };
    let parts: Vec<String> = text.value.split('.').map(str::to_owned).collect();
    let usable = |part: &String| !part.is_empty() && part.len() <= longest && !part.chars().any(char::is_control);
    if parts.len() > 2 || !parts.iter().all(usable) {
        given.table.fault_at(&text, format!("must be a table's name, or two names as in crm.leads; each with 1 to {longest} bytes"));
        return None;
    }
    Some(parts)
}

/// `map`: columns beside `own` ones.
pub fn columns(given: &Given<'_, '_, '_, '_>, own: &[Own], longest: usize) -> Option<Shape> {
    let table = given.table.table_if_given("map")?;
    let entries = table.entries();
    for (key, _) in &entries {
        if own.iter().any(|(name, _)| *name == key.value) {
            table.fault_at(key, "is a column that leadsbotd fills itself; take it out");
        } else if key.value == EVENT_ID {
            table.fault_at(key, "is the event's id in every table; take it out");
        } else if key.value.is_empty() || key.value.len() > longest || key.value.chars().any(char::is_control) {
            table.fault_at(key, format!("is no column's name; it must have 1 to {longest} bytes and no control character"));
        }
    }
    if entries.len() > COLUMNS_MAX {
        table.fault(format!("has more than {COLUMNS_MAX} columns"));
    }
    given.map("map")
}
