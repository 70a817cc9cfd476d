//! A disk that fails at the n-th call, for n = 1, 2, … until a run survives; and a daemon that is killed there. strace makes the faults.

use crate::support::http::{Answer, Client};
use crate::support::peers::peer;
use crate::support::{Daemon, Home, Receiver, eventually};
use serde_json::json;
use std::collections::BTreeSet;

fn strace() -> bool {
    peer("strace", "apt-get install strace").is_some()
}

/// Sends leads one after the other; gives what was answered.
fn visit(daemon: &Daemon, leads: usize) -> Vec<Option<Answer>> {
    let client = Client::new(daemon.address);
    (0..leads).map(|n| client.try_json("POST", "/api/v1/leads", &json!({"name":format!("Visitor {n}")}))).collect()
}

fn acknowledged(answers: &[Option<Answer>]) -> BTreeSet<String> {
    answers.iter().flatten().filter(|a| a.status == 201).map(|a| a.json()["event_id"].as_str().unwrap().to_owned()).collect()
}

/// A healthy start after the fault: whatever was acknowledged is there and arrives, and nothing arrives that nobody sent.
#[track_caller]
fn recovers(home: &Home, receiver: &Receiver, promised: &BTreeSet<String>, sent: usize, what: &str) {
    let daemon = Daemon::start(home);
    let client = Client::new(daemon.address);
    let arrived = || receiver.taken().iter().map(|d| d.event_id().to_owned()).collect::<BTreeSet<_>>();
    eventually("what was acknowledged arrives", || promised.is_subset(&arrived()));
    eventually("nothing is left", || client.get("/readyz").json()["destinations"][0]["waiting"] == 0);
    let kept = home.ok(&["leads", "export", "--format", "json"]).lines().count();
    assert!(kept >= promised.len() && kept <= sent, "{what}: {kept} kept, {} acknowledged, {sent} sent", promised.len());
    assert!(arrived().len() <= sent, "{what}: more arrived than were sent");
    assert_eq!(daemon.stop().0, Some(0), "{what}");
    assert!(home.ok(&["check"]).contains("whole"), "{what}");
}

#[test]
fn killed_at_the_nth_write_or_sync_every_acknowledged_lead_survives() {
    if !strace() {
        return;
    }
    for call in ["pwrite64", "fdatasync"] {
        let mut survived = false;
        // The step skips some calls of the long run; the first dozens, where the file is made, are all met.
        let mut n = 1;
        while !survived {
            assert!(n < 1000, "the run never survived");
            let receiver = Receiver::well();
            let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
            let inject = format!("inject={call}:signal=KILL:when={n}");
            let (promised, sent) = match Daemon::traced(&home, &["-e", &format!("trace={call}"), "-o", "/dev/null", "-e", &inject]) {
                Err(_) => (BTreeSet::new(), 0),
                Ok(mut daemon) => {
                    let answers = visit(&daemon, 4);
                    survived = answers.iter().all(|a| a.as_ref().is_some_and(|a| a.status == 201)) && !daemon.ended();
                    daemon.kill();
                    (acknowledged(&answers), 4)
                }
            };
            recovers(&home, &receiver, &promised, sent, &format!("{call} {n}"));
            n += if n < 60 { 3 } else { 7 };
        }
    }
}

#[test]
fn a_write_or_sync_that_fails_refuses_the_lead_and_keeps_the_others() {
    if !strace() {
        return;
    }
    for (call, error) in [("pwrite64", "ENOSPC"), ("pwrite64", "EIO"), ("fdatasync", "EIO")] {
        // Calls that belong to a start that fails are met by the test above; here the daemon is up when the fault comes.
        let mut met = 0;
        for n in (60..200).step_by(9) {
            let receiver = Receiver::well();
            let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
            Daemon::start(&home).stop();
            let when = if call == "fdatasync" { n / 12 } else { n };
            let inject = format!("inject={call}:error={error}:when={when}");
            let Ok(mut daemon) = Daemon::traced(&home, &["-e", &format!("trace={call}"), "-o", "/dev/null", "-e", &inject]) else {
                recovers(&home, &receiver, &BTreeSet::new(), 0, &format!("{call} {error} {n}"));
                continue;
            };
            let answers = visit(&daemon, 12);
            for answer in answers.iter().flatten() {
                match answer.status {
                    201 => {}
                    507 | 503 => {
                        met += 1;
                        assert!(answer.header("retry-after").is_some(), "{answer:?}");
                        assert!(["storage_full", "storage_failed", "busy"].contains(&answer.code().as_str()), "{answer:?}");
                    }
                    other => panic!("{call} {error} {n}: HTTP {other}"),
                }
            }
            assert!(answers.iter().all(Option::is_some), "{call} {error} {n}: a request got no answer");
            assert!(!daemon.ended(), "{call} {error} {n}: the daemon ended");
            let mut promised = acknowledged(&answers);
            let client = Client::new(daemon.address);
            // The fault is over after one call, and so must be the refusals.
            let mut tries = 0;
            eventually("it takes leads again", || {
                tries += 1;
                let good = client.json("POST", "/api/v1/leads", &json!({"name":"Afterwards"}));
                good.status == 201 && promised.insert(good.json()["event_id"].as_str().unwrap().to_owned())
            });
            daemon.kill();
            recovers(&home, &receiver, &promised, 12 + tries, &format!("{call} {error} {n}"));
        }
        assert!(met > 0, "no fault of {call} ever met a lead");
    }
}

