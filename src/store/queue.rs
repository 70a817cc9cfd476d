//! Deliveries: `ready`, `waiting`, `dead`, `history` and `rendered`, and every statement that moves one between them.
//!
//! Invariant: a delivery (event, destination) is in exactly one of the first four. A row of `ready` whose `at` is filled in is finished
//! and only waits to be moved to `history` by [`settle`]. Every way into the queue goes through
//! [`enqueue`] or, for dead letters, [`retry`]; every way out goes through [`leave`], the operator's commands included, or the order per
//! lead breaks.

use super::counting::Tally;
use super::{Error, unpack};
use crate::time::{Tick, Wall};
use rusqlite::{Connection, OptionalExtension, params};
use std::borrow::Cow;

/// A delivery a lane may send, with all it needs.
#[derive(Debug, Clone)]
pub struct Job {
    /// The event's number.
    pub event: i64,
    /// The lead it is about.
    pub lead: Option<i64>,
    /// `lead.created`, …
    pub kind: String,
    /// The random half of the event's id.
    pub random: u64,
    /// The event's bytes, if they can be read.
    pub event_body: Result<Vec<u8>, Error>,
    /// The delivery's own bytes, when an earlier attempt fixed them.
    pub rendered: Option<Vec<u8>>,
    /// Attempts counted so far.
    pub attempts: u32,
    /// Powered time between the first counted attempt and `seen`, ms.
    pub age_ms: i64,
    /// When the latest counted attempt was.
    pub seen: Tick,
}

/// What became of an attempt; applied to wherever the delivery is by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The destination's number.
    pub dest: i64,
    /// The event's number.
    pub event: i64,
    /// What to write.
    pub end: End,
    /// The body to keep for further attempts, when it is not the event's own and not kept yet.
    pub rendered: Option<Vec<u8>>,
}

/// The three ways an attempt leaves a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Delivered.
    Done {
        /// When.
        at: Wall,
        /// Counted attempts, this one included.
        attempts: u32,
        /// HTTP status.
        status: Option<u16>,
    },
    /// Counted; again at `due`.
    Later {
        /// When it is due.
        due: Tick,
        /// Counted attempts, this one included.
        attempts: u32,
        /// See [`Job::age_ms`].
        age_ms: i64,
        /// Now.
        seen: Tick,
        /// Stable word for the cause.
        code: String,
        /// Sentence for the operator.
        reason: String,
    },
    /// Given up.
    Dead(Box<Letter>),
    /// Not counted, nothing moves; only `rendered` is to be kept.
    Unmoved,
}

/// A dead letter's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// When it was given up.
    pub at: Wall,
    /// Counted attempts.
    pub attempts: u32,
    /// `rejected`, `internal`, …
    pub class: String,
    /// Stable word for the cause.
    pub code: String,
    /// HTTP status of the last answer.
    pub status: Option<u16>,
    /// Sentence for the operator.
    pub reason: String,
    /// First characters of the receiver's answer.
    pub answer: String,
}

/// Puts a new delivery into the queue: `ready`, or held back while an earlier event of the same lead has not finished there.
pub fn enqueue(conn: &Connection, tally: &mut Tally, dest: i64, event: i64, lead: Option<i64>) -> Result<(), Error> {
    if let Some(lead) = lead.filter(|l| *l != event)
        && earlier_unfinished(conn, dest, event, lead)?
    {
        conn.prepare_cached("INSERT INTO waiting (dest, event, due, attempts, age, seen) VALUES (?1, ?2, ?3, 0, 0, 0)")?
            .execute(params![dest, event, Tick::HELD.0])?;
        tally.of(dest).held += 1;
        return Ok(());
    }
    conn.prepare_cached("INSERT INTO ready (dest, event) VALUES (?1, ?2)")?.execute([dest, event])?;
    tally.of(dest).ready += 1;
    Ok(())
}

fn earlier_unfinished(conn: &Connection, dest: i64, event: i64, lead: i64) -> Result<bool, Error> {
    Ok(conn
        .prepare_cached(
            "SELECT EXISTS (
               SELECT 1 FROM (SELECT ?3 AS seq UNION ALL SELECT seq FROM event WHERE lead = ?3 AND lead <> seq AND seq < ?2) e
               WHERE EXISTS (SELECT 1 FROM ready r WHERE r.dest = ?1 AND r.event = e.seq AND r.at IS NULL)
                  OR EXISTS (SELECT 1 FROM waiting w WHERE w.dest = ?1 AND w.event = e.seq))",
        )?
        .query_row([dest, event, lead], |r| r.get(0))?)
}

