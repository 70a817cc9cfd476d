//! The file beside the database that says who the daemon is, and how often it ended too soon.

use super::{Error, beside};
use std::fs::{File, TryLockError};
use std::io::Read;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The lock file of the daemon whose database is `path`.
fn lock_path(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// Whether a daemon is running with this database.
pub fn daemon_runs(path: &Path) -> bool {
    // A shared lock, so that two commands asking at once do not see each other.
    File::open(lock_path(path)).is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// How often in a row, in this boot, a daemon with this lock file ended without an orderly stop and soon after its start. A machine whose
/// power comes and goes is no daemon that falls over.
pub(super) fn short_lives(mut lock: &File, boot: &str) -> u32 {
    let mut text = String::new();
    let read = lock.read_to_string(&mut text);
    let noted = read.ok().and_then(|_| text.trim().split_once(' ')).filter(|(_, of)| *of == boot);
    noted.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

// Not synced: it is about processes that end, not about power. Nothing depends on it but the pause before the next deliveries.
pub(super) fn note_short_lives(lock: &File, count: u32, boot: &str) {
    let text = format!("{count} {boot}\n");
    drop(lock.set_len(0).and_then(|()| lock.write_all_at(text.as_bytes(), 0)));
}

/// The lock, held. It is given back by name when dropped: closing the file alone gives it back only once every process that was forked from
/// this one meanwhile has closed it too.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Deref for Lock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whatever goes wrong here, the end of the process gives it back.
        let _ = self.0.unlock();
    }
}

/// Takes the lock that says who the daemon is.
pub(super) fn lock_for_daemon(path: &Path) -> Result<Lock, Error> {
    let failed = |message: String| Error::Open { path: path.to_owned(), message };
    let lock_file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(lock_path(path))
        .map_err(|e| failed(format!("cannot make its lock file beside it: {e}; the folder must exist and be writable")))?;
    match lock_file.try_lock() {
        Ok(()) => Ok(Lock(lock_file)),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
        Err(TryLockError::Error(e)) => Err(failed(format!("cannot lock its lock file: {e}"))),
    }
}
