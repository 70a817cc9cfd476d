//! Changing a destination's secret: guided, and named when the receiver does not know the new one.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, Reply, SECRET, eventually};
use rustix::process::Signal;
use serde_json::json;

const NEXT: &str = "fedcba9876543210fedcba9876543210";

fn reason(client: &Client) -> String {
    client.get("/readyz").json()["destinations"][0]["reason"].as_str().unwrap_or_default().to_owned()
}

fn secrets(url: &str, list: &str) -> String {
    format!("[[destination]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"{url}\"\nsecrets = {list}\n")
}

#[test]
fn a_change_of_the_secret_is_guided_step_by_step() {
    let home = Home::new(&secrets("http://127.0.0.1:9/", &format!("[\"{SECRET}\"]")));
    let first = home.ok(&["secret", "rotate", "crm"]);
    assert!(first.contains("whsec_") && first.contains("secrets = [") && !first.contains(SECRET), "{first}");
    home.configure(&secrets("http://127.0.0.1:9/", &format!("[\"{SECRET}\", \"{NEXT}\"]")));
    let second = home.ok(&["secret", "rotate", "crm"]);
    assert!(second.contains("take the old one out") && !second.contains(SECRET) && !second.contains(NEXT), "{second}");
    assert!(home.ok(&["--json", "secret", "rotate", "crm"]).contains("\"finish\""));
    home.configure("[[destination]]\nname = \"crm\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nsign = false\n");
    assert_eq!(home.run(&["secret", "rotate", "crm"]).status.code(), Some(1));
}

#[test]
fn refusals_that_begin_with_a_change_of_the_secret_are_named_as_such() {
    let receiver = Receiver::start(|d| Reply::status(if d.verified(SECRET) { 200 } else { 401 }));
    let with = |secret: &str| secrets(&receiver.url(), &format!("[\"{secret}\"]"));
    let home = Home::new(&with(SECRET));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane"}));
    eventually("the first lead", || receiver.taken().len() == 1);

    home.configure(&with(NEXT));
    daemon.signal(Signal::HUP);
    eventually("the new configuration", || daemon.log().contains("its secret was changed"));
    client.lead(&json!({"name":"John"}));
    eventually("it is blocked", || reason(&client).contains("when its secret was changed"));

    // Put right, what was held gets through; a later refusal is another trouble.
    home.configure(&with(SECRET));
    daemon.signal(Signal::HUP);
    eventually("both leads", || receiver.taken().len() == 2);
    receiver.script(|_| Reply::status(403));
    client.lead(&json!({"name":"Jim"}));
    eventually("it is blocked", || reason(&client).starts_with("HTTP 403"));
    assert!(!reason(&client).contains("secret was changed"), "{}", reason(&client));
    daemon.stop();

    // A credential of systemd changes with a restart only.
    home.configure(&with(NEXT));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    eventually("it is blocked", || reason(&client).contains("when its secret was changed"));
    let (_, log) = daemon.stop();
    assert!(!log.contains(SECRET) && !log.contains(NEXT));
    assert!(!String::from_utf8_lossy(&std::fs::read(home.database()).unwrap()).contains(NEXT), "nor is it in the database");
}
