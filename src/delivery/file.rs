//! Puts lines at the end of files, so that a power cut at any moment leaves whole lines and nothing that was called delivered is missing.
//!
//! It must never say that a line is there before the disk said so, never leave its folder, and never destroy a byte it did not write: what is
//! cut off, or does not belong, is put beside the file. It judges nothing.

use super::Transport;
use crate::destination::files::{APPENDED, Append, Encoding, Line, PRESENT};
use crate::destination::{Answer, Failure, Reply, Request};
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// So much of a file's end is searched for lines that are there already. As many as may be unconfirmed after a crash (256) fit in, at a
/// kilobyte each.
const TAIL_BYTES: u64 = 256 * 1024;
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
/// Files whose entry in their folder is known to be on the disk; more are not remembered.
const SETTLED_MAX: usize = 256;
/// What a cut left of a line goes into a file of this name beside it.
const TORN: &str = ".torn";

/// Writes for one destination.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    mount: Option<PathBuf>,
    known: Mutex<Known>,
}

/// What it knows of the files from its own work.
#[derive(Debug, Default)]
struct Known {
    /// Their names are on the disk.
    settled: BTreeSet<String>,
    /// Lines that may be in the kernel's memory only, because the disk failed: that they can be read proves nothing.
    unsure: BTreeSet<Vec<u8>>,
}

/// Why nothing could be written.
enum Trouble {
    Away(String),
    Disk(Errno),
}

impl From<Errno> for Trouble {
    fn from(e: Errno) -> Self {
        Trouble::Disk(e)
    }
}

impl Files {
    /// Into `folder`; if `mount` is given, only while a file system of its own is mounted there.
    pub fn new(folder: PathBuf, mount: Option<PathBuf>) -> Self {
        Self { folder, mount, known: Mutex::default() }
    }

    /// The folder, held open: whatever is unmounted or moved meanwhile, everything goes to where it was looked for.
    fn open_folder(&self) -> Result<OwnedFd, Trouble> {
        let Some(mount) = &self.mount else { return Ok(open_folder_at(CWD, &self.folder, OFlags::empty())?) };
        let away = || Trouble::Away(format!("nothing is mounted at {}; what waits is written when it is back", mount.display()));
        let mut folder = match open_folder_at(CWD, mount, OFlags::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => return Err(away()),
            Err(e) => return Err(e.into()),
        };
        let above = rustix::fs::statat(&folder, "..", AtFlags::empty())?;
        if rustix::fs::fstat(&folder)?.st_dev == above.st_dev {
            return Err(away());
        }
        for part in self.folder.strip_prefix(mount).unwrap_or(Path::new("")).components() {
            if let Component::Normal(name) = part {
                folder = enter(&folder, Path::new(name))?;
            }
        }
        Ok(folder)
    }

    /// The lines for one file. Gives each line's word.
    fn append(&self, known: &mut Known, folder: &OwnedFd, append: &Append, lines: &[&Line]) -> Result<Vec<&'static str>, Errno> {
        let name = lines.first().map(|line| line.file.as_str()).unwrap_or_default();
        let mut parts = name.split('/');
        let last = parts.next_back().unwrap_or_default();
        let inner = parts.try_fold(None::<OwnedFd>, |above, part| enter(above.as_ref().unwrap_or(folder), Path::new(part)).map(Some))?;
        let folder = inner.as_ref().unwrap_or(folder);

        let mut target = Target::open(folder, last)?;
        let ours = target.begins_with(&append.head)?;
        if ours {
            target.mend(append.encoding)?;
        }
        let there = target.present(append.encoding)?;
        let missing: Vec<&Line> =
            lines.iter().filter(|line| known.unsure.contains(&line.mark) || !holds(&there, &line.mark)).copied().collect();
        let bytes: usize = missing.iter().map(|line| line.bytes.len()).sum();
        let grown = target.length.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let head = u64::try_from(append.head.len()).unwrap_or(u64::MAX);
        let too_large = !missing.is_empty() && target.length > head && append.rotate_bytes.is_some_and(|most| grown > most);
        if too_large || !ours {
            target.put_aside()?;
            target = Target::open(folder, last)?;
        }
        if !missing.is_empty() {
            target.write(&append.head, &missing).inspect_err(|_| {
                if target.file.set_len(target.length).and_then(|()| target.file.sync_all()).is_err() {
                    known.unsure.extend(missing.iter().map(|line| line.mark.clone()));
                }
            })?;
            for line in &missing {
                known.unsure.remove(&line.mark);
            }
        } else {
            // They may be there from a run that ended before the disk had them.
            target.file.sync_all().map_err(|e| errno(&e))?;
        }
        if target.fresh || !known.settled.contains(name) {
            settle(folder)?;
            if known.settled.len() >= SETTLED_MAX {
                known.settled.clear();
            }
            known.settled.insert(name.to_owned());
        }
        let absent: BTreeSet<&[u8]> = missing.iter().map(|line| line.mark.as_slice()).collect();
        Ok(lines.iter().map(|line| if absent.contains(line.mark.as_slice()) { APPENDED } else { PRESENT }).collect())
    }
}

