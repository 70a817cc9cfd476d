//! The rows of a damaged file, read from whatever pages of it are whole.
//!
//! It must never believe a page: each number is checked before it is followed, and what does not fit is a hole, not a row.

use super::pages::{Pages, u32_at};
use rusqlite::types::Value;

/// Deeper than any tree of a file with 2^32 pages.
const DEPTH_MAX: usize = 24;
/// Longest row that is believed: events are far smaller.
const ROW_BYTES_MAX: u64 = 4 << 20;

/// The two kinds of tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Rows at its leaves, by integer key.
    Table,
    /// `WITHOUT ROWID`: rows at its leaves and between them, by their first columns.
    Index,
}

/// What a walk meets, in the order of the keys.
#[derive(Debug)]
pub enum Item {
    /// A row; of a table its key stands in place of the first column.
    Row(Vec<Value>),
    /// Rows are missing here.
    Hole,
    /// What follows was found beside the tree and is in no order.
    Strays,
}

/// Walks the trees of a file.
#[derive(Debug)]
pub struct Reader<'p> {
    pages: &'p Pages,
    // A bit a page: a large file may have as many free pages as used ones.
    free: Vec<bool>,
    seen: Vec<bool>,
    /// Pages that could not be read, or hold something else than they should.
    pub unreadable: u64,
}

struct Page {
    bytes: Vec<u8>,
    leaf: bool,
    cells: Vec<usize>,
    right: u32,
}

impl<'p> Reader<'p> {
    /// A reader of these pages.
    pub fn new(pages: &'p Pages) -> Self {
        Self { pages, free: free_pages(pages), seen: Vec::new(), unreadable: 0 }
    }

    /// Whether there is a page of this kind of tree.
    pub fn is(&self, page: u32, tree: Tree) -> bool {
        self.page(page, tree).is_some()
    }

    /// Every row of the tree at `root` that can be read. First those that can be reached from the root, in order and with their holes;
    /// then those on pages that belong to it and whose way from the root is ruined, in no order. `stray`: pages of which nothing says
    /// where they belong are taken too.
    pub fn walk<E>(&mut self, root: u32, tree: Tree, stray: bool, f: &mut dyn FnMut(Item) -> Result<(), E>) -> Result<(), E> {
        self.seen = none_of(self.pages);
        let mut holes = false;
        self.descend(root, tree, 0, &mut |item| {
            holes |= matches!(item, Item::Hole);
            f(item)
        })?;
        if !holes {
            return Ok(());
        }
        f(Item::Strays)?;
        let unreadable = self.unreadable;
        for page in 2..=self.pages.count() {
            if self.saw(page) || self.pages.is_map(page) || is_set(&self.free, page) || !self.belongs(page, root, stray) {
                continue;
            }
            if self.is(page, tree) {
                self.descend(page, tree, 0, &mut |item| match item {
                    Item::Row(_) => f(item),
                    Item::Hole | Item::Strays => Ok(()),
                })?;
            }
        }
        self.unreadable = unreadable;
        Ok(())
    }

    /// The first row of the tree at `root` that can be read.
    pub fn any_row(&self, root: u32, tree: Tree) -> Option<Vec<Value>> {
        let mut reader = Reader { seen: none_of(self.pages), free: Vec::new(), ..*self };
        let walked = reader.descend(root, tree, 0, &mut |item| match item {
            Item::Row(row) => Err(row),
            Item::Hole | Item::Strays => Ok(()),
        });
        walked.err()
    }

    /// The last row of the tree at `root`, if nothing on the way to it is ruined.
    pub fn last(&self, root: u32, tree: Tree) -> Option<Option<Vec<Value>>> {
        let mut number = root;
        for _ in 0..DEPTH_MAX {
            let page = self.page(number, tree)?;
            if page.leaf {
                return match page.cells.last() {
                    Some(at) => self.row(&page, *at, tree).map(Some),
                    None => Some(None),
                };
            }
            number = page.right;
        }
        None
    }

    fn saw(&self, page: u32) -> bool {
        is_set(&self.seen, page)
    }

    fn belongs(&self, page: u32, root: u32, stray: bool) -> bool {
        let mut number = page;
        for step in 0..DEPTH_MAX {
            match self.pages.pointer(number) {
                Some((1, _)) => return number == root,
                Some((5, 1)) => return root == 1,
                Some((5, parent)) if parent > 0 => number = parent,
                None => return stray && step == 0,
                Some(_) => return false,
            }
        }
        false
    }

