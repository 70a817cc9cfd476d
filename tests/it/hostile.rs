//! Receivers that misbehave, over real sockets. For each: the class and code its answer is given, whether the attempt counts, what its lane
//! does, that another lane is not delayed, and that everything arrives once the receiver is well.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, Reply, eventually};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
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
        let hostile = Self { address: listener.local_addr().unwrap(), well: Arc::default() };
        let well = Arc::clone(&hostile.well);
        std::thread::spawn(move || serve(&listener, behaviour, &well));
        hostile
    }

    /// Takes no connection until it is well: its queue of them is full, so the kernel answers nothing at all, as a firewall would.
    fn black_hole() -> Self {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&socket, 0).unwrap();
        let listener = TcpListener::from(socket);
        let hostile = Self { address: listener.local_addr().unwrap(), well: Arc::default() };
        let (address, well) = (hostile.address, Arc::clone(&hostile.well));
        let fill = |_| TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let filling: Vec<TcpStream> = (0..64).map_while(fill).collect();
        std::thread::spawn(move || {
            while !well.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(filling);
            serve(&listener, |_| (), &well);
        });
        hostile
    }
}

fn serve(listener: &TcpListener, behaviour: Behaviour, well: &Arc<AtomicBool>) {
    for stream in listener.incoming().map_while(Result::ok) {
        let well = Arc::clone(well);
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
    for byte in text {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(400));
    }
}

/// What must come of a destination: class and code of each attempt, the lane's state, words of its reason.
type Fate = (&'static str, &'static str, &'static str, &'static str);

const BROKE: Fate = ("temporary", "connection_reset", "failing", "broke");
const LATE: Fate = ("temporary", "timeout", "failing", "within the deadline");
const NO_HTTP: Fate = ("temporary", "protocol_error", "failing", "not HTTP");

