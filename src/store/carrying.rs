//! Damage as the running store knows it, and carrying over what is left of a file that was put aside.

use super::command::{Done, Work};
use super::salvage::{self, Damage, Entry as PutAside, Merged, Route};
use super::{Error, Level, Store, backup, leads, lock, schema};
use rusqlite::Connection;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Rows go through the writer, between the visitors' leads.
struct Through<'s>(&'s Store);

/// How long nothing is carried over after the writer refused it.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

impl salvage::Sink for Through<'_> {
    fn merge(&mut self, batch: salvage::Batch) -> Result<Merged, Error> {
        let store = self.0;
        let (batch, mut said) = (Arc::new(batch), false);
        loop {
            if lock(&store.0.queue).stopping {
                return Err(Error::Busy);
            }
            let full = store.0.space.level() == Level::Full;
            if full && batch.is_history() {
                return Ok(Merged::default());
            }
            let done = if full { Err(Error::Full) } else { store.call(Work::Merge(Arc::clone(&batch))) };
            match done {
                Ok(Done::Merged(merged)) => {
                    if batch.wakes() {
                        store.tell_lanes();
                    }
                    return Ok(merged);
                }
                Ok(_) => return Ok(Merged::default()),
                Err(e @ (Error::Busy | Error::Full | Error::Disk(_))) => {
                    if e != Error::Busy && !std::mem::replace(&mut said, true) {
                        log::error!("carrying over from the damaged file waits: {e}");
                    }
                    std::thread::sleep(REFUSED_PAUSE);
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn destinations(&mut self) -> Result<HashMap<String, i64>, Error> {
        Ok(self.0.read(|view| view.destinations())?.into_iter().map(|d| (d.name, d.dest)).collect())
    }

    fn events(&mut self, after: i64, before: i64) -> Result<Vec<(i64, String, Vec<u8>)>, Error> {
        self.0.read(|view| leads::between(view.0, after, before))
    }
}

impl Store {
    pub(super) fn check_in_background(&self) {
        match self.read(|view| schema::quick_check(view.0)) {
            Ok(()) => log::debug!("the database was checked and is whole"),
            // What was damage to the reading has been noted already.
            Err(Error::Damaged(_)) => {}
            Err(e) => log::error!("the database could not be checked: {e}"),
        }
    }

    /// What is known of damage.
    pub fn damage(&self) -> Damage {
        Damage::of(&self.0.options.path, &lock(&self.0.note))
    }

    /// Why nothing can be kept any more before another start: the file has to be put aside, or was taken away.
    pub fn must_begin_anew(&self) -> Option<Error> {
        if self.0.gone.load(Ordering::Acquire) {
            return Some(Error::Disk("its file was moved or deleted, or its disk is gone".to_owned()));
        }
        let damaged = self.failing() && lock(&self.0.note).damaged.is_some();
        damaged.then(|| Error::Damaged("it takes no leads any more".to_owned()))
    }

    /// Damage was found while running: said loudly, and noted for the next start, which puts the file aside.
    pub(super) fn note_damage(&self, found: &str) {
        let mut note = lock(&self.0.note);
        if note.damaged.is_some() {
            return;
        }
        note.damaged = Some(found.to_owned());
        log::error!(
            "the database is damaged: {found}; leads are still taken as far as it goes. Restart the daemon soon: it puts the file aside, saves what can be read, and goes on with a new one"
        );
        if let Err(e) = note.keep(&self.0.options.path) {
            log::error!("that could not be noted beside the database: {e}");
        }
    }

    /// Keeps what ids and numbers depend on beside the file as well.
    pub(super) fn keep_identity(&self, conn: &Connection) -> Result<(), Error> {
        if let Err(e) = backup::identity(conn)?.keep(&self.0.options.path) {
            log::warn!("the small file that ids and destinations could be known by after damage was not written: {e}");
        }
        Ok(())
    }

    /// Carries over, in the background, what can be read of files that were put aside. To be called when everything else runs.
    pub fn carry_over(&self, route: Box<dyn Route + Send>) -> Result<(), Error> {
        if !self.0.is_carrying_over() {
            return Ok(());
        }
        let store = self.clone();
        let thread = std::thread::Builder::new().name("salvage".into()).spawn(move || store.carry_over_now(route.as_ref()));
        thread.map(|_| ()).map_err(|e| Error::Disk(format!("no thread to save what is in the damaged file: {e}")))
    }

    /// The same, and waits for the end. Gives up when the store is stopping; the next start goes on.
    pub fn carry_over_now(&self, route: &dyn Route) {
        let path = &self.0.options.path;
        let entries: Vec<PutAside> = lock(&self.0.note).files.iter().filter(|f| !f.done).cloned().collect();
        for entry in entries {
            let result = salvage::carry_over(path, &entry, &mut Through(self), Some(route));
            let report = match result {
                Ok(report) => report,
                Err(e) => {
                    log::error!("{} is not carried over yet: {e}; the next start goes on with it", entry.file);
                    return;
                }
            };
            log::error!("of the damaged database {}: {report}. The file stays; remove it once you have looked at it", entry.file);
            let mut note = lock(&self.0.note);
            if let Some(kept) = note.files.iter_mut().find(|f| f.file == entry.file) {
                kept.done = true;
                kept.report = report;
            }
            if let Err(e) = note.keep(path) {
                log::error!("that it was carried over could not be noted, the next start does it again: {e}");
            }
        }
        self.0.carrying_over.store(false, Ordering::Release);
    }
}
