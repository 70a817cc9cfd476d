//! Opening the database for the daemon: whether it can be worked with, and what has to be done to it before anything else is.

use super::salvage::{self, Note};
use super::{Error, Options, backup, beside, leads, queue, schema};
use crate::id::IdKey;
use crate::time::{Clock, Timeline};
use rusqlite::Connection;
use std::sync::Arc;

/// A database that is found good enough to work with.
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) ids: IdKey,
    pub(super) timeline: Timeline,
    pub(super) open: Option<i64>,
    pub(super) check_later: bool,
}

impl Opened {
    /// Opens, makes or migrates the file. `Damaged` when it must be put aside; then nothing has been begun with it.
    pub(super) fn new(options: &Options, clock: &Arc<dyn Clock>, note: &mut Note) -> Result<Self, Error> {
        let path = &options.path;
        if let Some(found) = &note.damaged {
            return Err(Error::Damaged(found.clone()));
        }
        let bytes = std::fs::metadata(path).map(|m| m.len()).ok();
        if bytes.is_none() && beside(path, ".identity").exists() && note.files.iter().all(|f| f.done) {
            log::error!(
                "there is no database {}, although there was one: a disk that is not mounted, or a file that was moved? A new one is begun; put the former one back while leadsbotd is stopped, and its leads are there again",
                path.display()
            );
        }
        if bytes == Some(0) && beside(path, ".identity").exists() && note.files.iter().all(|f| f.done) {
            return Err(Error::Damaged("it is empty".to_owned()));
        }
        if let Some((id, version, tables)) = salvage::peek(path) {
            schema::is_for_us(path, id, version, tables)?;
        }
        if salvage::log_has_lost_commits(path) {
            return Err(Error::Damaged("a part of its log is ruined, with leads behind it".to_owned()));
        }
        let mut conn = schema::connect(path, schema::Purpose::Writer)?;
        schema::migrate(&mut conn, path)?;
        schema::is_ours(&conn)?;
        let check_later = bytes.is_some_and(|bytes| bytes > schema::CHECK_BYTES_MAX);
        if !check_later {
            schema::quick_check(&conn)?;
        }
        let mut changed = false;
        for entry in note.files.iter_mut().filter(|f| !f.done) {
            let merge = entry.restored.as_ref().map(|r| r.merge);
            if merge != Some(false) {
                salvage::prepare(&mut conn, entry)?;
            }
            // Before anything can be sent: what was delivered since the backup must not go out again.
            if merge == Some(true) {
                entry.report = backup::finish(&mut conn, path, entry)?;
                log::info!("from {}, which was replaced by a backup: {}", entry.file, entry.report);
            }
            if merge.is_some() {
                changed = true;
                // What it no longer says of the queue is made good once the filters are known, as for any damaged file.
                let ruined = entry.report.pages + entry.report.lost > 0;
                entry.restored = entry.restored.take().filter(|_| !ruined);
                entry.done = !ruined;
            }
        }
        if changed {
            note.keep(path)?;
        }
        let ids = IdKey::new(schema::id_key(&conn)?);
        let (timeline, open) = schema::timeline(&conn, Arc::clone(clock), options.clock_trusted)?;
        let released = queue::release_orphans(&conn)?;
        if released > 0 {
            log::warn!("{released} held deliveries had nothing left to wait for and were released");
        }
        leads::last_seq(&conn)?;
        Ok(Self { conn, ids, timeline, open, check_later })
    }
}
