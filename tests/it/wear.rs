//! What the card has to bear, and the figures an operator's own monitoring asks for.

use crate::support::http::{Answer, Client};
use crate::support::peers::missing;
use crate::support::{Daemon, Home, Receiver, SECRET, TOKEN, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// One figure of `/metrics`.
fn figure(answer: &Answer, name: &str) -> Option<u64> {
    answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn configure(home: &Home, storage: &str) {
    let text = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), text.replace("[storage]", &format!("[storage]\n{storage}"))).unwrap();
}

fn capture(client: &Client, n: usize) {
    client.lead(&json!({"name": format!("Visitor {n}"), "message": "I would like to know more."}));
}

#[test]
fn bytes_written_are_counted_told_and_alarmed_of_once_beyond_the_budget() {
    let (receiver, alarms) = (Receiver::well(), Receiver::well());
    let home =
        Home::new(&(Home::webhook("crm", &receiver.url(), "") + &Home::webhook("ops", &alarms.url(), "events = [\"storage.wear\"]")));
    configure(&home, "write_budget_per_day = 200000\ncard_endurance_bytes = 1000000000");
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut leads = 0;
    eventually("the alarm is raised", || {
        capture(&client, leads);
        leads += 1;
        !alarms.taken().is_empty()
    });
    let alarm = alarms.taken().remove(0);
    assert!(alarm.verified(SECRET));
    let (event, data) = (alarm.json(), alarm.json()["data"].clone());
    assert_eq!((&event["event"], &event["context"]["channel"]), (&json!("storage.wear"), &json!("device")));
    assert!(data["written_bytes"].as_u64().unwrap() > 200_000 && data["budget_bytes"] == 200_000, "{data}");
    assert!(data["leads"].as_u64().unwrap() > 0 && data["day"].as_str().unwrap().len() == 10, "{data}");
    assert!(daemon.log().contains("more than storage.write_budget_per_day allows (200.0 kB)"), "{}", daemon.log());

    // The kernel's own figure is what is told.
    eventually("the figures agree with the kernel's", || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid().as_raw_nonzero())).unwrap();
        let written: u64 = io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap();
        figure(&client.get("/metrics"), "leadsbotd_written_bytes_total") == Some(written)
    });
    let figures = client.get("/metrics");
    assert_eq!(figure(&figures, "leadsbotd_leads_total"), Some(leads as u64));
    assert_eq!(figure(&figures, "leadsbotd_leads_today"), Some(leads as u64));
    assert_eq!(figure(&figures, "leadsbotd_write_budget_bytes"), Some(200_000));
    let (before, life) =
        (figure(&figures, "leadsbotd_written_today_bytes").unwrap(), figure(&figures, "leadsbotd_card_life_days").unwrap());
    assert!((1..=1_000_000_000 / 200_000).contains(&life), "{life}");

    // Neither more writing nor a restart raises it again on the same day, and the day goes on.
    assert_eq!(daemon.stop().0, Some(0));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    capture(&client, leads);
    eventually("the day goes on after the restart", || figure(&client.get("/metrics"), "leadsbotd_leads_today") == Some(leads as u64 + 1));
    assert_eq!(figure(&client.get("/metrics"), "leadsbotd_leads_total"), Some(1));
    assert!(figure(&client.get("/metrics"), "leadsbotd_written_today_bytes").unwrap() >= before);
    eventually("all is delivered", || receiver.taken().len() > leads);
    assert_eq!(daemon.stop().0, Some(0));
    assert_eq!(alarms.taken().len(), 1);

    let status: Value = serde_json::from_str(&home.ok(&["queue", "status", "--json"])).unwrap();
    let today = &status["wear"]["today"];
    assert_eq!(today["leads"], leads as u64 + 1, "{status}");
    assert!(today["written_bytes"].as_u64().unwrap() >= before, "{status}");
    let told = home.ok(&["queue", "status"]);
    assert!(told.contains("written to the card on ") && told.contains("at this pace a card that endures 1.0 GB lasts "), "{told}");
}

#[test]
fn figures_are_for_insiders_and_another_programs_parser_understands_them() {
    let mut receiver = Receiver::well();
    receiver.down();
    let home = Home::new(&Home::webhook("crm", &receiver.url(), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    (0..3).for_each(|n| capture(&client, n));
    eventually("the lane is held", || {
        client.get("/metrics").body.contains("leadsbotd_destination_state{destination=\"crm\",state=\"offline\"} 1")
    });

    // As a reverse proxy passes a stranger's request on; who has a token may ask from anywhere.
    let token = format!("Bearer {TOKEN}");
    let ask = |method: &str, headers: &[(&str, &str)]| client.send(method, "/metrics", headers, b"").unwrap();
    let refused = ask("GET", &[("x-forwarded-for", "203.0.113.9")]);
    assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"));
    assert!(!refused.body.contains("crm"));
    assert_eq!(ask("GET", &[("x-forwarded-for", "203.0.113.9"), ("authorization", &token)]).status, 200);
    assert_eq!(ask("GET", &[]).status, 200, "this machine itself may ask");
    assert_eq!(ask("POST", &[]).status, 405);

    let figures = client.get("/metrics");
    assert_eq!(figures.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_eq!(figure(&figures, "leadsbotd_queue{destination=\"crm\",state=\"ready\"}"), Some(3));
    assert_eq!(figure(&figures, "leadsbotd_http_answers_total{status=\"201\"}"), Some(3));
    daemon.signal(Signal::TERM);

    let python = std::env::var("LEADSBOT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
        for family in read(sys.stdin.read()):\n  for sample in family.samples: print(family.type, sample.name, dict(sample.labels), sample.value)\n";
    let installed = Command::new(&python).args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|s| s.success()) {
        return missing("prometheus_client for Python", "pip install prometheus-client");
    }
    let path = home.path("figures");
    std::fs::write(&path, &figures.body).unwrap();
    let parsed = Command::new(&python).args(["-c", script]).stdin(std::fs::File::open(&path).unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&parsed.stdout);
    assert!(parsed.status.success(), "{}\n{}", String::from_utf8_lossy(&parsed.stderr), figures.body);
    for line in [
        "gauge leadsbotd_queue {'destination': 'crm', 'state': 'ready'} 3",
        "gauge leadsbotd_destination_state {'destination': 'crm', 'state': 'offline'} 1",
        "counter leadsbotd_leads_total {} 3",
        "counter leadsbotd_http_answers_total {'status': '201'} 3",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
