//! Answers of receivers, one after another: judged, and fed into the rules of a lane. Nothing but a 2xx ends a delivery well, no wait is
//! longer than configured, and a trouble that is not the delivery's own counts nothing.
#![no_main]

use arbitrary::Arbitrary;
use leadsbotd::destination::{Answer, Class, Failure, Moment, Response, judge};
use leadsbotd::retry::{Fate, Lane, Permit, Policy, Tried};
use leadsbotd::time::{Tick, Wall};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use url::Url;

#[derive(Debug, Arbitrary)]
struct Said {
    status: u16,
    failure: Option<u8>,
    retry_after: Option<String>,
    date: Option<String>,
    location: Option<String>,
    body: Vec<u8>,
    trusted: bool,
    wall: u32,
    tls: bool,
    counted: u16,
    age: u32,
    probe: bool,
    own_trouble: bool,
    chance: u16,
    later: u32,
}

const FAILURES: [Failure; 9] = [
    Failure::Dns,
    Failure::Refused,
    Failure::Unreachable,
    Failure::ConnectTimeout,
    Failure::Tls,
    Failure::Reset,
    Failure::Timeout,
    Failure::Protocol,
    Failure::PublicHttp,
];

fuzz_target!(|all: Vec<Said>| {
    let policy = Policy::default();
    let longest = policy.wait_max.max(policy.retry_max).max(policy.blocked_max) + policy.probe_first;
    let mut lane = Lane::new(policy);
    let mut now = Tick(1 << 42);
    for said in all {
        let url = Url::parse(if said.tls { "https://r.example/h" } else { "http://r.example/h" }).expect("a URL");
        let wall = Wall(i64::from(said.wall) * 1000);
        let moment = Moment { wall, tick: now, clock_trusted: said.trusted, vouched: false };
        let answer = match said.failure {
            Some(n) => Answer::Failure { kind: FAILURES[usize::from(n) % FAILURES.len()], detail: String::new() },
            None => Answer::Response(Response {
                status: said.status,
                retry_after: said.retry_after,
                date: said.date,
                location: said.location,
                headers: Vec::new(),
                body: said.body,
            }),
        };
        let verdict = judge(&url, &answer, &moment);
        assert!(!verdict.reason.is_empty() && !verdict.code.is_empty() && verdict.answer.chars().count() <= 300);
        let success = said.failure.is_none() && (200..300).contains(&said.status);
        assert!(verdict.class != Class::Delivered || success, "{verdict:?}");
        assert!(!success || matches!(verdict.class, Class::Delivered | Class::Offline), "{verdict:?}");
        let tried = Tried {
            counted: u32::from(said.counted),
            age: Duration::from_secs(u64::from(said.age)),
            probe: said.probe,
            own_trouble: said.own_trouble,
        };
        let (fate, _) = lane.judged(&verdict, tried, now, f64::from(said.chance) / 65536.0);
        match (verdict.class, &fate) {
            (Class::Delivered, Fate::Done) => {}
            (Class::Offline | Class::Throttled, Fate::Again) => {}
            (Class::Refused | Class::Clock, Fate::Again) => assert!(!said.own_trouble),
            (Class::Refused | Class::Clock, Fate::Later(_)) => assert!(said.own_trouble),
            (Class::Temporary, Fate::Later(_)) => {}
            (Class::Rejected, Fate::Later(_) | Fate::Dead) => {}
            _ => panic!("{verdict:?} made {fate:?}"),
        }
        if let Fate::Later(due) = fate {
            assert!(due > now && due.since(now) <= longest, "{due:?}");
        }
        if let Permit::Wait(until) = lane.permit(now) {
            assert!(until > now && until.since(now) <= longest, "a wait of {:?}", until.since(now));
        }
        if lane.permit(now) == Permit::Probe {
            lane.probe_begins(now);
        }
        now = now.after(Duration::from_millis(u64::from(said.later)));
    }
});
