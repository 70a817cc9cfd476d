//! What others wrote takes what we send: the example receivers, and the published Standard Webhooks libraries.

use crate::support::http::Client;
use crate::support::peers::{Example, kept, missing, peer, peer_at};
use crate::support::{Daemon, Delivery, Home, Receiver, SECRET, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PLAIN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn the_node_receiver_takes_what_the_daemon_sends() {
    takes_everything("node", SECRET);
}

#[test]
fn the_python_receiver_takes_what_the_daemon_sends() {
    takes_everything("python", SECRET);
}

#[test]
fn the_php_receiver_takes_what_the_daemon_sends() {
    takes_everything("php", PLAIN);
}

#[test]
fn the_rust_receiver_takes_what_the_daemon_sends() {
    takes_everything("rust", "schl\u{fc}ssel-\u{9375}-of-this-kiosk");
}

/// The way an installation goes: a secret copied wrongly, put right, then a receiver that is restarted.
#[track_caller]
fn takes_everything(name: &str, secret: &str) {
    let Some(command) = Example::command(name) else { return };
    let home = Home::new("");
    let store = home.path("kept");
    let receiver = Example::start(&command, secret, &store, 0);
    let destination =
        |secret: &str| Home::webhook("shop", &format!("http://{}/hook", receiver.address), "workers = 2").replace(SECRET, secret);
    home.configure(&destination("another-secret-than-that"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);

    let mut captured: BTreeMap<String, String> = BTreeMap::new();
    let mut capture = |lead: &str| {
        let (_, event) = client.lead(&json!({"name":lead,"message":"Grüße, 日本 \u{1f600} \"quoted\" </script>","fields":{"n":1.5}}));
        captured.insert(event, lead.to_owned());
        captured.clone()
    };
    for n in 0..5 {
        capture(&format!("Before {n}"));
    }
    let state = || client.get("/readyz").json()["destinations"][0]["state"].clone();
    eventually("the 401 blocks the lane", || state() == "blocked");
    assert!(kept(&store).is_empty(), "it kept what it could not verify");

    home.configure(&destination(secret));
    daemon.signal(Signal::HUP);
    let all = capture("After");
    eventually("the receiver has all of them", || kept(&store).len() == all.len());
    for (event, body) in kept(&store) {
        let body: Value = serde_json::from_slice(&body).expect("the bytes that were signed");
        assert_eq!(body["id"], event.as_str());
        assert_eq!(body["data"]["name"].as_str(), all.get(&event).map(String::as_str));
    }
    eventually("every delivery is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    assert_eq!(state(), "open");

    // A receiver that was killed and started anew still knows what it has, and goes on.
    let at = receiver.address;
    drop(receiver);
    let all = capture("While it was away");
    let receiver = Example::start(&command, secret, &store, at.port());
    eventually("it has that one as well", || kept(&store).len() == all.len());
    for (event, body) in kept(&store) {
        let key = leadsbotd::secret::Secret::new(secret).unwrap();
        let signature = leadsbotd::signature::leadsbot(&key, &body);
        let again = receiver.post(&[("x-leadsbot-signature", &signature), ("x-leadsbot-event-id", &event)], &body);
        assert_eq!((again.status, again.json()["status"].as_str()), (200, Some("duplicate")), "{event}: {}", again.body);
    }
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(kept(&store).keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
}

/// A real delivery signed with `secrets`, as a receiver saw it.
fn delivery(secrets: &[&str]) -> Delivery {
    let receiver = Receiver::well();
    let home =
        Home::new(&Home::webhook("crm", &receiver.url(), "").replace(&format!("secret = \"{SECRET}\""), &format!("secrets = {secrets:?}")));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Zoë 日本","message":"two\nlines"}));
    eventually("it arrives", || receiver.taken().len() == 1);
    receiver.taken().remove(0)
}

/// Reads `{"secret", "raw", "headers", "body"}` from standard input and prints what the library says.
const NODE: &str = r"
const { Webhook } = require('standardwebhooks');
const { secret, raw, headers, body } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const webhook = raw ? new Webhook(Buffer.from(secret), { format: 'raw' }) : new Webhook(secret);
try {
  console.log('verified ' + webhook.verify(body, headers).id);
} catch (error) {
  console.log('refused ' + error.constructor.name);
}";

const PYTHON: &str = r"
import json, sys
from standardwebhooks import Webhook, WebhookVerificationError
job = json.load(sys.stdin.buffer)
webhook = Webhook(job['secret'].encode() if job['raw'] else job['secret'])
try:
    print('verified', webhook.verify(job['body'], job['headers'])['id'])
except WebhookVerificationError as error:
    print('refused', type(error).__name__)
";

#[test]
fn the_standard_webhooks_library_of_npm_verifies_a_delivery() {
    let Some(node) = peer("node", "apt-get install nodejs") else { return };
    let Some(modules) = peer_at("LEADSBOT_NODE_MODULES", "npm install standardwebhooks, and name the node_modules folder in it") else {
        return;
    };
    if !modules.join("standardwebhooks").is_dir() {
        return missing("standardwebhooks", "npm install standardwebhooks in the folder of LEADSBOT_NODE_MODULES");
    }
    library_verifies(|| {
        let mut command = Command::new(&node);
        command.env("NODE_PATH", &modules).args(["-e", NODE]);
        command
    });
}

#[test]
fn the_standard_webhooks_library_of_pypi_verifies_a_delivery() {
    let how = "python3 -m venv DIR; DIR/bin/pip install standardwebhooks; and name DIR/bin/python in it";
    let Some(python): Option<PathBuf> = peer_at("LEADSBOT_PYTHON", how) else { return };
    if !Command::new(&python).args(["-c", "import standardwebhooks"]).stderr(Stdio::null()).status().expect("python runs").success() {
        return missing("standardwebhooks", "pip install standardwebhooks in the environment of LEADSBOT_PYTHON");
    }
    library_verifies(|| {
        let mut command = Command::new(&python);
        command.args(["-c", PYTHON]);
        command
    });
}

#[track_caller]
fn library_verifies(command: impl Fn() -> Command) {
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let ask = |secret: &str, raw: bool, headers: &[(String, String)], body: &[u8]| -> String {
        let headers: BTreeMap<&str, &str> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let job = json!({"secret":secret,"raw":raw,"headers":headers,"body":std::str::from_utf8(body).unwrap()});
        let mut child = command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
        child.stdin.take().unwrap().write_all(job.to_string().as_bytes()).expect("it reads");
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let refused = "refused WebhookVerificationError";

    let d = delivery(&[SECRET]);
    let verified = format!("verified {}", d.event_id());
    assert_eq!(ask(SECRET, false, &d.headers, &d.body), verified);
    assert_eq!(ask(other, false, &d.headers, &d.body), refused, "another secret");
    let altered = String::from_utf8(d.body.clone()).unwrap().replace("Zoë", "Zoe");
    assert_eq!(ask(SECRET, false, &d.headers, altered.as_bytes()), refused, "an altered body");
    let a_second_later = (d.header("webhook-timestamp").parse::<i64>().unwrap() + 1).to_string();
    for (name, value) in [("webhook-id", "evt_00000000000000000000000000"), ("webhook-timestamp", &a_second_later)] {
        let mut headers = d.headers.clone();
        headers.iter_mut().filter(|(n, _)| n == name).for_each(|(_, v)| value.clone_into(v));
        assert_eq!(ask(SECRET, false, &headers, &d.body), refused, "an altered {name}");
    }

    let d = delivery(&[SECRET, other]);
    for secret in [SECRET, other] {
        assert_eq!(ask(secret, false, &d.headers, &d.body), format!("verified {}", d.event_id()), "while secrets are rotated");
    }

    let d = delivery(&[PLAIN]);
    assert_eq!(ask(PLAIN, true, &d.headers, &d.body), format!("verified {}", d.event_id()), "a secret without whsec_");
}
