//! One lead to a destination of every type at once, while a third of them misbehave: the others have it, those have it once they are well, and
//! nobody's trouble is another's.

use crate::support::http::Client;
use crate::support::{Daemon, Delivery, Home, Receiver, Reply, eventually, service_account};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn json_reply(status: u16, body: &Value) -> Reply {
    Reply { body: body.to_string(), ..Reply::status(status) }.header("content-type", "application/json")
}

/// A service over HTTP: its keys, with `{at}` for its address, and what it says when it has taken what it was sent.
type Service = (&'static str, &'static str, fn(&Delivery) -> Reply);

const SERVICES: [Service; 18] = [
    ("webhook", "url = \"http://{at}/\"\nsecret = \"0123456789abcdef0123456789abcdef\"", |_| Reply::status(204)),
    ("slack", "url = \"http://{at}/services/T0/B0/x\"", |_| Reply { body: "ok".to_owned(), ..Reply::status(200) }),
    ("discord", "url = \"http://{at}/api/webhooks/1/x\"", |_| json_reply(200, &json!({"id":"1"}))),
    ("telegram", "url = \"http://{at}\"\nsecret = \"123:x\"\nchat_id = \"-100\"", |_| json_reply(200, &json!({"ok":true,"result":{}}))),
    ("ntfy", "url = \"http://{at}\"\ntopic = \"leads\"", |_| json_reply(200, &json!({"id":"a","event":"message"}))),
    ("teams", "url = \"http://{at}/workflows/1/invoke?sig=x\"", |_| Reply::status(202)),
    ("matrix", "url = \"http://{at}\"\nroom = \"!r:example.com\"\nsecret = \"syt_x\"", |_| json_reply(200, &json!({"event_id":"$1"}))),
    ("pagerduty", "url = \"http://{at}/v2/enqueue\"\nsecret = \"0123456789abcdef0123456789abcdef\"\nevents = [\"lead.created\"]", |_| {
        json_reply(202, &json!({"status":"success"}))
    }),
    ("alertmanager", "url = \"http://{at}\"\nevents = [\"lead.created\"]", |_| Reply::status(200)),
    (
        "google_sheets",
        "base_url = \"http://{at}\"\nspreadsheet = \"1abc\"\nsheet = \"Leads\"\ncredentials = { secret_file = \"{key}\" }",
        |d| match d.path.as_str() {
            "/token" => json_reply(200, &json!({"access_token":"t","expires_in":3599})),
            _ => json_reply(200, &json!({"updates":{"updatedRows":1}})),
        },
    ),
    (
        "airtable",
        "base_url = \"http://{at}\"\nbase = \"appAbC123\"\ntable = \"Leads\"\nsecret = \"patTEST.0123456789\"\nfields = { Name = \"data.name\" }",
        |d| {
            let records: Vec<Value> =
                d.json()["records"].as_array().unwrap().iter().map(|r| json!({"id":"rec1","fields":r["fields"]})).collect();
            json_reply(200, &json!({"records":records,"createdRecords":["rec1"],"updatedRecords":[]}))
        },
    ),
    ("hubspot", "url = \"http://{at}\"\nsecret = \"pat-eu1-0\"", |d| {
        let input = d.json()["inputs"][0].clone();
        let result = json!({"id":"1","properties":input["properties"],"objectWriteTraceId":input["objectWriteTraceId"]});
        json_reply(200, &json!({"status":"COMPLETE","results":[result]}))
    }),
    ("salesforce", "url = \"http://{at}/servlet/servlet.WebToLead?encoding=UTF-8\"\noid = \"00D000000000062\"", |_| {
        Reply::status(200).header("Is-Processed", "true")
    }),
    ("pipedrive", "url = \"http://{at}\"\nsecret = \"token\"", |d| {
        let data = match (d.method.as_str(), d.path.split('?').next().unwrap()) {
            ("GET", "/api/v2/persons/search") => json!({"items":[]}),
            ("GET", _) => json!([]),
            _ => json!({"id":1}),
        };
        json_reply(200, &json!({"success":true,"data":data}))
    }),
    (
        "zoho",
        "url = \"http://{at}\"\naccounts_url = \"http://{at}\"\nclient_id = \"c\"\nclient_secret = \"s\"\nrefresh_token = \"r\"",
        |d| match d.path.starts_with("/oauth") {
            true => json_reply(200, &json!({"access_token":"t","expires_in":3600})),
            false => json_reply(200, &json!({"data":[{"code":"SUCCESS","status":"success","details":{"id":"1"}}]})),
        },
    ),
    ("mailchimp", "url = \"http://{at}\"\nsecret = \"key-us21\"\nlist = \"a1\"\nrequire_consent = false", |_| {
        json_reply(200, &json!({"id":"1","status":"pending"}))
    }),
    ("clickhouse", "url = \"http://{at}\"\nuser = \"u\"\nsecret = \"p\"\nlinger_seconds = 0", |_| Reply::status(200)),
    ("s3", "url = \"http://{at}\"\nbucket = \"leads\"\naccess_key = \"a\"\nsecret = \"s\"\nobject = \"event\"", |_| Reply::status(200)),
];

