//! What is in the queue, for people: counts, the oldest, lists. Reads only.

use super::Error;
use super::counting::Counts;
use crate::time::{Tick, Wall};
use rusqlite::{Connection, OptionalExtension, params};

/// Counts by index only; takes the longer, the more there are.
pub fn counts(conn: &Connection, dest: i64) -> Result<Counts, Error> {
    let one = |sql: &str| -> Result<i64, Error> { Ok(conn.prepare_cached(sql)?.query_row([dest], |r| r.get(0))?) };
    let held = conn
        .prepare_cached("SELECT count(*) FROM waiting INDEXED BY waiting_due WHERE dest = ?1 AND due = ?2")?
        .query_row([dest, Tick::HELD.0], |r| r.get(0))?;
    let waiting = one("SELECT count(*) FROM waiting INDEXED BY waiting_due WHERE dest = ?1")?;
    Ok(Counts {
        ready: one("SELECT count(*) FROM ready WHERE dest = ?1 AND at IS NULL")?,
        retrying: waiting - held,
        held,
        dead: one("SELECT count(*) FROM dead WHERE dest = ?1")?,
    })
}

/// When the oldest unfinished delivery's event was made.
pub fn oldest(conn: &Connection, dest: i64) -> Result<Option<Wall>, Error> {
    Ok(conn
        .prepare_cached(
            "SELECT at FROM event WHERE seq = (SELECT min(event) FROM (
               SELECT (SELECT event FROM ready WHERE dest = ?1 AND at IS NULL ORDER BY event LIMIT 1) AS event
               UNION ALL SELECT min(event) FROM waiting WHERE dest = ?1))",
        )?
        .query_row([dest], |r| r.get(0).map(Wall))
        .optional()?)
}

/// Where a delivery is, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The destination's number.
    pub dest: i64,
    /// The event's number.
    pub event: i64,
    /// `ready`, `retrying`, `held`, `dead`, `delivered`, `dropped`.
    pub state: String,
    /// Counted attempts.
    pub attempts: u32,
    /// When it is due, of those that were put off.
    pub due: Option<Tick>,
    /// Stable word for the latest trouble.
    pub code: Option<String>,
    /// Sentence for the operator.
    pub reason: Option<String>,
    /// HTTP status of the last answer, where kept.
    pub status: Option<u16>,
    /// What the receiver answered, of dead letters.
    pub answer: Option<String>,
    /// When it finished.
    pub finished: Option<Wall>,
    /// `lead.created`, …
    pub kind: String,
    /// When the event was made.
    pub at: Wall,
    /// The random half of the event's id.
    pub random: u64,
    /// The lead's number.
    pub lead: Option<i64>,
}

// Columns after the event number, for each table in the same order.
const READY: &str = "SELECT dest, event, 'ready' AS state, 0 AS attempts, NULL AS due, NULL AS code, NULL AS reason, NULL AS status, NULL AS answer, NULL AS finished FROM (SELECT dest, event FROM ready WHERE at IS NULL)";
const DONE: &str = "SELECT dest, event, 'delivered' AS state, attempts, NULL AS due, NULL AS code, NULL AS reason, status, NULL AS answer, at AS finished FROM (SELECT * FROM ready WHERE at IS NOT NULL)";
const WAITING: &str = "SELECT dest, event, iif(due = 9223372036854775807, 'held', 'retrying') AS state, attempts, due, code, reason, NULL AS status, NULL AS answer, NULL AS finished FROM waiting";
const DEAD: &str = "SELECT dest, event, 'dead' AS state, attempts, NULL AS due, class || '/' || code AS code, reason, status, answer, at AS finished FROM dead";
const HISTORY: &str = "SELECT dest, event, result AS state, attempts, NULL AS due, NULL AS code, NULL AS reason, status, NULL AS answer, at AS finished FROM history";

/// What is shown of a delivery, from `part`, which is one of the tables above narrowed by its key.
fn entries(conn: &Connection, part: &str, parameters: impl rusqlite::Params) -> Result<Vec<Entry>, Error> {
    let sql = format!(
        "SELECT q.dest, q.event, q.state, q.attempts, q.due, q.code, q.reason, q.status, q.answer, q.finished, e.kind, e.at, e.random, e.lead
         FROM ({part}) q JOIN event e ON e.seq = q.event ORDER BY q.event"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(parameters, entry)?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

/// The unfinished and dead deliveries of a destination after event `after`, oldest first. `state` narrows. Each table is read along its
/// key, so a page costs the same however long the queue is.
pub fn list(conn: &Connection, dest: i64, state: Option<&str>, after: i64, limit: i64) -> Result<Vec<Entry>, Error> {
    let key = "WHERE dest = ?1 AND event > ?2";
    let parts = [
        ("ready", format!("{READY} {key} ORDER BY event LIMIT ?3")),
        ("held", format!("{WAITING} {key} AND due = 9223372036854775807 ORDER BY event LIMIT ?3")),
        ("retrying", format!("{WAITING} {key} AND due < 9223372036854775807 ORDER BY event LIMIT ?3")),
        ("dead", format!("{DEAD} {key} ORDER BY event LIMIT ?3")),
    ];
    let mut found = Vec::new();
    for (name, part) in parts {
        if state.is_none_or(|s| s == name) {
            found.extend(entries(conn, &part, params![dest, after, limit])?);
        }
    }
    found.sort_by_key(|e| e.event);
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// All deliveries of one event, finished ones included.
pub fn of_event(conn: &Connection, event: i64, destinations: &[i64]) -> Result<Vec<Entry>, Error> {
    let mut found = entries(conn, &format!("{HISTORY} WHERE event = ?1"), [event])?;
    for dest in destinations {
        for part in [READY, DONE, WAITING, DEAD] {
            found.extend(entries(conn, &format!("{part} WHERE dest = ?1 AND event = ?2"), [*dest, event])?);
        }
    }
    found.sort_by_key(|e| e.dest);
    Ok(found)
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        dest: row.get(0)?,
        event: row.get(1)?,
        state: row.get(2)?,
        attempts: row.get(3)?,
        due: row.get::<_, Option<i64>>(4)?.map(Tick),
        code: row.get(5)?,
        reason: row.get(6)?,
        status: row.get(7)?,
        answer: row.get(8)?,
        finished: row.get::<_, Option<i64>>(9)?.map(Wall),
        kind: row.get(10)?,
        at: Wall(row.get(11)?),
        random: super::from_column(row.get(12)?),
        lead: row.get(13)?,
    })
}

/// The deliveries that were made to a destination whose events are of `[since, until)`, oldest first; not those that were dropped.
pub fn finished(conn: &Connection, dest: i64, since: Wall, until: Wall) -> Result<Vec<i64>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT f.event FROM (SELECT event FROM history WHERE dest = ?1 AND result = 'delivered' UNION SELECT event FROM ready WHERE dest = ?1 AND at IS NOT NULL) f
         JOIN event e ON e.seq = f.event WHERE e.at >= ?2 AND e.at < ?3 ORDER BY f.event",
    )?;
    let rows = statement.query_map(params![dest, since.0, until.0], |r| r.get(0))?;
    rows.map(|r| r.map_err(Error::from)).collect()
}
