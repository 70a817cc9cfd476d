//! How many deliveries each destination has, known without counting.
//!
//! The writer keeps the numbers up to date with each commit. They are counted once, in the background, from a moment that the writer
//! fixes: what it commits after that moment is added to what was counted. Whenever somebody else has changed rows they are counted anew.

use super::{Error, Store, View, listing, lock, schema};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How much a destination has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Never attempted.
    pub ready: i64,
    /// Attempted, to be tried again.
    pub retrying: i64,
    /// Held back behind an earlier event of the same lead.
    pub held: i64,
    /// Given up.
    pub dead: i64,
}

impl Counts {
    /// All that still has to be delivered.
    pub fn waiting(&self) -> i64 {
        self.ready + self.retrying + self.held
    }
}

/// What a transaction changes in the counts of each destination.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<i64, Counts>);

impl From<BTreeMap<i64, Counts>> for Tally {
    fn from(changes: BTreeMap<i64, Counts>) -> Self {
        Self(changes)
    }
}

impl Tally {
    /// What changes for this destination.
    pub fn of(&mut self, dest: i64) -> &mut Counts {
        self.0.entry(dest).or_default()
    }

    /// Adds the changes to `counts`.
    pub fn add_to(&self, counts: &mut BTreeMap<i64, Counts>) {
        for (dest, change) in &self.0 {
            let c = counts.entry(*dest).or_default();
            c.ready += change.ready;
            c.retrying += change.retrying;
            c.held += change.held;
            c.dead += change.dead;
        }
    }
}

/// The numbers, as far as they are known.
#[derive(Debug, Default)]
pub struct Counting(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    // Which counting this is about; an older one that ends late is not believed.
    round: u64,
    counts: Option<BTreeMap<i64, Counts>>,
    // What was committed since the moment that is being counted.
    since: BTreeMap<i64, Counts>,
    lost: bool,
}

impl Counting {
    /// Notes what a commit has changed.
    pub fn committed(&self, tally: &Tally) {
        let mut known = lock(&self.0);
        let known = &mut *known;
        tally.add_to(known.counts.as_mut().unwrap_or(&mut known.since));
    }

    /// The numbers of a destination, if they are known.
    pub fn of(&self, dest: i64) -> Option<Counts> {
        lock(&self.0).counts.as_ref().map(|counts| counts.get(&dest).copied().unwrap_or_default())
    }

    /// Rows are changed by ways that nobody keeps count of: what is asked for is counted until [`Store::count_anew`].
    pub fn lost(&self) {
        let mut known = lock(&self.0);
        *known = Known { round: known.round + 1, lost: true, ..Known::default() };
    }

    /// Whether it must be counted anew.
    pub fn is_lost(&self) -> bool {
        lock(&self.0).lost
    }

    fn begin(&self) -> u64 {
        let mut known = lock(&self.0);
        *known = Known { round: known.round + 1, ..Known::default() };
        known.round
    }

    fn end(&self, round: u64, mut counted: BTreeMap<i64, Counts>) {
        let mut known = lock(&self.0);
        if known.round == round {
            Tally::from(std::mem::take(&mut known.since)).add_to(&mut counted);
            known.counts = Some(counted);
        }
    }
}

impl Store {
    /// Begins to count. To be called by the writer, between two commits: this moment is what is counted. If it fails, the counts are lost.
    pub(super) fn count_anew(&self) -> Result<(), Error> {
        self.begin_to_count().inspect_err(|_| self.0.counting.lost())
    }

    fn begin_to_count(&self) -> Result<(), Error> {
        let round = self.0.counting.begin();
        let mut conn = schema::connect(&self.0.options.path, schema::Purpose::Reader)?;
        // The first statement fixes the moment, for as long as the transaction lasts.
        conn.execute_batch("BEGIN; SELECT 1 FROM meta LIMIT 1")?;
        // Not the whole store: that would keep the database locked for as long as the counting takes.
        let counting = Arc::clone(&self.0.counting);
        let count = move || {
            let counted = count(&mut conn);
            match counted {
                Ok(counted) => counting.end(round, counted),
                Err(e) => log::debug!("the deliveries could not be counted in advance: {e}"),
            }
        };
        std::thread::Builder::new().name("count".into()).spawn(count).map(drop).map_err(|e| Error::Sql(format!("no thread to count: {e}")))
    }

    /// How much a destination has to do. Costs nothing once the writer knows; before that it is counted.
    pub fn counts(&self, dest: i64) -> Result<Counts, Error> {
        match self.0.counting.of(dest) {
            Some(counts) => Ok(counts),
            None => self.read(|view| view.counts(dest)),
        }
    }
}

fn count(conn: &mut rusqlite::Connection) -> Result<BTreeMap<i64, Counts>, Error> {
    let view = View(conn);
    view.destinations()?.iter().map(|d| Ok((d.dest, listing::counts(view.0, d.dest)?))).collect()
}