impl Transport for Files {
    fn send(&self, request: &Request) -> Answer {
        let Request::Append(append) = request else {
            return Answer::Failure { kind: Failure::Protocol, detail: "not lines for a file".to_owned() };
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = match self.open_folder() {
            Ok(folder) => folder,
            Err(Trouble::Away(detail)) => return Answer::Failure { kind: Failure::Unreachable, detail },
            Err(Trouble::Disk(e)) => return Answer::Replies(vec![reply(name_of(e))]),
        };
        // Against `leadsbotd trigger` beside the daemon. Where locks do not exist, there is nothing to wait for.
        let _ = rustix::fs::flock(&folder, FlockOperation::LockExclusive);
        let mut words: Vec<Reply> = vec![Reply::default(); append.lines.len()];
        let names: BTreeSet<&str> = append.lines.iter().map(|line| line.file.as_str()).collect();
        for name in names {
            let (places, lines): (Vec<usize>, Vec<&Line>) = append.lines.iter().enumerate().filter(|(_, line)| line.file == name).unzip();
            let told = self.append(&mut known, &folder, append, &lines);
            for (nth, place) in places.into_iter().enumerate() {
                let word = match &told {
                    Ok(each) => (*each.get(nth).unwrap_or(&"")).to_owned(),
                    Err(e) => name_of(*e),
                };
                if let Some(slot) = words.get_mut(place) {
                    *slot = reply(word);
                }
            }
        }
        Answer::Replies(words)
    }
}

fn reply(code: String) -> Reply {
    Reply { code, text: String::new() }
}

/// A file that is being added to.
struct Target<'f> {
    folder: &'f OwnedFd,
    name: String,
    file: File,
    /// Its length, up to which it is whole.
    length: u64,
    /// It was not there before.
    fresh: bool,
}

