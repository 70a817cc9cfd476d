//! Damage: a database that cannot be used is put aside, a fresh one takes leads at once, and what can be read of the old one follows.
//!
//! It must never write to a file that was put aside nor remove it, never send a delivery to a destination it was not meant for, and never
//! believe that something is finished without having read so. Carrying over may be cut off at any moment and begun again: a row that is
//! there already is not written twice.

mod merge;
mod note;
mod pages;
mod rows;

pub use merge::{Batch, Merged, merge};
pub use note::{Damage, Entry, Identity, Named, Note, Report, Restored, folder, sync_folder};
pub use pages::log_has_lost_commits;

use super::{Error, beside, schema};
use crate::id::IdKey;
use crate::lead::Lead;
use crate::time::Wall;
use merge::Table;
use pages::Pages;
use rows::{Item, Reader, Tree};
use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Between the highest number that can be read and the first new one: room for what was given and cannot be read any more.
const GAP: i64 = 1 << 20;
/// The same when not even the end of the log can be read.
const GAP_UNKNOWN: i64 = 1 << 44;
/// A higher number is not believed.
const NUMBER_MAX: i64 = 1 << 60;
/// A later boot is not believed.
const BOOT_MAX: i64 = 1 << 20;
/// Rows and bytes carried over in one transaction, so that a capture never waits long.
const BATCH_ROWS: usize = 100;
const BATCH_BYTES: usize = 64 << 10;

/// What the configuration of today says about where an event goes.
pub trait Route {
    /// Whether this destination wants the event; `None` when it is not configured.
    fn wants(&self, dest: i64, kind: &str, body: &[u8]) -> Option<bool>;
    /// Every destination there is.
    fn configured(&self) -> Vec<i64>;
}

/// Where rows go: through the writer, or straight into a database nobody uses yet.
pub trait Sink {
    /// Writes these rows in one transaction.
    fn merge(&mut self, batch: Batch) -> Result<Merged, Error>;
    /// The destinations there, by name.
    fn destinations(&mut self) -> Result<HashMap<String, i64>, Error>;
    /// Events after number `after` and before `before`: number, kind, bytes.
    fn events(&mut self, after: i64, before: i64) -> Result<Vec<(i64, String, Vec<u8>)>, Error>;
}

/// Puts the database at `path` aside, durably and with a note of what the next one has to go on with. A cut in the middle is made good
/// by [`settle`].
pub fn set_aside(path: &Path, note: &mut Note, found: &str, now: Wall, restored: Option<Restored>) -> Result<(), Error> {
    let word = if restored.is_some() { "replaced" } else { "damaged" };
    let stamp: String = now.rfc3339().chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let base = format!("{name}.{word}-{stamp}Z");
    let free = |file: &String| !folder(path).join(file).exists() && note.files.iter().all(|f| f.file != *file);
    let file = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}-{n}"))).find(free).unwrap_or(base);
    let mut entry = recall(path);
    entry.file = file;
    found.clone_into(&mut entry.found);
    entry.at = now.0;
    entry.restored = restored;
    note.damaged = None;
    note.files.retain(|f| !f.done || folder(path).join(&f.file).exists());
    note.files.push(entry);
    note.keep(path)?;
    settle(path, note)
}

/// What the file at `path` says it is, without touching it: application id, schema number, and whether it has tables at all. `None` when
/// it does not even begin as a database does.
pub fn peek(path: &Path) -> Option<(i64, i64, bool)> {
    let page = Pages::open(path).ok()?.read(1).filter(|page| page.starts_with(b"SQLite format 3\0"))?;
    let word = |at| pages::u32_at(&page, at).map(i64::from);
    Some((word(68)?, word(60)?, page.get(100) != Some(&13) || page.get(103..105) != Some(&[0, 0])))
}

