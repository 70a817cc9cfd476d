//! What the machine can do when nothing but the one thing is done: the yardsticks of the product's figures.

use crate::Res;
use crate::load::{self, Met};
use crate::machine::{self, float};
use crate::sink::Sink;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use leadsbotd::secret::Secret;
use leadsbotd::signature;
use rusqlite::{Connection, OpenFlags, params};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// As long as the product's answer.
const ANSWER: &[u8] = br#"{"id":"lead_00000000000000000000000000","event_id":"evt_00000000000000000000000000"}"#;

/// Leads that make the log as long as it gets: a log that still grows syncs more slowly than one that is written over.
const LOG_FILLED: u32 = 4000;

/// Bare hyper on one thread: reads a POST and answers 201, nothing else.
pub fn hyper(connections: usize, time: Duration) -> Res<Met> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = &mut stopped => return,
                };
                let Ok((stream, _)) = stream else { return };
                let _ = stream.set_nodelay(true);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
    });
    let met = load::run(address, connections, time);
    let _ = stop.send(());
    serving.join().map_err(|_| "the bare server ended by a panic")?;
    met
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    let mut answer = Response::new(Full::new(Bytes::from_static(ANSWER)));
    *answer.status_mut() = StatusCode::CREATED;
    Ok(answer)
}

/// 4 KiB written and synced, over and over: appended, then into space the file already has. Times a second.
pub fn fdatasync(folder: &Path, time: Duration) -> Res<(f64, f64)> {
    let file = File::create(folder.join("sync"))?;
    let page = [b'x'; 4096];
    let synced = |appending: bool, pages: u64| -> Res<(f64, u64)> {
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < time {
            let at = if appending { count } else { count % pages };
            file.write_all_at(&page, at * 4096)?;
            file.sync_data()?;
            count += 1;
        }
        Ok((float(count) / begun.elapsed().as_secs_f64(), count))
    };
    let (appended, pages) = synced(true, 1)?;
    let (overwritten, _) = synced(false, pages)?;
    Ok((appended, overwritten))
}

/// One lead a transaction with a lean schema and SQLite as it comes, WAL and `synchronous=FULL`. Commits a second.
pub fn commits(folder: &Path, time: Duration) -> Res<f64> {
    let conn = Connection::open(folder.join("lean.db"))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch(
        "CREATE TABLE event (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
         CREATE TABLE ready (dest INTEGER NOT NULL, event INTEGER NOT NULL, PRIMARY KEY (dest, event)) WITHOUT ROWID;",
    )?;
    let body = load::lead();
    let capture = || -> rusqlite::Result<()> {
        conn.prepare_cached("INSERT INTO event (body) VALUES (?1)")?.execute([body.as_bytes()])?;
        conn.prepare_cached("INSERT INTO ready (dest, event) VALUES (1, ?1)")?.execute([conn.last_insert_rowid()])?;
        Ok(())
    };
    conn.execute_batch("BEGIN IMMEDIATE")?;
    for _ in 0..LOG_FILLED {
        capture()?;
    }
    conn.execute_batch("COMMIT; PRAGMA wal_checkpoint(RESTART)")?;
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        capture()?;
        conn.execute_batch("COMMIT")?;
        count += 1;
    }
    Ok(float(count) / begun.elapsed().as_secs_f64())
}

/// ureq on one thread, keep-alive, each body signed once. Requests a second.
pub fn ureq(sink: &Sink, time: Duration) -> Res<f64> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .timeout_connect(Some(Duration::from_secs(10)))
        .build();
    let agent = ureq::Agent::with_parts(config, DefaultConnector::new(), Cached(sink.address));
    let secret = Secret::new(crate::product::SECRET).map_err(|e| format!("{e:?}"))?;
    let (body, url) = (load::lead(), sink.url());
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        let signature = signature::leadsbot(&secret, body.as_bytes());
        let sent = agent.post(&url).header("content-type", "application/json").header(signature::HEADER, signature);
        sent.send(body.as_bytes())?.body_mut().read_to_vec()?;
        count += 1;
    }
    Ok(float(count) / begun.elapsed().as_secs_f64())
}

