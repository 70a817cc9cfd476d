//! Forgetting: what is old enough is taken out, a little at a time, and the room goes back to the file system.
//!
//! It must never take out an event that still has to be delivered, nor the newest one, whose number says how far the log has come, nor one
//! that is old only by a clock that could not be believed.

use super::{Error, Retention, Space, queue, stamp};
use crate::time::{Tick, Timeline};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::time::Duration;

/// Rows looked at in one step, so that a capture never waits long.
const STEP: i64 = 200;
/// How often everything is gone through, in hours of uptime, and how soon after the start for the first time.
const EVERY: Duration = Duration::from_secs(6 * 3600);
const FIRST: Duration = Duration::from_secs(60);
/// Pages given back in one step.
const PAGES: i64 = 64;
/// Fewer unused pages than this are left for the next leads to be written into.
const PAGES_LEFT: i64 = 256;
const DAY_MS: i64 = 86_400_000;

/// Where the work stands.
#[derive(Debug)]
pub struct Forgetting {
    next: Tick,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Rest,
    Settle,
    Events { after: i64 },
    History { after: (i64, i64) },
    Vacuum,
}

impl Forgetting {
    /// Begins a minute after `now`.
    pub fn new(now: Tick) -> Self {
        Self { next: now.after(FIRST), phase: Phase::Rest }
    }

    /// One step, if it is time for one. True when there is more to do at once.
    pub fn step(&mut self, conn: &mut Connection, line: &Timeline, space: &Space) -> Result<bool, Error> {
        let now = line.now();
        // Where delivered leads are forgotten, that gives the room, and it needs the history.
        let short = space.near_quota() && space.limits().keep.delivered_days == 0;
        if self.phase == Phase::Rest {
            if now < self.next && !(short && history_is_there(conn)?) {
                return Ok(false);
            }
            // Out of turn, for want of room, only history is looked at.
            self.phase = if now < self.next { Phase::History { after: (0, 0) } } else { Phase::Settle };
        }
        let keep = space.limits().keep;
        self.phase = match self.phase {
            Phase::Rest => Phase::Rest,
            Phase::Settle => {
                let finished = queue::unsettled(conn, STEP)?;
                let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
                queue::settle(&tx, &finished)?;
                tx.commit()?;
                // Leads before history: it is history that says whether a lead was delivered.
                if finished.is_empty() { Phase::Events { after: 0 } } else { Phase::Settle }
            }
            Phase::Events { after } => match events(conn, line, keep, after)? {
                Some(after) => Phase::Events { after },
                None => Phase::History { after: (0, 0) },
            },
            Phase::History { after } => match history(conn, line, keep, after, short)? {
                Some(after) => Phase::History { after },
                None => Phase::Vacuum,
            },
            Phase::Vacuum => {
                if give_back(conn)? {
                    Phase::Vacuum
                } else {
                    if now >= self.next {
                        self.next = now.after(EVERY);
                    }
                    Phase::Rest
                }
            }
        };
        Ok(self.phase != Phase::Rest)
    }
}

fn history_is_there(conn: &Connection) -> Result<bool, Error> {
    Ok(conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM history)")?.query_row([], |r| r.get(0))?)
}

/// Before when something of `days` is old; `None` when it never is, or when the clock cannot say.
fn cutoff(line: &Timeline, days: u32) -> Option<i64> {
    (days > 0 && line.trusted()).then(|| line.wall().0 - i64::from(days) * DAY_MS)
}

