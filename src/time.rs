//! Clocks: wall time, which may be wrong, and ticks, which never go back.
//!
//! Everything that waits, retries or ages uses [`Tick`]. Wall time is only ever shown to people and receivers.

use std::fmt;
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
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        )
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
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Wall {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Wall(now.tv_sec * 1000 + now.tv_nsec / 1_000_000)
    }

    fn uptime_ms(&self) -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec * 1000 + now.tv_nsec / 1_000_000
    }

    fn boot_id(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
    }
}

/// A clock and the database's boot number: what makes ticks.
#[derive(Debug, Clone)]
pub struct Timeline {
    clock: std::sync::Arc<dyn Clock>,
    boot: i64,
}

impl Timeline {
    /// `boot` is the number the database gave to the running boot, from 1.
    pub fn new(clock: std::sync::Arc<dyn Clock>, boot: i64) -> Self {
        Self { clock, boot }
    }

    /// The tick now.
    pub fn now(&self) -> Tick {
        Tick((self.boot << BOOT_SHIFT) | (self.clock.uptime_ms() & ((1 << BOOT_SHIFT) - 1)))
    }

    /// The wall clock now.
    pub fn wall(&self) -> Wall {
        self.clock.wall()
    }

    /// Whether the wall clock could be right: it is not before 2025. A board without a battery begins in 1970.
    pub fn trusted(&self) -> bool {
        self.wall() >= EARLIEST
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
        }
        let first = Timeline::new(std::sync::Arc::new(Fixed(1_000_000)), 1);
        let second = Timeline::new(std::sync::Arc::new(Fixed(5)), 2);
        assert!(first.now().after(Duration::from_secs(86_400 * 365)) < second.now());
        assert_eq!(second.now().since(first.now()), Duration::ZERO);
        assert!(Tick::ZERO.after(Duration::MAX) < Tick::HELD);
    }
}
