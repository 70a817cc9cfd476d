//! The way of a lead, end to end, through the real binary.

use crate::support::http::Client;
use crate::support::{Daemon, Delivery, Home, Receiver, Reply, SECRET, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn by_kind(receiver: &Receiver, kind: &str) -> Vec<Delivery> {
    receiver.taken().into_iter().filter(|d| d.header("x-leadsbot-event") == kind).collect()
}

#[test]
fn a_lead_from_each_way_in_reaches_the_receiver_signed() {
    let receiver = Receiver::well();
    let home = Home::new(&format!(
        "[device]\nid = \"kiosk-12\"\nsite = \"Hall 3\"\n[[source]]\nid = \"website\"\ntoken = \"abcdef123456\"\n{}",
        Home::webhook("crm", &receiver.url(), "")
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Api","score":88,"source":"booth-a","fields":{"budget":5000}}));
    let form = client.form("/f/contact?utm_source=poster", &[("name", "Form"), ("email", "f@example.com"), ("utm_source", "poster")], &[]);
    assert_eq!((form.status, form.header("location")), (303, Some("/f/contact/thanks")));
    let inbound = client
        .send("POST", "/api/inbound/w/abcdef123456/leads", &[("content-type", "application/json")], br#"{"full_name":"Inbound"}"#)
        .unwrap();
    assert_eq!(inbound.status, 201);
    let boundary = b"--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nMultipart\r\n--x\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nm@example.com\r\n--x--\r\n";
    let multipart = client
        .send("POST", "/f/contact", &[("content-type", "multipart/form-data; boundary=x"), ("accept", "application/json")], boundary)
        .unwrap();
    assert_eq!(multipart.status, 201, "{}", multipart.body);

    eventually("four deliveries", || receiver.taken().len() == 4);
    let bodies: BTreeMap<String, Value> =
        receiver.taken().iter().map(|d| (d.json()["data"]["name"].as_str().unwrap().to_owned(), d.json())).collect();
    let api = &bodies["Api"];
    assert_eq!(api["event"], "lead.created");
    assert_eq!(
        (&api["data"]["score"], &api["data"]["source"], &api["data"]["fields"]["budget"]),
        (&json!(88), &json!("booth-a"), &json!(5000))
    );
    assert_eq!(api["context"]["device"], json!({"id":"kiosk-12","site":"Hall 3"}));
    assert_eq!(bodies["Form"]["context"]["form"], "contact");
    assert_eq!(bodies["Form"]["context"]["utm"], json!({"source":"poster"}));
    assert_eq!(bodies["Inbound"]["data"]["source"], "website");
    for d in receiver.taken() {
        assert!(d.verified(SECRET));
        assert_eq!(d.header("content-type"), "application/json");
        assert_eq!(d.header("user-agent"), format!("leadsbotd/{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(d.header("x-leadsbot-attempt"), "1");
        assert_eq!(d.header("webhook-id"), d.event_id());
        assert_eq!(d.json()["id"], d.event_id());
        assert_eq!(d.header("x-leadsbot-timestamp"), d.header("webhook-timestamp"));
        assert!(d.header("x-leadsbot-delivery-id").starts_with("dlv_"));
        assert_eq!(d.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("x-leadsbot-signature")).count(), 1);
    }
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    for person in ["Api", "f@example.com", "Inbound", "m@example.com", SECRET] {
        assert!(!log.contains(person), "the log holds {person}:\n{log}");
    }
}

#[test]
fn changes_and_replies_become_events_in_order() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), "workers = 4"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (id, _) = client.lead(&json!({"name":"Jane"}));
    let patched = client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({"status":"contacted","score":70}));
    assert_eq!(patched.status, 200, "{}", patched.body);
    assert_eq!(patched.json()["event_ids"].as_array().unwrap().len(), 2);
    let same = client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({"status":"contacted"}));
    assert_eq!((same.status, same.json()["event_ids"].as_array().unwrap().len()), (200, 0));
    let reply = client.json("POST", &format!("/api/v1/leads/{id}/replies"), &json!({"text":"Hello","channel":"email"}));
    assert_eq!(reply.status, 201, "{}", reply.body);
    eventually("four events", || receiver.taken().len() == 4);
    let kinds: Vec<String> = receiver.taken().iter().map(|d| d.header("x-leadsbot-event").to_owned()).collect();
    assert_eq!(kinds, ["lead.created", "lead.updated", "lead.status_changed", "lead.replied"]);
    let moved = &by_kind(&receiver, "lead.status_changed")[0].json()["data"];
    assert_eq!((&moved["from"], &moved["to"], &moved["status"]), (&json!("new"), &json!("contacted"), &json!("contacted")));
    assert_eq!(by_kind(&receiver, "lead.updated")[0].json()["data"]["changed"], json!(["score"]));
    assert_eq!(by_kind(&receiver, "lead.replied")[0].json()["data"]["reply"]["text"], "Hello");

    let shown = client.get(&format!("/api/v1/leads/{id}")).json();
    assert_eq!((&shown["status"], &shown["score"], &shown["version"]), (&json!("contacted"), &json!(70), &json!(1)));
    assert_eq!(shown["events"].as_array().unwrap().len(), 4);
    eventually("the outcome is noted", || {
        client.get(&format!("/api/v1/leads/{id}")).json()["events"][3]["deliveries"][0]["state"] == "delivered"
    });
    assert_eq!(client.json("PATCH", "/api/v1/leads/lead_00000000000000000000000000", &json!({"score":1})).status, 404);
    assert_eq!(client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({"status":"sold"})).code(), "invalid_status");
}

