//! What comes from a file that was put aside, row by row into the one in use. Runs inside a transaction; a row twice is a row once.
//!
//! Of two files that contradict each other about a delivery the one in use is believed, unless the other is the newer one: then a backup
//! has taken its place.

use super::rows::Tree;
use crate::store::counting::Tally;
use crate::store::{Error, queue, schema};
use crate::time::Tick;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

/// The tables that are carried over, in that order: a delivery's end before its beginning, its bytes before it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `event`
    Event,
    /// `lead`
    Lead,
    /// `submission`
    Submission,
    /// `history`
    History,
    /// `dead`
    Dead,
    /// `rendered`
    Rendered,
    /// `ready`
    Ready,
    /// `waiting`
    Waiting,
    /// Deliveries that are made again because nothing is known of them.
    Again,
    /// Nothing more comes.
    End,
}

impl Table {
    pub const ALL: [Table; 8] =
        [Table::Event, Table::Lead, Table::Submission, Table::History, Table::Dead, Table::Rendered, Table::Ready, Table::Waiting];

    pub fn name(self) -> &'static str {
        match self {
            Table::Event => "event",
            Table::Lead => "lead",
            Table::Submission => "submission",
            Table::History => "history",
            Table::Dead => "dead",
            Table::Rendered => "rendered",
            Table::Ready => "ready",
            Table::Waiting => "waiting",
            Table::Again | Table::End => "",
        }
    }

    pub fn tree(self) -> Tree {
        if matches!(self, Table::Event | Table::Lead) { Tree::Table } else { Tree::Index }
    }

    pub fn is_pending(self) -> bool {
        matches!(self, Table::Ready | Table::Waiting)
    }

    /// A letter a column: a number, a small number (32 bits), text, bytes; in capitals when it may be null.
    fn shape(self) -> &'static str {
        match self {
            Table::Event => "nNtnnnb",
            Table::Lead => "nnnb",
            Table::Submission => "nbn",
            Table::History => "nnnstS",
            Table::Dead => "nnnsttStt",
            Table::Rendered => "nnb",
            Table::Ready => "nnNSS",
            Table::Waiting => "nnnsnnTT",
            Table::Again | Table::End => "",
        }
    }

    /// Whether a row has the columns of this table.
    pub fn fits(self, row: &[Value]) -> bool {
        let small = |n: &i64| u32::try_from(*n).is_ok();
        // A row that was written before its table got more columns ends earlier.
        let whole = row.len() == self.shape().len() || self == Table::Ready && row.len() == 2;
        whole
            && self.shape().chars().zip(row).all(|(letter, value)| match value {
                Value::Null => letter.is_ascii_uppercase(),
                Value::Integer(n) => matches!(letter, 'n' | 'N') || matches!(letter, 's' | 'S') && small(n),
                Value::Text(_) => matches!(letter, 't' | 'T'),
                Value::Blob(_) => letter == 'b',
                Value::Real(_) => false,
            })
    }

    /// A row of `ready` about a delivery that was made, as `history` has it.
    pub fn finished(self, row: &[Value]) -> Option<Vec<Value>> {
        match (self, row) {
            (Table::Ready, [dest, event, at @ Value::Integer(_), attempts, status]) => {
                let attempts = if *attempts == Value::Null { Value::Integer(1) } else { attempts.clone() };
                Some(vec![event.clone(), dest.clone(), at.clone(), attempts, Value::Text("delivered".to_owned()), status.clone()])
            }
            _ => None,
        }
    }

    /// Gives a row about a delivery the number that its destination has here.
    pub fn address(self, row: &mut [Value], dest: i64) {
        if let Some(column) = row.get_mut(usize::from(self == Table::History)) {
            *column = Value::Integer(dest);
        }
    }

    /// The destination and the event of a row about a delivery.
    pub fn delivery(self, row: &[Value]) -> Option<(i64, i64)> {
        match (self, row) {
            (Table::Event | Table::Lead | Table::Submission | Table::End, _) => None,
            (Table::History, [Value::Integer(event), Value::Integer(dest), ..]) => Some((*dest, *event)),
            (_, [Value::Integer(dest), Value::Integer(event), ..]) => Some((*dest, *event)),
            _ => None,
        }
    }
}