/// Finishes the renames that a cut has interrupted.
pub fn settle(path: &Path, note: &Note) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::Disk(format!("{} cannot be put aside: {e}", path.display()));
    for entry in note.files.iter().filter(|f| !f.done) {
        let aside = folder(path).join(&entry.file);
        // The file itself goes last: once it is there, what has the old names is new.
        if !aside.exists() && path.exists() {
            for suffix in ["-wal", "-shm", ""] {
                match std::fs::rename(beside(path, suffix), beside(&aside, suffix)) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    // One by one: the disk may keep renames in any order until it is told.
                    renamed => renamed.map_err(failed).and_then(|()| sync_folder(path))?,
                }
            }
        }
        if let Some(restored) = &entry.restored
            && !path.exists()
        {
            std::fs::rename(folder(path).join(&restored.copy), path).map_err(failed)?;
            sync_folder(path)?;
        }
    }
    Ok(())
}

/// What a damaged file and the small file beside it still say about ids, numbers and times. Quick: the ends of a few trees.
pub fn recall(path: &Path) -> Entry {
    let kept = Identity::load(path);
    let mut entry = Entry { identity: kept.clone(), ..Entry::default() };
    entry.identity.first_number = kept.first_number.saturating_add(GAP_UNKNOWN);
    let Ok(pages) = Pages::open(path) else { return entry };
    let mut reader = Reader::new(&pages);
    let roots = roots(&mut reader);
    let mut first_number = kept.first_number;
    each(&mut reader, &roots, "meta", |row| match row {
        [Value::Text(key), Value::Blob(value)] if key == "id_key" && value.len() == 32 => {
            entry.identity.id_key.get_or_insert_with(|| Identity::hex(value));
        }
        [Value::Text(key), Value::Integer(value)] if key == schema::FIRST_NUMBER => first_number = first_number.max(*value),
        // Schema 1 kept the boot's number here.
        [Value::Text(key), Value::Integer(value)] if key == "boot" && *value < BOOT_MAX => entry.boot = entry.boot.max(*value),
        _ => {}
    });
    each(&mut reader, &roots, "boot", |row| {
        if let [Value::Integer(boot), _, _, seen, ..] = row
            && *boot < BOOT_MAX
        {
            entry.boot = entry.boot.max(*boot);
            if let Value::Integer(seen) = seen {
                entry.seen = entry.seen.max(Some(*seen));
            }
        }
    });
    each(&mut reader, &roots, "destination", |row| {
        if let [Value::Integer(dest), Value::Text(name), Value::Integer(paused), ..] = row {
            let all = &mut entry.identity.destinations;
            match all.iter_mut().find(|d| d.dest == *dest || d.name == *name) {
                // The small file is written whole or not at all; a page of the damaged one may be anything.
                Some(known) if known.dest == *dest && known.name == *name => known.paused = *paused != 0,
                Some(_) => {}
                None => all.push(Named { dest: *dest, name: name.clone(), paused: *paused != 0 }),
            }
        }
    });
    let last = roots.get("event").and_then(|root| reader.last(*root, Tree::Table));
    let newest = match last.as_ref().map(|row| row.as_deref()) {
        Some(Some([Value::Integer(seq), _, _, _, Value::Integer(tick), ..])) if (1..NUMBER_MAX).contains(seq) => {
            entry.boot = entry.boot.max((tick >> 42).clamp(0, BOOT_MAX));
            Some(*seq)
        }
        Some(None) => Some(0),
        _ => None,
    };
    entry.identity.first_number = match newest {
        Some(newest) => first_number.max(newest + GAP),
        None => first_number.saturating_add(GAP_UNKNOWN),
    };
    entry
}

fn each(reader: &mut Reader<'_>, roots: &HashMap<&'static str, u32>, table: &str, mut f: impl FnMut(&[Value])) {
    let tree = if table == "meta" { Tree::Index } else { Tree::Table };
    let Some(root) = roots.get(table) else { return };
    let walked: Result<(), std::convert::Infallible> = reader.walk(*root, tree, false, &mut |item| {
        if let Item::Row(row) = item {
            f(&row);
        }
        Ok(())
    });
    let Ok(()) = walked;
}

