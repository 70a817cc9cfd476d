//! What a webhook can be told beside where to go: other methods, addresses made of an event, other bodies, who asks, what success means, and
//! several deliveries in one request.

use crate::support::http::Client;
use crate::support::{Daemon, Delivery, Home, Receiver, Reply, SECRET, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn destination(url: &str, more: &str) -> String {
    format!("[[destination]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"{url}\"\nevents = [\"lead.created\"]\n{more}\n")
}

/// The names of the leads in a batch.
fn names(delivery: &Delivery) -> Vec<String> {
    let all = delivery.json();
    all.as_array().expect("a list").iter().map(|e| e["data"]["name"].as_str().unwrap().to_owned()).collect()
}

fn counts(client: &Client) -> Value {
    client.get("/readyz").json()["destinations"][0].clone()
}

#[test]
fn a_request_is_made_of_the_event_as_the_configuration_says() {
    let receiver = Receiver::well();
    let url = format!("{}/people/{{{{ data.email | urlencode }}}}?score={{{{ data.score }}}}", receiver.url());
    let home = Home::new(&destination(
        &url,
        "method = \"PUT\"\nsign = false\nformat = \"form\"\nuser = \"kiosk\"\npassword = \"p:w\"\nheaders = { X-Source = \"{{ data.source }}\" }\n\
         map = { name = \"data.name\", phone = \"data.phone\", hot = \"data.score > 50\" }",
    ));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane & Co","email":"jane+x@example.com","score":88,"source":"hall 3"}));
    eventually("the delivery", || receiver.taken().len() == 1);
    let got = &receiver.taken()[0];
    assert_eq!((got.method.as_str(), got.path.as_str()), ("PUT", "/hook/people/jane%2Bx%40example.com?score=88"));
    assert_eq!(got.body, b"name=Jane+%26+Co&hot=true");
    assert_eq!(got.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!((got.header("x-source"), got.header("authorization")), ("hall 3", "Basic a2lvc2s6cDp3"));
    assert_eq!((got.header("x-leadsbot-signature"), got.header("webhook-signature")), ("", ""));
    assert!(got.header("x-leadsbot-event-id").starts_with("evt_"));
    let shown = home.ok(&["preview", "crm"]);
    assert!(shown.contains("Authorization: (hidden)") && shown.contains("X-Source: test") && !shown.contains("a2lv"), "{shown}");
}

#[test]
fn whatever_a_visitor_types_the_lead_goes_to_the_configured_host() {
    let (receiver, elsewhere) = (Receiver::well(), Receiver::well());
    let home = Home::new(&destination(&format!("{}/{{{{ data.name }}}}", receiver.url()), &format!("secret = \"{SECRET}\"")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let other = elsewhere.url();
    let typed = ["../../up", "/x", "@evil.example/", "\\\\evil.example", "?q#f", "a b", &other, "ü\u{202e}"];
    for name in typed {
        client.lead(&json!({ "name": name }));
    }
    eventually("every lead", || receiver.taken().len() == typed.len());
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn a_template_makes_a_text_of_the_event() {
    let receiver = Receiver::well();
    let more = "sign = false\nbearer = \"abc\"\ntemplate = \"\"\"{% if data.score > 50 %}hot{% endif %}: {{ data.name | upper }}\n{{ data.phone }}\"\"\"";
    let home = Home::new(&destination(&receiver.url(), more));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane <b>","score":88}));
    eventually("the delivery", || receiver.taken().len() == 1);
    let got = &receiver.taken()[0];
    assert_eq!((got.body.as_slice(), got.header("content-type")), (&b"hot: JANE <B>\n"[..], "text/plain; charset=utf-8"));
    assert_eq!(got.header("authorization"), "Bearer abc");
}

#[test]
fn a_template_that_fails_is_that_deliverys_dead_letter_with_its_line() {
    let receiver = Receiver::well();
    let more = "sign = false\ntemplate = \"\"\"first line\n{{ 100 / (data.score - 13) }}\"\"\"";
    let home = Home::new(&destination(&receiver.url(), more));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Odd","score":13}));
    client.lead(&json!({"name":"Jane","score":63}));
    eventually("the other lead", || receiver.taken().len() == 1);
    eventually("the dead letter", || counts(&client)["dead"] == 1);
    let listed = home.ok(&["queue", "list", "crm", "--state", "dead"]);
    assert!(listed.contains("in line 2") && listed.contains("template"), "{listed}");
}

#[test]
fn a_2xx_that_fails_the_success_test_is_not_delivered() {
    let receiver = Receiver::start(|d| {
        let bad = d.json()["data"]["name"] == "Bad";
        Reply { body: json!({ "ok": !bad }).to_string(), ..Reply::status(200) }
    });
    let home = Home::new(&destination(&receiver.url(), &format!("secret = \"{SECRET}\"\nsuccess = \"status == 200 and body.ok\"")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for name in ["Jane", "Bad", "John"] {
        client.lead(&json!({ "name": name }));
    }
    eventually("the dead letter", || counts(&client)["dead"] == 1 && counts(&client)["waiting"] == 0);
    let listed = home.ok(&["queue", "list", "crm", "--state", "dead"]);
    assert!(listed.contains("success test does not hold"), "{listed}");
    assert_eq!(receiver.seen().len(), 2 + 3, "the rejected one was tried three times");
}

#[test]
fn what_waits_goes_in_batches_and_each_delivery_has_its_own_end() {
    let receiver = Receiver::start(|d| {
        let status = |name: &String| if name == "Lead 7" { 422 } else { 200 };
        let results: Vec<Value> = names(d).iter().map(|n| json!({"status": status(n), "error": "no such product"})).collect();
        Reply { body: json!({ "results": results }).to_string(), ..Reply::status(207) }
    });
    let home = Home::new(&destination(&receiver.url(), &format!("secret = \"{SECRET}\"\nbatch = 10")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    home.ok(&["queue", "pause", "crm"]);
    let ids: Vec<String> = (0..25).map(|n| client.lead(&json!({ "name": format!("Lead {n}") })).1).collect();
    home.ok(&["queue", "resume", "crm"]);
    eventually("every end", || counts(&client)["dead"] == 1 && counts(&client)["waiting"] == 0);
    let seen = receiver.seen();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for delivery in &seen {
        let ids: Vec<&str> = delivery.header("x-leadsbot-event-ids").split(',').collect();
        let told = delivery.json();
        assert_eq!(ids, told.as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect::<Vec<_>>());
        assert!(ids.len() <= 10 && delivery.verified(SECRET), "the signature covers the whole list");
        ids.iter().for_each(|id| *times.entry((*id).to_owned()).or_default() += 1);
    }
    assert!(seen.iter().any(|d| names(d).len() == 10), "batches are filled");
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(times[id], if n == 7 { 3 } else { 1 }, "lead {n}");
    }
    assert!(home.ok(&["queue", "list", "crm", "--state", "dead"]).contains("422"));
}

#[test]
fn one_that_spoils_its_batch_does_not_keep_the_others_waiting() {
    let receiver = Receiver::start(|d| Reply::status(if names(d).iter().any(|n| n == "Poison") { 400 } else { 200 }));
    let home = Home::new(&destination(&receiver.url(), &format!("secret = \"{SECRET}\"\nbatch = 50")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    home.ok(&["queue", "pause", "crm"]);
    for n in 0..12 {
        let name = if n == 5 { "Poison".to_owned() } else { format!("Lead {n}") };
        client.lead(&json!({ "name": name }));
    }
    home.ok(&["queue", "resume", "crm"]);
    eventually("every end", || counts(&client)["dead"] == 1 && counts(&client)["waiting"] == 0);
    let taken: Vec<String> = receiver.taken().iter().flat_map(names).collect();
    assert_eq!(taken.len(), 11, "{taken:?}");
    assert!(!taken.contains(&"Poison".to_owned()));
}

#[test]
fn the_first_of_a_batch_waits_for_others_as_long_as_it_is_told() {
    let receiver = Receiver::well();
    let home = Home::new(&destination(&receiver.url(), &format!("secret = \"{SECRET}\"\nbatch = 50\nlinger_seconds = 5")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for name in ["Jane", "John", "Jim"] {
        client.lead(&json!({ "name": name }));
    }
    eventually("the batch", || !receiver.taken().is_empty());
    assert_eq!(names(&receiver.taken()[0]), ["Jane", "John", "Jim"]);
}

#[test]
fn a_batch_that_is_full_waits_for_nobody() {
    let receiver = Receiver::well();
    let home = Home::new(&destination(&receiver.url(), &format!("secret = \"{SECRET}\"\nbatch = 3\nlinger_seconds = 86400")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for name in ["Jane", "John", "Jim", "Jill"] {
        client.lead(&json!({ "name": name }));
    }
    eventually("the full batch", || !receiver.taken().is_empty());
    assert_eq!(names(&receiver.taken()[0]), ["Jane", "John", "Jim"]);
    eventually("its end", || counts(&client)["waiting"] == 1);
    assert_eq!(receiver.seen().len(), 1, "who came too late for it waits for others");
}

#[test]
fn killed_again_and_again_between_batches_nothing_is_lost_and_no_byte_differs() {
    let receiver = Receiver::well();
    let home = Home::new(&destination(&receiver.url(), &format!("secret = \"{SECRET}\"\nbatch = 8")));
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        acknowledged.extend((0..20).map(|n| client.lead(&json!({ "name": format!("Lead {round}.{n}") })).1));
        daemon.kill();
    }
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    eventually("an empty queue", || counts(&client)["waiting"] == 0);
    let mut bodies: BTreeMap<String, Value> = BTreeMap::new();
    for delivery in receiver.taken() {
        for event in delivery.json().as_array().unwrap() {
            let before = bodies.insert(event["id"].as_str().unwrap().to_owned(), event.clone());
            assert!(before.is_none_or(|before| before == *event), "an event changed from one attempt to the next");
        }
    }
    assert!(acknowledged.iter().all(|id| bodies.contains_key(id)));
}
