//! Clocks: wall time, which may be wrong, and ticks, which never go back.
//!
//! Everything that waits, retries or ages uses [`Tick`]. Wall time is only ever shown to people and receivers.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970-01-01T00:00:00Z by the wall clock. May be wrong, may jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wall(pub i64);

impl Wall {
    /// Whole seconds since the epoch, as `webhook-timestamp` wants them.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-23T12:00:00.123Z`. Years outside 0..=9999 are held at the nearest end.
    pub fn rfc3339(self) -> String {
        const LAST: i64 = 253_402_300_799_999;
        const FIRST: i64 = -62_167_219_200_000;
        let ms = self.0.clamp(FIRST, LAST);
        let nanos = i128::from(ms) * 1_000_000;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        // Digit by digit: `format!` costs four times as much, and every event has such a time.
        let parts = [
            (at.year().unsigned_abs(), 1000, '-'),
            (u32::from(u8::from(at.month())), 10, '-'),
            (u32::from(at.day()), 10, 'T'),
            (u32::from(at.hour()), 10, ':'),
            (u32::from(at.minute()), 10, ':'),
            (u32::from(at.second()), 10, '.'),
            (u32::from(at.millisecond()), 100, 'Z'),
        ];
        let mut text = String::with_capacity(24);
        for (value, mut power, then) in parts {
            while power > 0 {
                text.push(char::from_digit(value / power % 10, 10).unwrap_or('0'));
                power /= 10;
            }
            text.push(then);
        }
        text
    }

    /// Whether a clock that was right may have shown this: from 2025 on.
    pub fn is_plausible(self) -> bool {
        self >= EARLIEST
    }

    /// Reads RFC 3339 (`2026-11-23T12:00:00Z`) or a plain date (`2026-11-23`, midnight UTC).
    pub fn parse(text: &str) -> Option<Self> {
        let at = if text.len() == 10 {
            OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339)
        } else {
            OffsetDateTime::parse(text, &Rfc3339)
        };
        i64::try_from(at.ok()?.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Wall)
    }
}

/// No clock that is right shows less: 2025-01-01.
const EARLIEST: Wall = Wall(1_735_689_600_000);

const BOOT_SHIFT: u32 = 42;
const UPTIME_MASK: i64 = (1 << BOOT_SHIFT) - 1;

/// A point on the daemon's own time line, in milliseconds: the database's boot number in the high bits, milliseconds since that boot
/// (CLOCK_BOOTTIME, which counts suspended time too) in the low 42. Later boots compare greater than earlier ones, so whatever an
/// earlier boot put off is due in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub i64);

impl Tick {
    /// Before everything: due at once.
    pub const ZERO: Tick = Tick(0);
    /// Never due by itself: held back until an earlier event of the same lead has finished.
    pub const HELD: Tick = Tick(i64::MAX);

    /// This tick, `by` later. Saturates one below [`Tick::HELD`].
    pub fn after(self, by: Duration) -> Tick {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Tick(self.0.saturating_add(ms).min(i64::MAX - 1))
    }

    /// How long from `earlier` to this; zero when it lies in the other direction or in another boot.
    pub fn since(self, earlier: Tick) -> Duration {
        if self.0 >> BOOT_SHIFT != earlier.0 >> BOOT_SHIFT {
            return Duration::ZERO;
        }
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

/// Where the daemon gets its time from; tests bring their own.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock, right or wrong.
    fn wall(&self) -> Wall;
    /// Milliseconds since the machine booted, suspended time included.
    fn uptime_ms(&self) -> i64;
    /// A text that is the same until the next boot.
    fn boot_id(&self) -> String;
    /// Whether somebody keeps the wall clock right: a time service, or a battery. `None` when that cannot be known.
    fn synced(&self) -> Option<bool>;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Wall {
        Wall(milliseconds(rustix::time::ClockId::Realtime))
    }

    fn uptime_ms(&self) -> i64 {
        milliseconds(rustix::time::ClockId::Boottime)
    }

    fn boot_id(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
    }

    fn synced(&self) -> Option<bool> {
        static BATTERY: OnceLock<bool> = OnceLock::new();
        if *BATTERY.get_or_init(|| set_from_a_battery_clock(Path::new("/sys/class/rtc"), self.wall())) {
            return Some(true);
        }
        // Every lead wants to know; the kernel is asked once a second.
        static KNOWN: Mutex<Option<(i64, Option<bool>)>> = Mutex::new(None);
        let now = self.uptime_ms();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((at, synced)) if (at..at + SYNCED_FOR_MS).contains(&now) => synced,
            _ => {
                let synced = kernel_synced().or_else(|| timesyncd_synced(Path::new("/run/systemd/timesync")));
                *known = Some((now, synced));
                synced
            }
        }
    }
}

/// For so long the kernel's word on its clock is taken as it was.
const SYNCED_FOR_MS: i64 = 1000;

