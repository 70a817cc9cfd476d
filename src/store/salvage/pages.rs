//! A damaged file page by page: each page as the log has it, or else as the file has it. Reading only, and without SQLite, which gives up
//! at the first page that is wrong.
//!
//! The formats are those of <https://www.sqlite.org/fileformat2.html>. Our files have pages of one of two sizes; which one is found out
//! before anything else, from whatever part of the file is whole.

use super::beside;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes in a page: of files made since schema 2, and of older ones.
const SIZES: [u32; 2] = [4096, 1024];
/// Bytes of the log's head, and of the head of each of its frames.
const LOG_HEAD: u64 = 32;
const FRAME_HEAD: usize = 24;
/// The byte SQLite locks; its page is never used.
const LOCK_BYTE: u32 = 1 << 30;

/// Four bytes of `bytes`, big end first.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A file's pages.
#[derive(Debug)]
pub struct Pages {
    file: File,
    size: u32,
    count: u32,
    log: Option<File>,
    // Where in the log the newest image of a page is.
    newer: HashMap<u32, u64>,
}

impl Pages {
    /// Opens the file at `path`, and the log beside it if there is one.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let log = File::open(beside(path, "-wal")).ok();
        let size = page_size(&file, log.as_ref());
        let pages = file.metadata()?.len().div_ceil(u64::from(size));
        let newer = log.as_ref().map(|log| read_log(log, size).newer).unwrap_or_default();
        let last = newer.keys().copied().max().unwrap_or(0);
        Ok(Self { file, size, count: u32::try_from(pages).unwrap_or(u32::MAX).max(last), log, newer })
    }

    /// Bytes in a page.
    pub fn size(&self) -> usize {
        usize::try_from(self.size).unwrap_or(0)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The bytes of one page; `None` when the disk does not give them.
    pub fn read(&self, number: u32) -> Option<Vec<u8>> {
        if number == 0 || number > self.count {
            return None;
        }
        let mut page = vec![0; self.size()];
        match (self.newer.get(&number), &self.log) {
            (Some(at), Some(log)) => log.read_exact_at(&mut page, *at).ok()?,
            _ => self.file.read_exact_at(&mut page, u64::from(number - 1) * u64::from(self.size)).ok()?,
        }
        Some(page)
    }

    /// What the pointer map says of a page: its type and its parent. `None` when that part of the map is ruined.
    pub fn pointer(&self, number: u32) -> Option<(u8, u32)> {
        let map = self.map_page(number)?;
        let at = usize::try_from(number.checked_sub(map + 1)?).ok()? * 5;
        let page = self.read(map)?;
        let (kind, parent) = (*page.get(at)?, u32_at(&page, at + 1)?);
        ((1..=5).contains(&kind) && parent <= self.count).then_some((kind, parent))
    }

    /// Whether the page holds a part of the pointer map, or can hold nothing.
    pub fn is_map(&self, number: u32) -> bool {
        number == self.lock_page() || self.map_page(number).is_none_or(|map| map == number)
    }

    fn lock_page(&self) -> u32 {
        LOCK_BYTE / self.size + 1
    }

    /// The page with the part of the pointer map that tells of this one.
    fn map_page(&self, number: u32) -> Option<u32> {
        // As many entries of five bytes as fit, and the map's own page.
        let step = self.size / 5 + 1;
        let map = number.checked_sub(2)? / step * step + 2;
        Some(if map == self.lock_page() { map + 1 } else { map })
    }

    /// Whether a page of the file differs from what the log has for it.
    fn log_is_ahead(&self) -> bool {
        self.newer.keys().any(|number| {
            let mut old = vec![0; self.size()];
            let read = self.file.read_exact_at(&mut old, u64::from(number.saturating_sub(1)) * u64::from(self.size));
            read.is_err() || self.read(*number).is_some_and(|new| new != old)
        })
    }
}

/// The size that the file's head says, or the log's; where both are ruined, the one at whose places pages begin.
fn page_size(file: &File, log: Option<&File>) -> u32 {
    let mut head = [0; 100];
    if file.read_exact_at(&mut head, 0).is_ok() && head.starts_with(b"SQLite format 3\0") {
        let said = u32::from(u16::from_be_bytes([head[16], head[17]]));
        if SIZES.contains(&said) {
            return said;
        }
    }
    let mut head = [0; 32];
    if log.is_some_and(|log| log.read_exact_at(&mut head, 0).is_ok())
        && let Some(said) = u32_at(&head, 8).filter(|said| SIZES.contains(said))
    {
        return said;
    }
    let [large, small] = SIZES;
    let begins = |number: u64| {
        let mut start = [0; 8];
        let read = file.read_exact_at(&mut start, number * u64::from(small)).is_ok();
        read && matches!(start[0], 2 | 5 | 10 | 13) && start[1..3] == [0, 0] && u16::from_be_bytes([start[5], start[6]]) <= 1024
    };
    let sample = file.metadata().map_or(0, |m| m.len() / u64::from(small)).min(4096);
    // Inside a large page nothing looks like the head of a small one, but by chance.
    let inside = (0..sample).filter(|n| n % 4 != 0).filter(|n| begins(*n)).count();
    if u64::try_from(inside).unwrap_or(0) > sample / 8 { small } else { large }
}

