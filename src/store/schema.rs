//! Opening the file: pragmas, identity, migrations, checks. Every connection of the program is opened here.
//!
//! A newer file is refused and never touched; a foreign one is told from ours before anything is written.

use super::Error;
use crate::time::{Clock, SLACK_MS, Tick, Timeline, Wall};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// `PRAGMA application_id` of our files: "Lead".
const APPLICATION_ID: i64 = 0x4c65_6164;
/// `PRAGMA user_version` this program reads and writes.
pub const VERSION: i64 = 2;
/// What makes schema n + 2 of schema n + 1, in order. The result equals `schema.sql`; a test holds them together.
const STEPS: [&str; 1] = [include_str!("schema-2.sql")];
/// A higher schema than this is damage: no version will ever have it.
const VERSION_MAX: i64 = 1000;
/// The key in `meta` of the first number that a database begun anew gives.
pub const FIRST_NUMBER: &str = "first_number";
/// Files up to this size are checked whole before anything else; larger ones in the background.
pub const CHECK_BYTES_MAX: u64 = 8 << 20;
// The size of a sector that a cut may ruin whole: with smaller pages psow=0 makes SQLite write the neighbours along, with larger ones a
// lead writes more than it changes. It can only be chosen when the file is made.
const PAGE_BYTES: i64 = 4096;

/// How long a transaction waits for another process's.
pub const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The daemon's writer: makes and migrates the file.
    Writer,
    /// Commands that change rows: never make or migrate.
    Command,
    /// Reading only.
    Reader,
}

/// Opens a connection for `purpose` with everything set that must be.
pub fn connect(path: &Path, purpose: Purpose) -> Result<Connection, Error> {
    let failed = |message: String| Error::Open { path: path.to_owned(), message };
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    if purpose == Purpose::Writer {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
        make_private(path);
    } else if !path.exists() {
        return Err(failed("there is no such file; start the daemon once, or name another configuration with --config".to_owned()));
    }
    // psow=0: a card may ruin the whole sector it is writing when the power goes, not only the bytes that change. SQLite then keeps the
    // next transaction's frames out of the sectors of the one before.
    let name = percent_encoding::percent_encode(path.as_os_str().as_encoded_bytes(), percent_encoding::NON_ALPHANUMERIC);
    let uri = format!("file:{name}?psow=0");
    let conn = Connection::open_with_flags(uri, flags)
        .map_err(|e| failed(format!("{e}; the folder must exist and be writable by the user the daemon runs as")))?;
    conn.set_prepared_statement_cache_capacity(64);
    let set = |conn: &Connection| -> rusqlite::Result<()> {
        conn.busy_timeout(BUSY)?;
        // Otherwise a statement that is kept is compiled anew whenever a value is bound to its LIMIT.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        if purpose == Purpose::Writer {
            // Both only have an effect on a file that is still empty. Space can be given back to a card only if this is chosen now.
            conn.pragma_update(None, "page_size", PAGE_BYTES)?;
            conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        conn.pragma_update(None, "journal_mode", "WAL")?;
        // An answer of 201 promises the disk: FULL, so that each commit syncs the WAL.
        conn.pragma_update(None, "synchronous", "FULL")?;
        // The writer checkpoints by itself, after it has answered; never inside somebody's commit.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.pragma_update(None, "secure_delete", "FAST")?;
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        conn.pragma_update(None, "trusted_schema", false)?;
        conn.pragma_update(None, "cell_size_check", true)?;
        conn.pragma_update(None, "cache_spill", false)?;
        conn.pragma_update(None, "cache_size", if purpose == Purpose::Writer { -2048 } else { -256 })?;
        if purpose == Purpose::Reader {
            conn.pragma_update(None, "query_only", true)?;
        }
        Ok(())
    };
    set(&conn).map_err(|e| match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) if purpose == Purpose::Writer => Error::Damaged("it is no SQLite database".to_owned()),
        Some(rusqlite::ErrorCode::NotADatabase) => failed(
            "it is no SQLite database. Is storage.path right? Then start the daemon: it puts the file aside and begins a new one"
                .to_owned(),
        ),
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => Error::Damaged(e.to_string()),
        _ => failed(e.to_string()),
    })?;
    if purpose != Purpose::Writer {
        let (id, version) = identity(&conn)?;
        if id != APPLICATION_ID || version != VERSION {
            return Err(failed(mismatch(id, version)));
        }
    }
    Ok(conn)
}

