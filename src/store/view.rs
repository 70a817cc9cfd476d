//! What can be read. No other part writes SQL for itself.

use super::{Counts, Destination, Entry, Error, Job, Logged, Record, Worn, destinations, leads, listing, queue, wear};
use crate::id::IdKey;
use crate::time::{Tick, Wall};
use rusqlite::Connection;

/// The database as it is at one moment.
#[derive(Debug)]
pub struct View<'c>(pub(super) &'c Connection);

impl View<'_> {
    /// See [`Job`]: never attempted, after event `after`.
    pub fn claim_ready(&self, dest: i64, after: i64, limit: usize) -> Result<Vec<Job>, Error> {
        queue::claim_ready(self.0, dest, after, limit)
    }

    /// See [`Job`]: put off and due by `now`.
    pub fn claim_waiting(&self, dest: i64, now: Tick, limit: usize) -> Result<Vec<Job>, Error> {
        queue::claim_waiting(self.0, dest, now, limit)
    }

    /// When the next one that was put off is due.
    pub fn next_due(&self, dest: i64, after: Tick) -> Result<Option<Tick>, Error> {
        queue::next_due(self.0, dest, after)
    }

    /// How much there is to do.
    pub fn counts(&self, dest: i64) -> Result<Counts, Error> {
        listing::counts(self.0, dest)
    }

    /// When the oldest unfinished event was made.
    pub fn oldest(&self, dest: i64) -> Result<Option<Wall>, Error> {
        listing::oldest(self.0, dest)
    }

    /// Unfinished and dead deliveries of a destination.
    pub fn deliveries(&self, dest: i64, state: Option<&str>, after: i64, limit: i64) -> Result<Vec<Entry>, Error> {
        listing::list(self.0, dest, state, after, limit)
    }

    /// Deliveries that were made, of events of `[since, until)`.
    pub fn finished(&self, dest: i64, since: Wall, until: Wall) -> Result<Vec<i64>, Error> {
        listing::finished(self.0, dest, since, until)
    }

    /// All deliveries of an event.
    pub fn deliveries_of(&self, event: i64) -> Result<Vec<Entry>, Error> {
        let destinations: Vec<i64> = self.destinations()?.iter().map(|d| d.dest).collect();
        listing::of_event(self.0, event, &destinations)
    }

    /// The lead with this public id.
    pub fn lead(&self, ids: &IdKey, public: &str) -> Result<Option<Record>, Error> {
        leads::by_id(self.0, ids, public)
    }

    /// Leads before number `before`, newest first.
    pub fn leads(&self, before: i64, limit: i64) -> Result<Vec<Record>, Error> {
        leads::page(self.0, before, limit)
    }

    /// A lead's events.
    pub fn events_of(&self, ids: &IdKey, number: i64) -> Result<Vec<Logged>, Error> {
        leads::events_of(self.0, ids, number)
    }

    /// The number of the event with this public id.
    pub fn event_number(&self, ids: &IdKey, public: &str) -> Result<Option<i64>, Error> {
        leads::event_number(self.0, ids, public)
    }

    /// All destinations ever configured.
    pub fn destinations(&self) -> Result<Vec<Destination>, Error> {
        destinations::all(self.0)
    }

    /// The destinations that were told of as failing and not as recovered.
    pub fn failing(&self) -> Result<Vec<i64>, Error> {
        destinations::failing(self.0)
    }

    /// What the card had to bear, as the daemon last noted it.
    pub fn worn(&self) -> Result<Option<Worn>, Error> {
        wear::kept(self.0)
    }

    /// The one with this number.
    pub fn destination(&self, dest: i64) -> Result<Option<Destination>, Error> {
        destinations::numbered(self.0, dest)
    }
}
