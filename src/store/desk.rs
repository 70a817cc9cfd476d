//! The commands' side: short transactions beside the writer's, which notices them by itself.

use super::counting::Tally;
use super::{Error, View, audit, destinations, queue, schema};
use crate::id::IdKey;
use crate::time::Wall;
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// The database from a command's side: beside a running daemon or without one. Never makes or migrates the file.
#[derive(Debug)]
pub struct Desk {
    conn: Connection,
    ids: IdKey,
}

/// Rows a command changes in one transaction, so that captures never wait long for it.
const DESK_BATCH: usize = 200;

impl Desk {
    /// Opens the database at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let conn = schema::connect(path, schema::Purpose::Command)?;
        let ids = IdKey::new(schema::id_key(&conn)?);
        Ok(Self { conn, ids })
    }

    /// What makes and reads ids.
    pub fn ids(&self) -> &IdKey {
        &self.ids
    }

    /// Reads.
    pub fn read<T>(&mut self, f: impl FnOnce(&View<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let tx = self.conn.transaction()?;
        f(&View(&tx))
    }

    /// Everything that is wrong with the file and between its rows, a line each.
    pub fn check(&self) -> Result<Vec<String>, Error> {
        audit::faults(&self.conn, &self.ids)
    }

    /// Pauses or resumes a destination.
    pub fn set_paused(&mut self, dest: i64, paused: bool) -> Result<(), Error> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        destinations::set_paused(&tx, dest, paused)?;
        Ok(tx.commit()?)
    }

    /// Makes deliveries of one destination due now and asks its lane to try; returns how many there were.
    pub fn retry(&mut self, dest: i64, events: &[i64]) -> Result<usize, Error> {
        let mut count = 0;
        for chunk in events.chunks(DESK_BATCH) {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for event in chunk {
                count += usize::from(queue::retry(&tx, &mut Tally::default(), dest, *event)?);
            }
            tx.commit()?;
        }
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        destinations::nudge(&tx, dest)?;
        tx.commit()?;
        Ok(count)
    }

    /// Sends finished deliveries of one destination again; returns how many there were.
    pub fn replay(&mut self, dest: i64, events: &[i64]) -> Result<usize, Error> {
        let mut count = 0;
        for chunk in events.chunks(DESK_BATCH) {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for event in chunk {
                count += usize::from(queue::replay(&tx, &mut Tally::default(), dest, *event)?);
            }
            tx.commit()?;
        }
        Ok(count)
    }

    /// Drops deliveries of one destination; returns how many there were.
    pub fn drop_deliveries(&mut self, dest: i64, events: &[i64], at: Wall) -> Result<usize, Error> {
        let mut count = 0;
        for chunk in events.chunks(DESK_BATCH) {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for event in chunk {
                count += usize::from(queue::drop_one(&tx, &mut Tally::default(), dest, *event, at)?);
            }
            tx.commit()?;
        }
        Ok(count)
    }
}
