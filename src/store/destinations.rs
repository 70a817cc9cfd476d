//! The `destination` table: a number for each name, the operator's switches, and the lane's state as last told.

use super::{Error, schema};
use crate::time::Wall;
use rusqlite::{Connection, OptionalExtension, params};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number, for ever.
    pub dest: i64,
    /// Its name in the configuration.
    pub name: String,
    /// An operator paused it.
    pub paused: bool,
    /// Counts "try now" commands.
    pub nudge: i64,
    /// `open`, `offline`, `blocked`, …
    pub state: String,
    /// Since when.
    pub since: Option<Wall>,
    /// Why.
    pub reason: Option<String>,
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        dest: r.get(0)?,
        name: r.get(1)?,
        paused: r.get(2)?,
        nudge: r.get(3)?,
        state: r.get(4)?,
        since: r.get::<_, Option<i64>>(5)?.map(Wall),
        reason: r.get(6)?,
    })
}

const COLUMNS: &str = "SELECT dest, name, paused, nudge, state, since, reason FROM destination";

/// All of them, in the order they were first configured.
pub fn all(conn: &Connection) -> Result<Vec<Row>, Error> {
    let mut statement = conn.prepare_cached(&format!("{COLUMNS} ORDER BY dest"))?;
    let rows = statement.query_map([], row)?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

/// The one with this name.
pub fn named(conn: &Connection, name: &str) -> Result<Option<Row>, Error> {
    Ok(conn.prepare_cached(&format!("{COLUMNS} WHERE name = ?1"))?.query_row([name], row).optional()?)
}

/// The one with this number.
pub fn numbered(conn: &Connection, dest: i64) -> Result<Option<Row>, Error> {
    Ok(conn.prepare_cached(&format!("{COLUMNS} WHERE dest = ?1"))?.query_row([dest], row).optional()?)
}

/// The number of `name`, given now if it has none.
pub fn register(conn: &Connection, name: &str) -> Result<i64, Error> {
    if let Some(found) = named(conn, name)? {
        return Ok(found.dest);
    }
    conn.execute("INSERT INTO destination (dest, name) SELECT ifnull(max(dest), 0) + 1, ?1 FROM destination", [name])?;
    Ok(conn.last_insert_rowid())
}

/// Notes a lane's state.
pub fn set_state(conn: &Connection, dest: i64, state: &str, since: Wall, reason: &str) -> Result<(), Error> {
    conn.execute("UPDATE destination SET state = ?2, since = ?3, reason = ?4 WHERE dest = ?1", params![dest, state, since.0, reason])?;
    Ok(())
}

/// An operator pauses or resumes. Resuming also asks for an attempt now.
pub fn set_paused(conn: &Connection, dest: i64, paused: bool) -> Result<(), Error> {
    conn.execute("UPDATE destination SET paused = ?2, nudge = nudge + NOT ?2 WHERE dest = ?1", params![dest, paused])?;
    Ok(())
}

/// An operator asks for an attempt now, whatever the lane is waiting for.
pub fn nudge(conn: &Connection, dest: i64) -> Result<(), Error> {
    conn.execute("UPDATE destination SET nudge = nudge + 1 WHERE dest = ?1", [dest])?;
    Ok(())
}

/// The key in `meta`.
const FAILING: &str = "failing";

/// Notes which destinations are in trouble, of which somebody has been told.
pub fn set_failing(conn: &Connection, numbers: &[i64]) -> Result<(), Error> {
    let text: Vec<String> = numbers.iter().map(i64::to_string).collect();
    schema::set_meta(conn, FAILING, &text.join(" "))
}

/// What [`set_failing`] noted.
pub fn failing(conn: &Connection) -> Result<Vec<i64>, Error> {
    let text: Option<String> = schema::meta(conn, FAILING)?;
    Ok(text.unwrap_or_default().split(' ').filter_map(|number| number.parse().ok()).collect())
}

/// The key in `meta`.
const SECRETS: &str = "secrets";

/// Notes fingerprints of secrets, as [`secrets`] reads them.
pub fn set_secrets(conn: &Connection, text: &str) -> Result<(), Error> {
    schema::set_meta(conn, SECRETS, &text)
}

/// What [`set_secrets`] noted: `number:fingerprint`, separated by blanks.
pub fn secrets(conn: &Connection) -> Result<String, Error> {
    Ok(schema::meta(conn, SECRETS)?.unwrap_or_default())
}
