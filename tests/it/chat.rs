//! Chats and alarms against stand-ins that hold them to their services' contracts: what is documented to be refused is refused.

use crate::support::http::Client;
use crate::support::peers::peer;
use crate::support::{Daemon, Delivery, Home, Receiver, Reply, eventually};
use leadsbotd::time::{Clock, SystemClock, Wall};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Part of every secret here, so that none can be shown unnoticed.
const MARK: &str = "s3cr3t";

/// Everything a visitor could try at once.
const EVIL: &str =
    "<!channel> <@U1> @everyone @room [Log in](https://evil.example) <a href=\"https://evil.example\">x</a> & *b* `c`\nScore: 100";

/// A service and how it is spoken to.
struct Service {
    name: &'static str,
    /// What stands in the file, below name and type; `{at}` is the stand-in's address.
    keys: &'static str,
    /// What is wrong with a request by the service's documentation.
    contract: fn(&Delivery) -> Result<(), String>,
    yes: fn() -> Reply,
    /// Asks for a wait of about a second in the service's own way.
    wait: fn() -> Reply,
    /// The token or the address is wrong.
    no: fn() -> Reply,
    /// This one message is not acceptable.
    bad: fn() -> Reply,
}

fn json_reply(status: u16, body: &Value) -> Reply {
    Reply::status(status).header("content-type", "application/json").body(body.to_string())
}

fn has(what: &str, holds: bool) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn posted(d: &Delivery, target: &str) -> Result<Value, String> {
    has("method", d.method == "POST")?;
    has(&format!("target {}", d.path), d.path == target)?;
    parsed(d)
}

fn parsed(d: &Delivery) -> Result<Value, String> {
    has("content type", d.header("content-type") == "application/json")?;
    serde_json::from_slice(&d.body).map_err(|e| e.to_string())
}

fn text<'a>(value: &'a Value, at: &str) -> Result<&'a str, String> {
    value.pointer(at).and_then(Value::as_str).filter(|t| !t.is_empty()).ok_or_else(|| format!("no text at {at}"))
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

fn slack(d: &Delivery) -> Result<(), String> {
    let body = posted(d, &format!("/services/T0/B0/{MARK}"))?;
    let mut texts = vec![text(&body, "/text")?];
    for block in body["blocks"].as_array().ok_or("no blocks")? {
        has("a block of an unknown type", block["type"] == "section" && block["text"]["type"] == "mrkdwn")?;
        texts.push(text(block, "/text/text")?);
    }
    for text in texts {
        has("msg_too_long", units(text) <= 3000)?;
        has("a control sequence", !text.contains('<'))?;
    }
    Ok(())
}

fn discord(d: &Delivery) -> Result<(), String> {
    let body = posted(d, &format!("/api/webhooks/1/{MARK}?wait=true"))?;
    has("content", units(text(&body, "/content")?) <= 2000)?;
    has("mentions", body["allowed_mentions"]["parse"] == json!([]))?;
    let embeds = body["embeds"].as_array().cloned().unwrap_or_default();
    has("embeds", embeds.len() <= 10)?;
    let lengths: Result<Vec<usize>, String> = embeds.iter().map(|e| Ok(units(text(e, "/description")?))).collect();
    has("description", lengths?.iter().all(|n| *n <= 4096))
}

fn telegram(d: &Delivery) -> Result<(), String> {
    let body = posted(d, &format!("/bot123:{MARK}/sendMessage"))?;
    has("chat not found", body["chat_id"].is_i64())?;
    has("parse_mode", body["parse_mode"] == "HTML")?;
    let shown = telegram_html(text(&body, "/text")?)?;
    has("message is too long", (1..=4096).contains(&units(&shown)))
}