/// Makes a new file readable for its owner alone, whatever the umask: it will hold people's details. SQLite gives its WAL the same mode.
/// What goes wrong here goes wrong again when SQLite opens the file, which then says it.
fn make_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    drop(std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path));
}

fn identity(conn: &Connection) -> Result<(i64, i64), Error> {
    let id = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
    let version = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    Ok((id, version))
}

fn mismatch(id: i64, version: i64) -> String {
    if id != APPLICATION_ID {
        "it is a database of another program; set another storage.path".to_owned()
    } else if version > VERSION {
        format!("it was written by a newer leadsbotd (schema {version}, this program knows {VERSION}); install that version again")
    } else {
        format!("it has schema {version}, this program needs {VERSION}; start the daemon once, it migrates the file")
    }
}

/// Makes or migrates the file, in one transaction. Afterwards it has schema [`VERSION`].
pub fn migrate(conn: &mut Connection, path: &Path) -> Result<(), Error> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (id, version) = identity(&tx)?;
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    match (id, version) {
        (0, 0) if tables == 0 => {
            tx.execute_batch(include_str!("schema.sql"))?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", VERSION)?;
        }
        (APPLICATION_ID, 1..=VERSION) => {
            for (step, from) in STEPS.iter().zip(1..).filter(|(_, from)| *from >= version) {
                tx.execute_batch(step)?;
                tx.pragma_update(None, "user_version", from + 1)?;
                log::info!("the database is migrated from schema {from} to {}", from + 1);
            }
        }
        (id, version) => is_for_us(path, id, version, tables > 0)?,
    }
    tx.commit()?;
    Ok(())
}

/// SQLite's own check of the file's structure. `Err` says what is broken.
pub fn quick_check(conn: &Connection) -> Result<(), Error> {
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    if found == "ok" { Ok(()) } else { Err(Error::Damaged(format!("its check found: {found}"))) }
}

/// Whether a file that says this of itself is to be opened: a newer one is refused, a foreign one is damage to ours.
pub fn is_for_us(path: &Path, id: i64, version: i64, tables: bool) -> Result<(), Error> {
    match (id, version) {
        (APPLICATION_ID, newer) if newer > VERSION && newer < VERSION_MAX => {
            Err(Error::Open { path: path.to_owned(), message: mismatch(id, version) })
        }
        (APPLICATION_ID, 1..=VERSION) => Ok(()),
        (APPLICATION_ID, _) => Err(Error::Damaged(format!("its schema has the number {version}, which there is not"))),
        (0, 0) if !tables => Ok(()),
        _ => Err(Error::Damaged("it is a database of another program".to_owned())),
    }
}

/// Whether everything that is read at the start can be.
pub fn is_ours(conn: &Connection) -> Result<(), Error> {
    for table in ["event", "lead", "submission", "destination", "ready", "waiting", "rendered", "dead", "history", "boot", "meta"] {
        conn.prepare(&format!("SELECT * FROM {table} LIMIT 0")).map_err(|e| Error::Damaged(e.to_string()))?;
    }
    Ok(())
}