/// Where each table's tree begins: as the file says, and where it cannot say it, as in any file of ours. Roots never move once made, and
/// there are as many layouts as there are ways to have got to this schema.
fn roots(reader: &mut Reader<'_>) -> HashMap<&'static str, u32> {
    let mut said: HashMap<String, u32> = HashMap::new();
    let walked: Result<(), std::convert::Infallible> = reader.walk(1, Tree::Table, false, &mut |item| {
        if let Item::Row(row) = item
            && let [Value::Text(kind), Value::Text(name), _, Value::Integer(root), ..] = row.as_slice()
            && kind == "table"
            && let Ok(root) = u32::try_from(*root)
        {
            said.insert(name.clone(), root);
        }
        Ok(())
    });
    let Ok(()) = walked;
    let mut best: Option<(i32, HashMap<&'static str, u32>)> = None;
    for layout in schema::layouts().unwrap_or_default() {
        let speaks = layout.iter().map(|(table, root)| speaks_for(reader, table, *root)).sum();
        if best.as_ref().is_none_or(|(most, _)| speaks > *most) {
            best = Some((speaks, layout));
        }
    }
    let mut best = best.map(|(_, layout)| layout).unwrap_or_default();
    for (table, root) in &mut best {
        if let Some(said) = said.get(*table) {
            *root = *said;
        }
    }
    best
}

/// How much speaks for this page being the root of this table: a row says more than the kind of page, and most says a row of another table.
fn speaks_for(reader: &Reader<'_>, table: &str, root: u32) -> i32 {
    let tree = if TABLES_BY_NUMBER.contains(&table) { Tree::Table } else { Tree::Index };
    if !reader.is(root, tree) {
        return 0;
    }
    let Some(row) = reader.any_row(root, tree) else { return 1 };
    let fits = match (Table::ALL.into_iter().find(|t| t.name() == table), row.as_slice()) {
        (Some(table), row) => table.fits(row),
        (None, [Value::Text(_), _]) => table == "meta",
        (None, [Value::Integer(_), Value::Text(_), ..]) => (table, row.len()) == ("boot", 5) || (table, row.len()) == ("destination", 7),
        (None, _) => false,
    };
    if fits { 2 } else { -4 }
}

const TABLES_BY_NUMBER: [&str; 4] = ["event", "lead", "boot", "destination"];

/// Gives a fresh database what it has to go on with, so that no id and no number of before gets another meaning.
pub fn prepare(conn: &mut Connection, entry: &Entry) -> Result<(), Error> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if schema::first_number(&tx)? < entry.identity.first_number {
        schema::set_meta(&tx, schema::FIRST_NUMBER, &entry.identity.first_number)?;
        if let Some(key) = entry.identity.key() {
            tx.execute("INSERT INTO meta (key, value) VALUES ('id_key', ?1) ON CONFLICT DO NOTHING", [key.to_vec()])?;
        }
        if entry.boot > 0 || entry.seen.is_some() {
            tx.execute("INSERT INTO boot (boot, id, seen) VALUES (?1, '', ?2) ON CONFLICT DO NOTHING", params![entry.boot, entry.seen])?;
        }
    }
    for d in &entry.identity.destinations {
        tx.execute(
            "INSERT INTO destination (dest, name, paused) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![d.dest, d.name, d.paused],
        )?;
        if entry.restored.is_some() {
            tx.execute("UPDATE destination SET paused = ?2 WHERE name = ?1", params![d.name, d.paused])?;
        }
    }
    Ok(tx.commit()?)
}

/// A range of keys (destination, event) of which rows are missing, both ends excluded.
#[derive(Debug, Clone, Copy)]
struct Hole {
    low: (i64, i64),
    high: (i64, i64),
}

/// Carries everything over that can be read of the file of `entry`, beside the database at `path`.
pub fn carry_over(path: &Path, entry: &Entry, sink: &mut dyn Sink, route: Option<&dyn Route>) -> Result<Report, Error> {
    let mut report = Report::default();
    let file = folder(path).join(&entry.file);
    let pages = match Pages::open(&file) {
        Ok(pages) => pages,
        Err(e) => {
            log::error!("{} cannot be read any more, nothing of it is carried over: {e}", file.display());
            return Ok(report);
        }
    };
    let mut reader = Reader::new(&pages);
    let there = sink.destinations()?;
    let mut work = Work {
        roots: roots(&mut reader),
        reader,
        sink,
        ids: entry.identity.key().map(IdKey::new),
        known: entry.identity.destinations.iter().filter_map(|d| Some((d.dest, *there.get(&d.name)?))).collect(),
        newer: entry.restored.is_some(),
        holes: Vec::new(),
        homeless: HashSet::new(),
        report: &mut report,
    };
    for table in Table::ALL {
        work.table(table)?;
    }
    work.queue_again(entry.identity.first_number, route)?;
    work.sink.merge(Batch::end())?;
    let unreadable = work.reader.unreadable;
    report.pages = unreadable;
    Ok(report)
}

struct Work<'w, 'p> {
    reader: Reader<'p>,
    roots: HashMap<&'static str, u32>,
    sink: &'w mut dyn Sink,
    ids: Option<IdKey>,
    // The number here of each destination there.
    known: HashMap<i64, i64>,
    newer: bool,
    holes: Vec<Hole>,
    // Events with a delivery to a destination whose name is not known any more.
    homeless: HashSet<i64>,
    report: &'w mut Report,
}

impl Work<'_, '_> {
    fn table(&mut self, table: Table) -> Result<(), Error> {
        let Some(root) = self.roots.get(table.name()).copied() else { return Ok(()) };
        let mut gather = Gather::new(table, self.newer);
        let mut finished = Gather::new(Table::History, self.newer);
        let (sink, report, ids, known, homeless) = (&mut *self.sink, &mut *self.report, &self.ids, &self.known, &mut self.homeless);
        self.reader.walk(root, table.tree(), table == Table::Event, &mut |item| {
            let mut row = match item {
                Item::Hole => {
                    gather.hole();
                    return Ok(());
                }
                Item::Strays => {
                    gather.close(None);
                    gather.strays = true;
                    return Ok(());
                }
                Item::Row(row) => row,
            };
            if !table.fits(&row) || !is_sound(table, &row, ids.as_ref()) {
                // On a page that may belong to anything this says nothing.
                report.lost += u64::from(!gather.strays);
                if !gather.strays {
                    gather.hole();
                }
                return Ok(());
            }
            gather.close(Some(&row));
            if let Some((dest, event)) = table.delivery(&row) {
                match known.get(&dest) {
                    Some(number) => table.address(&mut row, *number),
                    None if table.is_pending() => {
                        homeless.insert(event);
                        return Ok(());
                    }
                    None => {
                        report.lost += 1;
                        return Ok(());
                    }
                }
            }
            match table.finished(&row) {
                Some(row) => finished.push(row, sink, report),
                None => gather.push(row, sink, report),
            }
        })?;
        finished.flush(&mut *self.sink, self.report)?;
        gather.close(None);
        gather.flush(&mut *self.sink, self.report)?;
        if table == Table::Event {
            self.report.lost += gather.missing();
        } else if table.is_pending() {
            self.holes.append(&mut gather.holes);
        }
        Ok(())
    }

    /// Deliveries of which nothing says any more whether they were made: an event of before, in a hole, with no record of its end, for a
    /// destination that would get it by the configuration of today, or that is not in it. Twice is better than never.
    fn queue_again(&mut self, before: i64, route: Option<&dyn Route>) -> Result<(), Error> {
        if route.is_none() || (self.holes.is_empty() && self.homeless.is_empty()) {
            return Ok(());
        }
        let mut after = 0;
        loop {
            let events = self.sink.events(after, before)?;
            let Some((last, ..)) = events.last() else { return Ok(()) };
            after = *last;
            let mut batch = Batch::new(Table::Again, self.newer);
            for (event, kind, body) in events {
                let wants = |dest: i64| route.and_then(|r| r.wants(dest, &kind, &body));
                let mut to: HashSet<i64> = HashSet::new();
                for (before, dest) in &self.known {
                    let lost = self.holes.iter().any(|h| h.low < (*before, event) && (*before, event) < h.high);
                    if lost && wants(*dest) != Some(false) {
                        to.insert(*dest);
                    }
                }
                if self.homeless.remove(&event) {
                    to.extend(route.map(Route::configured).unwrap_or_default().into_iter().filter(|dest| wants(*dest) == Some(true)));
                    self.report.lost += u64::from(to.is_empty());
                }
                batch.rows.extend(to.into_iter().map(|dest| vec![Value::Integer(dest), Value::Integer(event)]));
            }
            if !batch.rows.is_empty() {
                self.report.requeued += self.sink.merge(batch)?.written;
            }
        }
    }
}

/// Rows on their way, and the holes between them.
struct Gather {
    batch: Batch,
    bytes: usize,
    low: Option<(i64, i64)>,
    open: Option<(i64, i64)>,
    holes: Vec<Hole>,
    strays: bool,
    found_beside: u64,
}

const FIRST: (i64, i64) = (i64::MIN, i64::MIN);
const LAST: (i64, i64) = (i64::MAX, i64::MAX);

impl Gather {
    fn new(table: Table, newer: bool) -> Self {
        Self { batch: Batch::new(table, newer), bytes: 0, low: None, open: None, holes: Vec::new(), strays: false, found_beside: 0 }
    }

    fn hole(&mut self) {
        self.open.get_or_insert(self.low.unwrap_or(FIRST));
    }

    /// A hole ends at this row, or at the end of everything.
    fn close(&mut self, row: Option<&[Value]>) {
        if self.strays {
            self.found_beside += u64::from(row.is_some());
            return;
        }
        let key = row.map(|row| match row {
            [Value::Integer(a), Value::Integer(b), ..] => (*a, *b),
            [Value::Integer(a), ..] => (*a, 0),
            _ => FIRST,
        });
        if let Some(low) = self.open.take() {
            self.holes.push(Hole { low, high: key.unwrap_or(LAST) });
        }
        self.low = key.or(self.low);
    }

    /// Numbers of events that a hole has swallowed, as far as its ends are known. Some of them may have been forgotten before.
    fn missing(&self) -> u64 {
        let numbers = |h: &Hole| if h.high == LAST { 0 } else { h.high.0.saturating_sub(h.low.0.max(0)).saturating_sub(1) };
        let missing: i64 = self.holes.iter().map(numbers).fold(0, i64::saturating_add);
        u64::try_from(missing).unwrap_or(0).saturating_sub(self.found_beside)
    }

    fn push(&mut self, row: Vec<Value>, sink: &mut dyn Sink, report: &mut Report) -> Result<(), Error> {
        self.bytes += row.iter().map(|v| if let Value::Blob(b) = v { b.len() } else { 16 }).sum::<usize>();
        self.batch.rows.push(row);
        if self.batch.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES { self.flush(sink, report) } else { Ok(()) }
    }

    fn flush(&mut self, sink: &mut dyn Sink, report: &mut Report) -> Result<(), Error> {
        if self.batch.rows.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let table = self.batch.table;
        let next = Batch::new(table, self.batch.newer);
        let batch = std::mem::replace(&mut self.batch, next);
        let merged = sink.merge(batch)?;
        report.lost += merged.lost;
        report.leads += merged.leads;
        match table {
            Table::Event => report.events += merged.written,
            Table::Ready | Table::Waiting => report.pending += merged.written,
            Table::Dead => report.dead += merged.written,
            Table::History => report.history += merged.written,
            Table::Lead | Table::Submission | Table::Rendered | Table::Again | Table::End => {}
        }
        Ok(())
    }
}

/// Whether a row of the right shape also makes sense. An event's bytes must be JSON and hold the very id its columns give.
fn is_sound(table: Table, row: &[Value], ids: Option<&IdKey>) -> bool {
    #[derive(serde::Deserialize)]
    struct Envelope {
        id: String,
        event: String,
    }
    match (table, row) {
        (Table::Event, [Value::Integer(seq), lead, Value::Text(kind), _, _, Value::Integer(random), Value::Blob(body), ..]) => {
            let Ok(body) = super::unpack(body) else { return false };
            let Ok(event) = serde_json::from_slice::<Envelope>(&body) else { return false };
            let random = super::from_column(*random);
            // Without the key only the random half can be compared: its first 58 bits are the first 12 digits.
            let id_is_right = match ids {
                Some(ids) => event.id == ids.event(random).id(*seq),
                None => event.id.get(..16) == IdKey::new([0; 32]).event(random).id(*seq).get(..16),
            };
            (1..NUMBER_MAX).contains(seq) && id_is_right && event.event == *kind && !matches!(lead, Value::Integer(lead) if lead > seq)
        }
        (Table::Lead, [.., Value::Blob(state)]) => serde_json::from_slice::<Lead>(state).is_ok(),
        _ => true,
    }
}