/// What Telegram shows, or that it cannot parse it.
fn telegram_html(html: &str) -> Result<String, String> {
    let (mut out, mut open, mut rest) = (String::new(), Vec::new(), html);
    while let Some(at) = rest.find(['<', '&', '>']) {
        out.push_str(&rest[..at]);
        let end = rest[at..].find(if rest[at..].starts_with('<') { '>' } else { ';' }).ok_or("can't parse entities")?;
        match &rest[at..=at + end] {
            "<b>" => open.push("b"),
            "</b>" => has("can't parse entities", open.pop() == Some("b"))?,
            "&lt;" => out.push('<'),
            "&gt;" => out.push('>'),
            "&amp;" => out.push('&'),
            "&quot;" => out.push('"'),
            "&#39;" => out.push('\''),
            other => return Err(format!("can't parse entities: {other}")),
        }
        rest = &rest[at + end + 1..];
    }
    has("can't parse entities: an open tag", open.is_empty())?;
    out.push_str(rest);
    Ok(out)
}

fn ntfy(d: &Delivery) -> Result<(), String> {
    let body = posted(d, "/")?;
    has("unauthorized", d.header("authorization") == format!("Bearer tk_{MARK}"))?;
    has("topic", body["topic"] == "leads")?;
    has("message", text(&body, "/message")?.len() <= 4096)?;
    text(&body, "/title")?;
    has("markdown", body.get("markdown").is_none())?;
    has("priority", body["priority"].as_u64().is_some_and(|p| (1..=5).contains(&p)))?;
    has("tags", body["tags"] == json!(["tada"]))?;
    has("click", text(&body, "/click")? == "https://crm.example/?q=jane%40example.com")
}

fn teams(d: &Delivery) -> Result<(), String> {
    let body = posted(d, &format!("/workflows/1/triggers/manual/paths/invoke?sig={MARK}"))?;
    has("too large", d.body.len() <= 28 * 1024)?;
    has("type", body["type"] == "message")?;
    let attachments = body["attachments"].as_array().ok_or("attachments is of type Null; it must be a valid array")?;
    has("one card", attachments.len() == 1)?;
    has("content type", attachments[0]["contentType"] == "application/vnd.microsoft.card.adaptive")?;
    let card = &attachments[0]["content"];
    has("card", card["type"] == "AdaptiveCard" && card["version"] == "1.4")?;
    for block in card["body"].as_array().ok_or("no body")? {
        has("Markdown is read there", block["type"] == "RichTextBlock")?;
        has("a run", block["inlines"][0]["type"] == "TextRun")?;
        text(block, "/inlines/0/text")?;
    }
    has("mentions", card["msteams"].get("entities").is_none())
}

fn matrix(d: &Delivery) -> Result<(), String> {
    has("method", d.method == "PUT")?;
    has("M_MISSING_TOKEN", d.header("authorization") == format!("Bearer syt_{MARK}"))?;
    let transaction = d.path.strip_prefix("/_matrix/client/v3/rooms/!room:example.com/send/m.room.message/").ok_or("M_UNRECOGNIZED")?;
    has("transaction", transaction.starts_with("dlv_"))?;
    let body = parsed(d)?;
    has("M_TOO_LARGE", d.body.len() < 65_536)?;
    has("msgtype", body["msgtype"] == "m.text" && body["format"] == "org.matrix.custom.html")?;
    has("@room", !text(&body, "/body")?.contains("@room"))?;
    has("markup", !text(&body, "/formatted_body")?.contains("<a"))?;
    has("mentions", body["m.mentions"] == json!({}))
}

fn pagerduty(d: &Delivery) -> Result<(), String> {
    let body = posted(d, "/v2/enqueue")?;
    has("routing_key", text(&body, "/routing_key")? == format!("{MARK}{MARK}{MARK}{MARK}{MARK}12"))?;
    has("event_action", ["trigger", "acknowledge", "resolve"].contains(&text(&body, "/event_action")?))?;
    has("dedup_key", text(&body, "/dedup_key")?.chars().count() <= 255)?;
    has("summary", text(&body, "/payload/summary")?.chars().count() <= 1024)?;
    text(&body, "/payload/source")?;
    has("severity", ["critical", "error", "warning", "info"].contains(&text(&body, "/payload/severity")?))?;
    has("too large", d.body.len() <= 512 * 1024)
}

