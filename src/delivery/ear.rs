//! Where the writer leaves word for a lane. Its lock is held for a few instructions only.

use crate::store::Watcher;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What has been heard and not been listened to.
#[derive(Debug, Default)]
pub struct Heard {
    /// Events whose outcomes are on the disk.
    pub confirmed: Vec<i64>,
    /// Rows were changed by somebody else.
    pub changed: bool,
    generation: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ear {
    heard: Mutex<Heard>,
    signal: Condvar,
}

impl Ear {
    /// Leaves word and wakes whoever waits.
    pub fn hear(&self, f: impl FnOnce(&mut Heard)) {
        let mut heard = self.heard();
        f(&mut heard);
        heard.generation += 1;
        drop(heard);
        self.signal.notify_all();
    }

    /// Wakes whoever waits.
    pub fn wake(&self) {
        self.hear(|_| ());
    }

    /// The word that was left, without waking anybody.
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever there is word.
    pub fn generation(&self) -> u64 {
        self.heard().generation
    }

    /// Waits for word after `generation`, for as long as `patience`.
    pub fn wait(&self, generation: u64, patience: Duration) {
        let heard = self.heard();
        if heard.generation == generation {
            drop(self.signal.wait_timeout(heard, patience));
        }
    }
}

impl Watcher for Ear {
    fn work(&self) {
        self.wake();
    }
    fn confirmed(&self, events: &[i64]) {
        self.hear(|h| h.confirmed.extend_from_slice(events));
    }
    fn changed(&self) {
        self.hear(|h| h.changed = true);
    }
}