/// What a service that is sick says instead.
type Sick = (&'static str, fn() -> Reply);

/// Those that are sick at first, and how.
const SICK: [Sick; 4] = [
    ("zoho", || Reply::status(500)),
    ("teams", || Reply::status(401)),
    ("discord", || Reply::status(429).header("retry-after", "1")),
    ("s3", || Reply::status(503)),
];

/// Types whose servers are not there at all: nothing listens at port 9 of loopback.
const AWAY: &str = "
[[destination]]
name = \"email\"
type = \"email\"
server = \"127.0.0.1\"
port = 9
security = \"none\"
from = \"kiosk@example.com\"
to = [\"sales@example.com\"]
[[destination]]
name = \"postgres\"
type = \"postgres\"
url = \"postgres://leads@127.0.0.1:9/crm\"
secret = \"p\"
[[destination]]
name = \"mqtt\"
type = \"mqtt\"
url = \"mqtt://127.0.0.1:9\"
client_id = \"kiosk\"
topic = \"leads\"
[[destination]]
name = \"nats\"
type = \"nats\"
url = \"nats://127.0.0.1:9\"
subject = \"leads\"
";

/// What `/readyz` says of each destination.
fn destinations(client: &Client) -> BTreeMap<String, Value> {
    let told = client.get("/readyz").json();
    told["destinations"].as_array().unwrap().iter().map(|d| (d["name"].as_str().unwrap().to_owned(), d.clone())).collect()
}

#[test]
fn one_lead_reaches_every_type_of_destination_while_a_third_of_them_misbehave() {
    let receivers: Vec<Receiver> = SERVICES
        .iter()
        .map(|(name, _, well)| match SICK.iter().find(|(sick, _)| sick == name) {
            Some((_, sick)) => Receiver::start(|_| sick()),
            None => Receiver::start(well),
        })
        .collect();
    let home = Home::new("");
    let (key, files) = (home.path("google.json"), home.path("files"));
    std::fs::create_dir(&files).unwrap();
    let mut file = AWAY.to_owned();
    for ((name, keys, _), receiver) in SERVICES.iter().zip(&receivers) {
        let at = receiver.address.to_string();
        if *name == "google_sheets" {
            std::fs::write(&key, service_account(&format!("http://{at}/token"))).unwrap();
        }
        let keys = keys.replace("{at}", &at).replace("{key}", key.to_str().unwrap());
        file.push_str(&format!("[[destination]]\nname = \"{name}\"\ntype = \"{name}\"\n{keys}\n"));
    }
    for name in ["csv", "excel", "jsonl"] {
        file.push_str(&format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"{name}\"\npath = {:?}\n",
            files.join(name).with_extension(name)
        ));
    }
    home.configure(&file);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (_, event) =
        client.lead(&json!({"name":"Jane Smith","email":"jane@example.com","message":"Please call","score":88,"source":"booth-a"}));

    let troubled = |name: &str| SICK.iter().any(|(sick, _)| *sick == name) || AWAY.contains(&format!("name = \"{name}\""));
    let known = destinations(&client);
    assert_eq!(known.len(), 25, "every type there is");
    assert!(known.keys().filter(|name| troubled(name)).count() * 3 >= 24, "a third of them");
    for name in known.keys().filter(|name| !troubled(name)) {
        eventually(name, || destinations(&client)[name]["waiting"] == 0);
        assert_eq!(destinations(&client)[name]["dead"], 0, "{name}");
    }
    for name in ["csv", "jsonl"] {
        let text = std::fs::read_to_string(files.join(name).with_extension(name)).unwrap();
        assert!(text.contains(&event) && text.contains("Jane"), "{name}: {text}");
    }
    for ((name, ..), receiver) in SERVICES.iter().zip(&receivers).filter(|((name, ..), _)| !troubled(name)) {
        assert!(!receiver.taken().is_empty(), "{name} was never asked");
    }
    // Those in trouble hold it, each for its own reason.
    for (name, state) in [("teams", "blocked"), ("email", "offline"), ("postgres", "offline"), ("mqtt", "offline"), ("nats", "offline")] {
        eventually(name, || destinations(&client)[name]["state"] == state);
        assert_eq!(destinations(&client)[name]["waiting"], 1, "{name}");
    }
    // Once well they have it too.
    for ((name, _, well), receiver) in SERVICES.iter().zip(&receivers) {
        if troubled(name) {
            receiver.script(*well);
            eventually(name, || destinations(&client)[*name]["waiting"] == 0);
            assert_eq!(destinations(&client)[*name]["dead"], 0, "{name}");
        }
    }
    let (_, log) = daemon.stop();
    assert!(!log.contains("Jane") && !log.contains("jane@"), "the log holds no person's details:\n{log}");
}