/// Rows for one transaction.
#[derive(Debug)]
pub struct Batch {
    pub(super) table: Table,
    pub(super) rows: Vec<Vec<Value>>,
    pub(super) newer: bool,
}

impl Batch {
    /// No rows yet. `newer`: they come from the newer of the two files.
    pub fn new(table: Table, newer: bool) -> Self {
        Self { table, rows: Vec::new(), newer }
    }

    /// Tells that nothing more comes.
    pub fn end() -> Self {
        Self::new(Table::End, false)
    }

    /// About how much it is, for the writer's queue.
    pub fn bytes(&self) -> usize {
        256 * (1 + self.rows.len())
    }

    /// Whether lanes have to look again after it.
    pub fn wakes(&self) -> bool {
        matches!(self.table, Table::Ready | Table::Waiting | Table::Again | Table::End)
    }

    /// Whether it can be left out when room is short: records of what is finished.
    pub fn is_history(&self) -> bool {
        self.table == Table::History
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Rows that are there now, or have been dealt with since.
    pub written: u64,
    /// Of those, events that made a lead.
    pub leads: u64,
    /// Rows that could not be used.
    pub lost: u64,
}

enum Fate {
    There,
    Already,
    Lost,
}

/// Writes the rows of a batch.
pub fn merge(conn: &Connection, batch: &Batch) -> Result<Merged, Error> {
    let mut merged = Merged::default();
    for row in &batch.rows {
        let fate = match one(conn, batch, row) {
            // A single row that the tables refuse must not keep the others out.
            Err(Error::Sql(what)) => {
                log::warn!("a row of {} could not be carried over: {what}", batch.table.name());
                Fate::Lost
            }
            other => other?,
        };
        match fate {
            Fate::Lost => merged.lost += 1,
            Fate::Already if batch.table == Table::Again => {}
            Fate::There | Fate::Already => {
                merged.written += 1;
                merged.leads += u64::from(batch.table == Table::Event && row.first() == row.get(1));
            }
        }
    }
    if batch.table == Table::End {
        conn.execute(
            "DELETE FROM rendered WHERE NOT EXISTS (SELECT 1 FROM ready r WHERE r.dest = rendered.dest AND r.event = rendered.event AND r.at IS NULL)
             AND NOT EXISTS (SELECT 1 FROM waiting w WHERE w.dest = rendered.dest AND w.event = rendered.event)",
            [],
        )?;
        queue::release_orphans(conn)?;
    }
    Ok(merged)
}

fn one(conn: &Connection, batch: &Batch, row: &[Value]) -> Result<Fate, Error> {
    let put = |sql: &str| -> Result<bool, Error> { Ok(conn.prepare_cached(sql)?.execute(params_from_iter(row))? > 0) };
    let there = |fresh: bool| Ok(if fresh { Fate::There } else { Fate::Already });
    if let Some((dest, event)) = batch.table.delivery(row) {
        return if is_event(conn, event)? { delivery(conn, batch, row, dest, event) } else { Ok(Fate::Lost) };
    }
    match batch.table {
        Table::Event => {
            if put(
                "INSERT INTO event (seq, lead, kind, at, tick, random, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            )? {
                return Ok(Fate::There);
            }
            let same =
                conn.prepare_cached("SELECT 1 FROM event WHERE seq = ?1 AND random = ?2")?.exists(params![row.first(), row.get(5)])?;
            Ok(if same { Fate::Already } else { Fate::Lost })
        }
        Table::Lead => {
            let Some(Value::Integer(lead)) = row.first() else { return Ok(Fate::Lost) };
            if !is_event(conn, *lead)? {
                return Ok(Fate::Lost);
            }
            there(put("INSERT INTO lead (lead, version, at, state) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (lead) DO UPDATE
                 SET version = excluded.version, at = excluded.at, state = excluded.state WHERE excluded.version > lead.version")?)
        }
        Table::Submission => {
            // Numbers may have leapt; a key is looked for among the newest only.
            let [Value::Integer(bucket), digest, event] = row else { return Ok(Fate::Lost) };
            let bucket = (*bucket).max(schema::first_number(conn)? / super::super::leads::BUCKET_EVENTS - 1);
            let mut put = conn.prepare_cached(
                "INSERT INTO submission (bucket, digest, event) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM event WHERE seq = ?3)
                 ON CONFLICT DO NOTHING",
            )?;
            there(put.execute(params![bucket, digest, event])? > 0)
        }
        _ => Ok(Fate::Already),
    }
}

fn is_event(conn: &Connection, event: i64) -> Result<bool, Error> {
    Ok(conn.prepare_cached("SELECT 1 FROM event WHERE seq = ?1")?.exists([event])?)
}

/// Where a delivery is in the database in use: unfinished, dead, finished.
fn state(conn: &Connection, dest: i64, event: i64) -> Result<(bool, bool, bool), Error> {
    let found = conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NULL) OR EXISTS (SELECT 1 FROM waiting WHERE dest = ?1 AND event = ?2),
               EXISTS (SELECT 1 FROM dead WHERE dest = ?1 AND event = ?2), EXISTS (SELECT 1 FROM history WHERE event = ?2 AND dest = ?1)
               OR EXISTS (SELECT 1 FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NOT NULL)",
        )?
        .query_row([dest, event], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    Ok(found.unwrap_or_default())
}

fn delivery(conn: &Connection, batch: &Batch, row: &[Value], dest: i64, event: i64) -> Result<Fate, Error> {
    let (pending, dead, finished) = state(conn, dest, event)?;
    let run = |sql: &str| -> Result<(), Error> { Ok(conn.prepare_cached(sql)?.execute([dest, event]).map(|_| ())?) };
    let put = |sql: &str| -> Result<Fate, Error> { Ok(conn.prepare_cached(sql)?.execute(params_from_iter(row)).map(|_| Fate::There)?) };
    let ended = matches!(batch.table, Table::History | Table::Dead);
    let settled = match batch.table {
        Table::History => finished,
        Table::Dead => dead,
        Table::Rendered => false,
        _ => pending,
    };
    if settled || (!batch.newer && (dead || finished || (ended && pending))) {
        return Ok(Fate::Already);
    }
    if batch.newer && batch.table != Table::Rendered {
        if ended {
            queue::leave(conn, &mut Tally::default(), dest, event)?;
        }
        run("DELETE FROM ready WHERE dest = ?1 AND event = ?2 AND at IS NOT NULL")?;
        run("DELETE FROM dead WHERE dest = ?1 AND event = ?2")?;
        run("DELETE FROM history WHERE dest = ?1 AND event = ?2")?;
    }
    match batch.table {
        Table::History => put("INSERT INTO history (event, dest, at, attempts, result, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
        Table::Dead => put(
            "INSERT INTO dead (dest, event, at, attempts, class, code, status, reason, answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        ),
        Table::Rendered => put("INSERT INTO rendered (dest, event, body) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING"),
        Table::Waiting => {
            // Ticks of another file mean nothing here: due at once, as after a boot; and held only if there is something to wait for.
            queue::enqueue(conn, &mut Tally::default(), dest, event, queue::lead_of(conn, event)?)?;
            let (Some(attempts), Some(age), Some(code), Some(reason)) = (row.get(3), row.get(4), row.get(6), row.get(7)) else {
                return Ok(Fate::There);
            };
            let held: i64 = conn
                .prepare_cached("SELECT ifnull((SELECT due FROM waiting WHERE dest = ?1 AND event = ?2), 0)")?
                .query_row([dest, event], |r| r.get(0))?;
            run("DELETE FROM ready WHERE dest = ?1 AND event = ?2")?;
            conn.prepare_cached(
                "INSERT INTO waiting (dest, event, due, attempts, age, seen, code, reason) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)
                 ON CONFLICT (dest, event) DO UPDATE SET attempts = excluded.attempts, age = excluded.age, code = excluded.code, reason = excluded.reason",
            )?
            .execute(params![dest, event, if held == Tick::HELD.0 { held } else { 0 }, attempts, age, code, reason])?;
            Ok(Fate::There)
        }
        _ => {
            queue::enqueue(conn, &mut Tally::default(), dest, event, queue::lead_of(conn, event)?)?;
            Ok(Fate::There)
        }
    }
}