/// Takes a delivery out of `ready` or `waiting` and lets the next event of its lead go. False when it was in neither.
pub fn leave(conn: &Connection, tally: &mut Tally, dest: i64, event: i64) -> Result<bool, Error> {
    let ready = conn.prepare_cached("DELETE FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NULL")?.execute([dest, event])? > 0;
    let waited: Option<i64> = if ready {
        tally.of(dest).ready -= 1;
        None
    } else {
        let mut delete = conn.prepare_cached("DELETE FROM waiting WHERE dest = ?1 AND event = ?2 RETURNING due")?;
        delete.query_row([dest, event], |r| r.get(0)).optional()?
    };
    match waited {
        Some(due) if due == Tick::HELD.0 => tally.of(dest).held -= 1,
        Some(_) => tally.of(dest).retrying -= 1,
        None => {}
    }
    let left = ready || waited.is_some();
    if left {
        conn.prepare_cached("DELETE FROM rendered WHERE dest = ?1 AND event = ?2")?.execute([dest, event])?;
    }
    release(conn, tally, dest, event)?;
    Ok(left)
}

/// Lets the next event of the lead go, unless another one before it has not finished either.
fn release(conn: &Connection, tally: &mut Tally, dest: i64, event: i64) -> Result<(), Error> {
    let Some(lead) = lead_of(conn, event)? else { return Ok(()) };
    let next: Option<i64> = conn
        .prepare_cached(
            "SELECT e.seq FROM event e JOIN waiting w ON w.dest = ?1 AND w.event = e.seq
             WHERE e.lead = ?2 AND e.lead <> e.seq AND w.due = ?3 ORDER BY e.seq LIMIT 1",
        )?
        .query_row(params![dest, lead, Tick::HELD.0], |r| r.get(0))
        .optional()?;
    if let Some(next) = next
        && !earlier_unfinished(conn, dest, next, lead)?
    {
        conn.prepare_cached("UPDATE waiting SET due = 0 WHERE dest = ?1 AND event = ?2")?.execute([dest, next])?;
        let counts = tally.of(dest);
        (counts.held, counts.retrying) = (counts.held - 1, counts.retrying + 1);
    }
    Ok(())
}

/// The lead an event is about.
pub fn lead_of(conn: &Connection, event: i64) -> Result<Option<i64>, Error> {
    Ok(conn.prepare_cached("SELECT lead FROM event WHERE seq = ?1")?.query_row([event], |r| r.get(0)).optional()?.flatten())
}

