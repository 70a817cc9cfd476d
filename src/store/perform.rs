//! What each command does, inside the writer's transaction.

use super::command::{Captured, Done, NewEvent, Work};
use super::counting::Tally;
use super::{Error, Letter, Store, destinations, leads, queue, salvage};
use crate::event::Kind;
use crate::time::{Tick, Wall};
use rusqlite::Connection;
use std::collections::BTreeMap;

/// What one transaction did, told only after its commit.
#[derive(Default)]
pub struct Told {
    pub answers: Vec<Done>,
    pub woken: Vec<i64>,
    pub confirmed: BTreeMap<i64, Vec<i64>>,
    pub finished: Vec<(i64, i64)>,
    pub tally: Tally,
}

/// Carries one command out.
pub fn perform(conn: &Connection, store: &Store, work: &Work, seq: &mut i64, now: (Tick, Wall), told: &mut Told) -> Result<Done, Error> {
    let ids = &store.0.ids;
    match work {
        Work::Capture { event, submission } => {
            if let Some(digest) = submission
                && let Some((first, random)) = leads::submitted(conn, digest, *seq)?
            {
                let (lead_id, event_id) = (ids.lead(random).id(first), ids.event(random).id(first));
                return Ok(Done::Captured(Captured { lead_id, event_id, repeated: true }));
            }
            let number = append(conn, store, event, None, seq, now, told)?;
            if let Some(digest) = submission {
                leads::remember(conn, digest, number)?;
            }
            Ok(Done::Captured(Captured { lead_id: event.lead.id(number), event_id: event.event.id(number), repeated: false }))
        }
        Work::Change { lead, change } => {
            let Some(mut record) = leads::by_id(conn, ids, lead)? else { return Ok(Done::Missing) };
            let changes = match change(&record) {
                Ok(changes) => changes,
                Err(fault) => return Ok(Done::Refused(fault)),
            };
            if let Some(lead) = changes.lead {
                record.version += 1;
                record.changed = Some(now.1);
                leads::save(conn, record.number, record.version, now.1, &lead)?;
                record.lead = lead;
            }
            let mut made = Vec::with_capacity(changes.events.len());
            for event in &changes.events {
                let number = append(conn, store, event, Some(record.number), seq, now, told)?;
                made.push(event.event.id(number));
            }
            Ok(Done::Changed(Box::new((record, made))))
        }
        Work::Announce(event) => {
            append(conn, store, event, None, seq, now, told)?;
            Ok(Done::Kept)
        }
        Work::Alarm(event, failing) => {
            append(conn, store, event, None, seq, now, told)?;
            destinations::set_failing(conn, failing)?;
            Ok(Done::Kept)
        }
        Work::Register(names) => {
            let numbers: Result<Vec<i64>, Error> = names.iter().map(|n| destinations::register(conn, n)).collect();
            Ok(Done::Registered(numbers?))
        }
        Work::Secrets(text) => {
            destinations::set_secrets(conn, text)?;
            Ok(Done::Kept)
        }
        Work::LaneState { dest, state, since, reason } => {
            destinations::set_state(conn, *dest, state, *since, reason)?;
            Ok(Done::Kept)
        }
        Work::Merge(batch) => {
            store.0.counting.lost();
            Ok(Done::Merged(salvage::merge(conn, batch)?))
        }
        Work::Ping => Ok(Done::Kept),
    }
}

/// Writes an event and a delivery for each of its targets; returns its number.
fn append(
    conn: &Connection,
    store: &Store,
    event: &NewEvent,
    lead: Option<i64>,
    seq: &mut i64,
    (tick, wall): (Tick, Wall),
    told: &mut Told,
) -> Result<i64, Error> {
    let number = *seq;
    *seq += 1;
    let lead = if event.draft.kind == Kind::LeadCreated { Some(number) } else { lead };
    if event.draft.untrusted {
        store.0.stamps.untrusted(number);
    } else {
        store.0.timeline.believed(event.draft.at);
    }
    let body = event.draft.seal(number, event.event, event.lead);
    let row =
        leads::NewRow { seq: number, lead, kind: event.draft.kind, at: event.draft.at, tick, random: event.event.random(), body: &body };
    leads::append(conn, &row)?;
    for target in &event.targets {
        match &target.fault {
            None => queue::enqueue(conn, &mut told.tally, target.dest, number, lead)?,
            Some(reason) => {
                let letter = Letter {
                    at: wall,
                    attempts: 0,
                    class: "internal".to_owned(),
                    code: "internal".to_owned(),
                    status: None,
                    reason: reason.clone(),
                    answer: String::new(),
                };
                queue::bury(conn, &mut told.tally, target.dest, number, &letter)?;
            }
        }
        told.woken.push(target.dest);
    }
    Ok(number)
}
