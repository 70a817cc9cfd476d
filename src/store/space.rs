//! Room on the disk: a quota for the database, a reserve on the file system, and what is given back.
//!
//! Captures stop before deliveries do: when either limit is reached a lead is refused with a clear answer, while outcomes, which free
//! space in the end, still have the reserve to be written into.

use super::wear::human_bytes;
use super::{Error, lock};
use rusqlite::Connection;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

/// How large and how old things may grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the database in use; `None`: no limit but the disk. Its log adds a few megabytes.
    pub max_bytes: Option<u64>,
    /// Bytes of the file system held back for finishing deliveries; 0: none.
    pub reserve_bytes: u64,
    /// What is forgotten when.
    pub keep: Retention,
    /// Bytes that may be written on one day before an alarm is raised; `None`: no alarm.
    pub write_budget: Option<u64>,
    /// Bytes that the card endures, to tell how long it lasts; `None`: that is not told.
    pub card_endurance: Option<u64>,
}

/// After how many days something is forgotten; 0: never. Nothing that still has to be delivered ever is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The record that a delivery was made, and events that are about no lead.
    pub history_days: u32,
    /// Leads that have been delivered wherever they had to go.
    pub delivered_days: u32,
    /// All leads, those with dead letters and those that went nowhere included.
    pub leads_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: Some(2 << 30),
            reserve_bytes: 16 << 20,
            keep: Retention { history_days: 90, delivered_days: 0, leads_days: 0 },
            write_budget: Some(1_000_000_000),
            card_endurance: Some(1_000_000_000_000),
        }
    }
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Enough.
    Well,
    /// A tenth of the quota is left, or the file system has less than the reserve's size beside it.
    Low,
    /// Leads are refused.
    Full,
}

impl Level {
    /// The word used in the log, the API and events.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Well => "well",
            Level::Low => "low",
            Level::Full => "full",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The conclusion.
    pub level: Level,
    /// Bytes of the database in use.
    pub used: u64,
    /// The quota.
    pub max: Option<u64>,
    /// Bytes that the file system has left for this user, the reserve not counted.
    pub free: u64,
}

/// Told when the level changes. Called on the writer's thread: must return at once.
pub type OnChange = Box<dyn Fn(&Report) + Send + Sync>;

/// Opening a database takes some room for its log and the log's index.
const ROOM_TO_OPEN: u64 = 1 << 20;

/// Keeps watch over the room.
pub struct Space {
    level: AtomicU8,
    limits: Mutex<Limits>,
    report: Mutex<Option<Report>>,
    on_change: Mutex<Option<OnChange>>,
    reserve: PathBuf,
    folder: PathBuf,
    // Never changes while the file is in use; to ask takes a lock on the file.
    page_bytes: OnceLock<u64>,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("level", &self.level()).finish_non_exhaustive()
    }
}

impl Space {
    /// Watches over the database at `path`.
    pub fn new(path: &Path, limits: Limits) -> Self {
        let mut reserve = path.as_os_str().to_owned();
        reserve.push(".reserve");
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        Self {
            level: AtomicU8::new(0),
            limits: Mutex::new(limits),
            report: Mutex::default(),
            on_change: Mutex::default(),
            reserve: PathBuf::from(reserve),
            folder,
            page_bytes: OnceLock::new(),
        }
    }

    /// The level as last measured.
    pub fn level(&self) -> Level {
        match self.level.load(Ordering::Acquire) {
            0 => Level::Well,
            1 => Level::Low,
            _ => Level::Full,
        }
    }

    /// The last measurement.
    pub fn report(&self) -> Option<Report> {
        *lock(&self.report)
    }

    /// Whether the database has used up nine tenths of its quota.
    pub fn near_quota(&self) -> bool {
        self.report().is_some_and(|r| r.max.is_some_and(|max| r.used >= max / 10 * 9))
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        lock(&self.limits).clone()
    }

    /// Other limits from now on.
    pub fn set_limits(&self, limits: Limits) {
        *lock(&self.limits) = limits;
    }

    /// Who is to hear of changes.
    pub fn on_change(&self, f: OnChange) {
        *lock(&self.on_change) = Some(f);
    }

    /// Gives the reserve to whoever must finish something: the disk is full. False when there was none left to give.
    pub fn release(&self) -> bool {
        std::fs::remove_file(&self.reserve).is_ok()
    }

