//! Power cuts, simulated: a run of the real binary is recorded call by call, then the disk is rebuilt as it could look after a cut at
//! each of thousands of moments, and the store is opened on it.
//!
//! What a cut may do: a write that was not synced is lost, kept, kept in part, or turns its sectors into garbage, the bytes beside it
//! included; a name is durable only once its folder was synced; writes between two syncs may arrive in any order. What was synced is
//! there. The seed and the number of a state that fails are printed, and how many were tried.
//! Two planted faults, a disk that ignores syncs and answers given before their commit, must turn the check red.

use crate::support::http::Client;
use crate::support::peers::peer;
use crate::support::{Daemon, Home, Receiver, SECRET, eventually};
use leadsbotd::delivery::{Assignment, Lane, Step, Transport};
use leadsbotd::destination::webhook::{Body, Webhook};
use leadsbotd::destination::{Answer, Request, Response, Spec};
use leadsbotd::retry::Policy;
use leadsbotd::secret::Secret;
use leadsbotd::store::{Options, Store};
use leadsbotd::time::{SystemClock, Tick};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A call that matters to the disk or to a client.
#[derive(Debug, Clone)]
enum Call {
    Create(String),
    Remove(String),
    Write { file: String, at: usize, data: Vec<u8> },
    Truncate { file: String, length: usize },
    Sync(String),
    SyncFolder,
    Acknowledge(String),
}

struct Recording {
    calls: Vec<Call>,
    sent: usize,
    delivered: BTreeSet<String>,
}

/// Runs the binary under strace with some visitors and reads what it did.
fn record() -> Recording {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let trace = home.path("trace");
    let arguments =
        ["-y", "-xx", "-s", "1000000", "-e", "trace=openat,unlink,pwrite64,ftruncate,fsync,fdatasync,write,writev,sendto", "-o"];
    let mut arguments: Vec<&str> = arguments.to_vec();
    let trace_name = trace.display().to_string();
    arguments.push(&trace_name);
    let daemon = Daemon::traced(&home, &arguments).expect("it starts");
    let client = Client::new(daemon.address);
    let mut sent = 0;
    for n in 0..100 {
        let (lead, _) = client.lead(&json!({"name":format!("Visitor {n}"),"message":"x".repeat(n * 17)}));
        sent += 1;
        if n % 10 == 0 {
            let changed = client.json("PATCH", &format!("/api/v1/leads/{lead}"), &json!({"score":n + 1}));
            assert_eq!(changed.status, 200);
            sent += 1;
        }
    }
    eventually("all delivered", || receiver.taken().len() == sent);
    daemon.stop();
    let text = std::fs::read_to_string(trace).expect("the trace");
    let calls = read_trace(&text, &home.path("").display().to_string());
    let delivered = receiver.taken().iter().map(|d| d.event_id().to_owned()).collect();
    Recording { calls, sent, delivered }
}

