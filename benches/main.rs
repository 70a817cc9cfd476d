//! `cargo bench`: what this machine can do and what the product makes of it, side by side, as one table of ratios.
//!
//! Loopback only, bounded in count and time. docs/performance.md says what each row means. It must never judge an absolute figure
//! where the machine's own limit can be measured beside it.

mod limits;
mod load;
mod machine;
mod product;
mod queue;
mod report;
mod sink;

use queue::Filled;
use report::{Table, Target};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whatever goes wrong ends the measuring and is said as it is.
pub type Res<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "\
Usage: cargo bench [-- [--full] [--runs N] [--only PART]...]
  --full       a quarter of an hour instead of a minute: a million deliveries waiting, and five million
  --runs N     how often everything is measured, 3 if not said
  --only PART  only capture, delivery, bytes, queue or sqlite
LEADSBOT_BENCH_DIR is a folder on the disk to be measured, LEADSBOT_BENCH_PROGRAM another leadsbotd than the one built here.
Copied to another machine the program is started by hand, with --quick or --full.";

/// Deliveries that wait while nothing may be written.
const OFFLINE: u64 = 10_000;
/// Leads of the raw comparison of SQLite with itself.
const RAW_LEADS: u32 = 500;

struct Plan {
    full: bool,
    runs: usize,
    only: Vec<String>,
    folder: PathBuf,
}

impl Plan {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|p| p == part)
    }

    /// How long one load lasts.
    fn load(&self) -> Duration {
        Duration::from_millis(if self.full { 5000 } else { 1000 })
    }

    /// How long nothing happens.
    fn rest(&self) -> Duration {
        Duration::from_secs(if self.full { 120 } else { 20 })
    }

    /// How long a backlog is watched at most.
    fn drain(&self) -> Duration {
        Duration::from_secs(if self.full { 600 } else { 60 })
    }

    fn waiting(&self) -> u64 {
        100_000
    }
}

/// `None`: there is nothing to do.
fn plan() -> Res<Option<Plan>> {
    let (mut begin, mut full, mut runs, mut only) = (false, false, 3, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--bench" | "--quick" => begin = true,
            "--full" => (begin, full) = (true, true),
            "--runs" => runs = value()?.parse::<usize>()?.clamp(1, 100),
            "--only" => {
                let part = value()?;
                if !["capture", "delivery", "bytes", "queue", "sqlite"].contains(&part.as_str()) {
                    return Err(format!("there is no part {part}\n{USAGE}").into());
                }
                only.push(part);
            }
            _ => return Err(format!("what is {word}?\n{USAGE}").into()),
        }
    }
    // `cargo test --all-targets` starts benches too, without a word.
    if !begin {
        return Ok(None);
    }
    let folder = std::env::var_os("LEADSBOT_BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    Ok(Some(Plan { full, runs, only, folder }))
}