fn alertmanager(d: &Delivery) -> Result<(), String> {
    let body = posted(d, "/api/v2/alerts")?;
    for alert in body.as_array().ok_or("not a list")? {
        text(alert, "/labels/alertname")?;
        for part in ["labels", "annotations"] {
            for (name, value) in alert[part].as_object().ok_or("no object")? {
                has("a label's name", name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))?;
                has("a label's value", value.is_string())?;
            }
        }
        let (start, end) = (text(alert, "/startsAt")?, text(alert, "/endsAt")?);
        has("start time must be before end time", start <= end)?;
    }
    Ok(())
}

const CHATS: [Service; 6] = [
    Service {
        name: "slack",
        keys: "url = \"http://{at}/services/T0/B0/s3cr3t\"\n",
        contract: slack,
        yes: || Reply::status(200).body("ok"),
        wait: || Reply::status(429).header("retry-after", "1"),
        no: || Reply::status(403).body("invalid_token"),
        bad: || Reply::status(400).body("invalid_payload"),
    },
    Service {
        name: "discord",
        keys: "url = \"http://{at}/api/webhooks/1/s3cr3t\"\n",
        contract: discord,
        yes: || json_reply(200, &json!({ "id": "1" })),
        wait: || json_reply(429, &json!({ "message": "You are being rate limited.", "retry_after": 0.5, "global": false })),
        no: || json_reply(404, &json!({ "message": "Unknown Webhook", "code": 10015 })),
        bad: || json_reply(400, &json!({ "message": "Invalid Form Body", "code": 50035 })),
    },
    Service {
        name: "telegram",
        keys: "url = \"http://{at}\"\nsecret = \"123:s3cr3t\"\nchat_id = \"-100\"\n",
        contract: telegram,
        yes: || json_reply(200, &json!({ "ok": true, "result": { "message_id": 1 } })),
        wait: || json_reply(429, &json!({ "ok": false, "error_code": 429, "parameters": { "retry_after": 1 } })),
        no: || json_reply(403, &json!({ "ok": false, "description": "Forbidden: bot was kicked from the group chat" })),
        bad: || json_reply(400, &json!({ "ok": false, "description": "Bad Request: message is too long" })),
    },
    Service {
        name: "ntfy",
        keys: "url = \"http://{at}\"\nsecret = \"tk_s3cr3t\"\ntopic = \"leads\"\ntags = [\"tada\"]\n\
               click = \"https://crm.example/?q={{ data.email | urlencode }}\"\n",
        contract: ntfy,
        yes: || json_reply(200, &json!({ "id": "a", "event": "message", "topic": "leads" })),
        wait: || json_reply(429, &json!({ "code": 42901, "http": 429 })).header("retry-after", "1"),
        no: || json_reply(403, &json!({ "code": 40301, "http": 403, "error": "forbidden" })),
        bad: || json_reply(400, &json!({ "code": 40024, "http": 400 })),
    },
    Service {
        name: "teams",
        keys: "url = \"http://{at}/workflows/1/triggers/manual/paths/invoke?sig=s3cr3t\"\n",
        contract: teams,
        yes: || Reply::status(202),
        wait: || Reply::status(429).header("retry-after", "1"),
        no: || json_reply(400, &json!({ "error": { "code": "WorkflowTriggerIsNotEnabled" } })),
        bad: || Reply::status(413),
    },
    Service {
        name: "matrix",
        keys: "url = \"http://{at}\"\nsecret = \"syt_s3cr3t\"\nroom = \"!room:example.com\"\n",
        contract: matrix,
        yes: || json_reply(200, &json!({ "event_id": "$1" })),
        wait: || json_reply(429, &json!({ "errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 500 })),
        no: || json_reply(401, &json!({ "errcode": "M_UNKNOWN_TOKEN" })),
        bad: || json_reply(413, &json!({ "errcode": "M_TOO_LARGE" })),
    },
];

const ALARMS: [Service; 2] = [
    Service {
        name: "pagerduty",
        keys: "url = \"http://{at}/v2/enqueue\"\nsecret = \"s3cr3ts3cr3ts3cr3ts3cr3ts3cr3t12\"\n",
        contract: pagerduty,
        yes: || json_reply(202, &json!({ "status": "success", "dedup_key": "k" })),
        wait: || Reply::status(429).header("retry-after", "1"),
        no: || json_reply(400, &json!({ "status": "invalid event", "errors": ["Invalid routing key"] })),
        bad: || json_reply(400, &json!({ "status": "invalid event" })),
    },
    Service {
        name: "alertmanager",
        keys: "url = \"http://{at}\"\nuser = \"kiosk\"\nsecret = \"s3cr3t\"\nlabels = { team = \"sales\" }\n",
        contract: alertmanager,
        yes: || Reply::status(200),
        wait: || Reply::status(429).header("retry-after", "1"),
        no: || Reply::status(401),
        bad: || Reply::status(400),
    },
];

/// A stand-in: what keeps to the contract is answered by `answer`, which is given the number of such requests before.
struct Standing {
    receiver: Receiver,
    broken: Arc<Mutex<Vec<String>>>,
}

impl Standing {
    fn start(service: &Service, answer: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let (contract, broken, count) = (service.contract, Arc::<Mutex<Vec<String>>>::default(), AtomicUsize::new(0));
        let seen = Arc::clone(&broken);
        let receiver = Receiver::start(move |d| match contract(d) {
            Ok(()) => answer(count.fetch_add(1, Ordering::SeqCst)),
            Err(why) => {
                seen.lock().unwrap().push(why);
                Reply::status(400)
            }
        });
        Self { receiver, broken }
    }

    fn keeps_to_the_contract(&self, service: &Service) {
        assert_eq!(*self.broken.lock().unwrap(), Vec::<String>::new(), "{}", service.name);
    }
}

fn destination(service: &Service, standing: &Standing, more: &str) -> String {
    let keys = service.keys.replace("{at}", &standing.receiver.address.to_string());
    format!("[[destination]]\nname = \"{0}\"\ntype = \"{0}\"\n{keys}{more}\n", service.name)
}

/// One daemon with a destination for each service, each answering as `answer` says.
fn all(services: &'static [Service], answer: fn(&'static Service, usize) -> Reply) -> (Vec<Standing>, Home) {
    let standing: Vec<Standing> = services.iter().map(|s| Standing::start(s, move |n| answer(s, n))).collect();
    let file: String = services.iter().zip(&standing).map(|(service, at)| destination(service, at, "")).collect();
    (standing, Home::new(&format!("[device]\nid = \"kiosk-12\"\n{file}")))
}

fn jane() -> Value {
    json!({ "name": EVIL.replace('\n', " "), "email": "jane@example.com", "message": EVIL, "score": 88, "source": "booth-a" })
}

#[test]
fn a_lead_reaches_every_chat_as_its_service_wants_it_whatever_a_visitor_typed() {
    let (standing, home) = all(&CHATS, |service, _| (service.yes)());
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (id, _) = client.lead(&jane());
    client.lead(&json!({ "name": "n".repeat(5000), "email": "jane@example.com", "message": "<&\"'@*\n".repeat(1000) }));
    client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({ "status": "contacted" }));
    client.json("POST", &format!("/api/v1/leads/{id}/replies"), &json!({ "text": EVIL, "channel": "email" }));
    for (service, at) in CHATS.iter().zip(&standing) {
        eventually(service.name, || at.receiver.seen().len() >= 4);
        at.keeps_to_the_contract(service);
        let bodies: Vec<String> = at.receiver.taken().iter().map(|d| String::from_utf8(d.body.clone()).unwrap()).collect();
        for words in ["jane", "88", "booth", "kiosk", "contacted", "email"] {
            assert!(bodies.iter().any(|body| body.contains(words)), "{} says nothing of {words}", service.name);
        }
    }
    eventually("all of them are done", || home.ok(&["--json", "queue", "list"]).is_empty());
    let (_, log) = daemon.stop();
    assert!(!log.contains("evil.example") && !log.contains(MARK), "{log}");
}

#[test]
fn a_chat_that_asks_to_wait_is_waited_for_and_gets_the_same_bytes() {
    let (standing, home) = all(&CHATS, |service, n| if n == 0 { (service.wait)() } else { (service.yes)() });
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&jane());
    for (service, at) in CHATS.iter().zip(&standing) {
        eventually(service.name, || at.receiver.taken().len() == 1);
        at.keeps_to_the_contract(service);
        let seen = at.receiver.seen();
        assert_eq!(seen.len(), 2, "{}", service.name);
        assert_eq!((&seen[0].path, &seen[0].body), (&seen[1].path, &seen[1].body), "{}", service.name);
    }
}