    /// Before the database is opened: on a full card that takes the reserve, or what waits could not even be delivered.
    pub fn make_way(&self) {
        let free = statvfs(&self.folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if free < ROOM_TO_OPEN && self.release() {
            log::warn!("the file system is full; the reserve was given away to open the database");
        }
    }

    /// Measures, keeps the reserve in place if it can be, and tells of a change.
    pub fn measure(&self, conn: &Connection) -> Result<(), Error> {
        let limits = self.limits();
        let size = match self.page_bytes.get() {
            Some(size) => *size,
            None => {
                let size = pragma(conn, "page_size")?;
                *self.page_bytes.get_or_init(|| size)
            }
        };
        let (pages, unused) = (pragma(conn, "page_count")?, pragma(conn, "freelist_count")?);
        let used = pages.saturating_sub(unused) * size;
        let Ok(disk) = statvfs(&self.folder) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let held = self.hold(limits.reserve_bytes, free);
        let before = self.level();
        let level = judge(before, used, limits.max_bytes, free, held, limits.reserve_bytes);
        let report = Report { level, used, max: limits.max_bytes, free };
        *lock(&self.report) = Some(report);
        self.level.store(level as u8, Ordering::Release);
        if level != before {
            self.tell(&report);
        }
        Ok(())
    }

    fn tell(&self, report: &Report) {
        let of = report.max.map_or_else(String::new, |max| format!(" of {} allowed", human_bytes(max)));
        let room = format!("the database uses {}{of}, the file system has {} left", human_bytes(report.used), human_bytes(report.free));
        match report.level {
            Level::Well => log::info!("there is room again: {room}"),
            Level::Low => log::warn!("room is getting short: {room}; free some, or raise storage.max_bytes"),
            Level::Full => log::error!("no room: {room}; leads are refused until there is, deliveries go on"),
        }
        if let Some(f) = &*lock(&self.on_change) {
            f(report);
        }
    }

    /// Makes sure the reserve is there, of the right size, if the disk has room for it. False when it is not.
    fn hold(&self, wanted: u64, free: u64) -> bool {
        let there = std::fs::metadata(&self.reserve).map_or(0, |m| m.len());
        if there == wanted && there > 0 {
            return true;
        }
        if there > 0 {
            // Another size was configured.
            self.release();
        }
        if wanted == 0 {
            return true;
        }
        // Half as much again must be free: a reserve that just fits would be given away with the next commit.
        if free.saturating_add(there) < wanted + wanted / 2 {
            return false;
        }
        let made = File::options().write(true).create_new(true).mode(0o600).open(&self.reserve);
        let held = made.and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, wanted).map_err(std::io::Error::from));
        match held {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {
                // Such a file system keeps the room by the measurement alone: there is enough now.
                self.release();
                true
            }
            Err(_) => {
                self.release();
                false
            }
        }
    }
}

/// Small steps back are ignored, so that a level does not flicker.
fn judge(before: Level, used: u64, max: Option<u64>, free: u64, held: bool, reserve: u64) -> Level {
    let over = |share: u64, back: u64, since: Level| {
        max.is_some_and(|max| {
            let limit = max / 100 * share;
            used >= if before >= since { limit.saturating_sub(max / 100 * back) } else { limit }
        })
    };
    if !held || over(100, 1, Level::Full) {
        Level::Full
    } else if over(90, 5, Level::Low) || free < reserve.saturating_mul(if before >= Level::Low { 2 } else { 1 }) {
        Level::Low
    } else {
        Level::Well
    }
}

fn pragma(conn: &Connection, name: &str) -> Result<u64, Error> {
    let n: i64 = conn.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |r| r.get(0))?;
    Ok(u64::try_from(n).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_at_their_limits_and_fall_only_well_below() {
        use Level::{Full, Low, Well};
        const MB: u64 = 1_000_000;
        let quota = |before, used| judge(before, used * MB, Some(100 * MB), u64::MAX, true, 0);
        assert_eq!([quota(Well, 89), quota(Well, 90), quota(Well, 100)], [Well, Low, Full]);
        assert_eq!([quota(Full, 99), quota(Full, 98), quota(Low, 86), quota(Low, 84)], [Full, Low, Low, Well]);
        let disk = |before, free, held| judge(before, 0, None, free * MB, held, 16 * MB);
        assert_eq!([disk(Well, 17, true), disk(Well, 15, true), disk(Well, 15, false)], [Well, Low, Full]);
        assert_eq!([disk(Low, 17, true), disk(Low, 40, true), disk(Full, 40, false)], [Low, Well, Full]);
    }

    #[test]
    fn the_reserve_takes_its_room_and_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leads.db");
        let conn = Connection::open(&path).unwrap();
        let space = Space::new(&path, Limits { reserve_bytes: 1 << 20, ..Limits::default() });
        let reserve = folder.path().join("leads.db.reserve");
        space.measure(&conn).unwrap();
        assert_eq!((std::fs::metadata(&reserve).unwrap().len(), space.level()), (1 << 20, Level::Well));
        assert!(space.release() && !reserve.exists() && !space.release());
        space.measure(&conn).unwrap();
        assert!(reserve.exists(), "it is made again as soon as there is room");
        space.set_limits(Limits { reserve_bytes: 1 << 50, ..Limits::default() });
        space.measure(&conn).unwrap();
        assert_eq!(space.level(), Level::Full, "a reserve that does not fit means that there is no room");
        space.set_limits(Limits { reserve_bytes: 0, ..Limits::default() });
        space.measure(&conn).unwrap();
        assert_eq!(space.level(), Level::Well);
    }
}
