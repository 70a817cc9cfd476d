//! Copies of the database: made beside a running daemon, and taken back without sending again what has been delivered since.
//!
//! It must never overwrite a file of the operator's, and never delete the database that a backup takes the place of.

use super::counting::Tally;
use super::salvage::{self, Batch, Entry, Identity, Merged, Note, Restored, Sink};
use super::{Error, Opened, Options, Salvaged, audit, beside, leads, lock_for_daemon, queue, schema};
use crate::id::IdKey;
use crate::time::Clock;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Writes a copy of the database at `path` to `target`, as it is at one moment. Gives its bytes.
pub fn backup(path: &Path, target: &Path) -> Result<u64, Error> {
    let failed = |message: String| Error::File(format!("the backup {} was not made: {message}", target.display()));
    if target.exists() {
        return Err(failed("there is such a file already; name another one, or remove it".to_owned()));
    }
    let part = beside(target, ".part");
    let written = copy_into(path, &part).and_then(|()| {
        std::fs::rename(&part, target).map_err(|e| failed(e.to_string()))?;
        salvage::sync_folder(target)?;
        Ok(std::fs::metadata(target).map_or(0, |m| m.len()))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn copy_into(path: &Path, part: &Path) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::File(format!("{} cannot be written: {e}", part.display()));
    // What an earlier attempt left behind. SQLite fills a file that is there as long as it is empty, and keeps its mode.
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(part).map_err(failed)?;
    let conn = schema::connect(path, schema::Purpose::Command)?;
    // Not all of the copy at once in memory.
    conn.pragma_update(None, "cache_spill", true)?;
    conn.execute("VACUUM INTO ?1", [part.to_string_lossy()])?;
    file.sync_all().map_err(failed)?;
    look_over(part).map(|_| ())
}

/// Looks a backup over, whole, and gives the key of its ids.
fn look_over(path: &Path) -> Result<[u8; 32], Error> {
    let failed = |message: String| Error::Open { path: path.to_owned(), message };
    let (id, version, tables) = salvage::peek(path).ok_or_else(|| failed("it is no database of leadsbotd".to_owned()))?;
    schema::is_for_us(path, id, version, tables).map_err(|e| failed(format!("it is no database of leadsbotd: {e}")))?;
    let conn = immutable(path)?;
    let look = || -> Result<Result<[u8; 32], String>, Error> {
        let Some(key) = schema::id_key_kept(&conn)? else { return Ok(Err("it has no key for its ids".to_owned())) };
        Ok(audit::faults(&conn, &IdKey::new(key))?.into_iter().next().map_or(Ok(key), Err))
    };
    match look() {
        Ok(Err(fault)) | Err(Error::Damaged(fault)) => Err(failed(format!("it is not whole: {fault}"))),
        Ok(Ok(key)) => Ok(key),
        Err(e) => Err(e),
    }
}

/// What a restore has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The name under which the former database lies there now; `None` when there was none.
    pub aside: Option<String>,
    /// It was of the same lineage, and this is what came from it.
    pub merged: Option<Salvaged>,
    /// It was whole: nothing that it knows to be finished is sent again.
    pub whole: bool,
}

/// Puts the backup at `file` in the place of the database, then adds what the former one knows. The daemon must not run.
pub fn restore(options: &Options, clock: &Arc<dyn Clock>, file: &Path) -> Result<Restore, Error> {
    let path = &options.path;
    let _lock = lock_for_daemon(path)?;
    let mut note = Note::load(path);
    salvage::settle(path, &note)?;
    let copy = beside(path, ".restore");
    let key = take_in(file, &copy)?;
    let (mut whole, mut aside) = (false, None);
    if path.exists() {
        let known_to = former(path, &note);
        whole = known_to.is_some();
        let merge = salvage::recall(path).identity.key() == Some(key) && !(whole && went_another_way(path, &copy)?);
        let name = copy.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let restored = Restored { copy: name, merge, known_to: known_to.filter(|_| merge) };
        salvage::set_aside(path, &mut note, "a backup has taken its place", clock.wall(), Some(restored))?;
        aside = note.files.last().map(|f| f.file.clone());
    } else {
        std::fs::rename(&copy, path).map_err(|e| Error::Disk(e.to_string()))?;
        salvage::sync_folder(path)?;
    }
    let opened = Opened::new(options, clock, &mut note)?;
    identity(&opened.conn)?.keep(path)?;
    let entry = note.files.iter().find(|f| Some(&f.file) == aside.as_ref());
    let merged = entry.filter(|e| e.restored.as_ref().is_none_or(|r| r.merge)).map(|e| e.report.clone());
    Ok(Restore { aside, merged, whole })
}

/// Copies the backup into the database's folder and looks the copy over; gives its key.
fn take_in(file: &Path, copy: &Path) -> Result<[u8; 32], Error> {
    let failed = |e: std::io::Error| Error::File(format!("{} cannot be copied to {}: {e}", file.display(), copy.display()));
    let mut from = File::open(file).map_err(failed)?;
    let mut to = File::options().create(true).truncate(true).write(true).mode(0o600).open(copy).map_err(failed)?;
    std::io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).map_err(failed)?;
    look_over(copy).inspect_err(|_| drop(std::fs::remove_file(copy)))
}