// Nanoseconds have 32 bits on some machines.
#[allow(clippy::useless_conversion, reason = "only where they have 64")]
fn milliseconds(clock: rustix::time::ClockId) -> i64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec * 1000 + i64::from(now.tv_nsec) / 1_000_000
}

/// What systemd-timesyncd.service(8) leaves in its folder; for a sandbox in which the kernel may not be asked. `None` when it does not run.
fn timesyncd_synced(folder: &Path) -> Option<bool> {
    folder.is_dir().then(|| folder.join("synchronized").exists())
}

/// Whether the kernel took the time from a battery-backed clock when it booted, and that clock still shows it: `hctosys` and `since_epoch`
/// of Documentation/ABI/testing/sysfs-class-rtc. A Raspberry Pi 5 has such a clock and usually no battery: the kernel takes 1970 from it,
/// and systemd then guesses a time that may be days behind.
fn set_from_a_battery_clock(folder: &Path, wall: Wall) -> bool {
    let clocks = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let read = |path: &Path, name: &str| std::fs::read_to_string(path.join(name)).ok()?.trim().parse::<i64>().ok();
    let mut clocks = clocks.map(|clock| clock.path()).filter(|path| read(path, "hctosys") == Some(1));
    clocks.any(|path| read(&path, "since_epoch").is_some_and(|shown| shown.saturating_mul(1000).abs_diff(wall.0) < SLACK_MS.unsigned_abs()))
}

/// The kernel's own view, which ntpd, chrony and systemd-timesyncd keep: adjtimex(2), STA_UNSYNC. `None` where a sandbox forbids to ask.
#[expect(unsafe_code, reason = "no maintained crate wraps this call; it only reads")]
fn kernel_synced() -> Option<bool> {
    // SAFETY: timex is plain integers, for which all zero bits are a value; modes = 0 asks and changes nothing.
    let (answer, status) = unsafe {
        let mut state: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut state), state.status)
    };
    (answer >= 0).then_some(status & libc::STA_UNSYNC == 0)
}

/// How far the wall clock may be behind the latest time on the disk and still be believed: what a time service sets back after a bad start.
pub const SLACK_MS: i64 = 600_000;

/// A clock and the database's boot number: what makes ticks, and what says whether the wall clock is to be believed.
#[derive(Debug, Clone)]
pub struct Timeline {
    clock: Arc<dyn Clock>,
    boot: i64,
    always: bool,
    // The latest wall time that was believed. Shared: whoever holds a copy of the timeline sees it rise.
    latest: Arc<AtomicI64>,
}

impl Timeline {
    /// `boot` is the number the database gave to the running boot, from 1. `latest` is the latest believed wall time on the disk.
    /// `always`: the operator vouches for the clock.
    pub fn new(clock: Arc<dyn Clock>, boot: i64, latest: Wall, always: bool) -> Self {
        Self { clock, boot, always, latest: Arc::new(AtomicI64::new(latest.0)) }
    }

    /// The tick now.
    pub fn now(&self) -> Tick {
        Tick((self.boot << BOOT_SHIFT) | self.uptime_ms())
    }

    /// The wall clock now.
    pub fn wall(&self) -> Wall {
        self.clock.wall()
    }

    /// Milliseconds since the machine booted.
    pub fn uptime_ms(&self) -> i64 {
        self.clock.uptime_ms() & UPTIME_MASK
    }

    /// The running boot's number.
    pub fn boot(&self) -> i64 {
        self.boot
    }

    /// The wall time of a tick of this boot, by the clock as it is now; `None` for one of another boot.
    pub fn wall_of(&self, tick: Tick) -> Option<Wall> {
        (tick.0 >> BOOT_SHIFT == self.boot).then(|| Wall(self.wall().0 - self.uptime_ms() + (tick.0 & UPTIME_MASK)))
    }

    /// Whether the wall clock is to be believed: not before 2025, not behind a time that was believed before, and kept right by a time
    /// service or a battery as far as that can be known; or the operator vouches for it.
    pub fn trusted(&self) -> bool {
        let wall = self.wall();
        wall >= EARLIEST
            && (self.always || (wall.0 >= self.latest.load(Ordering::Relaxed) - SLACK_MS && self.clock.synced() != Some(false)))
    }

    /// Whether the clock is kept right, as far as that can be known, and yet shows less than has been believed before: one of the two is
    /// wrong.
    pub fn contradicted(&self) -> bool {
        !self.always && self.clock.synced() != Some(false) && self.wall() >= EARLIEST && !self.trusted()
    }

    /// Notes a wall time that is believed.
    pub fn believed(&self, wall: Wall) {
        self.latest.fetch_max(wall.0, Ordering::Relaxed);
    }

    /// Gives up the latest believed time for this one.
    pub fn believe_again(&self, wall: Wall) {
        self.latest.store(wall.0, Ordering::Relaxed);
    }
}

