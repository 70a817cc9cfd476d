//! Leads and events: the log, the leads' present state, and idempotency keys.

use super::pack::{pack, unpack};
use super::{Error, from_column, to_column};
use crate::event::{Kind, lead_of};
use crate::id::{self, IdKey};
use crate::lead::Lead;
use crate::time::{Tick, Wall};
use rusqlite::{Connection, OptionalExtension, params};
use std::borrow::Cow;

/// Idempotency keys are remembered for at least this many events.
pub const SUBMISSIONS_REMEMBERED: i64 = BUCKETS * BUCKET_EVENTS;
/// Events whose keys share a page.
pub const BUCKET_EVENTS: i64 = 256;
const BUCKETS: i64 = 40;

/// A lead as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its number: that of its `lead.created`.
    pub number: i64,
    /// The random half of its first event's id.
    pub random: u64,
    /// How often it has changed.
    pub version: i64,
    /// When it was captured.
    pub created: Wall,
    /// When it last changed.
    pub changed: Option<Wall>,
    /// Its present state.
    pub lead: Lead,
}

/// One event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its number.
    pub seq: i64,
    /// Its public id.
    pub id: String,
    /// `lead.created`, …
    pub kind: String,
    /// When.
    pub at: Wall,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// The highest number given so far.
pub fn last_seq(conn: &Connection) -> Result<i64, Error> {
    Ok(conn.prepare_cached("SELECT ifnull(max(seq), 0) FROM event")?.query_row([], |r| r.get(0))?)
}

/// A new row of the log.
#[derive(Debug)]
pub struct NewRow<'a> {
    /// Its number.
    pub seq: i64,
    /// The lead it is about.
    pub lead: Option<i64>,
    /// What happened.
    pub kind: Kind,
    /// When.
    pub at: Wall,
    /// When, on the daemon's own time line.
    pub tick: Tick,
    /// The random half of its id.
    pub random: u64,
    /// Its final bytes.
    pub body: &'a [u8],
}

