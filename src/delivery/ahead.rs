//! What a lane has read ahead, what of it is under way, and which delivery is the next.

use crate::store::{Error, Job, Store};
use crate::time::Tick;
use std::collections::{HashMap, HashSet, VecDeque};

/// Outcomes that may be unconfirmed at once: as many deliveries may be made twice after a power cut.
const UNCONFIRMED_MAX: usize = 256;
/// Deliveries read ahead.
const READY_AHEAD: usize = 32;
const WAITING_AHEAD: usize = 8;
/// One that has failed so often shares no exchange any more: it may be what makes the exchange fail.
const ATTEMPTS_IN_COMPANY: u32 = 2;
/// Probes of a blocked lane with the same delivery before another one is tried.
const PROBES_WITH_ONE: u32 = 2;

/// See the module.
#[derive(Debug, Default)]
pub struct Ahead {
    cursor: i64,
    buffer: VecDeque<Job>,
    // The store's epoch when the buffer was read.
    epoch: u64,
    // Under way, or finished with the outcome not on the disk yet.
    busy: HashSet<i64>,
    // Deliveries that got the lane blocked, and how often.
    suspects: HashMap<i64, u32>,
    // Suspects of the last blocked time: if one of them is refused again while others get through, the trouble is its own.
    doubtful: HashSet<i64>,
    // Rejected along with others; each of them is tried by itself.
    alone: HashSet<i64>,
    // Their mapped body is on its way to the disk; once it is there they are read again.
    unmoved: HashSet<i64>,
    // Counts the operator's changes and corrections of times: what was claimed before one may be gone, or have other bytes.
    changes: u64,
}

impl Ahead {
    /// The store's epoch when this was read.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How often rows have changed under the lane.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many outcomes more may be left unconfirmed.
    pub fn room(&self) -> usize {
        UNCONFIRMED_MAX.saturating_sub(self.busy.len())
    }

    /// Deliveries that are under way, or whose outcome is not on the disk yet.
    pub fn under_way(&self) -> usize {
        self.busy.len()
    }

    /// Oldest first again.
    pub fn reread(&mut self) {
        self.buffer.clear();
        self.cursor = 0;
    }

    /// Rows were dropped or retried by hand, or have other bytes.
    pub fn changed(&mut self) {
        self.reread();
        self.changes += 1;
    }

    /// The delivery is under way.
    pub fn begins(&mut self, event: i64) {
        self.busy.insert(event);
    }

    /// The outcome of this delivery is on the disk.
    pub fn confirmed(&mut self, event: i64) {
        self.busy.remove(&event);
        if self.unmoved.remove(&event) {
            self.cursor = self.cursor.min(event - 1);
        }
    }

    /// Whether it got the lane blocked and is refused again while others get through.
    pub fn is_doubtful(&self, event: i64) -> bool {
        self.doubtful.contains(&event)
    }

    /// Whether it shares no exchange with others: one of them may be refused because of another.
    pub fn goes_alone(&self, job: &Job) -> bool {
        job.attempts >= ATTEMPTS_IN_COMPANY
            || self.alone.contains(&job.event)
            || self.suspects.contains_key(&job.event)
            || self.doubtful.contains(&job.event)
    }

    /// From now on it goes alone.
    pub fn set_apart(&mut self, event: i64) {
        self.alone.insert(event);
    }

    /// Nothing speaks against this delivery any more.
    pub fn cleared(&mut self, event: i64) {
        self.suspects.remove(&event);
        self.doubtful.remove(&event);
        self.alone.remove(&event);
    }

    /// It was taken, and is not sent now.
    pub fn put_back(&mut self, job: Job) {
        self.busy.remove(&job.event);
        self.buffer.push_front(job);
    }

    /// The lane is held.
    pub fn held(&mut self) {
        self.doubtful.clear();
    }

    /// The lane is open again: oldest first, those included that the probes went past.
    pub fn opened(&mut self) {
        self.doubtful = std::mem::take(&mut self.suspects).into_keys().collect();
        self.reread();
    }

    /// What becomes of a delivery whose attempt does not count. Its row has not moved. `changes` is how often rows had changed when it was
    /// claimed.
    pub fn again(&mut self, job: Job, refused: bool, keeps_body: bool, changes: u64) {
        if keeps_body {
            // Not before its bytes are on the disk: the next attempt must send the same.
            self.unmoved.insert(job.event);
        } else {
            self.busy.remove(&job.event);
        }
        let mut stale = keeps_body;
        if refused {
            let times = self.suspects.entry(job.event).or_insert(0);
            *times = times.saturating_add(1);
            // Let another one try: perhaps it is only this one that is refused.
            stale |= *times >= PROBES_WITH_ONE;
        }
        if changes != self.changes {
            // An operator may have dropped it meanwhile: the row decides.
            self.cursor = self.cursor.min(job.event - 1);
        } else if !stale {
            self.buffer.push_front(job);
        }
    }

    /// The next delivery that is due.
    pub fn next(&mut self, store: &Store, dest: i64, now: Tick) -> Result<Option<Job>, Error> {
        if self.buffer.is_empty() {
            self.read(store, dest, now)?;
            // Nothing new, but suspects were left behind the cursor: their turn has come again.
            if self.buffer.is_empty() && self.cursor > 0 && !self.suspects.is_empty() {
                self.cursor = 0;
                self.read(store, dest, now)?;
            }
        }
        Ok(self.buffer.pop_front())
    }

    /// Four fresh ones, then one that was put off, so that neither keeps the other waiting for ever.
    fn read(&mut self, store: &Store, dest: i64, now: Tick) -> Result<(), Error> {
        let epoch = store.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.changes += 1;
        }
        let (mut cursor, busy) = (self.cursor, &self.busy);
        let (ready, waiting) = store.read(|view| {
            let ready = loop {
                let page = view.claim_ready(dest, cursor, READY_AHEAD)?;
                let last_page = page.len() < READY_AHEAD;
                cursor = page.last().map_or(cursor, |last| last.event);
                let free: Vec<Job> = page.into_iter().filter(|job| !busy.contains(&job.event)).collect();
                // A page that is all under way says nothing of what stands behind it.
                if last_page || !free.is_empty() {
                    break free;
                }
            };
            Ok((ready, view.claim_waiting(dest, now, WAITING_AHEAD + busy.len())?))
        })?;
        self.cursor = cursor;
        let mut waiting = waiting.into_iter().filter(|j| !self.busy.contains(&j.event));
        let mut ready = ready.into_iter().peekable();
        let mut buffer = VecDeque::new();
        while ready.peek().is_some() {
            buffer.extend(ready.by_ref().take(4));
            buffer.extend(waiting.next());
        }
        buffer.extend(waiting);
        self.buffer = buffer;
        Ok(())
    }
}