/// Applies an outcome. What an operator dropped or erased meanwhile is not brought back. True when the delivery is finished and its row
/// waits for [`settle`].
pub fn apply(conn: &Connection, tally: &mut Tally, outcome: &Outcome) -> Result<bool, Error> {
    let (dest, event) = (outcome.dest, outcome.event);
    if let Some(body) = &outcome.rendered
        && !matches!(outcome.end, End::Done { .. } | End::Dead(_))
        && pending(conn, dest, event)?
    {
        conn.prepare_cached("INSERT INTO rendered (dest, event, body) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![dest, event, body])?;
    }
    match &outcome.end {
        End::Done { at, attempts, status } => {
            let noted = conn
                .prepare_cached("UPDATE ready SET at = ?3, attempts = ?4, status = ?5 WHERE dest = ?1 AND event = ?2 AND at IS NULL")?
                .execute(params![dest, event, at.0, attempts, status])?;
            if noted > 0 {
                conn.prepare_cached("DELETE FROM rendered WHERE dest = ?1 AND event = ?2")?.execute([dest, event])?;
                tally.of(dest).ready -= 1;
                release(conn, tally, dest, event)?;
                return Ok(true);
            }
            // The commit before, whose success nobody could see, has succeeded after all.
            if is_noted(conn, dest, event)? {
                return Ok(true);
            }
            leave(conn, tally, dest, event)?;
            finish(conn, tally, dest, event, *at, *attempts, "delivered", *status)?;
        }
        End::Later { due, attempts, age_ms, seen, code, reason } => {
            let moved = conn
                .prepare_cached(
                    "UPDATE waiting SET due = ?3, attempts = ?4, age = ?5, seen = ?6, code = ?7, reason = ?8 WHERE dest = ?1 AND event = ?2",
                )?
                .execute(params![dest, event, due.0, attempts, age_ms, seen.0, code, reason])?;
            if moved == 0
                && conn.prepare_cached("DELETE FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NULL")?.execute([dest, event])? > 0
            {
                conn.prepare_cached(
                    "INSERT INTO waiting (dest, event, due, attempts, age, seen, code, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![dest, event, due.0, attempts, age_ms, seen.0, code, reason])?;
                let counts = tally.of(dest);
                (counts.ready, counts.retrying) = (counts.ready - 1, counts.retrying + 1);
            }
        }
        End::Dead(letter) => {
            if leave(conn, tally, dest, event)? {
                bury(conn, tally, dest, event, letter)?;
            }
        }
        End::Unmoved => {}
    }
    Ok(false)
}

/// Moves finished rows of `ready` to `history`.
pub fn settle(conn: &Connection, finished: &[(i64, i64)]) -> Result<(), Error> {
    let mut record = conn.prepare_cached(
        "INSERT INTO history (event, dest, at, attempts, result, status)
         SELECT event, dest, at, ifnull(attempts, 1), 'delivered', status FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NOT NULL
         ON CONFLICT (event, dest) DO UPDATE SET at = excluded.at, attempts = excluded.attempts, result = excluded.result, status = excluded.status",
    )?;
    let mut delete = conn.prepare_cached("DELETE FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NOT NULL")?;
    for (dest, event) in finished {
        record.execute([dest, event])?;
        delete.execute([dest, event])?;
    }
    Ok(())
}

/// Finished rows of `ready`, at most `limit`. Reads the whole table when there are fewer.
pub fn unsettled(conn: &Connection, limit: i64) -> Result<Vec<(i64, i64)>, Error> {
    let mut statement = conn.prepare_cached("SELECT dest, event FROM ready WHERE at IS NOT NULL LIMIT ?1")?;
    let rows = statement.query_map([limit], |r| Ok((r.get(0)?, r.get(1)?)))?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

/// Finished rows among the oldest of each destination in `ready`: where a process that died has left them.
pub fn unsettled_at_front(conn: &Connection, look_at: i64) -> Result<Vec<(i64, i64)>, Error> {
    let mut statement = conn.prepare(
        "SELECT d.dest, r.event FROM destination d CROSS JOIN ready r ON r.dest = d.dest
         WHERE r.at IS NOT NULL AND r.event <= (SELECT max(event) FROM (SELECT event FROM ready WHERE dest = d.dest ORDER BY event LIMIT ?1))",
    )?;
    let rows = statement.query_map([look_at], |r| Ok((r.get(0)?, r.get(1)?)))?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

/// Whether the end of a delivery stands in `ready`.
fn is_noted(conn: &Connection, dest: i64, event: i64) -> Result<bool, Error> {
    Ok(conn.prepare_cached("SELECT 1 FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NOT NULL")?.exists([dest, event])?)
}

fn pending(conn: &Connection, dest: i64, event: i64) -> Result<bool, Error> {
    Ok(conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NULL) OR EXISTS (SELECT 1 FROM waiting WHERE dest = ?1 AND event = ?2)",
        )?
        .query_row([dest, event], |r| r.get(0))?)
}

#[expect(clippy::too_many_arguments, reason = "the columns of a row")]
fn finish(
    conn: &Connection,
    tally: &mut Tally,
    dest: i64,
    event: i64,
    at: Wall,
    attempts: u32,
    result: &str,
    status: Option<u16>,
) -> Result<(), Error> {
    // A delivery that was given up by hand while it was on its way and arrived all the same has arrived.
    exhume(conn, tally, dest, event)?;
    conn.prepare_cached(
        "INSERT INTO history (event, dest, at, attempts, result, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (event, dest) DO UPDATE SET at = excluded.at, attempts = excluded.attempts, result = excluded.result, status = excluded.status",
    )?
    .execute(params![event, dest, at.0, attempts, result, status])?;
    Ok(())
}

/// Takes a dead letter out; false when there is none.
fn exhume(conn: &Connection, tally: &mut Tally, dest: i64, event: i64) -> Result<bool, Error> {
    let found = conn.prepare_cached("DELETE FROM dead WHERE dest = ?1 AND event = ?2")?.execute([dest, event])? > 0;
    tally.of(dest).dead -= i64::from(found);
    Ok(found)
}

/// Makes a dead letter. Called directly only for a delivery that never was in the queue, because its filter failed.
pub fn bury(conn: &Connection, tally: &mut Tally, dest: i64, event: i64, l: &Letter) -> Result<(), Error> {
    let made = conn
        .prepare_cached(
            "INSERT INTO dead (dest, event, at, attempts, class, code, status, reason, answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (dest, event) DO NOTHING",
        )?
        .execute(params![dest, event, l.at.0, l.attempts, l.class, l.code, l.status, l.reason, l.answer])?;
    tally.of(dest).dead += i64::from(made > 0);
    Ok(())
}

/// The oldest deliveries never attempted, after event `after`.
pub fn claim_ready(conn: &Connection, dest: i64, after: i64, limit: usize) -> Result<Vec<Job>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT r.event, e.lead, e.kind, e.random, e.body, d.body, 0, 0, 0 FROM ready r JOIN event e ON e.seq = r.event
         LEFT JOIN rendered d ON d.dest = r.dest AND d.event = r.event
         WHERE r.dest = ?1 AND r.event > ?2 AND r.at IS NULL ORDER BY r.event LIMIT ?3",
    )?;
    let rows = statement.query_map(params![dest, after, i64::try_from(limit).unwrap_or(i64::MAX)], job)?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

/// Deliveries put off that are due by `now`, the longest due first.
pub fn claim_waiting(conn: &Connection, dest: i64, now: Tick, limit: usize) -> Result<Vec<Job>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT w.event, e.lead, e.kind, e.random, e.body, d.body, w.attempts, w.age, w.seen
         FROM (SELECT dest, event, due, attempts, age, seen FROM waiting INDEXED BY waiting_due WHERE dest = ?1 AND due <= ?2 ORDER BY due, event LIMIT ?3) w
         JOIN event e ON e.seq = w.event
         LEFT JOIN rendered d ON d.dest = w.dest AND d.event = w.event ORDER BY w.due, w.event",
    )?;
    let rows = statement.query_map(params![dest, now.0, i64::try_from(limit).unwrap_or(i64::MAX)], job)?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