/// The last number that the present database has given, when it is whole and all that it should be.
fn former(path: &Path, note: &Note) -> Option<i64> {
    if note.damaged.is_some() || note.files.iter().any(|f| !f.done) || salvage::log_has_lost_commits(path) {
        return None;
    }
    let conn = schema::connect(path, schema::Purpose::Reader).ok()?;
    schema::quick_check(&conn).ok()?;
    leads::last_seq(&conn).ok()
}

/// Whether the present database has another event under a number that the backup gave too: both were begun from one earlier backup, and
/// what the one knows of a number says nothing about the other's.
fn went_another_way(path: &Path, backup: &Path) -> Result<bool, Error> {
    let present = schema::connect(path, schema::Purpose::Reader)?;
    let mut there = present.prepare("SELECT random FROM event WHERE seq = ?1")?;
    let backup = immutable(backup)?;
    let mut newest_first = backup.prepare("SELECT seq, random FROM event ORDER BY seq DESC")?;
    let mut rows = newest_first.query([])?;
    while let Some(row) = rows.next()? {
        let random: Option<i64> = there.query_row([row.get::<_, i64>(0)?], |r| r.get(0)).optional()?;
        if let Some(random) = random {
            return Ok(random != row.get::<_, i64>(1)?);
        }
    }
    Ok(false)
}

/// Opens a file that nobody writes, and writes nothing beside it.
fn immutable(path: &Path) -> Result<Connection, Error> {
    let name = percent_encoding::percent_encode(path.as_os_str().as_encoded_bytes(), percent_encoding::NON_ALPHANUMERIC);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)?)
}

/// Adds to a restored database what the one before it knows. Before anything is delivered, and again from the start after a cut.
pub fn finish(conn: &mut Connection, path: &Path, entry: &Entry) -> Result<Salvaged, Error> {
    let aside = salvage::folder(path).join(&entry.file);
    if let Some(known_to) = entry.restored.as_ref().and_then(|r| r.known_to) {
        forget_what_is_finished(conn, &aside, known_to)?;
    }
    salvage::carry_over(path, entry, &mut Direct(conn), None)
}

/// A delivery that waits in the backup, and that the former database does not know although it had come past its event, had been made
/// and forgotten.
fn forget_what_is_finished(conn: &mut Connection, aside: &Path, known_to: i64) -> Result<(), Error> {
    let former = Connection::open_with_flags(aside, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let first = schema::first_number(&former)?;
    let pending: Vec<(i64, i64)> = {
        let mut statement = conn.prepare("SELECT dest, event FROM ready WHERE at IS NULL UNION ALL SELECT dest, event FROM waiting")?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    let mut knows = former.prepare(
        "SELECT EXISTS (SELECT 1 FROM ready WHERE dest = ?1 AND event = ?2) OR EXISTS (SELECT 1 FROM waiting WHERE dest = ?1 AND event = ?2)
             OR EXISTS (SELECT 1 FROM dead WHERE dest = ?1 AND event = ?2) OR EXISTS (SELECT 1 FROM history WHERE event = ?2 AND dest = ?1)",
    )?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (dest, event) in pending {
        if (first..=known_to).contains(&event) && !knows.query_row([dest, event], |r| r.get::<_, bool>(0))? {
            queue::leave(&tx, &mut Tally::default(), dest, event)?;
        }
    }
    Ok(tx.commit()?)
}

/// Rows go straight in: nobody else works with the database yet.
struct Direct<'c>(&'c mut Connection);

impl Sink for Direct<'_> {
    fn merge(&mut self, batch: Batch) -> Result<Merged, Error> {
        let tx = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let merged = salvage::merge(&tx, &batch)?;
        tx.commit()?;
        Ok(merged)
    }

    fn destinations(&mut self) -> Result<HashMap<String, i64>, Error> {
        Ok(super::destinations::all(self.0)?.into_iter().map(|d| (d.name, d.dest)).collect())
    }

    fn events(&mut self, after: i64, before: i64) -> Result<Vec<(i64, String, Vec<u8>)>, Error> {
        leads::between(self.0, after, before)
    }
}

/// What is wrong with the database at `path`; `None` when it is whole. Migrates an older one. The daemon must not run.
pub fn fault(options: &Options, clock: &Arc<dyn Clock>) -> Result<Option<String>, Error> {
    let _lock = lock_for_daemon(&options.path)?;
    let mut note = Note::load(&options.path);
    salvage::settle(&options.path, &note)?;
    match Opened::new(options, clock, &mut note) {
        Err(Error::Damaged(found)) => Ok(Some(found)),
        Err(e) => Err(e),
        Ok(opened) => match audit::faults(&opened.conn, &opened.ids) {
            Err(Error::Damaged(found)) => Ok(Some(found)),
            other => Ok(other?.into_iter().next()),
        },
    }
}

/// Notes that the database is to be put aside at the next opening, because of this.
pub fn condemn(path: &Path, found: &str) -> Result<(), Error> {
    let _lock = lock_for_daemon(path)?;
    let mut note = Note::load(path);
    note.damaged = Some(found.to_owned());
    note.keep(path)
}

/// What the small file beside the database should say of it.
pub fn identity(conn: &Connection) -> Result<Identity, Error> {
    let destinations = super::destinations::all(conn)?;
    let destinations = destinations.into_iter().map(|d| salvage::Named { dest: d.dest, name: d.name, paused: d.paused }).collect();
    Ok(Identity { id_key: Some(Identity::hex(&schema::id_key(conn)?)), destinations, first_number: schema::first_number(conn)? })
}