/// "3 min 20 s": a duration for people, two units at most.
pub fn human(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_written_and_read_as_rfc_3339_in_every_year() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_435_200_123, "2026-11-23T12:00:00.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (2_147_483_648_000, "2038-01-19T03:14:08.000Z"),
        ] {
            assert_eq!(Wall(ms).rfc3339(), text);
            assert_eq!(Wall::parse(text), Some(Wall(ms)));
        }
        assert_eq!(Wall(i64::MAX).rfc3339(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Wall(i64::MIN).rfc3339(), "0000-01-01T00:00:00.000Z");
        assert_eq!(Wall::parse("2026-11-23"), Some(Wall(1_795_392_000_000)));
        assert_eq!(Wall::parse("yesterday"), None);
    }

    #[test]
    fn a_clock_is_believed_when_it_is_kept_right_and_not_behind_what_was_believed() {
        #[derive(Debug)]
        struct Shows(Wall, Option<bool>);
        impl Clock for Shows {
            fn wall(&self) -> Wall {
                self.0
            }
            fn uptime_ms(&self) -> i64 {
                5
            }
            fn boot_id(&self) -> String {
                String::new()
            }
            fn synced(&self) -> Option<bool> {
                self.1
            }
        }
        let (now, hour) = (1_795_435_200_000, 3_600_000);
        for (shown, synced, latest, always, trusted, contradicted) in [
            (now, Some(true), 0, false, true, false),
            (now, None, 0, false, true, false),
            (now, Some(false), 0, false, false, false),
            (now, Some(false), 0, true, true, false),
            (0, Some(true), 0, true, false, false),
            (now, Some(true), now + hour, false, false, true),
            (now, None, now + hour, false, false, true),
            (now, Some(false), now + hour, false, false, false),
            (now, Some(true), now + 60_000, false, true, false),
            (now, Some(false), now + hour, true, true, false),
        ] {
            let line = Timeline::new(Arc::new(Shows(Wall(shown), synced)), 1, Wall(latest), always);
            assert_eq!((line.trusted(), line.contradicted()), (trusted, contradicted), "{shown} {synced:?} {latest} {always}");
        }
        let line = Timeline::new(Arc::new(Shows(Wall(now), Some(true))), 3, Wall(0), false);
        line.believed(Wall(now + hour));
        assert!(!line.clone().trusted(), "copies share what is believed");
        line.believe_again(Wall(now));
        assert!(line.trusted());
        assert_eq!(line.wall_of(Tick((3 << 42) | 2)), Some(Wall(now - 3)));
        assert_eq!(line.wall_of(Tick((2 << 42) | 2)), None);
    }

    #[test]
    fn a_battery_clock_vouches_only_for_the_time_that_it_shows_itself() {
        let now = Wall(1_795_435_200_000);
        for (hctosys, since_epoch, vouches) in [
            ("1\n", "1795435190\n", true),
            ("0\n", "1795435190\n", false),
            // A Pi 5 without a battery, two minutes after its start.
            ("1\n", "120\n", false),
            ("1\n", "", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let clock = folder.path().join("rtc0");
            std::fs::create_dir(&clock).unwrap();
            std::fs::write(clock.join("hctosys"), hctosys).unwrap();
            std::fs::write(clock.join("since_epoch"), since_epoch).unwrap();
            assert_eq!(set_from_a_battery_clock(folder.path(), now), vouches, "{hctosys:?} {since_epoch:?}");
        }
        assert!(!set_from_a_battery_clock(Path::new("/nowhere"), now));
    }

    #[test]
    fn timesyncd_says_by_a_file_whether_it_has_the_time() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(timesyncd_synced(&folder.path().join("missing")), None);
        assert_eq!(timesyncd_synced(folder.path()), Some(false));
        std::fs::write(folder.path().join("synchronized"), "").unwrap();
        assert_eq!(timesyncd_synced(folder.path()), Some(true));
    }

    #[test]
    fn what_an_earlier_boot_put_off_is_due_in_the_next() {
        #[derive(Debug)]
        struct Fixed(i64);
        impl Clock for Fixed {
            fn wall(&self) -> Wall {
                Wall(0)
            }
            fn uptime_ms(&self) -> i64 {
                self.0
            }
            fn boot_id(&self) -> String {
                String::new()
            }
            fn synced(&self) -> Option<bool> {
                None
            }
        }
        let first = Timeline::new(Arc::new(Fixed(1_000_000)), 1, Wall(0), false);
        let second = Timeline::new(Arc::new(Fixed(5)), 2, Wall(0), false);
        assert!(first.now().after(Duration::from_secs(86_400 * 365)) < second.now());
        assert_eq!(second.now().since(first.now()), Duration::ZERO);
        assert!(Tick::ZERO.after(Duration::MAX) < Tick::HELD);
    }
}