impl<'f> Target<'f> {
    fn open(folder: &'f OwnedFd, name: impl Into<String>) -> Result<Self, Errno> {
        let name = name.into();
        // Not blocking: a pipe of that name would wait for its reader.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let (file, fresh) = match rustix::fs::openat(folder, &*name, flags, Mode::empty()) {
            Ok(file) => (File::from(file), false),
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(FILE_MODE);
                let file = File::from(rustix::fs::openat(folder, &*name, flags | OFlags::CREATE | OFlags::EXCL, mode)?);
                // Whatever the umask took away. FAT has no modes.
                let _ = file.set_permissions(Permissions::from_mode(FILE_MODE));
                (file, true)
            }
            Err(e) => return Err(e),
        };
        let meta = file.metadata().map_err(|e| errno(&e))?;
        if !meta.is_file() {
            return Err(Errno::INVAL);
        }
        Ok(Self { folder, name, file, length: meta.len(), fresh })
    }

    /// Whether it begins as the destination's files do. A part of that alone is what a cut left of a new file, and is taken away.
    fn begins_with(&mut self, head: &[u8]) -> Result<bool, Errno> {
        let length = self.length.min(u64::try_from(head.len()).unwrap_or(u64::MAX));
        let beginning = self.read(0, length)?;
        if !beginning.is_empty() && beginning.len() < head.len() && head.starts_with(&beginning) {
            self.cut(0)?;
        }
        Ok(self.length == 0 || beginning == head)
    }

    /// Takes away what a cut left of a line. What it was going to be was never called delivered, so it comes again, whole.
    fn mend(&mut self, encoding: Encoding) -> Result<(), Errno> {
        let start = self.tail_start();
        let tail = self.read(start, self.length)?;
        let whole = whole_lines(&tail, encoding);
        if whole == tail.len() {
            return Ok(());
        }
        if whole == 0 && start > 0 {
            // Longer than what is searched: it stays, and gets an end.
            self.append_bytes(encoding.line_end())?;
            self.length = self.file.metadata().map_err(|e| errno(&e))?.len();
            return Ok(());
        }
        let torn = tail.get(whole..).unwrap_or_default();
        let beside = Self::open(self.folder, format!("{}{TORN}", self.name))?;
        beside.append_bytes(&[torn, encoding.line_end()].concat())?;
        settle(self.folder)?;
        self.cut(start.saturating_add(u64::try_from(whole).unwrap_or(0)))
    }

    fn cut(&mut self, length: u64) -> Result<(), Errno> {
        self.file.set_len(length).and_then(|()| self.file.sync_all()).map_err(|e| errno(&e))?;
        self.length = length;
        Ok(())
    }

    /// The beginnings of the last lines, in order; those of the files put aside last too, as far back as is searched.
    fn present(&self, encoding: Encoding) -> Result<Vec<Vec<u8>>, Errno> {
        let mut found = lines(&self.read(self.tail_start(), self.length)?, encoding, self.tail_start() == 0);
        let mut searched = self.length;
        if searched < TAIL_BYTES {
            for number in self.put_aside_numbers()?.into_iter().rev() {
                // One that is not to be read any more is somebody else's now.
                let Ok(before) = self.put_aside_before(number) else { continue };
                let start = before.tail_start();
                found.extend(lines(&before.read(start, before.length)?, encoding, start == 0));
                searched = searched.saturating_add(before.length);
                if searched >= TAIL_BYTES {
                    break;
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// A file that was put aside, to be read alone.
    fn put_aside_before(&self, number: u32) -> Result<Self, Errno> {
        let name = numbered(&self.name, number);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(self.folder, &*name, flags, Mode::empty())?);
        let length = file.metadata().map_err(|e| errno(&e))?.len();
        Ok(Self { folder: self.folder, name, file, length, fresh: false })
    }

    fn tail_start(&self) -> u64 {
        // Even, so that a character of two bytes is not halved.
        let start = self.length.saturating_sub(TAIL_BYTES);
        start + start % 2
    }

    fn read(&self, from: u64, to: u64) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).map_err(|_| Errno::FBIG)?];
        self.file.read_exact_at(&mut bytes, from).map_err(|e| errno(&e))?;
        Ok(bytes)
    }

    /// The lines, in one write, and not before they are on the disk does it return.
    fn write(&self, head: &[u8], lines: &[&Line]) -> Result<(), Errno> {
        let mut bytes = if self.length == 0 { head.to_vec() } else { Vec::new() };
        lines.iter().for_each(|line| bytes.extend_from_slice(&line.bytes));
        self.append_bytes(&bytes)
    }

    fn append_bytes(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.file.write_all_at(bytes, self.length).and_then(|()| self.file.sync_all()).map_err(|e| errno(&e))
    }

    /// Gives the file the next number and its name free.
    fn put_aside(self) -> Result<(), Errno> {
        let number = self.put_aside_numbers()?.last().unwrap_or(&0).saturating_add(1);
        rustix::fs::renameat(self.folder, &*self.name, self.folder, numbered(&self.name, number))?;
        settle(self.folder)
    }

    /// The numbers that files of this name were put aside under, in order.
    fn put_aside_numbers(&self) -> Result<BTreeSet<u32>, Errno> {
        let (stem, extension) = parted(&self.name);
        let number = |name: &str| -> Option<u32> {
            let digits = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?;
            let number = digits.parse().ok()?;
            // None but the names given here: 07 or +7 are other files.
            (number > 0 && numbered(&self.name, number) == name).then_some(number)
        };
        let mut numbers = BTreeSet::new();
        for entry in Dir::read_from(self.folder)? {
            let entry = entry?;
            if matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
                numbers.extend(entry.file_name().to_str().ok().and_then(number));
            }
        }
        Ok(numbers)
    }
}

/// A file's name and its ending with the dot.
fn parted(name: &str) -> (&str, &str) {
    name.rfind('.').and_then(|at| name.split_at_checked(at)).unwrap_or((name, ""))
}

fn numbered(name: &str, number: u32) -> String {
    let (stem, extension) = parted(name);
    format!("{stem}-{number}{extension}")
}

fn open_folder_at(above: impl std::os::fd::AsFd, path: &Path, more: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(above, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more, Mode::empty())
}

/// A folder in a folder, made if need be; never through a link.
fn enter(above: &OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    match open_folder_at(above, name, OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => {
            match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(FOLDER_MODE)) {
                Ok(()) | Err(Errno::EXIST) => settle(above)?,
                Err(e) => return Err(e),
            }
            open_folder_at(above, name, OFlags::NOFOLLOW)
        }
        other => other,
    }
}