#[test]
fn what_is_counted_is_what_is_there_after_a_commit_of_which_nobody_knew() {
    if !strace() {
        return;
    }
    let mut differed = 0;
    for first in 8..16 {
        let mut receiver = Receiver::well();
        receiver.down();
        let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
        Daemon::start(&home).stop();
        let inject = format!("inject=fdatasync:error=EIO:when={first}..{}", first + 5);
        let arguments = ["-e", "trace=fdatasync", "-o", "/dev/null", "-e", &inject];
        let Ok(daemon) = Daemon::traced(&home, &arguments) else { continue };
        let client = Client::new(daemon.address);
        let answers = visit(&daemon, 12);
        eventually("it takes leads again", || client.json("POST", "/api/v1/leads", &json!({"name":"Afterwards"})).status == 201);
        let there = || {
            serde_json::from_str::<serde_json::Value>(&home.ok(&["--json", "queue", "status"])).unwrap()["destinations"][0]["waiting"]
                .clone()
        };
        differed += usize::from(there().as_u64().unwrap() as usize > acknowledged(&answers).len() + 1);
        eventually("the counts agree", || client.get("/readyz").json()["destinations"][0]["waiting"] == there());
        daemon.kill();
    }
    assert!(differed > 0, "no commit that was reported as failed was ever found again");
}

#[test]
fn on_a_disk_that_stays_full_leads_are_refused_with_507_and_deliveries_go_on() {
    if !strace() {
        return;
    }
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    Daemon::start(&home).stop();
    home.ok(&["queue", "pause", "crm"]);
    let inject = ["-e", "trace=pwrite64", "-o", "/dev/null", "-e", "inject=pwrite64:error=ENOSPC:when=60+"];
    let mut daemon = Daemon::traced(&home, &inject).expect("it starts");
    let before = acknowledged(&visit(&daemon, 30));
    assert!(!before.is_empty() && before.len() < 30, "the disk was full from the start, or never");
    let answers = visit(&daemon, 5);
    for answer in answers.iter().flatten() {
        assert_eq!((answer.status, answer.code().as_str(), answer.header("retry-after")), (507, "storage_full", Some("60")));
    }
    // This command is another process: for it the disk is not full.
    home.ok(&["queue", "resume", "crm"]);
    eventually("what was kept is delivered all the same", || {
        before.is_subset(&receiver.taken().iter().map(|d| d.event_id().to_owned()).collect())
    });
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(receiver.taken().len(), before.len(), "a delivery whose end cannot be noted is not made again and again");
    assert!(!daemon.ended());
    let lines = daemon.log().lines().filter(|l| l.contains("there is no room left")).count();
    assert!(lines < 10, "{lines} lines about one full disk");
    daemon.kill();
    recovers(&home, &receiver, &before, 35, "full");
}

#[test]
fn a_slow_disk_means_503_with_retry_after_and_never_a_lost_lead() {
    if !strace() {
        return;
    }
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    Daemon::start(&home).stop();
    let daemon = Daemon::traced(&home, &["-e", "trace=fdatasync", "-o", "/dev/null", "-e", "inject=fdatasync:delay_enter=500000:when=3+"])
        .expect("it starts");
    let big = "x".repeat(8000);
    let answers: Vec<Option<Answer>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..99)
            .map(|t| {
                let (client, big) = (Client::new(daemon.address), &big);
                scope.spawn(move || {
                    (0..6)
                        .map(|n| {
                            let fields = json!({"a":big,"b":big,"c":big,"d":big,"e":big,"f":big,"g":big});
                            client.try_json("POST", "/api/v1/leads", &json!({"name":format!("{t} {n}"),"fields":fields}))
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    for answer in answers.iter().flatten() {
        assert!(matches!(answer.status, 201 | 503), "{answer:?}");
        if answer.status == 503 {
            assert_eq!((answer.code().as_str(), answer.header("retry-after")), ("busy", Some("1")));
        }
    }
    let promised = acknowledged(&answers);
    assert!(!promised.is_empty() && promised.len() < 99 * 6, "the queue was never full");
    daemon.kill();
    recovers(&home, &receiver, &promised, 99 * 6, "slow");
}
