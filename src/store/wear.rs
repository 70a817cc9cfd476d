//! What the card has to bear: the bytes that this process has the kernel write, a day and a lead, held against a budget and against what a
//! card endures.
//!
//! The kernel counts (`write_bytes` of proc_pid_io(5)); what a file system writes on its own account, and what a card makes of it inside, is
//! not in the figure. The days are kept in the database, written along with something that is written anyway.

use super::{Error, lock};
use crate::time::{Timeline, Wall};
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The key in `meta`.
const KEY: &str = "wear";
/// So many finished days are remembered.
const DAYS_MAX: usize = 30;
/// How often the kernel is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The days are kept again after so long, or so many bytes: a hundredth of what is counted, at most.
const KEEP_EVERY: Duration = Duration::from_secs(3600);
const KEEP_BYTES: u64 = 1 << 20;
const DAY_MS: i64 = 86_400_000;

/// What one day cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// Days since 1970-01-01, UTC.
    pub day: i64,
    /// Bytes that this process had written.
    pub bytes: u64,
    /// Leads captured.
    pub leads: u64,
    /// Deliveries that ended.
    pub deliveries: u64,
}

impl Day {
    /// The date, as in `2026-11-23`.
    pub fn date(&self) -> String {
        let mut text = Wall(self.day.saturating_mul(DAY_MS)).rfc3339();
        text.truncate(10);
        text
    }

    /// In words: `3.2 MB; leads: 40 (80.0 kB each), deliveries: 80`.
    pub fn told(&self) -> String {
        let each = self.bytes.checked_div(self.leads).map_or_else(String::new, |bytes| format!(" ({} each)", human_bytes(bytes)));
        format!("{}; leads: {}{each}, deliveries: {}", human_bytes(self.bytes), self.leads, self.deliveries)
    }
}

/// What is known of the wear.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The day that is still going on.
    pub today: Day,
    /// Those before it, oldest first; the latest 30 of them on which the daemon ran.
    pub finished: Vec<Day>,
    /// When this was noted, by the wall clock, ms.
    at: i64,
    /// The database's number of the boot in which this was noted.
    boot: i64,
    /// The day whose excess was told.
    told: Option<i64>,
    /// See [`Report::since_start`].
    #[serde(skip)]
    run: Day,
    /// Whether the kernel counts bytes here.
    measured: bool,
}

impl Report {
    /// When this was noted.
    pub fn at(&self) -> Wall {
        Wall(self.at)
    }

    /// Whether the kernel counts bytes here (CONFIG_TASK_IO_ACCOUNTING); otherwise all of them are 0.
    pub fn is_measured(&self) -> bool {
        self.measured
    }

    /// What was since the daemon's start.
    pub fn since_start(&self) -> Day {
        self.run
    }

    /// Bytes a day: over all finished days from the first to the last, or, before there is one, today's so far.
    pub fn pace(&self) -> u64 {
        match (self.finished.first(), self.finished.last()) {
            (Some(first), Some(last)) => {
                let span = u64::try_from(last.day - first.day + 1).unwrap_or(1).max(1);
                self.finished.iter().map(|d| d.bytes).sum::<u64>() / span
            }
            _ => self.today.bytes,
        }
    }

    /// How many days a card lasts that endures so many bytes and is written to at [`Report::pace`] by nothing else.
    pub fn card_days(&self, endurance: u64) -> u64 {
        endurance / self.pace().max(1)
    }

    /// Ends today and begins this day, or goes on with it. `certain`: later ones were dated by a clock that was wrong.
    fn begin(&mut self, day: i64, certain: bool) {
        let ended = std::mem::replace(&mut self.today, Day { day, ..Day::default() });
        if ended != (Day { day: ended.day, ..Day::default() }) {
            self.finished.push(ended);
        }
        if let Some(at) = self.finished.iter().position(|d| d.day == day) {
            self.today = self.finished.remove(at);
        }
        if certain {
            self.finished.retain(|d| d.day < day);
        }
        let surplus = self.finished.len().saturating_sub(DAYS_MAX);
        self.finished.drain(..surplus);
    }

    /// Today got its date from a clock that was wrong: it is `day`.
    fn redate(&mut self, day: i64) {
        let today = std::mem::take(&mut self.today);
        self.begin(day, true);
        self.today.bytes += today.bytes;
        self.today.leads += today.leads;
        self.today.deliveries += today.deliveries;
    }
}