#[test]
fn a_chat_that_is_set_up_wrongly_keeps_everything_until_it_is_right() {
    let (standing, home) = all(&CHATS, |service, n| if n < 2 { (service.no)() } else { (service.yes)() });
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..3 {
        client.lead(&json!({ "name": format!("Jane {n}"), "email": "jane@example.com" }));
    }
    for (service, at) in CHATS.iter().zip(&standing) {
        eventually(service.name, || at.receiver.taken().len() == 3);
        at.keeps_to_the_contract(service);
        assert!(daemon.log().contains(&format!("destination {}: blocked since", service.name)), "{}", daemon.log());
    }
    eventually("all of them are done", || home.ok(&["--json", "queue", "list"]).is_empty());
}

#[test]
fn a_message_that_a_chat_does_not_take_stops_no_other() {
    let (standing, home) = all(&CHATS, |service, n| if n == 0 { (service.yes)() } else { (service.bad)() });
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({ "name": "Jane", "email": "jane@example.com" }));
    for (service, at) in CHATS.iter().zip(&standing) {
        eventually(service.name, || at.receiver.taken().len() == 1);
        let (contract, yes, bad) = (service.contract, service.yes, service.bad);
        at.receiver.script(move |d| match contract(d) {
            Ok(()) if !String::from_utf8_lossy(&d.body).contains("Poison") => yes(),
            _ => bad(),
        });
    }
    client.lead(&json!({ "name": "Poison", "email": "jane@example.com" }));
    client.lead(&json!({ "name": "Jim", "email": "jane@example.com" }));
    for (service, at) in CHATS.iter().zip(&standing) {
        eventually(service.name, || at.receiver.taken().len() == 2);
    }
    eventually("each has one dead letter", || home.ok(&["--json", "queue", "list", "--state", "dead"]).lines().count() == CHATS.len());
}