fn job(row: &rusqlite::Row<'_>) -> rusqlite::Result<Job> {
    // A row of the log that cannot be read must not keep the others waiting: such a delivery goes to the dead letters.
    let logged = || -> rusqlite::Result<_> {
        let rendered = row.get_ref(5)?.as_bytes_or_null()?.map(<[u8]>::to_vec);
        Ok((row.get(1)?, row.get(2)?, super::from_column(row.get(3)?), unpack(row.get_ref(4)?.as_bytes()?).map(Cow::into_owned), rendered))
    };
    let (lead, kind, random, event_body, rendered) = logged().unwrap_or_else(|e| {
        (None, String::new(), 0, Err(Error::Unreadable(format!("the stored row of an event cannot be read: {e}"))), None)
    });
    Ok(Job {
        event: row.get(0)?,
        lead,
        kind,
        random,
        event_body,
        rendered,
        attempts: row.get(6)?,
        age_ms: row.get(7)?,
        seen: Tick(row.get(8)?),
    })
}

/// The tick at which the next delivery that was put off becomes due, held ones aside.
pub fn next_due(conn: &Connection, dest: i64, after: Tick) -> Result<Option<Tick>, Error> {
    Ok(conn
        .prepare_cached("SELECT due FROM waiting INDEXED BY waiting_due WHERE dest = ?1 AND due > ?2 AND due < ?3 ORDER BY due LIMIT 1")?
        .query_row(params![dest, after.0, Tick::HELD.0], |r| r.get(0).map(Tick))
        .optional()?)
}

/// Lets go every held delivery with no unfinished predecessor; there is none unless a file was repaired by hand. Returns how many.
pub fn release_orphans(conn: &Connection) -> Result<usize, Error> {
    Ok(conn.execute(
        "UPDATE waiting SET due = 0 WHERE due = ?1 AND NOT EXISTS (
           SELECT 1 FROM event me WHERE me.seq = waiting.event AND (
                EXISTS (SELECT 1 FROM ready r WHERE r.dest = waiting.dest AND r.event = me.lead AND r.at IS NULL)
             OR EXISTS (SELECT 1 FROM waiting w WHERE w.dest = waiting.dest AND w.event = me.lead AND me.lead <> me.seq)
             OR EXISTS (SELECT 1 FROM event e WHERE e.lead = me.lead AND e.lead <> e.seq AND e.seq < me.seq AND (
                     EXISTS (SELECT 1 FROM ready r WHERE r.dest = waiting.dest AND r.event = e.seq AND r.at IS NULL)
                  OR EXISTS (SELECT 1 FROM waiting w WHERE w.dest = waiting.dest AND w.event = e.seq)))))",
        [Tick::HELD.0],
    )?)
}

