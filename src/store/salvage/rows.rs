//! The rows of a damaged file, read from whatever pages of it are whole.
//!
//! It must never believe a page: each number is checked before it is followed, and what does not fit is a hole, not a row.

use super::pages::{Pages, u32_at};
use rusqlite::types::Value;
use std::collections::HashSet;

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
    free: HashSet<u32>,
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
        self.seen = vec![false; usize::try_from(self.pages.count()).unwrap_or(0) + 1];
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
            if self.saw(page) || self.pages.is_map(page) || self.free.contains(&page) || !self.belongs(page, root, stray) {
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
        usize::try_from(page).ok().and_then(|p| self.seen.get(p).copied()).unwrap_or(true)
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
        if let Some(seen) = usize::try_from(number).ok().and_then(|n| self.seen.get_mut(n)) {
            *seen = true;
        }
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

fn free_pages(pages: &Pages) -> HashSet<u32> {
    let mut free = HashSet::new();
    let Some(first) = pages.read(1).filter(|p| p.starts_with(b"SQLite format 3\0")) else { return free };
    let mut trunk = u32_at(&first, 32).unwrap_or(0);
    while trunk > 0 && free.insert(trunk) {
        let Some(page) = pages.read(trunk) else { break };
        let count = usize::try_from(u32_at(&page, 4).unwrap_or(0)).unwrap_or(0).min(pages.size() / 4 - 2);
        free.extend((0..count).filter_map(|n| u32_at(&page, 8 + 4 * n)));
        trunk = u32_at(&page, 0).unwrap_or(0);
    }
    free
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
