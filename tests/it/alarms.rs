//! Destinations in trouble are told of through the others, and the device says that it lives.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, Reply, eventually};
use serde_json::json;
use std::collections::BTreeSet;

/// The kinds of the events that a receiver has taken, each event once: after a kill one may come again.
fn kinds(receiver: &Receiver) -> Vec<String> {
    let mut ids = BTreeSet::new();
    let taken = receiver.taken();
    let first = taken.iter().filter(|d| ids.insert(d.event_id().to_owned()));
    first.map(|d| d.header("x-leadsbot-event").to_owned()).collect()
}

#[test]
fn a_destination_that_refuses_is_told_of_through_others_once_and_so_is_its_end() {
    let (crm, ops) = (Receiver::start(|_| Reply::status(401)), Receiver::well());
    let asks = "events = [\"lead.*\", \"destination.*\"]";
    let home = Home::new(&format!(
        "{}{}",
        Home::webhook("crm", &crm.url(), asks),
        Home::webhook("ops", &ops.url(), "events = [\"destination.*\"]")
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane"}));
    eventually("the alarm", || kinds(&ops) == ["destination.failing"]);
    let told = ops.taken()[0].json();
    assert_eq!((&told["data"]["destination"], &told["data"]["state"]), (&json!("crm"), &json!("blocked")));
    assert_eq!((&told["data"]["waiting"], &told["context"]["channel"]), (&json!(1), &json!("device")));
    assert!(told["data"]["reason"].as_str().unwrap().starts_with("HTTP 401"), "{told}");
    assert!(told["data"]["oldest_at"].is_string());

    // Another start finds it as it was, and does not tell of it again.
    daemon.kill();
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    eventually("it is blocked again", || client.get("/readyz").json()["destinations"][0]["state"] == "blocked");
    crm.script(|_| Reply::status(200));
    eventually("its end", || kinds(&ops).len() == 2);
    assert_eq!(kinds(&ops), ["destination.failing", "destination.recovered"], "{}", daemon.log());
    eventually("the lead", || kinds(&crm) == ["lead.created"]);
    let (_, log) = daemon.stop();
    assert!(log.contains("destination crm: recovered"), "{log}");
    assert_eq!(kinds(&crm), ["lead.created"], "never through the one that it is about");
}

#[test]
fn a_device_says_that_it_lives_if_somebody_asks() {
    let ops = Receiver::well();
    let home = Home::new(&format!("[device]\nheartbeat_minutes = 60\n{}", Home::webhook("ops", &ops.url(), "events = [\"device.*\"]")));
    let _daemon = Daemon::start(&home);
    eventually("a heartbeat", || kinds(&ops) == ["device.heartbeat"]);
    let told = ops.taken()[0].json();
    assert_eq!((&told["data"]["troubled"], &told["data"]["version"]), (&json!(0), &json!(env!("CARGO_PKG_VERSION"))));
}

#[test]
fn no_lead_goes_into_the_own_network_where_that_is_denied() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), "deny_private = true"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane"}));
    eventually("it is blocked", || client.get("/readyz").json()["destinations"][0]["state"] == "blocked");
    let told = client.get("/readyz").json()["destinations"][0]["reason"].clone();
    assert!(told.as_str().unwrap().contains("deny_private = true"), "{told}");
    assert!(receiver.seen().is_empty());
}