/// Names that were made or changed in a folder are on the disk after it. Some file systems cannot be asked for that.
fn settle(folder: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fsync(folder) {
        Err(Errno::INVAL | Errno::NOTSUP) | Ok(()) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Bytes up to and including the last line end.
fn whole_lines(bytes: &[u8], encoding: Encoding) -> usize {
    let (unit, end) = (encoding.unit(), encoding.line_end());
    bytes.chunks_exact(unit).rposition(|chunk| chunk == end).map_or(0, |at| (at + 1) * unit)
}

/// How much of a line is looked at: more than any mark.
const BEGINNING: usize = 128;

/// The beginnings of whole lines. The first one is none where the bytes do not begin the file.
fn lines(bytes: &[u8], encoding: Encoding, from_the_beginning: bool) -> Vec<Vec<u8>> {
    let unit = encoding.unit();
    let whole = bytes.get(..whole_lines(bytes, encoding)).unwrap_or_default();
    let mut out = Vec::new();
    let mut rest = whole;
    let mut first = !from_the_beginning;
    while let Some(at) = rest.chunks_exact(unit).position(|chunk| chunk == encoding.line_end()) {
        let (line, after) = rest.split_at_checked((at + 1) * unit).unwrap_or((rest, &[]));
        if !std::mem::take(&mut first) {
            out.push(line.get(..line.len().min(BEGINNING)).unwrap_or_default().to_vec());
        }
        rest = after;
    }
    out
}

/// Whether one of the sorted beginnings begins with the mark.
fn holds(sorted: &[Vec<u8>], mark: &[u8]) -> bool {
    sorted.get(sorted.partition_point(|line| line.as_slice() < mark)).is_some_and(|line| line.starts_with(mark))
}

fn errno(e: &std::io::Error) -> Errno {
    // Only a file that was made shorter meanwhile gives none.
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

/// The name of an error as its manual page has it; of the rest the number.
fn name_of(e: Errno) -> String {
    let name = match e {
        Errno::NOSPC => "ENOSPC",
        Errno::DQUOT => "EDQUOT",
        Errno::FBIG => "EFBIG",
        Errno::ROFS => "EROFS",
        Errno::ACCESS => "EACCES",
        Errno::PERM => "EPERM",
        Errno::NOENT => "ENOENT",
        Errno::NOTDIR => "ENOTDIR",
        Errno::ISDIR => "EISDIR",
        Errno::LOOP => "ELOOP",
        Errno::INVAL => "EINVAL",
        Errno::IO => "EIO",
        Errno::NXIO => "ENXIO",
        Errno::NODEV => "ENODEV",
        Errno::STALE => "ESTALE",
        Errno::NOMEDIUM => "ENOMEDIUM",
        other => return format!("error {}", other.raw_os_error()),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn line(file: &str, id: &str) -> Line {
        let text = format!("{id},a lead\n");
        Line { file: file.to_owned(), mark: format!("{id},").into_bytes(), bytes: text.clone().into_bytes(), text }
    }

    fn request(lines: Vec<Line>, rotate_bytes: Option<u64>) -> Request {
        let head = b"id,name\n".to_vec();
        Request::Append(Box::new(Append { shown: String::new(), head, encoding: Encoding::Utf8, rotate_bytes, lines }))
    }

    fn words(answer: Answer) -> Vec<String> {
        match answer {
            Answer::Replies(replies) => replies.into_iter().map(|reply| reply.code).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn folder() -> (TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().to_owned(), None);
        (dir, files)
    }

    fn text(dir: &TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn a_line_that_is_there_is_not_written_twice_by_another_run() {
        let (dir, files) = folder();
        assert_eq!(words(files.send(&request(vec![line("a.csv", "evt_1"), line("sub/b.csv", "evt_2")], None))), ["appended"; 2]);
        assert_eq!(text(&dir, "a.csv"), "id,name\nevt_1,a lead\n");
        assert_eq!(text(&dir, "sub/b.csv"), "id,name\nevt_2,a lead\n");
        let mode = std::fs::metadata(dir.path().join("a.csv")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let again = Files::new(dir.path().to_owned(), None);
        assert_eq!(words(again.send(&request(vec![line("a.csv", "evt_1"), line("a.csv", "evt_3")], None))), ["present", "appended"]);
        assert_eq!(text(&dir, "a.csv"), "id,name\nevt_1,a lead\nevt_3,a lead\n");
    }

    #[test]
    fn an_end_that_was_torn_off_at_any_byte_is_repaired() {
        let whole = "id,name\nevt_1,a lead\nevt_2,a lead\n";
        let head = "id,name\n".len();
        for length in 0..=whole.len() {
            let (dir, files) = folder();
            std::fs::write(dir.path().join("a.csv"), &whole[..length]).unwrap();
            files.send(&request(vec![line("a.csv", "evt_1"), line("a.csv", "evt_2"), line("a.csv", "evt_3")], None));
            assert_eq!(text(&dir, "a.csv"), format!("{whole}evt_3,a lead\n"), "cut at {length}");
            let torn = dir.path().join("a.csv.torn");
            let kept = if torn.exists() { text(&dir, "a.csv.torn") } else { String::new() };
            let cut_off = whole[..length].get(head..).unwrap_or_default();
            let cut_off = cut_off.rsplit_once('\n').map_or(cut_off, |(_, rest)| rest);
            let expected = if cut_off.is_empty() { String::new() } else { format!("{cut_off}\n") };
            assert_eq!(kept, expected, "cut at {length}");
        }
    }

    #[test]
    fn utf_16_is_repaired_at_any_byte_too() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        // U+0A00 and U+0A05 hold the byte of a line end.
        let row = |id: &str| utf16(&format!("{id}\t\u{a05}\u{a00}x\u{20ac}\r\n"));
        let head = utf16("\u{feff}id\tname\r\n");
        let whole = [head.clone(), row("evt_1"), row("evt_2")].concat();
        for length in 0..=whole.len() {
            let (dir, files) = folder();
            std::fs::write(dir.path().join("a.csv"), &whole[..length]).unwrap();
            let line = |id: &str| Line { file: "a.csv".into(), mark: utf16(&format!("{id}\t")), bytes: row(id), text: String::new() };
            let append = Append {
                shown: String::new(),
                head: head.clone(),
                encoding: Encoding::Utf16,
                rotate_bytes: None,
                lines: vec![line("evt_1"), line("evt_2")],
            };
            files.send(&Request::Append(Box::new(append)));
            assert_eq!(std::fs::read(dir.path().join("a.csv")).unwrap(), whole, "cut at {length}");
        }
    }

    #[test]
    fn a_file_that_is_full_or_not_ours_is_put_aside_and_still_known() {
        let (dir, files) = folder();
        std::fs::write(dir.path().join("a.csv"), "somebody's own file\n").unwrap();
        files.send(&request(vec![line("a.csv", "evt_1")], Some(30)));
        assert_eq!(text(&dir, "a-1.csv"), "somebody's own file\n");
        assert_eq!(text(&dir, "a.csv"), "id,name\nevt_1,a lead\n");
        files.send(&request(vec![line("a.csv", "evt_2")], Some(30)));
        assert_eq!(text(&dir, "a-2.csv"), "id,name\nevt_1,a lead\n");
        assert_eq!(text(&dir, "a.csv"), "id,name\nevt_2,a lead\n");
        let again = Files::new(dir.path().to_owned(), None);
        assert_eq!(words(again.send(&request(vec![line("a.csv", "evt_1")], Some(30)))), ["present"], "it is in the file before");
    }

    #[test]
    fn links_pipes_and_missing_folders_are_named_and_not_followed() {
        let (dir, files) = folder();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("x"), dir.path().join("a.csv")).unwrap();
        assert_eq!(words(files.send(&request(vec![line("a.csv", "evt_1"), line("sub/b.csv", "evt_2")], None))), ["ELOOP", "ENOTDIR"]);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        std::fs::create_dir(dir.path().join("c.csv")).unwrap();
        assert_eq!(words(files.send(&request(vec![line("c.csv", "evt_1")], None))), ["EISDIR"]);
        let gone = Files::new(dir.path().join("gone"), None);
        assert_eq!(words(gone.send(&request(vec![line("a.csv", "evt_1")], None))), ["ENOENT"]);
    }

    #[test]
    fn where_nothing_is_mounted_nothing_is_written() {
        let (dir, _) = folder();
        let files = Files::new(dir.path().join("leads"), Some(dir.path().to_owned()));
        let answer = files.send(&request(vec![line("a.csv", "evt_1")], None));
        assert!(matches!(answer, Answer::Failure { kind: Failure::Unreachable, .. }), "{answer:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_line_longer_than_the_end_that_is_searched_is_kept_whole() {
        let (dir, files) = folder();
        let long = format!("evt_1,{}\n", "x".repeat(600_000));
        std::fs::write(dir.path().join("a.csv"), format!("id,name\n{long}")).unwrap();
        files.send(&request(vec![line("a.csv", "evt_2")], None));
        assert_eq!(text(&dir, "a.csv"), format!("id,name\n{long}evt_2,a lead\n"));
    }
}
