//! Bounds: what runs out, and how the daemon ends.

use crate::support::http::{Client, raw, statuses};
use crate::support::{Daemon, Home, Receiver, Reply, TOKEN, eventually};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn running_out_of_descriptors_turns_visitors_away_and_ends_with_the_shortage() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Before"}));
    eventually("it is delivered", || receiver.taken().len() == 1);
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid().as_raw_nonzero())).unwrap().count() as u64;
    prlimit(Some(daemon.pid()), Resource::Nofile, Rlimit { current: Some(open + 4), maximum: getrlimit(Resource::Nofile).maximum })
        .unwrap();
    let held: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(daemon.address).unwrap()).collect();
    eventually("the shortage is said", || daemon.log().contains("could not be accepted"));
    drop(held);
    let client = Client::new(daemon.address);
    eventually("leads are taken again", || {
        client.try_json("POST", "/api/v1/leads", &json!({"name":"After"})).is_some_and(|a| a.status == 201)
    });
    eventually("and delivered", || receiver.taken().len() >= 2);
    assert!(daemon.log().lines().filter(|l| l.contains("could not be accepted")).count() < 20, "the log is flooded");
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn sigterm_answers_what_runs_finishes_what_is_on_its_way_and_leaves_the_file_in_order() {
    let receiver = Receiver::start(|_| {
        std::thread::sleep(Duration::from_millis(700));
        Reply::status(200)
    });
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let body = br#"{"name":"Half sent"}"#;
    let head = format!(
        "POST /api/v1/leads HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..5]).unwrap();
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"On its way"}));
    std::thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::TERM);
    eventually("it says so", || daemon.log().contains("stopping"));
    stream.write_all(&body[5..]).unwrap();
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(TcpStream::connect(daemon.address).is_err() || statuses(&raw(daemon.address, b"GET / HTTP/1.1\r\n\r\n", true)).is_empty());
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(receiver.taken().iter().any(|d| d.json()["data"]["name"] == "On its way"));
    let wal = std::fs::metadata(home.path("leads.db-wal")).map_or(0, |m| m.len());
    assert_eq!(wal, 0, "the log was not copied into the file");
    assert_eq!(home.ok(&["leads", "export", "--format", "json"]).lines().count(), 2);
    // What is on its way at a stop and does finish is not sent again.
    let again = Daemon::start(&home);
    eventually("nothing waits", || Client::new(again.address).get("/readyz").json()["destinations"][0]["waiting"] == 0);
    let names: Vec<String> = receiver.taken().iter().map(|d| d.json()["data"]["name"].to_string()).collect();
    assert_eq!(names.iter().filter(|n| n.contains("On its way")).count(), 1);
}

#[test]
fn a_receiver_that_hangs_does_not_keep_the_daemon_from_stopping() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home =
        Home::new(&format!("timeout_seconds = 600\n{}", Home::webhook("crm", &format!("http://{}/", silent.local_addr().unwrap()), "")));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane"}));
    let _connection = silent.accept().unwrap();
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("an attempt is still under way"), "{log}");
    assert!(home.ok(&["queue", "list"]).contains("lead.created"), "the delivery is kept");
}
