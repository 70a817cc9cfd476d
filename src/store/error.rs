//! What can go wrong with the disk and the database, each with what to do.

use std::fmt;
use std::path::PathBuf;

/// A failure of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The writer's queue is full, or the daemon is stopping. Try again shortly.
    Busy,
    /// The disk, or the quota, is full.
    Full,
    /// The disk or the file failed: I/O error, read-only.
    Disk(String),
    /// What is in the file cannot be: it is damaged, or no database of ours.
    Damaged(String),
    /// The database could not be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// What happened, and what to do.
        message: String,
    },
    /// Another process is the daemon of this database.
    InUse(PathBuf),
    /// Anything else SQLite says; a fault in this program.
    Sql(String),
    /// A row holds what this program cannot have written.
    Unreadable(String),
    /// Another file, a backup above all, cannot be read or written.
    File(String),
    /// There is no such row.
    NotFound,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Busy => f.write_str("the writer is busy; try again shortly"),
            Error::Full => f.write_str("there is no room left, on the disk or in storage.max_bytes; nothing that was accepted is lost"),
            Error::Disk(what) => write!(f, "the disk or the database file failed: {what}"),
            Error::Damaged(what) => write!(
                f,
                "the database is damaged: {what}; restart the daemon, it saves what can be read (or, while it does not run: leadsbotd repair)"
            ),
            Error::Open { path, message } => write!(f, "cannot open the database {}: {message}", path.display()),
            Error::InUse(path) => {
                write!(f, "another leadsbotd is running with {} (its lock file is held); stop that one first", path.display())
            }
            Error::Sql(what) => write!(f, "the database refused a statement: {what}"),
            Error::Unreadable(what) => write!(f, "{what}; run leadsbotd check"),
            Error::File(what) => f.write_str(what),
            Error::NotFound => f.write_str("not found"),
        }
    }
}

impl std::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    /// Names the fatal disk errors once: full, I/O, corrupt, read-only, cannot open.
    fn from(e: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as C;
        match e.sqlite_error_code() {
            Some(C::DiskFull) => Error::Full,
            Some(C::SystemIoFailure | C::ReadOnly | C::CannotOpen | C::FileLockingProtocolFailed) => Error::Disk(e.to_string()),
            Some(C::DatabaseCorrupt | C::NotADatabase) => Error::Damaged(e.to_string()),
            Some(C::DatabaseBusy | C::DatabaseLocked) => Error::Busy,
            _ if matches!(e, rusqlite::Error::QueryReturnedNoRows) => Error::NotFound,
            _ => Error::Sql(e.to_string()),
        }
    }
}