/// Appends to the log.
pub fn append(conn: &Connection, row: &NewRow<'_>) -> Result<(), Error> {
    conn.prepare_cached("INSERT INTO event (seq, lead, kind, at, tick, random, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![row.seq, row.lead, row.kind.name(), row.at.0, row.tick.0, to_column(row.random), pack(row.body)])?;
    Ok(())
}

/// The event that a submission with this key made, if it is remembered: its number and the random half of its id.
pub fn submitted(conn: &Connection, digest: &[u8; 16], next_seq: i64) -> Result<Option<(i64, u64)>, Error> {
    let newest = next_seq / BUCKET_EVENTS;
    let mut statement = conn
        .prepare_cached("SELECT e.seq, e.random FROM submission s JOIN event e ON e.seq = s.event WHERE s.bucket = ?1 AND s.digest = ?2")?;
    for bucket in ((newest - BUCKETS).max(0)..=newest).rev() {
        let found = statement.query_row(params![bucket, digest], |r| Ok((r.get(0)?, from_column(r.get(1)?)))).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Remembers a submission's key, and forgets the oldest when a new bucket begins.
pub fn remember(conn: &Connection, digest: &[u8; 16], seq: i64) -> Result<(), Error> {
    let bucket = seq / BUCKET_EVENTS;
    // A key that is there already belongs to an event that was forgotten.
    conn.prepare_cached(
        "INSERT INTO submission (bucket, digest, event) VALUES (?1, ?2, ?3) ON CONFLICT (bucket, digest) DO UPDATE SET event = excluded.event",
    )?
    .execute(params![bucket, digest, seq])?;
    if seq % 16 == 0 {
        conn.prepare_cached("DELETE FROM submission WHERE bucket < ?1")?.execute([bucket - BUCKETS])?;
    }
    Ok(())
}

/// Writes a lead's changed state.
pub fn save(conn: &Connection, number: i64, version: i64, at: Wall, lead: &Lead) -> Result<(), Error> {
    let state = serde_json::to_vec(lead).map_err(|e| Error::Sql(format!("a lead cannot be written as JSON: {e}")))?;
    conn.prepare_cached(
        "INSERT INTO lead (lead, version, at, state) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (lead) DO UPDATE SET version = excluded.version, at = excluded.at, state = excluded.state",
    )?
    .execute(params![number, version, at.0, state])?;
    Ok(())
}

const RECORD_SQL: &str =
    "SELECT e.seq, e.random, e.at, e.body, l.version, l.at, l.state FROM event e LEFT JOIN lead l ON l.lead = e.seq WHERE e.lead = e.seq";

fn record(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Record, Error>> {
    let (number, random, created): (i64, i64, i64) = (r.get(0)?, r.get(1)?, r.get(2)?);
    let changed: Option<i64> = r.get(5)?;
    let version: Option<i64> = r.get(4)?;
    let lead = match r.get_ref(6)?.as_blob_or_null()? {
        Some(state) => serde_json::from_slice(state),
        None => match unpack(r.get_ref(3)?.as_blob()?) {
            Ok(body) => lead_of(&body),
            Err(e) => return Ok(Err(e)),
        },
    };
    Ok(lead
        .map(|lead| Record {
            number,
            random: from_column(random),
            version: version.unwrap_or(0),
            created: Wall(created),
            changed: changed.map(Wall),
            lead,
        })
        .map_err(|e| Error::Sql(format!("the stored lead number {number} is not readable: {e}"))))
}

/// The lead with this public id.
pub fn by_id(conn: &Connection, ids: &IdKey, public: &str) -> Result<Option<Record>, Error> {
    let Some(number) = ids.seq(id::Kind::Lead, public) else { return Ok(None) };
    let found = conn.prepare_cached(&format!("{RECORD_SQL} AND e.seq = ?1"))?.query_row([number], record).optional()?.transpose()?;
    Ok(found.filter(|r| ids.lead(r.random).id(r.number) == public))
}

/// Leads captured before number `before`, newest first, at most `limit`.
pub fn page(conn: &Connection, before: i64, limit: i64) -> Result<Vec<Record>, Error> {
    let mut statement = conn.prepare_cached(&format!("{RECORD_SQL} AND e.seq < ?1 ORDER BY e.seq DESC LIMIT ?2"))?;
    let mut found = Vec::new();
    for row in statement.query_map([before, limit], record)? {
        match row? {
            Ok(record) => found.push(record),
            // One row that cannot be read must not hide the others.
            Err(e) => log::error!("{e}"),
        }
    }
    Ok(found)
}

/// The events of one lead, oldest first.
pub fn events_of(conn: &Connection, ids: &IdKey, number: i64) -> Result<Vec<Logged>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, random, kind, at, body FROM event WHERE seq = ?1
         UNION ALL SELECT seq, random, kind, at, body FROM event WHERE lead = ?1 AND lead <> seq ORDER BY 1",
    )?;
    let rows = statement.query_map([number], |r| {
        let seq = r.get(0)?;
        let body = unpack(r.get_ref(4)?.as_blob()?).map(Cow::into_owned);
        let (id, kind, at) = (ids.event(from_column(r.get(1)?)).id(seq), r.get(2)?, Wall(r.get(3)?));
        Ok(body.map(|body| Logged { seq, id, kind, at, body }))
    })?;
    rows.map(|r| r?).collect()
}

/// Some events after number `after` and before `before`, oldest first: number, kind, bytes.
pub fn between(conn: &Connection, after: i64, before: i64) -> Result<Vec<(i64, String, Vec<u8>)>, Error> {
    let mut statement = conn.prepare_cached("SELECT seq, kind, body FROM event WHERE seq > ?1 AND seq < ?2 ORDER BY seq LIMIT 50")?;
    let rows = statement.query_map([after, before], |r| {
        let (seq, kind, body) = (r.get(0)?, r.get(1)?, unpack(r.get_ref(2)?.as_blob()?).map(Cow::into_owned));
        Ok(body.map(|body| (seq, kind, body)))
    })?;
    rows.map(|r| r?).collect()
}

/// The number of the event with this public id.
pub fn event_number(conn: &Connection, ids: &IdKey, public: &str) -> Result<Option<i64>, Error> {
    let Some(seq) = ids.seq(id::Kind::Event, public) else { return Ok(None) };
    let random: Option<i64> = conn.prepare_cached("SELECT random FROM event WHERE seq = ?1")?.query_row([seq], |r| r.get(0)).optional()?;
    Ok(random.filter(|r| ids.event(from_column(*r)).id(seq) == public).map(|_| seq))
}
