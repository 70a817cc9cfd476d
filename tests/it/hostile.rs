//! Receivers that misbehave, over real sockets. For each: what its lane does, that another lane is not delayed, and that everything
//! arrives once the receiver is well.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, eventually};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

type Behaviour = fn(&mut TcpStream);

/// A socket that treats every connection like this, until it is told to be well.
struct Hostile {
    address: SocketAddr,
    well: Arc<AtomicBool>,
}

impl Hostile {
    fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, well) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let now_well = Arc::clone(&well);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let well = Arc::clone(&now_well);
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                    if well.load(Ordering::SeqCst) {
                        read_request(&mut stream);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
                    } else {
                        behaviour(&mut stream);
                    }
                });
            }
        });
        Self { address, well }
    }
}

fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n) = stream.read(&mut chunk) {
        seen.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&seen).to_lowercase();
        let length = text.split_once("content-length: ").and_then(|(_, r)| r.split("\r\n").next()?.parse::<usize>().ok()).unwrap_or(0);
        if n == 0 || text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length) {
            return;
        }
    }
}

fn answer(stream: &mut TcpStream, text: &str) {
    read_request(stream);
    let _ = stream.write_all(text.as_bytes());
}

fn slowly(stream: &mut TcpStream, text: &[u8]) {
    read_request(stream);
    for byte in text {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(400));
    }
}

/// Name, what it does, the state its lane takes, the words in the reason.
const TABLE: &[(&str, Behaviour, &str, &str)] = &[
    ("hangs-before-reading", |_| std::thread::sleep(Duration::from_secs(8)), "failing", "within the deadline"),
    (
        "hangs-before-the-head",
        |s| {
            read_request(s);
            std::thread::sleep(Duration::from_secs(8))
        },
        "failing",
        "within the deadline",
    ),
    (
        "hangs-inside-the-head",
        |s| {
            answer(s, "HTTP/1.1 200 OK\r\ncontent-le");
            std::thread::sleep(Duration::from_secs(8))
        },
        "failing",
        "deadline",
    ),
    ("closes-at-once", |_| (), "failing", "broke"),
    ("closes-after-reading", read_request, "failing", "broke"),
    (
        "resets-inside-the-head",
        |s| {
            answer(s, "HTTP/1.1 20");
            let _ = rustix_linger(s);
        },
        "failing",
        "",
    ),
    ("drips-its-head", |s| slowly(s, b"HTTP/1.1 200 OK\r\nx-long-winded: abcdefghijklmnopqrstuvwxyz\r\n\r\n"), "failing", "deadline"),
    ("no-http", |s| answer(s, "SSH-2.0-OpenSSH_9.2\r\n"), "failing", "not HTTP"),
    ("garbage", |s| answer(s, "\0\u{1}\u{2}\r\n\r\n\r\n"), "failing", "not HTTP"),
    (
        "endless-head",
        |s| {
            read_request(s);
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\n");
            for _ in 0..100_000 {
                if s.write_all(b"x-more: 0123456789\r\n").is_err() {
                    break;
                }
            }
        },
        "failing",
        "not HTTP",
    ),
    ("old-http-with-500", |s| answer(s, "HTTP/1.0 500 Oops\r\n\r\n"), "failing", "HTTP 500"),
    (
        "redirects-on",
        |s| answer(s, "HTTP/1.1 301 Moved\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n"),
        "blocked",
        "redirects are not followed",
    ),
    (
        "redirects-away",
        |s| answer(s, "HTTP/1.1 302 Found\r\nlocation: http://login.hotel.example/\r\ncontent-length: 0\r\n\r\n"),
        "offline",
        "login page",
    ),
    ("redirects-nowhere", |s| answer(s, "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n"), "blocked", "redirects are not followed"),
    (
        "portal-with-200",
        |s| answer(s, "HTTP/1.1 200 OK\r\ncontent-length: 29\r\n\r\n<!DOCTYPE html><h1>Wi-Fi</h1>"),
        "offline",
        "login page",
    ),
    ("portal-with-511", |s| answer(s, "HTTP/1.1 511 Login\r\ncontent-length: 0\r\n\r\n"), "offline", "login first"),
    ("unauthorised", |s| answer(s, "HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"), "blocked", "compare the secrets"),
    ("gone", |s| answer(s, "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"), "blocked", "check its path"),
    ("throttles", |s| answer(s, "HTTP/1.1 429 Slow\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"), "throttled", "slow down"),
    (
        "throttles-absurdly",
        |s| answer(s, "HTTP/1.1 503 Slow\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n"),
        "throttled",
        "come back later",
    ),
    (
        "throttles-in-the-past",
        |s| answer(s, "HTTP/1.1 503 Slow\r\nretry-after: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: 0\r\n\r\n"),
        "throttled",
        "come back later",
    ),
];