/// Takes old history out, and any when the quota is nearly used up. Gives where to go on.
fn history(conn: &mut Connection, line: &Timeline, keep: Retention, after: (i64, i64), short: bool) -> Result<Option<(i64, i64)>, Error> {
    let cutoff = if short { Some(i64::MAX) } else { cutoff(line, keep.history_days) };
    let Some(cutoff) = cutoff else { return Ok(None) };
    let rows: Vec<(i64, i64, i64)> = {
        // A time from before the clock was set says nothing; the event's own has been put right.
        let mut statement = conn.prepare_cached(
            "SELECT h.event, h.dest, max(h.at, ifnull(e.at, 0)) FROM history h LEFT JOIN event e ON e.seq = h.event
             WHERE (h.event, h.dest) > (?1, ?2) ORDER BY h.event, h.dest LIMIT ?3",
        )?;
        let rows = statement.query_map(params![after.0, after.1, STEP], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    let last = rows.last().map(|(event, dest, _)| (*event, *dest));
    let old: Vec<_> = rows.into_iter().filter(|(_, _, at)| *at < cutoff).collect();
    if !old.is_empty() {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (event, dest, _) in &old {
            tx.prepare_cached("DELETE FROM history WHERE event = ?1 AND dest = ?2")?.execute([event, dest])?;
        }
        tx.commit()?;
        log::debug!("{} records of deliveries were forgotten", old.len());
    }
    Ok(last)
}

/// Takes out old leads, and old events that are about no lead. Gives where to go on.
fn events(conn: &mut Connection, line: &Timeline, keep: Retention, after: i64) -> Result<Option<i64>, Error> {
    let (history, delivered, leads) = (cutoff(line, keep.history_days), cutoff(line, keep.delivered_days), cutoff(line, keep.leads_days));
    if [history, delivered, leads].iter().all(Option::is_none) {
        return Ok(None);
    }
    let rows: Vec<(i64, Option<i64>, i64)> = {
        let mut statement = conn.prepare_cached(
            "SELECT seq, lead, at FROM event WHERE seq > ?1 AND seq < (SELECT max(seq) FROM event) ORDER BY seq LIMIT ?2",
        )?;
        let rows = statement.query_map([after, STEP], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    let last = rows.last().map(|(seq, ..)| *seq);
    let cutoff = |lead: Option<i64>| if lead.is_some() { delivered.max(leads) } else { history };
    let old: Vec<_> = rows
        .into_iter()
        .filter(|(seq, lead, at)| lead.is_none_or(|l| l == *seq) && cutoff(*lead).is_some_and(|cutoff| *at < cutoff))
        .collect();
    if old.is_empty() {
        return Ok(last);
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut count = 0;
    for (seq, lead, _) in old {
        let of_lead = of_lead(&tx, seq, lead)?;
        let (state, finished) = state(&tx, &of_lead)?;
        let newest = of_lead.iter().map(|(_, at)| at.unwrap_or(i64::MAX)).max().unwrap_or(0).max(finished);
        let forget = match (lead, state) {
            (_, State::Pending) => false,
            (None, _) => history.is_some_and(|cutoff| newest < cutoff) && state != State::Dead,
            (Some(_), State::Delivered) => delivered.max(leads).is_some_and(|cutoff| newest < cutoff),
            (Some(_), State::Dead | State::Nowhere) => leads.is_some_and(|cutoff| newest < cutoff),
        };
        // The newest event of all must stay: the next number follows it.
        if forget && !of_lead.iter().any(|(seq, _)| Some(*seq) == newest_of_all(&tx)) {
            for (seq, _) in &of_lead {
                for sql in ["DELETE FROM history WHERE event = ?1", "DELETE FROM event WHERE seq = ?1", "DELETE FROM lead WHERE lead = ?1"]
                {
                    tx.prepare_cached(sql)?.execute([seq])?;
                }
                for table in ["dead", "ready"] {
                    let sql = format!("DELETE FROM {table} WHERE dest IN (SELECT dest FROM destination) AND event = ?1");
                    tx.prepare_cached(&sql)?.execute([seq])?;
                }
            }
            count += 1;
        }
    }
    tx.commit()?;
    if count > 0 {
        log::info!("{count} leads or events were forgotten: they are older than storage.retention keeps them");
    }
    Ok(last)
}

/// How a lead's deliveries stand, the worst of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Dead,
    Delivered,
    Nowhere,
}

/// The events of a lead, each with when it was made at the latest.
fn of_lead(conn: &Connection, seq: i64, lead: Option<i64>) -> Result<Vec<(i64, Option<i64>)>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, at, tick, body FROM event WHERE seq = ?1 UNION ALL SELECT seq, at, tick, body FROM event WHERE lead = ?2 AND lead <> seq",
    )?;
    let mut rows = statement.query(params![seq, lead])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let made_by = stamp::made_by(conn, row.get(1)?, row.get(2)?, row.get_ref(3)?.as_blob().unwrap_or_default())?;
        found.push((row.get(0)?, made_by));
    }
    Ok(found)
}

// CROSS: destination by destination along the keys. Left to itself SQLite goes through all that waits, for every event.
const STATE: &str = "SELECT EXISTS (SELECT 1 FROM destination d CROSS JOIN ready r ON r.dest = d.dest AND r.event = ?1 AND r.at IS NULL)
         OR EXISTS (SELECT 1 FROM destination d CROSS JOIN waiting w ON w.dest = d.dest AND w.event = ?1),
       EXISTS (SELECT 1 FROM destination d CROSS JOIN dead x ON x.dest = d.dest AND x.event = ?1),
       (SELECT max(at) FROM (SELECT h.at FROM history h WHERE h.event = ?1
         UNION ALL SELECT r.at FROM destination d CROSS JOIN ready r ON r.dest = d.dest AND r.event = ?1))";

/// How these events stand, and when the latest of them was delivered.
fn state(conn: &Connection, events: &[(i64, Option<i64>)]) -> Result<(State, i64), Error> {
    let (mut state, mut finished) = (State::Nowhere, 0);
    for (seq, _) in events {
        let (pending, dead, done): (bool, bool, Option<i64>) =
            conn.prepare_cached(STATE)?.query_row([seq], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        if pending {
            return Ok((State::Pending, 0));
        }
        finished = finished.max(done.unwrap_or(0));
        if dead {
            state = State::Dead;
        } else if done.is_some() && state == State::Nowhere {
            state = State::Delivered;
        }
    }
    Ok((state, finished))
}

fn newest_of_all(conn: &Connection) -> Option<i64> {
    conn.prepare_cached("SELECT max(seq) FROM event").and_then(|mut s| s.query_row([], |r| r.get(0))).optional().ok().flatten()
}

/// Gives unused pages back to the file system when they are many; true when there are more.
fn give_back(conn: &Connection) -> Result<bool, Error> {
    let get = |name: &str| conn.prepare_cached(&format!("PRAGMA {name}")).and_then(|mut s| s.query_row([], |r| r.get::<_, i64>(0)));
    let (pages, unused) = (get("page_count")?, get("freelist_count")?);
    if unused < PAGES_LEFT.max(pages / 4) {
        return Ok(false);
    }
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    #[test]
    fn a_delivery_whose_end_is_still_noted_in_the_queue_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leads.db");
        let mut conn = schema::connect(&path, schema::Purpose::Writer).unwrap();
        schema::migrate(&mut conn, &path).unwrap();
        conn.execute_batch("INSERT INTO destination (dest, name) VALUES (1, 'crm'); INSERT INTO ready VALUES (1, 5, 700, 1, 200), (1, 6, NULL, NULL, NULL)")
            .unwrap();
        assert_eq!(state(&conn, &[(5, None)]).unwrap(), (State::Delivered, 700));
        assert_eq!(state(&conn, &[(5, None), (6, None)]).unwrap(), (State::Pending, 0));
        assert_eq!(state(&conn, &[(4, None)]).unwrap(), (State::Nowhere, 0));
    }

    #[test]
    fn how_an_event_stands_is_looked_up_and_not_searched_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leads.db");
        let mut conn = schema::connect(&path, schema::Purpose::Writer).unwrap();
        schema::migrate(&mut conn, &path).unwrap();
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {STATE}")).unwrap();
        let plan: Vec<String> = statement.query_map([1], |r| r.get(3)).unwrap().map(Result::unwrap).collect();
        for table in ["r", "w", "x", "h"] {
            let of_table: Vec<&String> = plan.iter().filter(|line| line.split(' ').nth(1) == Some(table)).collect();
            assert!(
                !of_table.is_empty() && of_table.iter().all(|line| line.ends_with("event=?)") || line.ends_with("(event=?)")),
                "{plan:#?}"
            );
        }
    }
}
