//! Times taken with a clock that could not be believed, and how they are put right once it can be.
//!
//! It must never change an event that a receiver may have seen. A lane therefore pins an event before it sends it; what is pinned keeps
//! its bytes. Pins live in memory: after a crash every event of before counts as pinned, after an orderly stop only those up to the last.

use super::pack::{pack, unpack};
use super::{Error, lock};
use crate::event;
use crate::lead::Lead;
use crate::time::{Tick, Timeline, Wall};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Events put right in one transaction.
const BATCH: usize = 256;
/// More pins than this are not remembered one by one: everything up to the last of them keeps its bytes.
const PINS_MAX: usize = 65_536;

/// Which events may still be put right.
#[derive(Debug, Default)]
pub struct Stamps {
    // There may be such events. Set before their commit, so whoever has read one has seen it set.
    open: AtomicBool,
    // Counts up with each correction: what was read before one may be out of date.
    epoch: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    from: Option<i64>,
    // How many attempts have sent the event or are about to: several lanes may have it, and one that sent nothing speaks for itself alone.
    pinned: HashMap<i64, u32>,
}

impl Stamps {
    /// `from`: the first event that may be put right, as the last run left it.
    pub fn new(from: Option<i64>) -> Self {
        Self { open: AtomicBool::new(from.is_some()), epoch: AtomicU64::new(0), inner: Mutex::new(Inner { from, pinned: HashMap::new() }) }
    }

    /// To be asked before events are read that will be pinned.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether anything waits for the clock.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// An event with an untrusted time is about to be committed.
    pub fn untrusted(&self, seq: i64) {
        let mut inner = lock(&self.inner);
        inner.from = Some(inner.from.map_or(seq, |from| from.min(seq)));
        self.open.store(true, Ordering::Release);
    }

    /// Fixes the bytes of an event that was read at `epoch`: it is about to be sent. False when they have changed since: read it again.
    pub fn pin(&self, event: i64, epoch: u64) -> bool {
        if !self.is_open() {
            return self.epoch() == epoch;
        }
        let mut inner = lock(&self.inner);
        if self.epoch() != epoch {
            return false;
        }
        if inner.from.is_some_and(|from| event >= from) {
            let attempts = inner.pinned.entry(event).or_insert(0);
            *attempts = attempts.saturating_add(1);
            if inner.pinned.len() > PINS_MAX {
                inner.from = inner.pinned.drain().map(|(event, _)| event).max().map(|last| last + 1);
            }
        }
        true
    }

    /// The attempt that pinned the event sent nothing after all: not a byte of it has left by that one.
    pub fn unpin(&self, event: i64) {
        if self.is_open()
            && let Entry::Occupied(mut pin) = lock(&self.inner).pinned.entry(event)
        {
            *pin.get_mut() -= 1;
            if *pin.get() == 0 {
                pin.remove();
            }
        }
    }

    /// For an orderly stop: the first event that may still be put right by the next run of this boot.
    pub fn remaining(&self) -> Option<i64> {
        let inner = lock(&self.inner);
        inner.from.map(|from| inner.pinned.keys().max().map_or(from, |last| from.max(last + 1)))
    }

    /// Puts the times of the oldest open events right, in one transaction of its own; gives how many. To be called again while
    /// [`Stamps::is_open`]. Lanes that want to pin wait meanwhile.
    pub fn put_right(&self, conn: &mut Connection, line: &Timeline) -> Result<usize, Error> {
        let mut inner = lock(&self.inner);
        let Some(from) = inner.from else { return Ok(0) };
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let batch = read(&tx, from)?;
        let mut count = 0;
        for row in &batch {
            if inner.pinned.contains_key(&row.seq) {
                continue;
            }
            if let Some(at) = line.wall_of(row.tick)
                && let Ok(body) = unpack(&row.body)
                && let Some(body) = event::put_right(&body, at)
            {
                write(&tx, row, at, &body)?;
                count += 1;
            }
        }
        tx.commit()?;
        match batch.last().filter(|_| batch.len() == BATCH) {
            Some(last) => inner.from = Some(last.seq + 1),
            None => {
                *inner = Inner::default();
                self.open.store(false, Ordering::Release);
            }
        }
        self.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(count)
    }
}

/// A time that an event was certainly not made after, ms: its own where the clock could be believed; otherwise by the milliseconds since
/// its boot, or, where that boot never learned the time, the start of the next one that did. `None` when nothing tells.
pub fn made_by(conn: &Connection, at: i64, tick: i64, body: &[u8]) -> Result<Option<i64>, Error> {
    if unpack(body).is_ok_and(|body| !event::is_untrusted(&body)) {
        return Ok(Some(at));
    }
    let known = conn
        .prepare_cached(
            "SELECT iif(boot = ?1 >> 42, \"offset\" + (?1 & 4398046511103), \"offset\") FROM boot
             WHERE boot >= ?1 >> 42 AND \"offset\" IS NOT NULL ORDER BY boot LIMIT 1",
        )?
        .query_row([tick], |r| r.get(0))
        .optional()?;
    Ok(known)
}

struct Row {
    seq: i64,
    lead: Option<i64>,
    at: Wall,
    tick: Tick,
    body: Vec<u8>,
}

fn read(conn: &Connection, from: i64) -> Result<Vec<Row>, Error> {
    let mut statement = conn.prepare_cached("SELECT seq, lead, at, tick, body FROM event WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
    let rows = statement.query_map(params![from, i64::try_from(BATCH).unwrap_or(i64::MAX)], |r| {
        Ok(Row { seq: r.get(0)?, lead: r.get(1)?, at: Wall(r.get(2)?), tick: Tick(r.get(3)?), body: r.get(4)? })
    })?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

/// Writes one event, and the lead's own times that came from it.
fn write(conn: &Connection, row: &Row, at: Wall, body: &[u8]) -> Result<(), Error> {
    conn.prepare_cached("UPDATE event SET at = ?2, body = ?3 WHERE seq = ?1")?.execute(params![row.seq, at.0, pack(body)])?;
    let Some(lead) = row.lead else { return Ok(()) };
    conn.prepare_cached("UPDATE lead SET at = ?3 WHERE lead = ?1 AND at = ?2")?.execute(params![lead, row.at.0, at.0])?;
    if lead != row.seq {
        return Ok(());
    }
    let state: Option<Vec<u8>> =
        conn.prepare_cached("SELECT state FROM lead WHERE lead = ?1")?.query_row([lead], |r| r.get(0)).optional()?;
    if let Some(state) = state
        && let Ok(mut state) = serde_json::from_slice::<Lead>(&state)
        && let Some(consent) = &mut state.consent
        && let Some(was) = Wall::parse(&consent.at)
    {
        consent.at = Wall(was.0 + (at.0 - row.at.0)).rfc3339();
        let state = serde_json::to_vec(&state).map_err(|e| Error::Sql(format!("a lead cannot be written as JSON: {e}")))?;
        conn.prepare_cached("UPDATE lead SET state = ?2 WHERE lead = ?1")?.execute(params![lead, state])?;
    }
    Ok(())
}