/// Closes with a reset instead of an ordinary end.
fn rustix_linger(stream: &TcpStream) -> rustix::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))
}

#[test]
fn every_misbehaviour_has_its_state_delays_no_other_lane_and_loses_nothing() {
    let well = Receiver::well();
    let hostile: Vec<(&str, Hostile, &str, &str)> = TABLE.iter().map(|(n, b, s, r)| (*n, Hostile::start(*b), *s, *r)).collect();
    let mut more = Home::webhook("well", &well.url(), "");
    // The most a receiver may ask for is kept short, so that the absurd one comes back within the test.
    more = format!("retry_after_max_seconds = 3\ntimeout_seconds = 3\nconnect_timeout_seconds = 3\nbreaker_after = 1\n{more}");
    for (name, h, ..) in &hostile {
        more.push_str(&Home::webhook(name, &format!("http://{}/hook", h.address), ""));
    }
    let home = Home::new(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(client.lead(&json!({"name":format!("Visitor {n}")})).1);
    }
    eventually("the well receiver has all while the others are at their worst", || well.taken().len() == 3);
    for (name, _, state, reason) in &hostile {
        let mut shown = String::new();
        let mut told = || {
            let ready = client.get("/readyz").json();
            let lane = ready["destinations"].as_array().unwrap().iter().find(|d| d["name"] == *name).unwrap().clone();
            shown = lane.to_string();
            lane["state"] == *state && lane["reason"].as_str().unwrap().contains(reason)
        };
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while !told() {
            assert!(std::time::Instant::now() < until, "{name}: expected {state} and {reason:?}, got {shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let ready = client.get("/readyz").json();
    for lane in ready["destinations"].as_array().unwrap() {
        let expected = if lane["name"] == "well" { 0 } else { 3 };
        assert_eq!(lane["waiting"], expected, "{lane}");
        assert_eq!(lane["dead"], 0, "{lane}");
    }
    for (_, h, ..) in &hostile {
        h.well.store(true, Ordering::SeqCst);
    }
    eventually("everything arrives once the receivers are well", || {
        client.get("/readyz").json()["destinations"].as_array().unwrap().iter().all(|d| d["waiting"] == 0 && d["state"] == "open")
    });
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains("Visitor"), "the log holds a person's name");
}

#[test]
fn a_huge_answer_is_not_read_and_success_stays_success() {
    fn flood(stream: &mut TcpStream) {
        read_request(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        let chunk = vec![b'x'; 1 << 16];
        while stream.write_all(&chunk).is_ok() {}
    }
    let hostile = Hostile::start(flood);
    let home = Home::new(&Home::webhook("crm", &format!("http://{}/", hostile.address), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..5 {
        client.lead(&json!({"name":format!("Visitor {n}")}));
    }
    eventually("all are done", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    let resident = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().as_raw_nonzero())).unwrap();
    let kilobytes: u64 = resident.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 100_000, "the answer was kept in memory: {kilobytes} kB");
}