#[test]
fn an_event_waits_for_the_earlier_ones_of_its_lead_and_for_no_other() {
    let receiver = Receiver::start(|d| Reply::status(if d.json()["data"]["name"] == "Poison" { 500 } else { 200 }));
    let home = Home::new(&Home::webhook("crm", &receiver.url(), "workers = 3"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (poison, _) = client.lead(&json!({"name":"Poison"}));
    client.json("PATCH", &format!("/api/v1/leads/{poison}"), &json!({"score":1}));
    for n in 0..20 {
        client.lead(&json!({"name":format!("Well {n}")}));
    }
    eventually("the others get through", || receiver.taken().len() == 20);
    assert_eq!(by_kind(&receiver, "lead.updated").len(), 0, "the poison lead's second event overtook its first");
    receiver.script(|_| Reply::status(200));
    eventually("the poison lead gets through as well", || receiver.taken().len() == 22);
    let events = receiver.taken();
    let order: Vec<&str> = events.iter().filter(|d| d.json()["data"]["name"] == "Poison").map(|d| d.header("x-leadsbot-event")).collect();
    assert_eq!(order, ["lead.created", "lead.updated"]);
}

#[test]
fn dropping_or_retrying_by_hand_keeps_the_order_of_what_is_left() {
    let receiver = Receiver::start(|_| Reply::status(422));
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (first, _) = client.lead(&json!({"name":"Jane"}));
    client.json("PATCH", &format!("/api/v1/leads/{first}"), &json!({"score":1}));
    eventually("both are dead letters", || home.ok(&["--json", "queue", "list", "--state", "dead"]).lines().count() == 2);
    home.ok(&["queue", "pause", "crm"]);
    home.ok(&["queue", "retry", "crm", "--dead"]);
    let patched = client.json("PATCH", &format!("/api/v1/leads/{first}"), &json!({"status":"won"})).json();
    let dropped = patched["event_ids"][0].as_str().unwrap().to_owned();
    client.json("PATCH", &format!("/api/v1/leads/{first}"), &json!({"status":"lost"}));
    home.ok(&["queue", "drop", "crm", &dropped, "--yes"]);
    let states = home.ok(&["--json", "queue", "list"]);
    let states: Vec<String> =
        states.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["retrying", "held", "held"]);
    receiver.script(|_| Reply::status(200));
    home.ok(&["queue", "resume", "crm"]);
    eventually("all that is left arrives", || receiver.taken().len() == 3);
    let kinds: Vec<String> = receiver.taken().iter().map(|d| d.header("x-leadsbot-event").to_owned()).collect();
    assert_eq!(kinds, ["lead.created", "lead.updated", "lead.status_changed"]);
    assert_eq!(receiver.taken()[2].json()["data"]["to"], "lost");
}

#[test]
fn what_is_taken_can_be_read_and_delivered_however_odd_its_fields_are() {
    let receiver = Receiver::well();
    let mapped = "map = { All = \"data.fields\" }\nwhen = \"data.name\"";
    let home = Home::new(&format!("{}{}", Home::webhook("crm", &receiver.url(), ""), Home::webhook("mapped", &receiver.url(), mapped)));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let deep = |n: usize| format!("{{\"name\":\"deep\",\"x\":{}1{}}}", "[".repeat(n), "]".repeat(n));
    let bodies = [
        deep(31),
        r#"{"name":"odd","x":{"$serde_json::private::RawValue":"}"}}"#.to_owned(),
        r#"{"name":"odd","$serde_json::private::Number":"1"}"#.to_owned(),
        r#"{"name":"odd","fields":{"":1,"a":1}}"#.replace("\"\":1,", ""),
        r#"{"name":"\u0000\u202e\ud83d\ude00","big":123456789012345678901234567890,"small":1e-300}"#.to_owned(),
    ];
    let auth = format!("Bearer {}", crate::support::TOKEN);
    let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
    for body in &bodies {
        let answer = client.send("POST", "/api/v1/leads", &headers, body.as_bytes()).unwrap();
        assert_eq!(answer.status, 201, "{body}: {}", answer.body);
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({"score":7})).status, 200, "{body}");
    }
    assert_eq!(client.send("POST", "/api/v1/leads", &headers, deep(40).as_bytes()).unwrap().status, 400);
    assert_eq!(client.get("/api/v1/leads").json()["leads"].as_array().unwrap().len(), bodies.len());
    eventually("every event arrives at both", || receiver.taken().len() == 4 * bodies.len());
    eventually("every end is noted", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
}