    fn descend<E>(&mut self, number: u32, tree: Tree, depth: usize, f: &mut dyn FnMut(Item) -> Result<(), E>) -> Result<(), E> {
        let page = if depth < DEPTH_MAX && !self.saw(number) { self.page(number, tree) } else { None };
        let Some(page) = page else {
            self.unreadable += u64::from(!self.saw(number) || number > self.pages.count());
            return f(Item::Hole);
        };
        set(&mut self.seen, number);
        for at in &page.cells {
            if !page.leaf {
                self.descend(u32_at(&page.bytes, *at).unwrap_or(0), tree, depth + 1, f)?;
            }
            if page.leaf || tree == Tree::Index {
                f(self.row(&page, *at, tree).map_or(Item::Hole, Item::Row))?;
            }
        }
        if !page.leaf {
            self.descend(page.right, tree, depth + 1, f)?;
        }
        Ok(())
    }

    fn page(&self, number: u32, tree: Tree) -> Option<Page> {
        let bytes = self.pages.read(number)?;
        let base = if number == 1 { 100 } else { 0 };
        let leaf = match (tree, *bytes.get(base)?) {
            (Tree::Table, 13) | (Tree::Index, 10) => true,
            (Tree::Table, 5) | (Tree::Index, 2) => false,
            _ => return None,
        };
        let (count, right) = (u16_at(&bytes, base + 3)?, if leaf { 0 } else { u32_at(&bytes, base + 8)? });
        let first = base + if leaf { 8 } else { 12 };
        let mut cells = Vec::with_capacity(count.min(self.pages.size() / 4));
        for cell in 0..count {
            let at = u16_at(&bytes, first + 2 * cell)?;
            // A page whose list points into itself or past its end is no page of ours.
            if at < first + 2 * count || at >= self.pages.size() {
                return None;
            }
            cells.push(at);
        }
        Some(Page { bytes, leaf, cells, right })
    }

    fn row(&self, page: &Page, at: usize, tree: Tree) -> Option<Vec<Value>> {
        let mut at = at + if page.leaf { 0 } else { 4 };
        let length = varint(&page.bytes, &mut at)?;
        let key = match tree {
            Tree::Table => Some(i64::from_be_bytes(varint(&page.bytes, &mut at)?.to_be_bytes())),
            Tree::Index => None,
        };
        let payload = self.payload(&page.bytes, at, length, tree)?;
        let mut values = record(&payload)?;
        if let Some(key) = key
            && let Some(first) = values.first_mut()
            && *first == Value::Null
        {
            *first = Value::Integer(key);
        }
        Some(values)
    }

    /// The bytes of a row: those on its page, and those of the chain of pages behind it.
    fn payload(&self, page: &[u8], at: usize, length: u64, tree: Tree) -> Option<Vec<u8>> {
        if length > ROW_BYTES_MAX {
            return None;
        }
        let length = usize::try_from(length).ok()?;
        let page_size = self.pages.size();
        let most = if tree == Tree::Table { page_size - 35 } else { (page_size - 12) * 64 / 255 - 23 };
        let least = (page_size - 12) * 32 / 255 - 23;
        let some = least + length.saturating_sub(least) % (page_size - 4);
        let local = match length {
            _ if length <= most => length,
            _ if some <= most => some,
            _ => least,
        };
        let mut payload = page.get(at..at.checked_add(local)?)?.to_vec();
        let mut next = if local < length { u32_at(page, at + local)? } else { 0 };
        while payload.len() < length {
            let more = self.pages.read(next)?;
            let wanted = (length - payload.len()).min(page_size - 4);
            payload.extend_from_slice(more.get(4..4 + wanted)?);
            next = u32_at(&more, 0)?;
        }
        Some(payload)
    }
}

fn free_pages(pages: &Pages) -> Vec<bool> {
    let mut free = none_of(pages);
    let Some(first) = pages.read(1).filter(|p| p.starts_with(b"SQLite format 3\0")) else { return free };
    let mut trunk = u32_at(&first, 32).unwrap_or(0);
    while trunk > 0 && !is_set(&free, trunk) {
        set(&mut free, trunk);
        let Some(page) = pages.read(trunk) else { break };
        let count = usize::try_from(u32_at(&page, 4).unwrap_or(0)).unwrap_or(0).min(pages.size() / 4 - 2);
        for leaf in (0..count).filter_map(|n| u32_at(&page, 8 + 4 * n)) {
            set(&mut free, leaf);
        }
        trunk = u32_at(&page, 0).unwrap_or(0);
    }
    free
}

fn none_of(pages: &Pages) -> Vec<bool> {
    vec![false; usize::try_from(pages.count()).unwrap_or(0) + 1]
}