/// Reads strace's text. A write counts from the moment it is called, a sync from the moment it has returned.
fn read_trace(text: &str, folder: &str) -> Vec<Call> {
    let folder = folder.trim_end_matches('/');
    let mut calls = Vec::new();
    let mut syncing: BTreeMap<&str, Call> = BTreeMap::new();
    let file_of = |line: &str| -> Option<String> {
        let path = String::from_utf8(decode(line.split_once('<')?.1.split_once('>')?.0)).ok()?;
        let name = if path == folder { "" } else { path.strip_prefix(folder)?.strip_prefix('/')? };
        ["", "leads.db", "leads.db-wal", "leads.db-journal"].contains(&name).then(|| name.to_owned())
    };
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').expect("a thread and a call");
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if (resumed.starts_with("fsync") || resumed.starts_with("fdatasync")) && resumed.ends_with("= 0") {
                calls.extend(syncing.remove(thread));
            }
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        match name {
            "openat" if !arguments.contains("O_CREAT") => {}
            "openat" | "unlink" => {
                let path = String::from_utf8_lossy(&decode(quoted(arguments))).into_owned();
                if let Some(file) = path.strip_prefix(folder).and_then(|p| p.strip_prefix('/'))
                    && ["leads.db", "leads.db-wal", "leads.db-journal"].contains(&file)
                {
                    let file = file.to_owned();
                    calls.push(if name == "unlink" { Call::Remove(file) } else { Call::Create(file) });
                }
            }
            "pwrite64" => {
                let Some(file) = file_of(arguments) else { continue };
                let after = arguments.rsplit_once('"').expect("data").1;
                let numbers: Vec<usize> = after.split([',', ')', ' ', '<']).filter_map(|p| p.parse().ok()).collect();
                calls.push(Call::Write { file, at: numbers[1], data: decode(quoted(arguments)) });
            }
            "ftruncate" => {
                let Some(file) = file_of(arguments) else { continue };
                let length = arguments.split([',', ')', ' ']).filter_map(|p| p.parse().ok()).next().expect("a length");
                calls.push(Call::Truncate { file, length });
            }
            "fsync" | "fdatasync" => {
                let Some(file) = file_of(arguments) else { continue };
                let call = if file.is_empty() { Call::SyncFolder } else { Call::Sync(file) };
                if arguments.ends_with("= 0") {
                    calls.push(call);
                } else {
                    syncing.insert(thread, call);
                }
            }
            "write" | "writev" | "sendto"
                if arguments.contains("\\x32\\x30\\x31\\x20\\x43") || arguments.contains("\\x32\\x30\\x30\\x20\\x4f") =>
            {
                let text = String::from_utf8_lossy(&decode(arguments)).into_owned();
                for (at, _) in text.match_indices("evt_") {
                    calls.push(Call::Acknowledge(text[at..at + 30].to_owned()));
                }
            }
            _ => {}
        }
    }
    calls
}

/// From the first quote to the last.
fn quoted(text: &str) -> &str {
    text.split_once('"').and_then(|(_, t)| t.rsplit_once('"')).expect("a quoted text").0
}

/// The bytes of all \x.. in a line.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i + 3 < bytes.len() {
        if bytes[i] == b'\\' && bytes[i + 1] == b'x' {
            out.push(u8::from_str_radix(&text[i + 2..i + 4], 16).expect("hex"));
            i += 4;
        } else {
            i += 1;
        }
    }
    out
}

/// A file as the disk surely has it, and what may or may not have arrived since.
#[derive(Default, Clone)]
struct File {
    /// Whether its name is there for sure; a name that was taken away or made since the folder's last sync may be there or not.
    named: bool,
    wanted: bool,
    durable: Vec<u8>,
    pending: Vec<Call>,
}

fn apply(content: &mut Vec<u8>, call: &Call, random: &mut fastrand::Rng, cut: bool) {
    match call {
        Call::Truncate { length, .. } if !cut || random.bool() => content.resize(*length, 0),
        Call::Write { at, data, .. } if !cut => write(content, *at, data),
        Call::Write { at, data, .. } => match random.u8(0..4) {
            0 => {}
            1 => write(content, *at, data),
            2 => {
                // Some of its sectors, in no order.
                let sector = if random.bool() { 512 } else { 4096 };
                for start in (at / sector * sector..at + data.len()).step_by(sector) {
                    if random.bool() {
                        let (from, to) = (start.max(*at), (start + sector).min(at + data.len()));
                        write(content, from, &data[from - at..to - at]);
                    }
                }
            }
            _ => {
                // The whole sectors it touches become garbage, and what stood beside it in them.
                let sector = if random.bool() { 512 } else { 4096 };
                let (from, to) = (at / sector * sector, (at + data.len()).div_ceil(sector) * sector);
                let garbage: Vec<u8> = (from..to).map(|_| random.u8(..)).collect();
                let to = to.min(content.len().max(at + data.len()));
                write(content, from, &garbage[..to - from]);
            }
        },
        _ => {}
    }
}