/// Told when a day's budget is used up. Called on the writer's thread: must return at once.
pub type OnExcess = Box<dyn Fn(&Day, u64) + Send + Sync>;

/// Keeps the account.
pub struct Wear {
    account: Mutex<Account>,
    on_excess: Mutex<Option<OnExcess>>,
}

impl std::fmt::Debug for Wear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wear").field("account", &lock(&self.account)).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Account {
    report: Report,
    // The clock could be believed when today got its date; otherwise it gets another one as soon as it can.
    dated: bool,
    // When it could not: the uptime at which that date began.
    since_uptime: i64,
    looked: Option<Instant>,
    // When the account was last written, and what it said of today.
    kept: Option<(Instant, u64)>,
}

impl Wear {
    /// Goes on with the account in the database.
    pub fn open(conn: &Connection, line: &Timeline) -> Result<Self, Error> {
        let mut account = Account::new(kept(conn)?.unwrap_or_default(), line);
        account.count(written_so_far(), line);
        Ok(Self { account: Mutex::new(account), on_excess: Mutex::default() })
    }

    /// Who is to hear of a budget that is used up.
    pub fn on_excess(&self, f: OnExcess) {
        *lock(&self.on_excess) = Some(f);
    }

    /// What is known.
    pub fn report(&self) -> Report {
        lock(&self.account).report.clone()
    }

    /// Notes what a commit has done.
    pub fn committed(&self, leads: u64, deliveries: u64) {
        let report = &mut lock(&self.account).report;
        for day in [&mut report.today, &mut report.run] {
            day.leads += leads;
            day.deliveries += deliveries;
        }
    }

    /// Asks the kernel, at most once a second; ends the day, and tells of a budget of so many bytes a day that is used up.
    pub fn look(&self, line: &Timeline, budget: Option<u64>, endurance: Option<u64>) {
        let mut account = lock(&self.account);
        if account.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        account.looked = Some(Instant::now());
        let ended = account.count(written_so_far(), line);
        if let Some(day) = ended.filter(|day| day.bytes > 0) {
            log::info!("{}", sentence(&day, &account.report, endurance));
        }
        let on_excess = lock(&self.on_excess);
        // Before anybody listens it would be told to nobody, and only once.
        let Some((tell, (day, budget))) = on_excess.as_ref().and_then(|tell| Some((tell, account.excess(budget)?))) else { return };
        drop(account);
        log::warn!(
            "{} had to be written on {} for {} leads and {} deliveries, more than storage.write_budget_per_day allows ({}); see in the log whether a destination fails all the time, or raise the budget",
            human_bytes(day.bytes),
            day.date(),
            day.leads,
            day.deliveries,
            human_bytes(budget)
        );
        tell(&day, budget);
    }

    /// Writes the account along with a transaction that writes anyway, if it is time. True when it did: [`Wear::kept`] has then to be
    /// called after the commit.
    pub fn keep(&self, tx: &Connection, line: &Timeline) -> Result<bool, Error> {
        let mut account = lock(&self.account);
        let due = match account.kept {
            None => account.has_work(),
            Some((at, bytes)) => at.elapsed() >= KEEP_EVERY || account.report.today.bytes >= bytes.saturating_add(KEEP_BYTES),
        };
        if due {
            account.write(tx, line)?;
        }
        Ok(due)
    }

    /// The account is on the disk.
    pub fn kept(&self) {
        let mut account = lock(&self.account);
        account.kept = Some((Instant::now(), account.report.today.bytes));
    }

    /// Writes the account at an orderly stop.
    pub fn close(&self, tx: &Connection, line: &Timeline) -> Result<(), Error> {
        let mut account = lock(&self.account);
        if account.has_work() {
            account.count(written_so_far(), line);
            account.write(tx, line)?;
        }
        Ok(())
    }
}

impl Account {
    fn new(kept: Report, line: &Timeline) -> Self {
        let (dated, date) = (line.trusted(), line.wall().0.div_euclid(DAY_MS));
        let day = if dated || kept.at == 0 {
            date
        } else if kept.boot == line.boot() {
            // The daemon was started again: the same day goes on.
            kept.today.day
        } else {
            // Nobody knows the date; what is sure is that the machine was off in between.
            date.max(kept.today.day + 1)
        };
        let mut report = Report { boot: line.boot(), run: Day::default(), ..kept };
        report.begin(day, dated);
        Self { report, dated, since_uptime: line.uptime_ms(), looked: None, kept: None }
    }