/// A resolver that knows the answer already.
#[derive(Debug)]
struct Cached(SocketAddr);

impl Resolver for Cached {
    fn resolve(&self, _: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.empty();
        found.push(self.0);
        Ok(found)
    }
}

/// What SQLite alone makes of a lead that is captured in one transaction and finished in another.
pub struct Raw {
    pub commits_per_second: f64,
    pub bytes_per_lead: f64,
}

/// The statements of a lone lead on a file with this page size, with and without SQLite's trust that a power cut leaves the bytes around
/// a write alone (`psow`). Nobody else in this process may write meanwhile.
pub fn raw(folder: &Path, page_bytes: u32, psow: bool, leads: u32) -> Res<Raw> {
    let path = folder.join(format!("raw-{page_bytes}-{psow}.db"));
    let uri = format!("file:{}?psow={}", path.display(), u8::from(psow));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(uri, flags)?;
    conn.pragma_update(None, "page_size", page_bytes)?;
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // In frames: as many bytes of log with either page size.
    conn.pragma_update(None, "wal_autocheckpoint", 1_024_000 / page_bytes)?;
    conn.execute_batch(
        "CREATE TABLE event (seq INTEGER PRIMARY KEY, lead INTEGER, kind TEXT NOT NULL, at INTEGER NOT NULL, tick INTEGER NOT NULL,
                             random INTEGER NOT NULL, body BLOB NOT NULL);
         CREATE TABLE ready (dest INTEGER NOT NULL, event INTEGER NOT NULL, PRIMARY KEY (dest, event)) WITHOUT ROWID;
         CREATE TABLE history (event INTEGER NOT NULL, dest INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL,
                               result TEXT NOT NULL, status INTEGER, PRIMARY KEY (event, dest)) WITHOUT ROWID;
         PRAGMA wal_checkpoint(TRUNCATE);",
    )?;
    // The length of the event that is made of the lead.
    let body = vec![b'x'; crate::queue::event_bytes()?];
    let at = |seq: u32| 1_795_435_200_123_i64 + i64::from(seq);
    let capture = |seq: u32| -> rusqlite::Result<()> {
        conn.prepare_cached("INSERT INTO event (seq, lead, kind, at, tick, random, body) VALUES (?1, ?1, 'lead.created', ?2, ?2, ?3, ?4)")?
            .execute(params![seq, at(seq), i64::MAX - i64::from(seq), body])?;
        conn.prepare_cached("INSERT INTO ready (dest, event) VALUES (1, ?1)")?.execute([seq])?;
        Ok(())
    };
    let finish = |seq: u32| -> rusqlite::Result<()> {
        conn.prepare_cached("DELETE FROM ready WHERE dest = 1 AND event = ?1")?.execute([seq])?;
        conn.prepare_cached("INSERT INTO history (event, dest, at, attempts, result, status) VALUES (?1, 1, ?2, 1, 'delivered', 204)")?
            .execute(params![seq, at(seq)])?;
        Ok(())
    };
    conn.execute_batch("BEGIN IMMEDIATE")?;
    for seq in 1..=LOG_FILLED {
        capture(seq)?;
        finish(seq)?;
    }
    conn.execute_batch("COMMIT; PRAGMA wal_checkpoint(RESTART)")?;
    let before = machine::cost(std::process::id())?.disk_bytes;
    let begun = Instant::now();
    for seq in LOG_FILLED + 1..=LOG_FILLED + leads {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        capture(seq)?;
        conn.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
        finish(seq)?;
        conn.execute_batch("COMMIT")?;
    }
    let commits_per_second = f64::from(2 * leads) / begun.elapsed().as_secs_f64();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let written = machine::cost(std::process::id())?.disk_bytes - before;
    Ok(Raw { commits_per_second, bytes_per_lead: float(written) / f64::from(leads) })
}