/// Where the trees of the tables begin in a file of ours: made with this schema, with the first one, or with the first and migrated; as it
/// was made, or as a backup.
pub fn layouts() -> Result<Vec<HashMap<&'static str, u32>>, Error> {
    const SQL: &str = include_str!("schema.sql");
    // Schema 1 was schema 2 without the boots.
    let before = SQL.find("CREATE TABLE boot").unwrap_or(0);
    let after = SQL.find(");\n\n-- The log.").map_or(before, |at| at + 2);
    let first = format!("{}{}", SQL.get(..before).unwrap_or_default(), SQL.get(after..).unwrap_or_default());
    let migrated = format!("{first}CREATE TABLE boot (boot INTEGER PRIMARY KEY);");
    let mut layouts = Vec::new();
    for sql in [SQL, &migrated, &first] {
        // A backup is written anew as a whole, tables before indexes.
        layouts.extend([layout(sql, "")?, layout(sql, "VACUUM")?]);
    }
    Ok(layouts)
}

fn layout(sql: &str, then: &str) -> Result<HashMap<&'static str, u32>, Error> {
    const TABLES: [&str; 11] =
        ["meta", "boot", "event", "lead", "submission", "destination", "ready", "waiting", "rendered", "dead", "history"];
    let conn = Connection::open_in_memory()?;
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    conn.execute_batch(sql)?;
    conn.execute_batch(then)?;
    let mut roots = HashMap::new();
    for table in TABLES {
        let root = conn.query_row("SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = ?1", [table], |r| r.get(0));
        if let Some(root) = root.optional()? {
            roots.insert(table, root);
        }
    }
    Ok(roots)
}

/// The first number that may be given to an event here; 0 in a database that has lost nothing.
pub fn first_number(conn: &Connection) -> Result<i64, Error> {
    Ok(meta(conn, FIRST_NUMBER)?.unwrap_or(0))
}

/// The 32 bytes that mask ids, if the file has them.
pub fn id_key_kept(conn: &Connection) -> Result<Option<[u8; 32]>, Error> {
    Ok(meta::<Vec<u8>>(conn, "id_key")?.and_then(|bytes| bytes.try_into().ok()))
}

/// The 32 bytes that mask ids, made with the file.
pub fn id_key(conn: &Connection) -> Result<[u8; 32], Error> {
    if let Some(key) = id_key_kept(conn)? {
        return Ok(key);
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| Error::Disk(format!("no random numbers from the system: {e}")))?;
    set_meta(conn, "id_key", &key.to_vec())?;
    Ok(key)
}