    fn has_work(&self) -> bool {
        self.report.today.leads + self.report.today.deliveries > 0
    }

    /// Adds what was written since the last time, and gives the day that ended by now, if one did.
    fn count(&mut self, written: Option<u64>, line: &Timeline) -> Option<Day> {
        if let Some(written) = written {
            self.report.measured = true;
            self.report.today.bytes += written.saturating_sub(self.report.run.bytes);
            self.report.run.bytes = written;
        }
        let today = self.report.today;
        let date = line.wall().0.div_euclid(DAY_MS);
        if line.trusted() {
            if date != today.day && self.dated {
                self.report.begin(date, true);
                return Some(today);
            }
            if date != today.day {
                self.report.redate(date);
            }
            self.dated = true;
        } else if line.uptime_ms() - self.since_uptime >= DAY_MS {
            self.since_uptime += DAY_MS;
            self.dated = false;
            self.report.begin(today.day + 1, false);
            return Some(today);
        }
        None
    }

    fn excess(&mut self, budget: Option<u64>) -> Option<(Day, u64)> {
        let today = self.report.today;
        let budget = budget.filter(|budget| today.bytes > *budget && self.report.told != Some(today.day))?;
        self.report.told = Some(today.day);
        // On the disk with the next commit, so that the next start knows.
        self.kept = None;
        Some((today, budget))
    }

    fn write(&mut self, tx: &Connection, line: &Timeline) -> Result<(), Error> {
        self.report.at = line.wall().0;
        let text = serde_json::to_vec(&self.report).map_err(|e| Error::Sql(e.to_string()))?;
        tx.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)")?.execute((KEY, text))?;
        Ok(())
    }
}

/// The account as the daemon last wrote it. One that cannot be read is worth no trouble: it is begun anew.
pub fn kept(conn: &Connection) -> Result<Option<Report>, Error> {
    let text: Option<Vec<u8>> = conn.query_row("SELECT value FROM meta WHERE key = ?", [KEY], |r| r.get(0)).optional()?;
    Ok(text.and_then(|t| serde_json::from_slice(&t).ok()))
}

/// Bytes that this process has had written so far, by the kernel's count. `None` where it does not count (CONFIG_TASK_IO_ACCOUNTING).
fn written_so_far() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
}

fn sentence(day: &Day, report: &Report, endurance: Option<u64>) -> String {
    let life = endurance.map_or_else(String::new, |endurance| format!("; {}", life(report.card_days(endurance), endurance)));
    format!("written to the card on {}: {}{life}", day.date(), day.told())
}

/// "at this pace a card that endures 1.0 TB lasts 12 years".
pub fn life(days: u64, endurance: u64) -> String {
    let lasts = match days {
        0..60 => format!("{days} days"),
        60..730 => format!("{} months", days / 30),
        730..36_500 => format!("{} years", days / 365),
        _ => "more than 100 years".to_owned(),
    };
    format!("at this pace a card that endures {} lasts {lasts}", human_bytes(endurance))
}

