//! What the kernel says about a process, a disk and the machine. Reads `/proc`, changes nothing.

use crate::Res;
use std::path::Path;

/// What a process has cost so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Bytes of the pages it has made the disk take (`write_bytes`): what an fsync sends, in units of 4 KiB.
    pub disk_bytes: u64,
    /// Context switches of all its threads, voluntary or not.
    pub switches: u64,
}

/// The cost of process `pid` so far. Can still be read of one that has ended and was not waited for, without its switches.
pub fn cost(pid: u32) -> Res<Cost> {
    let disk_bytes = number(&std::fs::read_to_string(format!("/proc/{pid}/io"))?, "write_bytes:").ok_or("/proc has no write_bytes")?;
    let mut switches = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the two calls.
        let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else { continue };
        switches += number(&status, "voluntary_ctxt_switches:").unwrap_or(0) + number(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(Cost { disk_bytes, switches })
}

/// The proportional set size of process `pid`, in MB: its memory, shared pages counted in part.
pub fn pss_mb(pid: u32) -> Res<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kb = number(&text, "Pss:").ok_or("/proc has no Pss")?;
    Ok(float(kb) / 1024.0)
}

/// Whether process `pid` has ended; it may still be waited for.
pub fn ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// "x86_64, 2 cores, Linux 6.1": what the figures are true of.
pub fn description() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let board = read("/proc/device-tree/model");
    let board = board.trim_end_matches('\0');
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("", |l| l.trim_start_matches(['\t', ' ', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let parts = [board, cpu, std::env::consts::ARCH, &format!("{cores} cores"), &format!("Linux {}", kernel.trim())];
    parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
}

/// How many threads wanted a core in the last minute, on average.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(f64::NAN)
}

/// The type of the file system that holds `path`: "ext4", "tmpfs", …
pub fn file_system(path: &Path) -> Res<String> {
    let path = path.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut found = (0, "unknown");
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(at), Some(kind)) = (words.next(), words.next())
            && path.starts_with(at)
            && at.len() >= found.0
        {
            found = (at.len(), kind);
        }
    }
    Ok(found.1.to_owned())
}

/// Counts are far below where this would lose digits.
pub fn float(n: u64) -> f64 {
    let high = u32::try_from(n >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(n & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