/// Gives the running boot its number: the last one's, or the next when the machine has booted since. A boot whose id cannot be read,
/// or whose clock is behind a tick already on the disk, counts as new: too many boots are harmless, a frozen queue is not.
///
/// The second part is the first event of this boot whose time may still be put right, when the last run ended in order.
pub fn timeline(conn: &Connection, clock: Arc<dyn Clock>, always: bool) -> Result<(Timeline, Option<i64>), Error> {
    let last: Option<(i64, String, Option<i64>)> = conn
        .query_row("SELECT boot, id, open FROM boot ORDER BY boot DESC LIMIT 1", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    let tick: i64 = conn.query_row("SELECT tick FROM event ORDER BY seq DESC LIMIT 1", [], |r| r.get(0)).optional()?.unwrap_or(0);
    let latest = latest_believed(conn)?;
    let id = clock.boot_id();
    let (boot, known, open) = last.unwrap_or_default();
    let same = Timeline::new(Arc::clone(&clock), boot, latest, always);
    if boot > 0 && !id.is_empty() && known == id && same.now() >= Tick(tick) {
        if open.is_some() {
            // From now on only an orderly stop may say so again.
            conn.execute("UPDATE boot SET open = NULL WHERE boot = ?1", [boot])?;
        }
        return Ok((same, open));
    }
    let line = Timeline::new(clock, boot + 1, latest, always);
    conn.execute("INSERT INTO boot (boot, id) VALUES (?1, ?2)", rusqlite::params![boot + 1, id])?;
    conn.execute("DELETE FROM boot WHERE boot <= ?1", [boot - 4095])?;
    if line.trusted() {
        clock_known(conn, &line)?;
    }
    Ok((line, None))
}

/// The latest wall time on the disk that was believed: when a boot's clock was, and what the newest such events say.
fn latest_believed(conn: &Connection) -> Result<Wall, Error> {
    let seen: Option<i64> = conn.query_row("SELECT max(seen) FROM boot", [], |r| r.get(0))?;
    let mut newest = conn.prepare("SELECT at, body FROM event ORDER BY seq DESC LIMIT 64")?;
    let mut rows = newest.query([])?;
    while let Some(row) = rows.next()? {
        let body = super::unpack(row.get_ref(1)?.as_blob().unwrap_or_default());
        if body.is_ok_and(|body| !crate::event::is_untrusted(&body)) {
            return Ok(Wall(seen.unwrap_or(0).max(row.get(0)?)));
        }
    }
    Ok(Wall(seen.unwrap_or(0)))
}

/// Notes that the running boot's clock is to be believed now, and what it shows.
pub fn clock_known(conn: &Connection, line: &Timeline) -> Result<(), Error> {
    let wall = line.wall();
    conn.execute(
        "UPDATE boot SET \"offset\" = ?2, seen = ?3 WHERE boot = ?1",
        rusqlite::params![line.boot(), wall.0 - line.uptime_ms(), wall.0],
    )?;
    // What is further ahead was given up, or this clock would not be believed.
    conn.execute("UPDATE boot SET seen = ?1 WHERE seen > ?1 + ?2", [wall.0, SLACK_MS])?;
    line.believed(wall);
    Ok(())
}

/// Whether the running boot's clock has been believed before.
pub fn is_clock_known(conn: &Connection, boot: i64) -> Result<bool, Error> {
    Ok(conn.query_row("SELECT seen IS NOT NULL FROM boot WHERE boot = ?1", [boot], |r| r.get(0)).optional()?.unwrap_or(false))
}

/// Keeps, at an orderly stop, from which event on times may still be put right.
pub fn keep_open(conn: &Connection, boot: i64, open: i64) -> Result<(), Error> {
    conn.execute("UPDATE boot SET open = ?2 WHERE boot = ?1", [boot, open])?;
    Ok(())
}

/// A write that says nothing, to see whether the disk takes one.
pub fn write_a_little(conn: &Connection, value: u32) -> Result<(), Error> {
    set_meta(conn, "tried", &value)
}

pub fn meta<T: rusqlite::types::FromSql>(conn: &Connection, key: &str) -> Result<Option<T>, Error> {
    Ok(conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0)).optional()?)
}

/// Keeps a value under a key.
pub fn set_meta<T: rusqlite::ToSql>(conn: &Connection, key: &str, value: &T) -> Result<(), Error> {
    conn.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        rusqlite::params![key, value],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// What SQLite knows of the tables, without the differences of how they were written down.
    fn shape(conn: &Connection) -> Vec<String> {
        let mut statement = conn
            .prepare(
                "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk || ' ' || ifnull(c.dflt_value, '')
                 FROM sqlite_schema m, pragma_table_xinfo(m.name) c ORDER BY m.name, c.cid",
            )
            .unwrap();
        statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_migrated_file_has_the_shape_of_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new.db");
        let mut fresh = connect(&new, Purpose::Writer).unwrap();
        migrate(&mut fresh, &new).unwrap();
        let old = dir.path().join("old.db");
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/schema-1.db"), &old).unwrap();
        let mut migrated = connect(&old, Purpose::Writer).unwrap();
        migrate(&mut migrated, &old).unwrap();
        assert_eq!(shape(&migrated), shape(&fresh));
        assert_eq!(identity(&migrated).unwrap(), (APPLICATION_ID, VERSION));
    }

    #[test]
    fn a_new_database_and_its_wal_are_readable_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = connect(&dir.path().join("leads.db"), Purpose::Writer).unwrap();
        migrate(&mut conn, dir.path()).unwrap();
        let found: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap()).collect();
        assert!(found.len() >= 2);
        for file in found {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
        }
    }
}
