//! What the writer is asked to do, and what it answers.

use super::salvage::{self, Merged};
use super::{Error, Outcome, Record};
use crate::event::Draft;
use crate::id::Seed;
use crate::lead::{Fault, Lead};
use crate::time::Wall;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where a new event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The destination's number.
    pub dest: i64,
    /// The destination's filter failed on this event: it becomes a dead letter with this reason, never "not wanted".
    pub fault: Option<String>,
}

/// An event about to be kept.
#[derive(Debug)]
pub struct NewEvent {
    /// Its bytes, ids open.
    pub draft: Draft,
    /// Its id, all but the number.
    pub event: Seed,
    /// The id of the lead it creates, all but the number; of no meaning for other kinds.
    pub lead: Seed,
    /// Where it goes.
    pub targets: Vec<Target>,
}

/// A capture that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// `lead_…`
    pub lead_id: String,
    /// `evt_…`
    pub event_id: String,
    /// The submission had been kept before; these are its first ids.
    pub repeated: bool,
}

/// What a change makes of a lead.
#[derive(Debug)]
pub struct Changes {
    /// The lead's new state; `None` leaves it.
    pub lead: Option<Lead>,
    /// What to tell, in order.
    pub events: Vec<NewEvent>,
}

/// Works out a change from the lead's present state. Runs in the writer's transaction: pure and quick.
pub type ChangeFn = Box<dyn Fn(&Record) -> Result<Changes, Fault> + Send>;

/// A command for the writer.
pub(super) enum Work {
    Capture {
        event: Box<NewEvent>,
        submission: Option<[u8; 16]>,
    },
    Change {
        lead: String,
        change: ChangeFn,
    },
    Announce(Box<NewEvent>),
    /// With it, which destinations are in trouble from now on.
    Alarm(Box<NewEvent>, Vec<i64>),
    Register(Vec<String>),
    /// By which fingerprint the secret of each destination is known.
    Secrets(String),
    LaneState {
        dest: i64,
        state: &'static str,
        since: Wall,
        reason: String,
    },
    Merge(Arc<salvage::Batch>),
    Ping,
}

impl Work {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Work::Capture { event, .. } | Work::Announce(event) | Work::Alarm(event, _) => event.draft.bytes().len(),
            Work::Merge(batch) => batch.bytes(),
            _ => 256,
        }
    }
}

/// What the writer answers, once it is on the disk.
#[derive(Debug)]
pub enum Done {
    /// To a capture.
    Captured(Captured),
    /// To a change: the lead as it is now and the ids of the events made.
    Changed(Box<(Record, Vec<String>)>),
    /// To a change that the lead's state does not allow.
    Refused(Fault),
    /// To a change of a lead that is not there.
    Missing,
    /// To a registration: numbers, in order.
    Registered(Vec<i64>),
    /// To rows of a file that was put aside.
    Merged(Merged),
    /// To anything else.
    Kept,
}

pub(super) type Reply = Box<dyn FnOnce(Result<Done, Error>) + Send>;

/// The answers to all that one commit has kept.
pub struct Answers(pub(super) Vec<(Reply, Result<Done, Error>)>);

impl Answers {
    /// Gives them. Does not block.
    pub fn give(self) {
        for (reply, answer) in self.0 {
            reply(answer);
        }
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answers({})", self.0.len())
    }
}

pub(super) type Messenger = Box<dyn Fn(Answers) + Send + Sync>;

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;

/// Lets a caller give up on a command that the writer has not begun.
#[derive(Debug, Clone)]
pub struct Ticket(Arc<AtomicU8>);

impl Ticket {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(WAITING)))
    }

    /// True when the command will now never be carried out; false when it is too late for that.
    pub fn abandon(&self) -> bool {
        self.0.compare_exchange(WAITING, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn take(&self) -> bool {
        self.0.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

pub(super) struct Command {
    pub(super) work: Work,
    pub(super) reply: Reply,
    pub(super) ticket: Ticket,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) commands: VecDeque<Command>,
    pub(super) bytes: usize,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) stopping: bool,
    // The writer waits to be woken, with so many outcomes in its hands. A wake-up costs two switches between threads: one that is at work,
    // or lets outcomes wait for company, is not woken for nothing.
    pub(super) asleep: Option<usize>,
}