/// A page that is not there counts as set.
fn is_set(bits: &[bool], page: u32) -> bool {
    usize::try_from(page).ok().and_then(|p| bits.get(p).copied()).unwrap_or(true)
}

fn set(bits: &mut [bool], page: u32) {
    if let Some(bit) = usize::try_from(page).ok().and_then(|p| bits.get_mut(p)) {
        *bit = true;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for n in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if n == 8 {
            return Some((value << 8) | u64::from(byte));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn record(payload: &[u8]) -> Option<Vec<Value>> {
    let mut at = 0;
    let head = usize::try_from(varint(payload, &mut at)?).ok().filter(|head| *head <= payload.len())?;
    let (mut values, mut data) = (Vec::new(), head);
    while at < head {
        let kind = varint(payload, &mut at)?;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => usize::try_from((kind - 12) / 2).ok()?,
        };
        let end = data.checked_add(length)?;
        let bytes = payload.get(data..end)?;
        data = end;
        values.push(match kind {
            0 => Value::Null,
            1..=6 => Value::Integer(integer(bytes)),
            7 => Value::Real(f64::from_be_bytes(bytes.try_into().ok()?)),
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            _ if kind % 2 == 0 => Value::Blob(bytes.to_vec()),
            _ => Value::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
        });
    }
    (at == head && data == payload.len()).then_some(values)
}

fn integer(bytes: &[u8]) -> i64 {
    let first = bytes.first().map_or(0, |b| if b & 0x80 == 0 { 0 } else { -1 });
    bytes.iter().fold(first, |value, byte| (value << 8) | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of ours with rows of every size in both kinds of tree, some of them deleted again.
    fn file(path: &std::path::Path) {
        let conn = rusqlite::Connection::open(path).unwrap();
        conn.execute_batch(
            "PRAGMA page_size = 1024; PRAGMA auto_vacuum = INCREMENTAL; CREATE TABLE t (a INTEGER PRIMARY KEY, b, c);
             CREATE TABLE i (a INTEGER, b BLOB, c, PRIMARY KEY (a, b)) WITHOUT ROWID;",
        )
        .unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        for n in 0..3000_i64 {
            let length = if n % 50 == 0 { random.usize(..9000) } else { random.usize(..300) };
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            let key = random.i64(..) >> random.u32(0..64);
            conn.execute("INSERT INTO t VALUES (?1, ?2, ?3)", rusqlite::params![n - 1000, key, bytes]).unwrap();
            conn.execute("INSERT INTO i VALUES (?1, ?2, ?3)", rusqlite::params![key, bytes, format!("text {n}")]).unwrap();
        }
        conn.execute_batch("DELETE FROM t WHERE a % 3 = 0; DELETE FROM i WHERE a % 3 = 0").unwrap();
    }

    fn walked(pages: &Pages, root: u32, tree: Tree) -> (Vec<Vec<Value>>, bool) {
        let (mut rows, mut holes) = (Vec::new(), false);
        let done: Result<(), ()> = Reader::new(pages).walk(root, tree, true, &mut |item| {
            match item {
                Item::Row(row) => rows.push(row),
                Item::Hole | Item::Strays => holes = true,
            }
            Ok(())
        });
        done.unwrap();
        (rows, holes)
    }

    #[test]
    fn a_whole_file_reads_as_sqlite_reads_it_and_a_ruined_one_never_ends_in_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        file(&path);
        let conn = rusqlite::Connection::open(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for (table, tree) in [("t", Tree::Table), ("i", Tree::Index)] {
            let root = conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [table], |r| r.get(0)).unwrap();
            let mut statement = conn.prepare(&format!("SELECT a, b, c FROM {table} ORDER BY a, b")).unwrap();
            let rows = statement.query_map([], |r| Ok(vec![r.get(0)?, r.get(1)?, r.get(2)?])).unwrap();
            let expected: Vec<Vec<Value>> = rows.map(Result::unwrap).collect();
            assert!(expected.len() > 1500);
            let found = walked(&Pages::open(&path).unwrap(), root, tree);
            assert!(found == (expected, false), "{table} is read differently");
        }
        let mut random = fastrand::Rng::with_seed(4);
        let ruined = folder.path().join("ruined.db");
        for _ in 0..15 {
            for _ in 0..random.usize(1..200) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            std::fs::write(&ruined, &bytes).unwrap();
            let pages = Pages::open(&ruined).unwrap();
            for root in 1..12 {
                walked(&pages, root, Tree::Table);
                walked(&pages, root, Tree::Index);
            }
        }
    }
}