/// Makes a delivery due now: one that was put off, or a dead letter, which gets its attempts back and its body rendered anew. One that was
/// never attempted is due already; held ones stay held. False when it will not be tried by this.
pub fn retry(conn: &Connection, tally: &mut Tally, dest: i64, event: i64) -> Result<bool, Error> {
    let due = conn.prepare_cached("UPDATE waiting SET due = 0 WHERE dest = ?1 AND event = ?2 AND due <> ?3")?.execute(params![
        dest,
        event,
        Tick::HELD.0
    ])?;
    if due > 0 {
        return Ok(true);
    }
    if !exhume(conn, tally, dest, event)? {
        let mut ready = conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NULL)")?;
        return Ok(ready.query_row([dest, event], |r| r.get(0))?);
    }
    conn.prepare_cached("DELETE FROM rendered WHERE dest = ?1 AND event = ?2")?.execute([dest, event])?;
    put_back(conn, tally, dest, event)?;
    Ok(true)
}

/// Sends a finished delivery again: made, or dropped by hand. It gets its attempts back and a body of its own time; the ids stay. False
/// when it is not finished, or was never meant for this destination.
pub fn replay(conn: &Connection, tally: &mut Tally, dest: i64, event: i64) -> Result<bool, Error> {
    settle(conn, &[(dest, event)])?;
    if conn.prepare_cached("DELETE FROM history WHERE event = ?1 AND dest = ?2")?.execute([event, dest])? == 0 {
        return Ok(false);
    }
    put_back(conn, tally, dest, event)?;
    Ok(true)
}

/// Puts a finished delivery into the queue, behind earlier events of its lead that wait there.
fn put_back(conn: &Connection, tally: &mut Tally, dest: i64, event: i64) -> Result<(), Error> {
    let behind = match lead_of(conn, event)? {
        Some(lead) if lead != event => earlier_unfinished(conn, dest, event, lead)?,
        _ => false,
    };
    let due = if behind { Tick::HELD } else { Tick::ZERO };
    conn.prepare_cached("INSERT INTO waiting (dest, event, due, attempts, age, seen) VALUES (?1, ?2, ?3, 0, 0, 0)")?
        .execute(params![dest, event, due.0])?;
    let counts = tally.of(dest);
    *(if behind { &mut counts.held } else { &mut counts.retrying }) += 1;
    Ok(())
}

/// Takes a delivery out for good; history says `dropped`. False when it is neither unfinished nor dead.
pub fn drop_one(conn: &Connection, tally: &mut Tally, dest: i64, event: i64, at: Wall) -> Result<bool, Error> {
    let dead = exhume(conn, tally, dest, event)?;
    let left = leave(conn, tally, dest, event)?;
    if !dead && !left {
        return Ok(false);
    }
    finish(conn, tally, dest, event, at, 0, "dropped", None)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::counting::Counts;
    use super::super::listing::counts;
    use super::*;
    use crate::store::schema;

    fn database(dir: &tempfile::TempDir) -> Connection {
        let path = dir.path().join("leads.db");
        let mut conn = schema::connect(&path, schema::Purpose::Writer).unwrap();
        schema::migrate(&mut conn, &path).unwrap();
        conn
    }

    fn is_there(conn: &Connection, table: &str) -> bool {
        conn.prepare(&format!("SELECT 1 FROM {table} WHERE dest = 1 AND event = 5")).unwrap().exists([]).unwrap()
    }

    #[test]
    fn an_end_that_is_written_twice_stands_in_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let conn = database(&dir);
        let mut tally = Tally::default();
        enqueue(&conn, &mut tally, 1, 5, None).unwrap();
        let made = Outcome { dest: 1, event: 5, end: End::Done { at: Wall(700), attempts: 1, status: Some(200) }, rendered: None };
        for _ in 0..2 {
            assert!(apply(&conn, &mut tally, &made).unwrap());
            assert_eq!((is_there(&conn, "ready"), is_there(&conn, "history")), (true, false));
        }
        settle(&conn, &[(1, 5)]).unwrap();
        assert_eq!((is_there(&conn, "ready"), is_there(&conn, "history")), (false, true));
        assert_eq!(counts(&conn, 1).unwrap(), Counts::default());
        assert_eq!(tally.of(1), &Counts::default());
    }

    #[test]
    fn an_end_that_does_not_say_how_many_attempts_it_took_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let conn = database(&dir);
        conn.execute_batch("INSERT INTO ready (dest, event, at) VALUES (1, 5, 700)").unwrap();
        settle(&conn, &[(1, 5)]).unwrap();
        assert_eq!((is_there(&conn, "ready"), is_there(&conn, "history")), (false, true));
    }
}