fn main() -> Res<()> {
    let Some(plan) = plan()? else {
        eprintln!("{USAGE}");
        return Ok(());
    };
    let (machine, disk) = (machine::description(), machine::file_system(&plan.folder)?);
    say(&format!("leadsbotd {} on {machine}; {} is {disk}\n", env!("CARGO_PKG_VERSION"), plan.folder.display()))?;
    if disk == "tmpfs" {
        eprintln!("that is memory, no disk: set LEADSBOT_BENCH_DIR to a folder on the disk where the database will be");
    }
    let load = machine::load_average();
    if load > 0.5 {
        eprintln!("others are at work here (load average {load}): the ratios will scatter, and the worst of them say little");
    }
    let begun = Instant::now();
    let mut table = rows(&plan);
    measure(&plan, &mut table)?;
    let (met, judged) = table.score();
    say(&table.text())?;
    say(&format!("\n{met} of {judged} targets met; {:.0} s; load average before it {load}\n", begun.elapsed().as_secs_f64()))?;
    let form = if plan.full { "full" } else { "quick" };
    let json = serde_json::json!({
        "leadsbotd": env!("CARGO_PKG_VERSION"), "form": form, "runs": plan.runs, "machine": machine, "file_system": disk,
        "load_average_before": load, "rows": table.json(),
    });
    let path = plan.folder.join("leadsbotd-bench.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&json)?)?;
    say(&format!("as JSON: {}\n", path.display()))
}

fn say(text: &str) -> Res<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Every row with its target, in the order of the table.
fn rows(plan: &Plan) -> Table {
    use Target::{AtLeast, AtMost, None};
    let mut table = Table::default();
    let waiting = if plan.full { "1,000,000" } else { "100,000" };
    table.row("capture_64", "capture at 64 connections, acks/s", "bare hyper", AtLeast(0.45));
    table.row("capture_1", "capture at 1 connection, acks/s", "raw commits/s", AtLeast(0.40));
    table.row("capture_1_hyper", "capture at 1 connection, acks/s", "bare hyper", None);
    table.row("capture_64_draining", "capture at 64 while a backlog drains, acks/s", "bare hyper", None);
    table.row("p99", "capture at 64 while a backlog drains, p99 ms", "without a drain", AtMost(3.0));
    table.row("deliveries", "deliveries/s to one destination", "raw ureq", AtLeast(0.60));
    table.row("drain", "drain of 100,000, last tenth/s", "first tenth/s", AtLeast(0.9));
    table.row("drain_million", "drain of 1,000,000, deliveries/s", "drain of 100,000", AtLeast(0.9));
    let operations = [
        ("claim", "claim 32 + 8"),
        ("complete", "complete one"),
        ("reschedule", "reschedule one"),
        ("oldest", "oldest"),
        ("counts", "counts"),
    ];
    for (key, what) in operations {
        let waiting = if plan.full { "5,000,000" } else { "100,000" };
        table.row(key, format!("{what}, {waiting} waiting, µs"), "1,000 waiting", AtMost(2.0));
    }
    table.row("bytes_lone", "bytes to the disk a lead, alone, captured and delivered", "", AtMost(16_000.0));
    table.row("bytes_apart", "the same, half a minute apart", "", None);
    table.row("bytes_group", "bytes to the disk a lead, groups of 32", "", AtMost(2_500.0));
    table.row("bytes_file", "bytes the file grows by a lead", "", None);
    table.row("bytes_idle", "bytes to the disk, idle", "", AtMost(0.0));
    table.row("bytes_offline", "bytes to the disk, offline with 10,000 waiting", "", AtMost(0.0));
    table.row("switches", "wake-ups a second, idle", "", AtMost(2.0));
    table.row("switches_offline", "wake-ups a second, offline with 10,000 waiting", "", None);
    table.row("pss_idle", "PSS idle, MB", "", AtMost(10.0));
    table.row("pss_load", format!("PSS under load with {waiting} waiting, MB"), "", AtMost(32.0));
    table.row("cold_empty", "start to first accepted lead, ms", "", AtMost(40.0));
    table.row("cold_full", format!("the same with {waiting} waiting, ms"), "", AtMost(80.0));
    table.row("binary", "release binary, MB", "", AtMost(8.0));
    table.row("sync", "fdatasync/s, overwriting", "appending", None);
    let sqlite = [
        ("psow_1024", "SQLite alone, pages of 1024, psow=0, commits/s"),
        ("psow_bytes_1024", "the same, bytes a lead"),
        ("psow_4096", "SQLite alone, pages of 4096, psow=0, commits/s"),
        ("psow_bytes_4096", "the same, bytes a lead"),
    ];
    for (key, what) in sqlite {
        table.row(key, what, "psow=1", None);
    }
    table
}

fn measure(plan: &Plan, table: &mut Table) -> Res<()> {
    let home = tempfile::Builder::new().prefix("leadsbotd-bench.").tempdir_in(&plan.folder)?;
    let folder = home.path();
    table.add("binary", machine::float(std::fs::metadata(product::program())?.len()) / 1e6, None);
    let delivery = plan.wants("delivery");
    let backlog = if delivery { Some(fill(folder, "backlog", plan.waiting())?) } else { None };
    let million = if delivery && plan.full { Some(fill(folder, "million", 1_000_000)?) } else { None };
    for run in 1..=plan.runs {
        let step = |what: &str| eprintln!("run {run} of {}: {what}", plan.runs);
        let mut without = None;
        if plan.wants("capture") || delivery {
            step("capture");
            without = Some(capture(plan, folder, table)?);
        }
        if let (Some((path, waiting)), Some(without)) = (&backlog, &without) {
            step("delivery");
            let rate = drain(plan, folder, path, *waiting, without, table)?;
            if let Some((path, waiting)) = &million {
                step("a million waiting");
                let drained = product::drain(folder, path, *waiting, plan.load(), plan.drain())?;
                table.add("drain_million", drained.rate, Some(rate));
                table.add("pss_load", drained.pss_mb, None);
                table.add("cold_full", drained.cold_start_ms, None);
            }
        }
        if plan.wants("sqlite") {
            step("SQLite alone");
            sqlite(plan, folder, table)?;
        }
    }
    if plan.wants("bytes") {
        eprintln!("{} daemons for {} s: lone leads, groups, idle, offline", 4 * plan.runs, plan.rest().as_secs());
        quiet(plan, folder, table)?;
    }
    if plan.wants("queue") {
        eprintln!("queue operations");
        operations(plan, folder, table)?;
    }
    Ok(())
}

/// A database with a backlog, to be copied; and how many wait in it.
fn fill(folder: &Path, name: &str, waiting: u64) -> Res<(PathBuf, u64)> {
    eprintln!("filling a queue of {waiting}");
    let path = folder.join(name).with_extension("db");
    let filled = Filled::new(&path, waiting, &load::lead())?;
    let waiting = filled.waiting;
    filled.close();
    File::open(&path)?.sync_all()?;
    Ok((path, waiting))
}

/// What the other rows of the run are held against.
struct Without {
    hyper_64: load::Met,
    capture_64: load::Met,
}

fn capture(plan: &Plan, folder: &Path, table: &mut Table) -> Res<Without> {
    let hyper_64 = limits::hyper(64, plan.load())?;
    let hyper_1 = limits::hyper(1, plan.load())?;
    let disk = tempfile::tempdir_in(folder)?;
    let commits = limits::commits(disk.path(), plan.load())?;
    let (appended, overwritten) = limits::fdatasync(disk.path(), plan.load() / 4)?;
    let captured = product::capture(folder, plan.load())?;
    table.add("capture_64", captured.at_64.rate, Some(hyper_64.rate));
    table.add("capture_1", captured.at_1.rate, Some(commits));
    table.add("capture_1_hyper", captured.at_1.rate, Some(hyper_1.rate));
    table.add("cold_empty", captured.cold_start_ms, None);
    table.add("pss_idle", captured.idle_pss_mb, None);
    table.add("sync", overwritten, Some(appended));
    Ok(Without { hyper_64, capture_64: captured.at_64 })
}

fn drain(plan: &Plan, folder: &Path, backlog: &Path, waiting: u64, without: &Without, table: &mut Table) -> Res<f64> {
    let ureq = limits::ureq(&sink::Sink::start()?, plan.load())?;
    let drained = product::drain(folder, backlog, waiting, plan.load(), plan.drain())?;
    table.add("capture_64_draining", drained.at_64.rate, Some(without.hyper_64.rate));
    table.add("p99", drained.at_64.p99_ms, Some(without.capture_64.p99_ms));
    table.add("deliveries", drained.rate, Some(ureq));
    table.add("drain", drained.last_tenth, Some(drained.first_tenth));
    if !plan.full {
        table.add("pss_load", drained.pss_mb, None);
        table.add("cold_full", drained.cold_start_ms, None);
    }
    Ok(drained.rate)
}

fn sqlite(plan: &Plan, folder: &Path, table: &mut Table) -> Res<()> {
    let leads = if plan.full { 10 * RAW_LEADS } else { RAW_LEADS };
    for (page_bytes, rate, bytes) in [(1024, "psow_1024", "psow_bytes_1024"), (4096, "psow_4096", "psow_bytes_4096")] {
        let disk = tempfile::tempdir_in(folder)?;
        let with = limits::raw(disk.path(), page_bytes, true, leads)?;
        let without = limits::raw(disk.path(), page_bytes, false, leads)?;
        table.add(rate, without.commits_per_second, Some(with.commits_per_second));
        table.add(bytes, without.bytes_per_lead, Some(with.bytes_per_lead));
    }
    Ok(())
}

/// Bytes and wake-ups do not depend on what else runs: all runs at the same time.
fn quiet(plan: &Plan, folder: &Path, table: &mut Table) -> Res<()> {
    let (offline, _) = fill(folder, "offline", OFFLINE)?;
    // By itself, because it makes the kernel write back for all.
    for _ in 0..plan.runs {
        table.add("bytes_apart", product::written(folder, 1, true, Instant::now() + plan.rest() / 8)?.bytes_per_lead, None);
    }
    let until = Instant::now() + plan.rest();
    let results = std::thread::scope(|scope| {
        let started: Vec<_> = (0..plan.runs)
            .map(|_| {
                (
                    scope.spawn(|| product::written(folder, 1, false, until)),
                    scope.spawn(|| product::written(folder, 32, false, until)),
                    scope.spawn(|| product::rested(folder, None, until)),
                    scope.spawn(|| product::rested(folder, Some(&offline), until)),
                )
            })
            .collect();
        let ended = |_| "measuring ended by a panic";
        let mut results = Vec::new();
        for (lone, group, idle, away) in started {
            let (lone, group) = (lone.join().map_err(ended)??, group.join().map_err(ended)??);
            let (idle, away) = (idle.join().map_err(ended)??, away.join().map_err(ended)??);
            results.push((lone, group, idle, away));
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(results)
    })?;
    for (lone, group, idle, away) in results {
        table.add("bytes_lone", lone.bytes_per_lead, None);
        table.add("bytes_group", group.bytes_per_lead, None);
        table.add("bytes_file", group.file_bytes_per_lead, None);
        table.add("bytes_idle", idle.bytes, None);
        table.add("bytes_offline", away.bytes, None);
        table.add("switches", idle.switches_per_second, None);
        table.add("switches_offline", away.switches_per_second, None);
    }
    Ok(())
}

/// The same operations on a short queue and on a long one.
fn operations(plan: &Plan, folder: &Path, table: &mut Table) -> Res<()> {
    let waiting = if plan.full { 5_000_000 } else { plan.waiting() };
    let disk = tempfile::tempdir_in(folder)?;
    // A short lead: it is the queue that is long.
    let lead = r#"{"name":"Jane Smith","email":"jane@example.com"}"#;
    let mut short = Filled::new(&disk.path().join("short.db"), 1000, lead)?;
    let mut long = Filled::new(&disk.path().join("long.db"), waiting, lead)?;
    short.fail_a_tenth()?;
    long.fail_a_tenth()?;
    // Fills the caches of both.
    short.operations()?;
    long.operations()?;
    for _ in 0..plan.runs {
        let (of_short, of_long) = (short.operations()?, long.operations()?);
        for (what, spent) in of_long {
            table.add(what, spent, of_short.get(what).copied());
        }
    }
    short.close();
    long.close();
    Ok(())
}