const TABLE: &[(&str, Behaviour, Fate)] = &[
    ("hangs-before-reading", |_| std::thread::sleep(Duration::from_secs(8)), LATE),
    (
        "hangs-before-the-head",
        |s| {
            read_request(s);
            std::thread::sleep(Duration::from_secs(8))
        },
        LATE,
    ),
    (
        "hangs-inside-the-head",
        |s| {
            answer(s, "HTTP/1.1 200 OK\r\ncontent-le");
            std::thread::sleep(Duration::from_secs(8))
        },
        LATE,
    ),
    ("closes-at-once", |_| (), BROKE),
    ("closes-after-reading", read_request, BROKE),
    (
        "resets-after-reading",
        |s| {
            read_request(s);
            reset(s);
        },
        BROKE,
    ),
    (
        "resets-inside-the-head",
        |s| {
            answer(s, "HTTP/1.1 20");
            reset(s);
        },
        BROKE,
    ),
    (
        "drips-its-head",
        |s| {
            read_request(s);
            slowly(s, b"HTTP/1.1 200 OK\r\nx-long-winded: abcdefghijklmnopqrstuvwxyz\r\n\r\n");
        },
        LATE,
    ),
    ("no-http", |s| answer(s, "SSH-2.0-OpenSSH_9.2\r\n"), NO_HTTP),
    ("garbage", |s| answer(s, "\0\u{1}\u{2}\r\n\r\n\r\n"), NO_HTTP),
    ("a-page-without-a-head", |s| answer(s, "<!DOCTYPE html><h1>Wi-Fi</h1>\r\n\r\n"), NO_HTTP),
    ("a-status-of-no-number", |s| answer(s, "HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n"), NO_HTTP),
    ("a-length-below-zero", |s| answer(s, "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), NO_HTTP),
    (
        "a-status-of-no-class",
        |s| answer(s, "HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n"),
        ("temporary", "protocol_error", "failing", "999"),
    ),
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
        NO_HTTP,
    ),
    ("old-http-with-500", |s| answer(s, "HTTP/1.0 500 Oops\r\n\r\n"), ("temporary", "receiver_5xx", "failing", "HTTP 500")),
    (
        "redirects-on",
        |s| answer(s, "HTTP/1.1 301 Moved\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n"),
        ("refused", "redirect", "blocked", "redirects are not followed"),
    ),
    (
        "redirects-for-good",
        |s| answer(s, "HTTP/1.1 308 Moved\r\nlocation: /hook\r\ncontent-length: 0\r\n\r\n"),
        ("refused", "redirect", "blocked", "redirects are not followed"),
    ),
    (
        "redirects-away",
        |s| answer(s, "HTTP/1.1 302 Found\r\nlocation: http://login.hotel.example/\r\ncontent-length: 0\r\n\r\n"),
        ("offline", "captive_portal", "offline", "login page"),
    ),
    (
        "redirects-nowhere",
        |s| answer(s, "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n"),
        ("refused", "redirect", "blocked", "redirects are not followed"),
    ),
    ("not-modified", |s| answer(s, "HTTP/1.1 304 Same\r\n\r\n"), ("refused", "redirect", "blocked", "redirects are not followed")),
    (
        "portal-with-200",
        |s| answer(s, "HTTP/1.1 200 OK\r\ncontent-length: 29\r\n\r\n<!DOCTYPE html><h1>Wi-Fi</h1>"),
        ("offline", "captive_portal", "offline", "login page"),
    ),
    (
        "portal-with-511",
        |s| answer(s, "HTTP/1.1 511 Login\r\ncontent-length: 0\r\n\r\n"),
        ("offline", "captive_portal", "offline", "login first"),
    ),
];

/// Those whose status says it all, whatever becomes of the rest of the answer.
const ANSWERED: &[(&str, Behaviour, Outcome)] = &[
    (
        "hangs-after-the-head",
        |s| {
            answer(s, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n");
            std::thread::sleep(Duration::from_secs(8))
        },
        Outcome::Delivered,
    ),
    (
        "resets-inside-the-body",
        |s| {
            answer(s, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of");
            // What was sent must be read before the reset destroys it.
            std::thread::sleep(Duration::from_millis(300));
            reset(s);
        },
        Outcome::Delivered,
    ),
    (
        "drips-its-body",
        |s| {
            answer(s, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
            slowly(s, b"abcdefghijklmnopqrstuvwxyz");
        },
        Outcome::Delivered,
    ),
    ("bad-chunks", |s| answer(s, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n"), Outcome::Delivered),
    ("huge", |s| flood(s, "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n", &[b'x'; 1 << 16], b""), Outcome::Delivered),
    (
        "endless-chunks",
        |s| {
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 1 << 16], b"\r\n"].concat();
            flood(s, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"", &chunk)
        },
        Outcome::Delivered,
    ),
    ("gzip-bomb", |s| gzip_bomb(s, "200 OK"), Outcome::Delivered),
    ("gzip-bomb-with-422", |s| gzip_bomb(s, "422 No"), Outcome::Dead),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Delivered,
    Dead,
}

/// Writes a head, what comes first, and then the rest again and again until the other side has enough.
fn flood(stream: &mut TcpStream, head: &str, first: &[u8], again: &[u8]) {
    answer(stream, head);
    let again = if again.is_empty() { first } else { again };
    if stream.write_all(first).is_ok() {
        while stream.write_all(again).is_ok() {}
    }
}

/// Claims 40 MB of gzip, which would unpack to six gigabytes: a zero, and then "the last byte 258 times more" in 13 bits, for ever.
fn gzip_bomb(stream: &mut TcpStream, status: &str) {
    // Header; then a last block with fixed codes (1, 01) and the literal 0 (00110000), lowest bit first.
    let mut bits: Vec<u8> = vec![1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0];
    let repeat = [1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0];
    let mut first = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    // Eleven bits, and then 13 bytes hold eight repeats wherever they begin.
    while bits.len() < 16 + 13 * 8 * 64 {
        bits.extend(repeat);
    }
    let bytes: Vec<u8> = bits.chunks_exact(8).map(|b| b.iter().rev().fold(0, |byte, bit| byte << 1 | bit)).collect();
    first.extend(&bytes[..2]);
    let head = format!("HTTP/1.1 {status}\r\ncontent-encoding: gzip\r\ncontent-length: 40000000\r\n\r\n");
    flood(stream, &head, &first, &bytes[2..2 + 13 * 64]);
}

/// Closes with a reset instead of an ordinary end.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// What the log says of the attempts at each destination: event, number, class and code, oldest first.
fn attempts(log: &str) -> BTreeMap<&str, Vec<(&str, u32, &str, &str)>> {
    let mut all: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for line in log.lines() {
        let Some((_, line)) = line.split_once("destination ") else { continue };
        let Some((name, line)) = line.split_once(": evt_") else { continue };
        let Some((event, said)) = line.split_once(" attempt ") else { continue };
        let mut words = said.split([':', ' ']).filter(|w| !w.is_empty());
        let number = words.next().unwrap().parse().unwrap();
        all.entry(name).or_default().push((event, number, words.next().unwrap(), words.next().unwrap()));
    }
    all
}

/// What waits or is dead, as the program lists it, by destination.
fn listed(home: &Home) -> BTreeMap<String, Vec<Value>> {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in home.ok(&["--json", "queue", "list"]).lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        all.entry(entry["destination"].as_str().unwrap().to_owned()).or_default().push(entry);
    }
    all
}

fn lanes(client: &Client) -> BTreeMap<String, Value> {
    let ready = client.get("/readyz").json();
    ready["destinations"].as_array().unwrap().iter().map(|d| (d["name"].as_str().unwrap().to_owned(), d.clone())).collect()
}

/// Waits until the lane tells what it must.
#[track_caller]
fn tells(client: &Client, name: &str, (_, _, state, words): Fate) {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let lane = lanes(client).remove(name).unwrap();
        if lane["state"] == state && lane["reason"].as_str().unwrap().contains(words) {
            return;
        }
        assert!(std::time::Instant::now() < until, "{name}: expected {state} and {words:?}, got {lane}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every attempt so far had this class and code; only those the receiver is to blame for were counted, and all leads still wait.
#[track_caller]
fn kept(name: &str, (class, code, ..): Fate, said: &[(&str, u32, &str, &str)], waiting: &[Value]) {
    let counts = class == "temporary";
    let mut last: BTreeMap<&str, u32> = BTreeMap::new();
    for (event, number, got_class, got_code) in said {
        assert_eq!((*got_class, *got_code), (class, code), "{name}");
        let before = last.insert(event, *number).unwrap_or(0);
        assert_eq!(*number, if counts { before + 1 } else { 1 }, "{name}: {event} was counted wrongly");
    }
    for entry in waiting {
        let attempts = entry["attempts"].as_u64().unwrap();
        assert_ne!(entry["state"], "dead", "{name}: {entry}");
        assert!(if counts { entry["state"] == "ready" || attempts > 0 } else { attempts == 0 }, "{name}: {entry}");
    }
}

#[test]
fn every_misbehaviour_has_its_class_delays_no_other_lane_and_loses_nothing() {
    let well = Receiver::well();
    let mut down = Receiver::well();
    down.down();
    let hole = Hostile::black_hole();
    let hostile: Vec<(Hostile, &str, Fate)> = TABLE.iter().map(|(n, b, f)| (Hostile::start(*b), *n, *f)).collect();
    let mut fates: Vec<(&str, String, Fate)> = hostile.iter().map(|(h, n, f)| (*n, format!("http://{}/hook", h.address), *f)).collect();
    fates.push(("down", down.url(), ("offline", "connection_refused", "offline", "nobody listens")));
    fates.push(("black-hole", format!("http://{}/", hole.address), ("offline", "timeout", "offline", "no connection")));
    let mut more = "timeout_seconds = 3\nconnect_timeout_seconds = 2\nbreaker_after = 1\n".to_owned();
    more.push_str(&Home::webhook("well", &well.url(), ""));
    for (name, url, _) in &fates {
        more.push_str(&Home::webhook(name, url, ""));
    }
    let home = Home::new(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..3 {
        client.lead(&json!({"name":format!("Visitor {n}")}));
    }
    eventually("the well receiver has all while the others are at their worst", || well.taken().len() == 3);
    for (name, _, fate) in &fates {
        tells(&client, name, *fate);
    }
    for n in 3..5 {
        client.lead(&json!({"name":format!("Visitor {n}")}));
    }
    eventually("nor do later ones wait for the sick", || well.taken().len() == 5);
    eventually("each is tried again", || {
        let log = daemon.log();
        let all = attempts(&log);
        fates.iter().all(|(name, ..)| all.get(name).is_some_and(|said| said.len() > 1))
    });
    let (log, waiting) = (daemon.log(), listed(&home));
    for (name, _, fate) in &fates {
        assert_eq!(waiting[*name].len(), 5, "{name}: {:?}", waiting[*name]);
        kept(name, *fate, &attempts(&log)[name], &waiting[*name]);
    }
    eventually("nothing waits for the well one", || lanes(&client)["well"]["waiting"] == 0);
    for h in hostile.iter().map(|(h, ..)| h).chain([&hole]) {
        h.well.store(true, Ordering::SeqCst);
    }
    down.up();
    eventually("everything arrives once the receivers are well", || {
        lanes(&client).values().all(|d| d["waiting"] == 0 && d["dead"] == 0 && d["state"] == "open")
    });
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains("Visitor"), "the log holds a person's name");
    for (name, ..) in &fates {
        let delivered: BTreeSet<&str> = attempts(&log)[name].iter().filter(|a| a.2 == "delivered").map(|a| a.0).collect();
        assert_eq!(delivered.len(), 5, "{name}");
    }
}

/// What section "What an answer means" of the receivers' manual says of a status alone.
fn fate_of(status: u16) -> Fate {
    match status {
        401 | 403 | 404 | 405 | 407 | 410 | 421 | 426 | 451 => ("refused", "receiver_4xx", "blocked", "HTTP 4"),
        408 | 425 => ("temporary", "receiver_4xx", "failing", "HTTP 4"),
        429 => ("throttled", "throttled", "throttled", "slow down"),
        400..=499 => ("rejected", "rejected_body", "open", ""),
        511 => ("offline", "captive_portal", "offline", "login first"),
        _ => ("temporary", "receiver_5xx", "failing", "HTTP 5"),
    }
}

#[test]
fn every_4xx_and_5xx_has_its_class_and_everything_arrives_afterwards() {
    let answers = |d: &crate::support::Delivery| Reply::status(d.header("x-answer").parse().unwrap());
    let (receiver, well) = (Receiver::start(answers), Receiver::well());
    let mut more = format!("breaker_after = 1\nrejected_attempts = 2\n{}", Home::webhook("well", &well.url(), ""));
    let statuses: Vec<(u16, String)> = (400..=599).map(|status| (status, format!("http-{status}"))).collect();
    for (status, name) in &statuses {
        more.push_str(&Home::webhook(name, &receiver.url(), &format!("headers = {{ X-Answer = \"{status}\" }}")));
    }
    let home = Home::new(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..2 {
        client.lead(&json!({"name":format!("Visitor {n}")}));
    }
    eventually("the well receiver is not delayed", || well.taken().len() == 2);
    for (status, name) in &statuses {
        let fate = fate_of(*status);
        tells(&client, name, fate);
        if fate.0 == "rejected" {
            eventually("both are given up, each for itself", || lanes(&client)[name]["dead"] == 2);
        }
    }
    eventually("each is tried again", || {
        let log = daemon.log();
        let all = attempts(&log);
        statuses.iter().all(|(_, name)| all[name.as_str()].len() > 2)
    });
    let (log, waiting) = (daemon.log(), listed(&home));
    for (status, name) in &statuses {
        let (fate, entries) = (fate_of(*status), &waiting[name]);
        assert_eq!(entries.len(), 2, "{name}: {entries:?}");
        if fate.0 == "rejected" {
            for entry in entries {
                assert_eq!((&entry["state"], &entry["attempts"]), (&json!("dead"), &json!(2)), "{name}");
                assert_eq!((&entry["code"], &entry["status"]), (&json!(format!("{}/{}", fate.0, fate.1)), &json!(status)), "{name}");
            }
        } else {
            kept(name, fate, &attempts(&log)[name.as_str()], entries);
        }
    }
    receiver.script(|_| Reply::status(200));
    for (_, name) in statuses.iter().filter(|(status, _)| fate_of(*status).0 == "rejected") {
        home.ok(&["queue", "retry", name, "--dead"]);
    }
    eventually("everything arrives", || lanes(&client).values().all(|d| d["waiting"] == 0 && d["dead"] == 0 && d["state"] == "open"));
    let taken = receiver.taken();
    let which: BTreeSet<(&str, &str)> = taken.iter().map(|d| (d.header("x-answer"), d.event_id())).collect();
    assert_eq!((which.len(), taken.len()), (400, 400), "each once at each");
}

/// `Retry-After` as receivers write it, several when they write several, and the wait it must lead to: in words of the log, of which
/// `ms` is a probe as without one. Dates are an hour and a half, and half a minute, after the answer's own.
const RETRY_AFTER: &[(&[&str], &str)] = &[
    (&["5430"], "1 h 30 min"),
    (&["  5430\t"], "1 h 30 min"),
    (&["0005430"], "1 h 30 min"),
    (&["Mon, 23 Nov 2026 13:30:30 GMT"], "1 h 30 min"),
    (&["Monday, 23-Nov-26 13:30:30 GMT"], "1 h 30 min"),
    (&["Mon Nov 23 13:30:30 2026"], "1 h 30 min"),
    (&["5430", "0"], "1 h 30 min"),
    (&["99999999999999999999999"], "2 d 12 h"),
    (&["4294967296"], "2 d 12 h"),
    (&["18446744073709551615"], "2 d 12 h"),
    (&["Fri, 31 Dec 9999 23:59:59 GMT"], "2 d 12 h"),
    (&["0"], "ms"),
    (&["Mon, 23 Nov 2026 12:00:00 GMT"], "ms"),
    (&["Mon, 23 Nov 2026 11:59:59 GMT"], "ms"),
    (&["Thursday, 01-Jan-70 00:00:00 GMT"], "ms"),
    (&["Thu Jan  1 00:00:00 1970"], "ms"),
    (&[""], "ms"),
    (&["-5430"], "ms"),
    (&["+5430"], "ms"),
    (&["5430.5"], "ms"),
    (&["5430, 5430"], "ms"),
    (&["0x1536"], "ms"),
    (&["soon"], "ms"),
    (&["Mon, 32 Nov 2026 13:30:30 GMT"], "ms"),
    (&["Mon, 23 Nov 2026 25:30:30 GMT"], "ms"),
    (&["Mon, 23 Nov 99999999999999999999 13:30:30 GMT"], "ms"),
    (&["soon", "5430"], "ms"),
];

#[test]
fn retry_after_is_kept_in_every_form_and_nonsense_is_no_wait() {
    let asks = |d: &crate::support::Delivery| {
        let (status, row) = d.header("x-answer").split_once('-').unwrap();
        let reply = Reply::status(status.parse().unwrap()).header("date", "Mon, 23 Nov 2026 12:00:00 GMT");
        RETRY_AFTER[row.parse::<usize>().unwrap()].0.iter().fold(reply, |reply, value| reply.header("retry-after", *value))
    };
    let (receiver, well) = (Receiver::start(asks), Receiver::well());
    let mut more = format!("retry_after_max_seconds = 217800\n{}", Home::webhook("well", &well.url(), ""));
    let rows = || (0..RETRY_AFTER.len()).flat_map(|row| [429, 503].map(|status| (row, format!("{status}-{row}"))));
    for (_, name) in rows() {
        more.push_str(&Home::webhook(&name, &receiver.url(), &format!("headers = {{ X-Answer = \"{name}\" }}")));
    }
    // Without a date of its own the receiver's wish is read by this machine's clock.
    let undated = TcpListener::bind("127.0.0.1:0").unwrap();
    more.push_str(&Home::webhook("undated", &format!("http://{}/", undated.local_addr().unwrap()), ""));
    let well_now = Arc::new(AtomicBool::new(false));
    let well_then = Arc::clone(&well_now);
    std::thread::spawn(move || {
        for mut stream in undated.incoming().map_while(Result::ok) {
            let until = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(5430));
            let head = if well_then.load(Ordering::SeqCst) { "200 OK".to_owned() } else { format!("429 Slow\r\nretry-after: {until}") };
            answer(&mut stream, &format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
        }
    });
    let home = Home::new(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..2 {
        client.lead(&json!({"name":format!("Visitor {n}")}));
    }
    eventually("the well receiver is not delayed", || well.taken().len() == 2);
    let expected: Vec<(String, &str)> =
        rows().map(|(row, name)| (name, RETRY_AFTER[row].1)).chain([("undated".to_owned(), "1 h 30 min")]).collect();
    for (name, wait) in &expected {
        let told = format!("destination {name}: throttled since ");
        let mut line = String::new();
        eventually("it waits", || {
            line = daemon.log().lines().find(|l| l.contains(&told)).unwrap_or_default().to_owned();
            !line.is_empty()
        });
        let told = line.split_once("next attempt in ").unwrap().1.split_once(": ").unwrap().0;
        assert!(told.ends_with(wait), "{name}, {wait}: {line}");
        if *wait == "ms" {
            eventually("it is tried again by itself", || attempts(&daemon.log())[name.as_str()].len() > 1);
        }
    }
    let (log, waiting) = (daemon.log(), listed(&home));
    for (name, wait) in &expected {
        let said = &attempts(&log)[name.as_str()];
        assert!(*wait == "ms" || said.len() == 1, "{name}: it was asked to wait and did not: {said:?}");
        assert_eq!(waiting[name].len(), 2, "{name}");
        kept(name, ("throttled", "throttled", "throttled", ""), said, &waiting[name]);
    }
    receiver.script(|_| Reply::status(200));
    well_now.store(true, Ordering::SeqCst);
    // Nobody waits for days: reading the configuration again asks every lane to try.
    daemon.signal(Signal::HUP);
    eventually("everything arrives", || lanes(&client).values().all(|d| d["waiting"] == 0 && d["state"] == "open"));
    assert_eq!(receiver.taken().len(), RETRY_AFTER.len() * 4);
}

#[test]
fn the_status_is_the_answer_and_what_follows_is_neither_needed_nor_kept() {
    let hostile: Vec<(&str, Hostile, Outcome)> = ANSWERED.iter().map(|(n, b, o)| (*n, Hostile::start(*b), *o)).collect();
    let well = Receiver::well();
    let mut more =
        format!("timeout_seconds = 2\nconnect_timeout_seconds = 2\nrejected_attempts = 1\n{}", Home::webhook("well", &well.url(), ""));
    for (name, h, _) in &hostile {
        more.push_str(&Home::webhook(name, &format!("http://{}/hook", h.address), ""));
    }
    let home = Home::new(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..3 {
        client.lead(&json!({"name":format!("Visitor {n}")}));
    }
    eventually("the well receiver is not delayed", || well.taken().len() == 3);
    eventually("all are done", || lanes(&client).values().all(|d| d["waiting"] == 0));
    let resident = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().as_raw_nonzero())).unwrap();
    let kilobytes: u64 = resident.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 100_000, "the answer was kept in memory: {kilobytes} kB");
    let (log, mut left) = (daemon.log(), listed(&home));
    for (name, _, outcome) in &hostile {
        let said = &attempts(&log)[name];
        assert_eq!(said.len(), 3, "{name}: one attempt is enough: {said:?}");
        let dead = left.remove(*name).unwrap_or_default();
        let (class, code, letters) = match outcome {
            Outcome::Delivered => ("delivered", "delivered", 0),
            Outcome::Dead => ("rejected", "rejected_body", 3),
        };
        assert!(said.iter().all(|(_, number, c, w)| (*number, *c, *w) == (1, class, code)), "{name}: {said:?}");
        assert_eq!(dead.len(), letters, "{name}: {dead:?}");
        for letter in &dead {
            assert!(letter["answer"].as_str().unwrap().chars().count() <= 300, "{name}: {letter}");
        }
        assert_eq!(lanes(&client)[*name]["state"], "open", "{name}");
    }
}

#[test]
fn a_deadline_that_passes_before_a_connection_stands_is_offline_and_counts_no_attempt_however_short_it_is() {
    let silent = Hostile::black_hole();
    let stalls = Hostile::start(|_| std::thread::sleep(Duration::from_secs(4)));
    let deadlines = "connect_timeout_seconds = 1\ntimeout_seconds = 1";
    let home = Home::new(&format!(
        "{}{}",
        Home::webhook("silent", &format!("http://{}/", silent.address), deadlines),
        Home::webhook("stalls", &format!("https://{}/", stalls.address), deadlines)
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane"}));
    for index in [0, 1] {
        let lane = || client.get("/readyz").json()["destinations"][index].clone();
        eventually("the lane holds or has counted an attempt", || lane()["state"] != "open" || daemon.log().contains("temporary"));
        assert_eq!(lane()["state"], "offline", "{}", daemon.log());
    }
    silent.well.store(true, Ordering::SeqCst);
    eventually("what waited arrives at the first attempt", || {
        daemon.log().lines().any(|line| line.contains("destination silent: ") && line.contains("attempt 1: delivered"))
    });
    assert!(!daemon.log().contains("temporary"), "{}", daemon.log());
}