/// "3.2 MB": decimal units, as makers of cards use them.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{}.{} {unit}", bytes / size, bytes % size * 10 / size),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    const TODAY: i64 = 20_780;

    #[derive(Debug, Default)]
    struct Hands {
        wall: AtomicI64,
        uptime: AtomicI64,
        synced: AtomicBool,
    }

    impl Clock for Hands {
        fn wall(&self) -> Wall {
            Wall(self.wall.load(Ordering::Relaxed))
        }
        fn uptime_ms(&self) -> i64 {
            self.uptime.load(Ordering::Relaxed)
        }
        fn boot_id(&self) -> String {
            String::new()
        }
        fn synced(&self) -> Option<bool> {
            Some(self.synced.load(Ordering::Relaxed))
        }
    }

    fn clock(day: i64, synced: bool) -> Arc<Hands> {
        Arc::new(Hands { wall: (day * DAY_MS).into(), uptime: 5.into(), synced: synced.into() })
    }

    fn line(hands: &Arc<Hands>, boot: i64) -> Timeline {
        Timeline::new(Arc::clone(hands) as Arc<dyn Clock>, boot, Wall(0), false)
    }

    fn days(account: &Account) -> Vec<(i64, u64)> {
        account.report.finished.iter().chain([&account.report.today]).map(|d| (d.day, d.bytes)).collect()
    }

    #[test]
    fn a_day_ends_with_the_date_and_the_next_begins_at_nothing() {
        let hands = clock(TODAY, true);
        let mut account = Account::new(Report::default(), &line(&hands, 1));
        assert_eq!(account.count(Some(100), &line(&hands, 1)), None);
        hands.wall.store((TODAY + 1) * DAY_MS, Ordering::Relaxed);
        assert_eq!(account.count(Some(130), &line(&hands, 1)).map(|d| (d.day, d.bytes)), Some((TODAY, 130)));
        account.count(Some(140), &line(&hands, 1));
        assert_eq!(days(&account), [(TODAY, 130), (TODAY + 1, 10)]);
        for day in 2..100 {
            hands.wall.store((TODAY + day) * DAY_MS, Ordering::Relaxed);
            account.count(Some(140 + day.unsigned_abs()), &line(&hands, 1));
        }
        assert_eq!(account.report.finished.len(), DAYS_MAX, "the account does not grow without end");
    }

    #[test]
    fn a_day_goes_on_after_a_restart_and_a_wrong_date_is_put_right() {
        let hands = clock(TODAY, true);
        let mut first = Account::new(Report::default(), &line(&hands, 1));
        first.count(Some(100), &line(&hands, 1));
        first.report.at = 1;
        let mut second = Account::new(first.report.clone(), &line(&hands, 1));
        second.count(Some(7), &line(&hands, 1));
        assert_eq!(days(&second), [(TODAY, 107)], "the kernel counts each process from nothing");
        // The next boot has no clock at first.
        let lost = clock(3, false);
        let mut third = Account::new(second.report.clone(), &line(&lost, 2));
        third.count(Some(20), &line(&lost, 2));
        assert_eq!(days(&third), [(TODAY, 107), (TODAY + 1, 20)]);
        lost.wall.store(TODAY * DAY_MS, Ordering::Relaxed);
        lost.synced.store(true, Ordering::Relaxed);
        third.count(Some(25), &line(&lost, 2));
        assert_eq!(days(&third), [(TODAY, 132)], "it was still the same day");
    }

    #[test]
    fn without_a_clock_a_day_is_as_long_as_a_day() {
        let hands = clock(0, false);
        let mut account = Account::new(Report::default(), &line(&hands, 1));
        account.count(Some(9), &line(&hands, 1));
        hands.uptime.store(DAY_MS + 5, Ordering::Relaxed);
        account.count(Some(19), &line(&hands, 1));
        account.count(Some(20), &line(&hands, 1));
        assert_eq!(days(&account), [(0, 19), (1, 1)]);
    }

    #[test]
    fn a_used_up_budget_is_told_once_a_day() {
        let hands = clock(TODAY, true);
        let mut account = Account::new(Report::default(), &line(&hands, 1));
        account.count(Some(100), &line(&hands, 1));
        assert_eq!((account.excess(None), account.excess(Some(100))), (None, None));
        account.count(Some(101), &line(&hands, 1));
        assert_eq!(account.excess(Some(100)).map(|(day, budget)| (day.bytes, budget)), Some((101, 100)));
        assert_eq!(account.excess(Some(100)), None);
        account.report.at = 1;
        let mut again = Account::new(account.report.clone(), &line(&hands, 1));
        assert_eq!(again.excess(Some(100)), None, "nor after a restart on the same day");
    }

    #[test]
    fn the_life_of_a_card_is_told_in_words_people_use() {
        let mut report = Report { today: Day { bytes: 5_000_000, ..Day::default() }, ..Report::default() };
        assert_eq!(
            life(report.card_days(1_000_000_000_000), 1_000_000_000_000),
            "at this pace a card that endures 1.0 TB lasts more than 100 years"
        );
        report.finished = vec![Day { day: 1, bytes: 10 << 30, ..Day::default() }, Day { day: 4, bytes: 2 << 30, ..Day::default() }];
        assert_eq!(report.pace(), 3 << 30, "days on which nothing ran count too");
        assert_eq!(life(report.card_days(1_000_000_000_000), 1_000_000_000_000), "at this pace a card that endures 1.0 TB lasts 10 months");
        assert_eq!([human_bytes(999), human_bytes(1_000), human_bytes(12_345_678)], ["999 bytes", "1.0 kB", "12.3 MB"]);
    }
}