#[test]
fn a_repeated_submission_is_one_lead_with_one_id() {
    let receiver = Receiver::well();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let auth = format!("Bearer {}", crate::support::TOKEN);
    let headers = [("authorization", auth.as_str()), ("content-type", "application/json"), ("idempotency-key", "order-1")];
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let client = Client::new(daemon.address);
                scope.spawn(move || client.send("POST", "/api/v1/leads", &headers, br#"{"name":"Once"}"#).unwrap())
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 7);
    assert_eq!(answers.iter().map(|a| a.body.clone()).collect::<BTreeSet<_>>().len(), 1);
    // The same key of another source is another submission.
    let pairs = [("name", "Other"), ("email", "o@example.com"), ("_submission_id", "order-1")];
    assert_eq!(client.form("/f/contact", &pairs, &[("accept", "application/json")]).status, 201);
    assert_eq!(client.form("/f/contact", &pairs, &[("accept", "application/json")]).status, 200);
    eventually("two leads", || receiver.taken().len() == 2);
    assert_eq!(client.get("/api/v1/leads").json()["leads"].as_array().unwrap().len(), 2);
}

#[test]
fn rotation_signs_with_both_secrets_and_a_mapped_body_keeps_its_types() {
    let receiver = Receiver::well();
    let next = "fedcba9876543210fedcba9876543210";
    let home = Home::new(&format!(
        "[[destination]]\nname = \"mapped\"\ntype = \"webhook\"\nurl = \"{}\"\nsecrets = [\"{SECRET}\", \"{next}\"]\n\
         events = [\"lead.created\"]\nwhen = \"data.score >= 50\"\nheaders = {{ X-Team = \"sales\" }}\n\
         map = {{ FirstName = \"data.name | first_word\", Score = \"data.score\", Deep = {{ Hot = \"data.score > 80\", Phone = \"data.phone\" }} }}\n{}",
        receiver.url(),
        Home::webhook("minimal", &receiver.url(), "body = \"leadsbot\"")
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane Smith","email":"jane@example.com","score":88,"source":"website-widget"}));
    client.lead(&json!({"name":"Cold","score":10}));
    eventually("three deliveries", || receiver.taken().len() == 3);
    let seen = receiver.taken();
    let mapped: Vec<&Delivery> = seen.iter().filter(|d| d.header("x-team") == "sales").collect();
    assert_eq!(mapped.len(), 1);
    assert_eq!(mapped[0].json(), json!({"FirstName":"Jane","Score":88,"Deep":{"Hot":true,"Phone":null}}));
    assert!(mapped[0].verified(SECRET));
    let signature = leadsbotd::signature::leadsbot(&leadsbotd::secret::Secret::new(next).unwrap(), &mapped[0].body);
    assert_eq!(mapped[0].header("x-leadsbot-signature-next"), signature);
    assert_eq!(mapped[0].header("webhook-signature").split(' ').count(), 2);
    let minimal: Vec<&Delivery> = seen.iter().filter(|d| d.header("x-team").is_empty()).collect();
    assert!(minimal.iter().any(|d| d.body
        == br#"{"event":"lead.created","data":{"name":"Jane Smith","email":"jane@example.com","score":88,"source":"website-widget"}}"#));
}

#[test]
fn ten_thousand_captures_over_64_connections_arrive_exactly_by_id() {
    let receiver = Receiver::start(|_| Reply::status(if fastrand::u8(..) < 25 { 500 } else { 200 }));
    let home = Home::new(&Home::webhook("crm", &receiver.url(), "workers = 4"));
    let daemon = Daemon::start(&home);
    let kept: BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|thread| {
                let client = Client::new(daemon.address);
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    for n in (thread..10_000).step_by(64) {
                        ids.push(client.lead(&json!({"name":format!("Visitor {n}")})).1);
                    }
                    ids
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(kept.len(), 10_000);
    eventually("all delivered", || receiver.taken().len() >= 10_000);
    let taken: Vec<String> = receiver.taken().iter().map(|d| d.event_id().to_owned()).collect();
    assert_eq!(taken.iter().cloned().collect::<BTreeSet<_>>(), kept);
    assert_eq!(taken.len(), kept.len(), "nothing is sent again after it was taken");
    // Every attempt at a delivery carried the same bytes and ids.
    let mut first: BTreeMap<String, (Vec<u8>, String)> = BTreeMap::new();
    for d in receiver.seen() {
        let now = (d.body.clone(), d.header("x-leadsbot-delivery-id").to_owned());
        assert_eq!(*first.entry(d.event_id().to_owned()).or_insert_with(|| now.clone()), now);
    }
    let (code, _) = daemon.stop();
    assert_eq!(code, Some(0));
    let rows = home.ok(&["--json", "leads", "export", "--format", "json"]);
    assert_eq!(rows.lines().count(), 10_000);
    assert!(home.ok(&["queue", "list"]).contains("nothing is waiting"));
}

#[test]
fn a_reload_takes_a_good_file_and_keeps_the_old_one_for_a_bad_one() {
    let (first, second) = (Receiver::well(), Receiver::well());
    let home = Home::new(&Home::webhook("crm", &first.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"One"}));
    eventually("the first receiver has it", || first.taken().len() == 1);
    home.configure("[[destination]]\nname = \"crm\"\ntipe = \"webhook\"\n");
    daemon.signal(Signal::HUP);
    eventually("the fault is logged", || daemon.log().contains("there is no such key"));
    client.lead(&json!({"name":"Two"}));
    eventually("the old rules go on", || first.taken().len() == 2);
    home.configure(&Home::webhook("crm", &second.url(), ""));
    daemon.signal(Signal::HUP);
    eventually("the file is taken", || daemon.log().contains("was read again"));
    client.lead(&json!({"name":"Three"}));
    eventually("the new receiver has it", || second.taken().len() == 1);
    // Taken out, its queue stays; put back, it goes on.
    home.configure("");
    daemon.signal(Signal::HUP);
    eventually("the file is taken", || daemon.log().matches("was read again").count() == 2);
    client.lead(&json!({"name":"For nobody"}));
    home.configure(&Home::webhook("crm", &second.url(), ""));
    daemon.signal(Signal::HUP);
    eventually("the file is taken", || daemon.log().matches("was read again").count() == 3);
    client.lead(&json!({"name":"Four"}));
    eventually("the lane works again", || second.taken().len() == 2);
}

#[test]
fn the_commands_work_beside_the_daemon() {
    let receiver = Receiver::start(|_| Reply::status(422));
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (lead, event) = client.lead(&json!({"name":"Jane","email":"jane@example.com"}));
    eventually("it is a dead letter", || home.ok(&["queue", "list", "--state", "dead"]).contains(&event));
    let listed = home.ok(&["queue", "list"]);
    assert!(listed.contains("HTTP 422"), "{listed}");
    assert!(home.ok(&["leads", "list"]).contains("jane@example.com"));
    assert!(home.ok(&["leads", "show", &lead]).contains("crm: dead, 3 attempts"));
    home.ok(&["queue", "pause", "crm"]);
    eventually("it is paused", || client.get("/readyz").json()["destinations"][0]["state"] == "paused");
    receiver.script(|_| Reply::status(200));
    home.ok(&["queue", "retry", "crm", "--dead"]);
    client.lead(&json!({"name":"Waits"}));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(receiver.taken().len(), 0, "a paused lane sends nothing");
    assert!(home.ok(&["queue", "status"]).contains("paused"));
    home.ok(&["queue", "resume", "crm"]);
    eventually("both arrive", || receiver.taken().len() == 2);
    receiver.script(|_| Reply::status(401));
    let (_, dropped) = client.lead(&json!({"name":"Dropped"}));
    eventually("the lane is blocked", || home.ok(&["queue", "status"]).contains("blocked"));
    assert!(!home.run(&["queue", "drop", "crm", &dropped]).status.success(), "dropping asks first");
    home.ok(&["queue", "drop", "crm", &dropped, "--yes"]);
    assert!(home.ok(&["queue", "list"]).contains("nothing is waiting"));
    // The word may come while the lane has the delivery in its hands; a moment later it has been told.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    receiver.script(|_| Reply::status(200));
    client.lead(&json!({"name":"After"}));
    eventually("the lane opens again", || receiver.taken().len() == 3);
    assert!(receiver.taken().iter().all(|d| d.event_id() != dropped), "what was dropped was sent");
}