#[test]
fn a_group_that_has_become_a_supergroup_is_followed_without_a_failed_attempt() {
    let service = &CHATS[2];
    let standing = Standing::start(service, |_| (CHATS[2].yes)());
    let moved = json!({ "ok": false, "error_code": 400, "description": "Bad Request: group chat was upgraded to a supergroup chat",
        "parameters": { "migrate_to_chat_id": -1_001 } });
    standing.receiver.script(move |d| match d.json()["chat_id"].as_i64() {
        Some(-1_001) => (CHATS[2].yes)(),
        _ => json_reply(400, &moved),
    });
    let home = Home::new(&destination(service, &standing, ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({ "name": "Jane" }));
    eventually("the first is there", || standing.receiver.taken().len() == 1);
    client.lead(&json!({ "name": "Jim" }));
    eventually("the second is there", || standing.receiver.taken().len() == 2);
    let chats: Vec<i64> = standing.receiver.seen().iter().map(|d| d.json()["chat_id"].as_i64().unwrap()).collect();
    assert_eq!(chats, [-100, -1_001, -1_001], "the old number is asked once");
    assert!(!daemon.log().contains("destination telegram: blocked"), "{}", daemon.log());
}

#[test]
fn a_message_that_matrix_took_without_saying_so_comes_again_as_the_same_transaction() {
    let service = &CHATS[5];
    let standing = Standing::start(service, |n| if n == 0 { Reply::status(502) } else { (CHATS[5].yes)() });
    let home = Home::new(&destination(service, &standing, ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({ "name": "Jane" }));
    client.lead(&json!({ "name": "Jim" }));
    eventually("both are there", || standing.receiver.taken().len() == 2);
    let of = |name: &str| -> Vec<String> {
        standing.receiver.seen().into_iter().filter(|d| d.json()["body"].as_str().unwrap().contains(name)).map(|d| d.path).collect()
    };
    let (jane, jim) = (of("Jane"), of("Jim"));
    assert_eq!((jane.len(), jim.len()), (2, 1));
    assert_eq!(jane[0], jane[1]);
    assert_ne!(jane[0], jim[0]);
}

#[test]
fn an_alarm_wakes_people_and_a_lead_does_not() {
    let (standing, home) = all(&ALARMS, |service, _| (service.yes)());
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&jane());
    assert_eq!(home.ok(&["--json", "queue", "list"]), "", "a lead is none of their business");
    drop(daemon);
    let event = |kind: &str| {
        json!({ "id": "evt_1", "event": kind, "created_at": "2026-11-23T12:00:00.000Z",
            "data": { "destination": "crm", "state": "offline", "reason": "nobody listens", "since": "2026-11-23T11:00:00.000Z",
                "waiting": 12, "oldest_at": "2026-11-23T10:59:00.000Z" },
            "context": { "device": { "id": "kiosk-12" }, "channel": "device", "clock": "trusted" } })
    };
    for (index, kind) in ["destination.failing", "destination.recovered"].into_iter().enumerate() {
        let file = home.path("event.json");
        std::fs::write(&file, event(kind).to_string()).unwrap();
        for service in &ALARMS {
            let said: Value =
                serde_json::from_str(&home.ok(&["--json", "preview", service.name, "--event", file.to_str().unwrap()])).unwrap();
            assert_eq!(said["wanted"], true, "{} asks for {kind} by itself", service.name);
            home.ok(&["trigger", service.name, "--event", file.to_str().unwrap()]);
        }
        for (service, at) in ALARMS.iter().zip(&standing) {
            assert_eq!(at.receiver.taken().len(), index + 1);
            at.keeps_to_the_contract(service);
        }
    }
    let sent = |at: usize| -> Vec<Value> { standing[at].receiver.taken().iter().map(Delivery::json).collect() };
    let (pager, alerts) = (sent(0), sent(1));
    assert_eq!((&pager[0]["event_action"], &pager[1]["event_action"]), (&json!("trigger"), &json!("resolve")));
    assert_eq!(pager[0]["dedup_key"], pager[1]["dedup_key"]);
    assert_eq!(alerts[0][0]["labels"], alerts[1][0]["labels"]);
    assert_eq!(alerts[1][0]["endsAt"], "2026-11-23T12:00:00.000Z");
    assert_eq!(standing[1].receiver.taken()[0].header("authorization"), "Basic a2lvc2s6czNjcjN0");
}

#[test]
fn no_command_shows_the_secret_of_a_chat_or_pager() {
    for services in [&CHATS[..], &ALARMS[..]] {
        let standing: Vec<Standing> = services.iter().map(|s| Standing::start(s, |_| Reply::status(500))).collect();
        let file: String = services.iter().zip(&standing).map(|(service, at)| destination(service, at, "")).collect();
        let home = Home::new(&file);
        let mut said = home.ok(&["check"]);
        for service in services {
            for command in [&["preview", service.name][..], &["--json", "preview", service.name], &["trigger", service.name]] {
                let output = home.run(command);
                said.push_str(&String::from_utf8_lossy(&output.stdout));
                said.push_str(&String::from_utf8_lossy(&output.stderr));
            }
        }
        assert!(said.contains("(hidden)") && !said.contains(MARK), "{said}");
    }
}

#[test]
fn a_secret_that_only_systemd_knows_is_taken_on_trust_by_the_check() {
    let destination = |kind: &str, keys: &str| format!("[[destination]]\nname = \"{kind}\"\ntype = \"{kind}\"\n{keys}\n");
    let home = Home::new(&format!(
        "{}{}{}",
        destination("slack", "url = { secret_credential = \"slack-url\" }"),
        destination("telegram", "secret_credential = \"bot\"\nchat_id = \"@sales\""),
        destination("ntfy", "secret_credential = \"ntfy\"\ntopic = \"leads\""),
    ));
    assert!(home.ok(&["check"]).contains("is a credential that only systemd can give; it was not looked at"));
}

/// A real Alertmanager in a home's folder. Dropping it ends it.
struct Alertmanager {
    child: Child,
    at: SocketAddr,
}

impl Alertmanager {
    fn start(home: &Home) -> Option<Self> {
        let program = peer("prometheus-alertmanager", "apt-get install prometheus-alertmanager")?;
        let config = home.path("alertmanager.yml");
        std::fs::write(&config, "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n").unwrap();
        // It cannot tell which port it was given.
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", home.path("alertmanager").display()))
            .arg(format!("--web.listen-address={at}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Alertmanager starts");
        let alertmanager = Self { child, at };
        eventually("Alertmanager answers", || Client::new(at).send("GET", "/-/ready", &[], b"").is_some_and(|a| a.status == 200));
        Some(alertmanager)
    }

    fn alerts(&self) -> Vec<Value> {
        let answer = Client::new(self.at).send("GET", "/api/v2/alerts", &[], b"").expect("an answer");
        answer.json().as_array().cloned().expect("a list")
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_alertmanager_raises_an_alarm_and_ends_it() {
    let home = Home::new("");
    let Some(alertmanager) = Alertmanager::start(&home) else { return };
    home.configure(&format!(
        "[device]\nid = \"kiosk-12\"\nsite = \"Hall 3\"\n[[destination]]\nname = \"alerts\"\ntype = \"alertmanager\"\nurl = \"http://{}\"\n\
         labels = {{ team = \"sales\" }}\n",
        alertmanager.at
    ));
    let now = SystemClock.wall();
    let told = |kind: &str, data: &Value, at: Wall| {
        let event = json!({ "id": "evt_1", "event": kind, "created_at": at.rfc3339(), "data": data,
            "context": { "device": { "id": "kiosk-12", "site": "Hall 3" }, "channel": "device", "clock": "trusted" } });
        std::fs::write(home.path("event.json"), event.to_string()).unwrap();
        home.ok(&["trigger", "alerts", "--event", home.path("event.json").to_str().unwrap()]);
    };
    let names = || -> Vec<String> { alertmanager.alerts().iter().map(|a| a["labels"]["alertname"].as_str().unwrap().to_owned()).collect() };
    let failing = json!({ "destination": "crm", "state": "offline", "since": Wall(now.0 - 60_000).rfc3339(), "waiting": 3 });
    told("destination.failing", &failing, now);
    told("destination.failing", &failing, now);
    eventually("one alert is raised, once", || names() == ["DestinationFailing"]);
    let alert = &alertmanager.alerts()[0];
    let labels = json!({ "alertname": "DestinationFailing", "job": "leadsbotd", "device": "kiosk-12", "site": "Hall 3",
        "destination": "crm", "severity": "error", "team": "sales" });
    assert_eq!(alert["labels"], labels);
    assert_eq!(alert["annotations"]["summary"], "kiosk-12: crm is failing");
    home.ok(&["trigger", "alerts", "--kind", "storage.low"]);
    eventually("two alerts", || names().len() == 2);
    told("destination.recovered", &failing, now);
    eventually("the alert is over, the other is not", || names() == ["StorageLow"]);
}

/// A real home server with one account in one room. Dropping it ends it.
struct Synapse {
    child: Child,
    at: SocketAddr,
    token: String,
    room: String,
}

impl Synapse {
    /// Takes two messages at once and then two a second.
    fn start(home: &Home) -> Option<Self> {
        let program = peer("synapse_homeserver", "pip install matrix-synapse, and put its bin folder on PATH")?;
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = home.path("synapse");
        std::fs::create_dir(&folder).unwrap();
        let (config, data) = (folder.join("homeserver.yaml"), folder.display());
        let text = format!(
            "server_name: localhost\nreport_stats: false\nsigning_key_path: {data}/key\nmedia_store_path: {data}/media\npid_file: {data}/pid\n\
             listeners: [{{ port: {}, type: http, tls: false, bind_addresses: [127.0.0.1], resources: [{{ names: [client] }}] }}]\n\
             database: {{ name: sqlite3, args: {{ database: {data}/db }} }}\nmacaroon_secret_key: a\nform_secret: b\ntrusted_key_servers: []\n\
             enable_registration: true\nenable_registration_without_verification: true\n\
             rc_message: {{ per_second: 2, burst_count: 2 }}\n",
            at.port()
        );
        std::fs::write(&config, text).unwrap();
        let command = || {
            let mut command = Command::new(&program);
            command.current_dir(&folder).arg("--config-path").arg(&config).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        assert!(command().arg("--generate-keys").status().expect("Synapse runs").success());
        let mut synapse = Self { child: command().spawn().expect("Synapse starts"), at, token: String::new(), room: String::new() };
        eventually("Synapse answers", || Client::new(at).send("GET", "/health", &[], b"").is_some_and(|a| a.status == 200));
        let account = json!({ "username": "kiosk", "password": "a-password-of-the-kiosk", "auth": { "type": "m.login.dummy" } });
        synapse.token = synapse.ask("POST", "register", &account)["access_token"].as_str().expect("a token").to_owned();
        synapse.room = synapse.ask("POST", "createRoom", &json!({}))["room_id"].as_str().expect("a room").to_owned();
        Some(synapse)
    }

    fn ask(&self, method: &str, what: &str, body: &Value) -> Value {
        let headers = [("authorization", format!("Bearer {}", self.token)), ("content-type", "application/json".to_owned())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).filter(|(_, v)| *v != "Bearer ").collect();
        let body = if method == "GET" { String::new() } else { body.to_string() };
        Client::new(self.at).send(method, &format!("/_matrix/client/v3/{what}"), &headers, body.as_bytes()).expect("an answer").json()
    }

    /// The texts of the messages in the room, the oldest first.
    fn messages(&self) -> Vec<String> {
        let page = self.ask("GET", &format!("rooms/{}/messages?dir=f&limit=100", self.room), &Value::Null);
        let texts = page["chunk"].as_array().expect("events").iter().filter(|e| e["type"] == "m.room.message");
        texts.map(|e| e["content"]["body"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_matrix_server_that_slows_us_down_shows_every_message_once() {
    let home = Home::new("");
    let Some(synapse) = Synapse::start(&home) else { return };
    let room = |token: &str| {
        let (at, room) = (synapse.at, &synapse.room);
        format!("[[destination]]\nname = \"room\"\ntype = \"matrix\"\nurl = \"http://{at}\"\nroom = \"{room}\"\nsecret = \"{token}\"\n")
    };
    home.configure(&room(&synapse.token));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..6 {
        client.lead(&json!({ "name": format!("Jane {n}"), "message": EVIL }));
    }
    eventually("all are there", || synapse.messages().len() >= 6);
    eventually("all are done", || home.ok(&["--json", "queue", "list"]).is_empty());
    assert!(daemon.log().contains("M_LIMIT_EXCEEDED"), "it was never asked to slow down:\n{}", daemon.log());
    let lead = json!({ "id": "evt_1", "event": "lead.created", "created_at": "2026-11-23T12:00:00.000Z", "data": { "name": "Jim" }, "context": {} });
    std::fs::write(home.path("event.json"), lead.to_string()).unwrap();
    let trigger = || home.run(&["trigger", "room", "--event", home.path("event.json").to_str().unwrap()]);
    for _ in 0..2 {
        eventually("the server has room for it", || trigger().status.success());
    }
    let messages = synapse.messages();
    let of = |name: &str| messages.iter().filter(|m| m.starts_with(&format!("New lead: {name}"))).count();
    assert_eq!((of("Jim"), messages.len()), (1, 7), "{messages:?}");
    assert!((0..6).all(|n| of(&format!("Jane {n}")) == 1), "{messages:?}");
    home.configure(&room("syt_wrong"));
    assert!(String::from_utf8_lossy(&trigger().stdout).contains("M_UNKNOWN_TOKEN"));
}