/// Whether the log of the database at `path` has lost commits that were on the disk. SQLite ends its reading at the first frame that is
/// wrong, and says nothing: rightly so when that was being written as the power went. But what follows a whole later commit had been synced.
pub fn log_has_lost_commits(path: &Path) -> bool {
    let Ok(log) = File::open(beside(path, "-wal")) else { return false };
    let Ok(file) = File::open(path) else { return false };
    let found = read_log(&log, page_size(&file, Some(&log)));
    match found.head_is_whole {
        true => found.later_commits,
        // A head is written anew only after everything was copied into the file; then the frames behind it say nothing new.
        false => !found.newer.is_empty() && Pages::open(path).is_ok_and(|pages| pages.log_is_ahead()),
    }
}

#[derive(Debug, Default)]
struct Log {
    newer: HashMap<u32, u64>,
    head_is_whole: bool,
    // Whole commits follow one that is broken.
    later_commits: bool,
}

/// Reads frame by frame. A frame's checksum goes on from the one before it, as stored there, so frames behind a broken one can be judged too.
fn read_log(log: &File, size: u32) -> Log {
    let page_bytes = usize::try_from(size).unwrap_or(0);
    let mut found = Log::default();
    let mut head = [0; 32];
    if log.read_exact_at(&mut head, 0).is_err() {
        return found;
    }
    let word = |at| u32_at(&head, at).unwrap_or(0);
    let big = word(0) == 0x377f_0683;
    let sum = checksum(head.get(..24).unwrap_or_default(), (0, 0), big);
    found.head_is_whole = (big || word(0) == 0x377f_0682) && word(8) == size && sum == (word(24), word(28));
    let mut salts = found.head_is_whole.then(|| (word(16), word(20)));
    let mut seed = found.head_is_whole.then_some(sum);
    let (mut at, mut frame) = (LOG_HEAD, vec![0; FRAME_HEAD + page_bytes]);
    // The transaction being read: its pages, whether all its frames are whole; and what was kept of those before.
    let (mut pages, mut whole, mut broken) = (Vec::new(), true, false);
    let mut kept = Vec::new();
    let mut last_commit = None;
    while log.read_exact_at(&mut frame, at).is_ok() {
        let word = |at| u32_at(&frame, at).unwrap_or(0);
        let salt = (word(8), word(12));
        let salts = *salts.get_or_insert(salt);
        let stored = (word(16), word(20));
        let sound = salt == salts
            && seed.is_some_and(|seed| {
                let seed = checksum(frame.get(..8).unwrap_or_default(), seed, big);
                checksum(frame.get(FRAME_HEAD..).unwrap_or_default(), seed, big) == stored
            });
        seed = (salt == salts).then_some(stored);
        let (page, commit) = (word(0), sound && word(4) > 0);
        if sound {
            pages.push((page, at + 24));
        }
        // The last frame of a commit is repeated until a sector is full: that is no transaction of its own.
        let padding = commit && pages.len() == 1 && last_commit == Some(page);
        whole &= sound;
        if commit {
            if padding && whole {
                pages.clear();
            } else {
                broken |= !whole;
                found.later_commits |= broken && whole;
                kept.push((std::mem::take(&mut pages), whole));
            }
            whole = true;
        }
        last_commit = commit.then_some(page);
        at += u64::try_from(FRAME_HEAD + page_bytes).unwrap_or(0);
    }
    // Behind a break only what had certainly been synced is taken: not the last transaction, unless all of it is there.
    let end = kept.iter().rposition(|(_, whole)| *whole).map_or(0, |last| last + 1);
    let sure = if found.later_commits || !found.head_is_whole { end } else { kept.iter().take_while(|(_, whole)| *whole).count() };
    for (page, at) in kept.into_iter().take(sure).flat_map(|(pages, _)| pages) {
        found.newer.insert(page, at);
    }
    found
}

fn checksum(bytes: &[u8], seed: (u32, u32), big: bool) -> (u32, u32) {
    let (mut a, mut b) = seed;
    let word = |four: &[u8]| {
        let four = four.try_into().unwrap_or_default();
        if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    };
    for eight in bytes.chunks_exact(8) {
        let (first, second) = eight.split_at(4);
        a = a.wrapping_add(word(first)).wrapping_add(b);
        b = b.wrapping_add(word(second)).wrapping_add(a);
    }
    (a, b)
}
