//! Looking a database over: SQLite's check of the file, and what must hold between its rows. Only reads, beside a running daemon as well.
//!
//! It must never name a person: events and destinations go by number.

use super::{Error, from_column, schema, unpack};
use crate::id::IdKey;
use crate::time::Tick;
use rusqlite::{Connection, params};

/// Faults of one kind that are told one by one.
const EACH_MAX: i64 = 20;

/// Everything that is wrong, a line each; empty when nothing is.
pub fn faults(conn: &Connection, ids: &IdKey) -> Result<Vec<String>, Error> {
    let mut found = match structure(conn) {
        Err(Error::Damaged(e)) => vec![format!("the file: {e}")],
        other => other?,
    };
    // What a ruined page says about the rest is not worth a line.
    if found.is_empty() {
        deliveries(conn, &mut found)?;
        leads(conn, &mut found)?;
        bodies(conn, ids, &mut found)?;
    }
    Ok(found)
}

fn structure(conn: &Connection) -> Result<Vec<String>, Error> {
    let mut statement = conn.prepare(&format!("PRAGMA integrity_check({EACH_MAX})"))?;
    let rows = statement.query_map([], |r| r.get::<_, String>(0))?;
    let lines: Vec<String> = rows.collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").map(|line| format!("the file: {line}")).collect())
}

fn deliveries(conn: &Connection, found: &mut Vec<String>) -> Result<(), Error> {
    const TABLES: [&str; 4] = ["ready", "waiting", "dead", "history"];
    for (n, one) in TABLES.iter().enumerate() {
        for other in TABLES.iter().skip(n + 1) {
            let sql =
                format!("SELECT a.event, a.dest FROM {one} a JOIN {other} b ON b.dest = a.dest AND b.event = a.event LIMIT {EACH_MAX}");
            lines(conn, &sql, &format!("is in {one} and in {other}; it must be in one of them"), found)?;
        }
        let sql = format!("SELECT event, dest FROM {one} WHERE dest NOT IN (SELECT dest FROM destination) LIMIT {EACH_MAX}");
        lines(conn, &sql, "is for a destination that nobody knows", found)?;
    }
    for table in ["ready", "waiting", "dead"] {
        let sql = format!("SELECT event, dest FROM {table} t WHERE NOT EXISTS (SELECT 1 FROM event WHERE seq = t.event) LIMIT {EACH_MAX}");
        lines(conn, &sql, &format!("is in {table}, and its event is not there"), found)?;
    }
    let held = format!(
        "SELECT w.event, w.dest FROM waiting w JOIN event me ON me.seq = w.event WHERE w.due = {} AND NOT EXISTS (
           SELECT 1 FROM event e WHERE (e.seq = me.lead OR e.lead = me.lead) AND e.seq < me.seq AND (
                EXISTS (SELECT 1 FROM ready r WHERE r.dest = w.dest AND r.event = e.seq AND r.at IS NULL)
             OR EXISTS (SELECT 1 FROM waiting b WHERE b.dest = w.dest AND b.event = e.seq))) LIMIT {EACH_MAX}",
        Tick::HELD.0
    );
    lines(conn, &held, "is held back, and there is nothing it could wait for", found)
}

/// `sql` gives pairs of event and destination.
fn lines(conn: &Connection, sql: &str, what: &str, found: &mut Vec<String>) -> Result<(), Error> {
    let mut statement = conn.prepare(sql)?;
    let rows = statement.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))?;
    for row in rows {
        let (event, dest) = row?;
        found.push(format!("the delivery of event number {event} to destination number {dest} {what}"));
    }
    Ok(())
}

fn leads(conn: &Connection, found: &mut Vec<String>) -> Result<(), Error> {
    // Before its first number a database that was begun anew has only what could be saved.
    let sql = "SELECT DISTINCT e.lead FROM event e WHERE e.lead <> e.seq AND e.lead >= ?1 AND NOT EXISTS (SELECT 1 FROM event c WHERE c.seq = e.lead)
               UNION SELECT lead FROM lead l WHERE NOT EXISTS (SELECT 1 FROM event c WHERE c.seq = l.lead) LIMIT ?2";
    let mut statement = conn.prepare(sql)?;
    for row in statement.query_map(params![schema::first_number(conn)?, EACH_MAX], |r| r.get::<_, i64>(0))? {
        found.push(format!("lead number {} has no event that made it", row?));
    }
    Ok(())
}

fn bodies(conn: &Connection, ids: &IdKey, found: &mut Vec<String>) -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        id: String,
    }
    let limit = found.len() + usize::try_from(EACH_MAX).unwrap_or(0);
    let mut after = 0;
    loop {
        // In pieces: one long reading would keep a running daemon from shortening its log.
        let mut statement = conn.prepare_cached("SELECT seq, random, body FROM event WHERE seq > ?1 ORDER BY seq LIMIT 500")?;
        let mut rows = statement.query([after])?;
        let mut any = false;
        while let Some(row) = rows.next()? {
            any = true;
            after = row.get(0)?;
            let body: Vec<u8> = row.get(2)?;
            let read = unpack(&body).ok().and_then(|body| serde_json::from_slice::<Envelope>(&body).ok());
            match read {
                None => found.push(format!("event number {after}: its bytes are not the JSON of an event")),
                Some(event) if event.id != ids.event(from_column(row.get(1)?)).id(after) => {
                    found.push(format!("event number {after}: its bytes have another id than its row"));
                }
                Some(_) => {}
            }
            if found.len() >= limit {
                found.push("there may be more like these".to_owned());
                return Ok(());
            }
        }
        if !any {
            return Ok(());
        }
    }
}
