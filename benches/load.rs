//! The load: leads of about 600 bytes over keep-alive HTTP/1.1 connections, the next one when the last is answered, nothing pipelined.
//!
//! Written on bare sockets: what the generator costs is taken from the machine that is being measured.

use crate::Res;
use crate::machine::float;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the daemon's API asks for.
pub const TOKEN: &str = "bench-token-0123456789";
/// Not counted: connections are made, caches fill.
const WARM_UP: Duration = Duration::from_millis(200);
/// No answer is waited for any longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a load has met.
#[derive(Debug, Clone, Copy)]
pub struct Met {
    /// Leads accepted in all, those of the warm-up included.
    pub accepted: u64,
    /// Leads accepted a second.
    pub rate: f64,
    /// 99 of 100 were answered within so many milliseconds.
    pub p99_ms: f64,
}

/// A lead as a website would post it.
pub fn lead() -> String {
    serde_json::json!({
        "name": "Jane Margaret Smith-Hutchinson", "email": "jane.smith-hutchinson@example.com", "phone": "+44 20 7946 0958",
        "company": "Hutchinson & Daughters Kitchen Fittings Ltd",
        "message": "We are fitting out a second showroom in Leeds and would like to see the oak range in person. Could somebody call \
                    me in the afternoon, any day but Thursday? We would need about forty fronts by the end of March, and a price for \
                    the handles.",
        "fields": { "interest": "Kitchens", "postcode": "LS1 4AP", "showroom": "Hall 3", "newsletter": "yes" },
        "page_url": "https://www.example.com/kitchens/oak", "utm_source": "fair", "utm_campaign": "spring",
    })
    .to_string()
}

/// The whole request that posts [`lead`].
fn request(at: SocketAddr) -> Vec<u8> {
    let body = lead();
    format!(
        "POST /api/v1/leads HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Posts leads over `connections` for `time`. Anything but 201 ends it: a load that is refused measures nothing.
pub fn run(at: SocketAddr, connections: usize, time: Duration) -> Res<Met> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = request(at);
    let (from, until) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + time);
    let (mut taken, mut accepted) = (Vec::new(), 0);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..connections).map(|_| tokio::spawn(one(at, request.clone(), from, until))).collect();
        for task in tasks {
            let (counted, all) = tokio::time::timeout(time + PATIENCE, task).await???;
            taken.extend(counted);
            accepted += all;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    taken.sort_unstable();
    let p99_ms = taken.get(taken.len() * 99 / 100).map_or(f64::NAN, |us| f64::from(*us) / 1000.0);
    Ok(Met { accepted, rate: float(u64::try_from(taken.len())?) / time.as_secs_f64(), p99_ms })
}

/// One connection; gives the microseconds of every answer that came between `from` and `until`, and how many came in all.
async fn one(at: SocketAddr, request: Vec<u8>, from: Instant, until: Instant) -> Res<(Vec<u32>, u64)> {
    let mut stream = tokio::net::TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let (mut taken, mut accepted, mut answer) = (Vec::new(), 0, Vec::with_capacity(1024));
    loop {
        let sent = Instant::now();
        if sent >= until {
            return Ok((taken, accepted));
        }
        stream.write_all(&request).await?;
        answer.clear();
        while !whole(&answer)? {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("the server closed a connection under load".into());
            }
        }
        accepted += 1;
        let now = Instant::now();
        if now >= from && now < until {
            taken.push(u32::try_from((now - sent).as_micros()).unwrap_or(u32::MAX));
        }
    }
}

/// Whether these bytes are a whole answer. An error unless it is 201.
fn whole(bytes: &[u8]) -> Res<bool> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
    if head.get(9..12) != Some("201") {
        return Err(format!("a lead was not taken: {}", String::from_utf8_lossy(bytes)).into());
    }
    Ok(bytes.len() >= end + 4 + content_length(head))
}

/// The `content-length` of a head; 0 when it has none.
pub fn content_length(head: &str) -> usize {
    let value = head.lines().filter_map(|l| l.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    value.and_then(|(_, v)| v.trim().parse().ok()).unwrap_or(0)
}

/// Some visitors, each with a connection of their own.
pub struct Visitors {
    streams: Vec<std::net::TcpStream>,
    request: Vec<u8>,
}

impl Visitors {
    pub fn arrive(at: SocketAddr, count: usize) -> Res<Self> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let stream = std::net::TcpStream::connect(at)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            streams.push(stream);
        }
        Ok(Self { streams, request: request(at) })
    }

    /// Each posts one lead; returns when all have been answered.
    pub fn post(&mut self) -> Res<()> {
        for stream in &mut self.streams {
            stream.write_all(&self.request)?;
        }
        for stream in &mut self.streams {
            let (mut answer, mut part) = (Vec::new(), [0; 1024]);
            while !whole(&answer)? {
                match stream.read(&mut part)? {
                    0 => return Err("the server closed a visitor's connection".into()),
                    n => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
                }
            }
        }
        Ok(())
    }
}