fn write(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

/// The disk after a cut before call number `moment`, and what had been acknowledged by then.
fn disk_at(calls: &[Call], moment: usize, seed: u64) -> (BTreeMap<String, Vec<u8>>, BTreeSet<String>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    let mut acknowledged = BTreeSet::new();
    for call in &calls[..moment] {
        match call {
            Call::Create(file) => {
                let file = files.entry(file.clone()).or_default();
                if !file.wanted {
                    *file = File { wanted: true, ..File::default() };
                }
            }
            Call::Remove(file) => files.entry(file.clone()).or_default().wanted = false,
            Call::Write { file, .. } | Call::Truncate { file, .. } => files.entry(file.clone()).or_default().pending.push(call.clone()),
            Call::Sync(file) => {
                let file = files.entry(file.clone()).or_default();
                for call in std::mem::take(&mut file.pending) {
                    apply(&mut file.durable, &call, &mut random, false);
                }
            }
            Call::SyncFolder => files.values_mut().for_each(|f| f.named = f.wanted),
            Call::Acknowledge(event) => drop(acknowledged.insert(event.clone())),
        }
    }
    let mut disk = BTreeMap::new();
    for (name, file) in files {
        let there = if file.named == file.wanted { file.named } else { random.bool() };
        if !there {
            continue;
        }
        let mut content = file.durable;
        for call in &file.pending {
            apply(&mut content, call, &mut random, true);
        }
        disk.insert(name, content);
    }
    (disk, acknowledged)
}

/// Takes everything and remembers it.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<String>>);

impl Transport for Memory {
    fn send(&self, request: &Request) -> Answer {
        let id = request.http().unwrap().value_of("X-LeadsBot-Event-Id").unwrap_or_default();
        self.0.lock().unwrap().push(id.to_owned());
        Answer::Response(Response { status: 200, ..Response::default() })
    }
}

/// Starts on a disk and delivers what there is to deliver. What is wrong, if anything.
fn survives(folder: &Path, recording: &Recording, acknowledged: &BTreeSet<String>) -> Result<(), String> {
    let (store, writer) =
        Store::open(Options::new(folder.join("leads.db")), Arc::new(SystemClock)).map_err(|e| format!("it does not start: {e}"))?;
    let dest = store.register(vec!["crm".to_owned()]).map_err(|e| e.to_string())?[0];
    let memory = Arc::new(Memory::default());
    let spec = Spec {
        name: "crm".to_owned(),
        events: vec!["*".to_owned()],
        when: None,
        connector: Box::new(Webhook::new("http://127.0.0.1:1/".parse().unwrap(), vec![Secret::new(SECRET).unwrap()], Body::Full)),
        workers: 1,
    };
    let assignment =
        Assignment { dest, spec: Arc::new(spec), policy: Policy::default(), transport: Arc::clone(&memory) as Arc<dyn Transport> };
    let lane = Arc::new(Lane::new(store.clone(), assignment, Tick::ZERO));
    store.watch(dest, Some(Lane::watcher(&lane)));
    loop {
        while lane.step() == Step::Sent {}
        store.settle(Duration::from_secs(10));
        if lane.step() != Step::Sent {
            break;
        }
    }
    let ids = store.ids().clone();
    let sent = memory.0.lock().unwrap().clone();
    let result = store.read(|view| {
        for event in acknowledged {
            let Some(number) = view.event_number(&ids, event)? else { return Ok(Err(format!("{event} was acknowledged and is gone"))) };
            let done = view.deliveries_of(number)?.iter().any(|d| d.state == "delivered");
            if !done {
                return Ok(Err(format!("{event} is there and was not delivered")));
            }
            if !sent.contains(event) && !recording.delivered.contains(event) {
                return Ok(Err(format!("{event} is noted as delivered and never was")));
            }
        }
        let waiting = view.counts(dest)?.waiting();
        Ok(if waiting == 0 { Ok(()) } else { Err(format!("{waiting} are left in the queue")) })
    });
    let twice = sent.iter().collect::<BTreeSet<_>>().len() != sent.len();
    writer.stop();
    if twice {
        return Err("the same event was sent twice after one start".to_owned());
    }
    if sent.len() > recording.sent {
        return Err("more was delivered than was ever accepted".to_owned());
    }
    result.map_err(|e| e.to_string())?
}

fn trial(recording: &Recording, moment: usize, seed: u64) -> Result<(), String> {
    let (disk, acknowledged) = disk_at(&recording.calls, moment, seed);
    // The disk is simulated; the one below need not be real.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for (name, content) in &disk {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    survives(folder.path(), recording, &acknowledged)
}

#[test]
fn after_a_cut_at_any_moment_every_acknowledged_lead_is_there_and_arrives() {
    if peer("strace", "apt-get install strace").is_none() {
        return;
    }
    let recording = record();
    let moments = recording.calls.len();
    let acknowledged = recording.calls.iter().filter(|c| matches!(c, Call::Acknowledge(_))).count();
    assert_eq!(acknowledged, recording.sent, "the recording misses answers");
    let states: u64 = std::env::var("LEADSBOT_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let base: u64 = std::env::var("LEADSBOT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let (tried, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (recording, tried, failed) = (&recording, &tried, &failed);
            scope.spawn(move || {
                for state in (half..states).step_by(2) {
                    let seed = base.wrapping_add(state);
                    // Evenly over the run, so that each phase is met: commits, the copying back, the stop. Every fifth in the first
                    // moments, where the file is made.
                    let state_index = usize::try_from(state).unwrap();
                    let moment = match state % 5 {
                        0 => 1 + state_index / 5 % 150,
                        _ => 1 + state_index * (moments - 1) / usize::try_from(states).unwrap(),
                    };
                    tried.fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = trial(recording, moment, seed) {
                        failed.lock().unwrap().push(format!("state {state}, cut before call {moment} of {moments}: {e}"));
                    }
                }
            });
        }
    });
    let (tried, failed) = (tried.into_inner(), failed.into_inner().unwrap());
    eprintln!("{tried} states after cuts over {moments} calls tried, {} failed, LEADSBOT_SEED={base}", failed.len());
    assert!(
        tried == states && failed.is_empty(),
        "LEADSBOT_SEED={base}, {} of {tried} states failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// What 200 cuts in the second half of a run find.
fn faults_found(recording: &Recording) -> Vec<String> {
    let moments = recording.calls.len();
    let found: Vec<String> =
        (0..200_usize).filter_map(|n| trial(recording, moments / 2 + n * (moments / 2) / 200, n as u64).err()).collect();
    eprintln!("{} of 200 states were found to be wrong", found.len());
    found
}

#[test]
fn the_cut_test_sees_a_disk_that_is_not_synced() {
    if peer("strace", "apt-get install strace").is_none() {
        return;
    }
    let mut recording = record();
    recording.calls.retain(|call| !matches!(call, Call::Sync(_)));
    let found = faults_found(&recording);
    assert!(found.len() > 100, "only {} of 200 cuts without syncs were noticed", found.len());
}

#[test]
fn the_cut_test_sees_answers_given_before_their_commit() {
    if peer("strace", "apt-get install strace").is_none() {
        return;
    }
    let mut recording = record();
    let well = faults_found(&recording);
    assert!(well.is_empty(), "the run itself is at fault: {well:?}");
    recording.calls = answered_before_commit(&recording.calls);
    let found = faults_found(&recording);
    let lost = found.iter().filter(|e| e.ends_with("was acknowledged and is gone")).count();
    assert_eq!(lost, found.len(), "something else was found than lost leads: {found:?}");
    assert!(lost > 100, "only {lost} of 200 cuts after answers that came too early were noticed");
}

/// The run as if the daemon had answered first and written then: each acknowledgement is moved in front of the first write that the sync
/// it waited for made durable.
fn answered_before_commit(calls: &[Call]) -> Vec<Call> {
    let log = "leads.db-wal".to_owned();
    let mut out: Vec<Call> = Vec::new();
    // Where the last synced writes to the log begin in `out`, and those that are not synced yet: the end of a frame is written behind
    // its sync.
    let (mut synced, mut unsynced) = (0, None);
    for call in calls {
        match call {
            Call::Acknowledge(_) => {
                out.insert(synced, call.clone());
                synced += 1;
                unsynced = unsynced.map(|at| at + 1);
                continue;
            }
            Call::Write { file, .. } if *file == log => unsynced = unsynced.or(Some(out.len())),
            Call::Sync(file) if *file == log => synced = unsynced.take().unwrap_or(synced),
            _ => {}
        }
        out.push(call.clone());
    }
    out
}
