//! Message brokers that others wrote: Mosquitto over MQTT, nats-server with JetStream. Each test starts its own, at a free port of loopback.

use crate::support::http::Client;
use crate::support::peers::peer;
use crate::support::{Daemon, Home, SECRET, eventually, free_port};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use leadsbotd::secret::Secret;
use leadsbotd::signature;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PASSWORD: &str = "correct-horse-battery";

/// A program of somebody else's that is started, killed and started again.
struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl Server {
    fn start(program: PathBuf, arguments: Vec<String>, port: u16) -> Self {
        let mut server = Self { program, arguments, port, child: None };
        server.again();
        server
    }

    #[track_caller]
    fn again(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("it starts"));
        eventually("the broker takes connections", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// kill -9.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is killed");
            child.wait().expect("it is gone");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `ca.pem`, and `cert.pem` with `key.pem` of a server called localhost.
fn certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Else it would be called as its leaf is, and OpenSSL takes such a leaf for self-signed.
    params.distinguished_name.push(DnType::CommonName, "Authority");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    for (name, pem) in [("ca.pem", ca.pem()), ("cert.pem", leaf.pem()), ("key.pem", key.serialize_pem())] {
        std::fs::write(folder.join(name), pem).unwrap();
    }
}

fn state(client: &Client, name: &str) -> (String, String) {
    let ready = client.get("/readyz").json();
    let lane = ready["destinations"].as_array().unwrap().iter().find(|d| d["name"] == name).unwrap().clone();
    (lane["state"].as_str().unwrap().to_owned(), lane["reason"].as_str().unwrap().to_owned())
}

fn leads(client: &Client, count: usize) -> Vec<String> {
    (0..count).map(|n| client.lead(&json!({"name": format!("Visitor {n}"), "source": "stand/4"})).1).collect()
}

// ---- MQTT ------------------------------------------------------------------------------------------

const MOSQUITTO: &str = "apt-get install mosquitto mosquitto-clients";

/// Mosquitto with these lines in its configuration, in a folder that is its own.
fn mosquitto(folder: &Path, more: &str) -> Option<Server> {
    let (program, port) = (peer("mosquitto", MOSQUITTO)?, free_port());
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, format!("user root\nlistener {port} 127.0.0.1\n{more}")).unwrap();
    Some(Server::start(program, vec!["-c".to_owned(), config.display().to_string()], port))
}

/// mosquitto_sub with a session of its own: what was published reaches it even if it came while the broker was away.
struct Reader {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Reader {
    /// Prints topic, content type, user properties and payload.
    fn start(port: u16, topic: &str, more: &[&str]) -> Option<Self> {
        let mut child = Command::new(peer("mosquitto_sub", MOSQUITTO)?)
            .args(["-h", "localhost", "-p", &port.to_string(), "-V", "5", "-q", "1", "-i", "reader", "-c", "-x", "3600", "-t", topic])
            .args(["-D", "connect", "receive-maximum", "5000", "-F", "%t|%r|%C|%P|%p"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (into, stdout) = (Arc::clone(&lines), child.stdout.take().unwrap());
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line)));
        Some(Self { child, lines })
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Ids of the events it was given, in order.
    fn ids(&self) -> Vec<String> {
        self.lines().iter().map(|line| event(line)["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn event(line: &str) -> Value {
    serde_json::from_str(line.splitn(5, '|').last().unwrap()).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// Waits until the broker has written down that somebody subscribes.
fn subscribed(database: &Path) {
    let wanted = b"reader";
    eventually("the subscription is on the disk", || {
        std::fs::read(database).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|w| w == wanted))
    });
}

fn mqtt(name: &str, url: &str, more: &str) -> String {
    format!("[[destination]]\nname = \"{name}\"\ntype = \"mqtt\"\nurl = \"{url}\"\n{more}\n")
}

#[test]
fn a_lead_reaches_a_subscriber_with_its_id_and_a_signature_and_only_where_its_sender_may_publish() {
    let home = Home::new("");
    let (passwords, access) = (home.path("passwords"), home.path("access"));
    let Some(tool) = peer("mosquitto_passwd", MOSQUITTO) else { return };
    std::fs::write(&passwords, "").unwrap();
    for user in ["kiosk", "reader"] {
        assert!(Command::new(&tool).arg("-b").arg(&passwords).args([user, PASSWORD]).status().unwrap().success());
    }
    std::fs::write(&access, "user kiosk\ntopic write leads/#\nuser reader\ntopic read leads/#\n").unwrap();
    let rules = format!(
        "allow_anonymous false\npassword_file {}\nacl_file {}\npersistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes true\n",
        passwords.display(),
        access.display(),
        home.path("").display()
    );
    let Some(broker) = mosquitto(&home.path(""), &rules) else { return };
    let Some(reader) = Reader::start(broker.port, "leads/#", &["-u", "reader", "-P", PASSWORD]) else { return };
    subscribed(&home.path("mosquitto.db"));
    let url = format!("mqtt://localhost:{}", broker.port);
    let user = format!("user = \"kiosk\"\nsecret = \"{PASSWORD}\"\n");
    let topic = "topic = \"leads/{{ data.source }}/{{ event }}\"\n";
    let signing = format!("retain = true\nsigning = {{ secret = \"{SECRET}\" }}\n");
    let mut more = mqtt("bus", &url, &format!("{user}{topic}{signing}"));
    more.push_str(&mqtt("stranger", &url, &format!("user = \"kiosk\"\nsecret = \"wrong-password-here\"\n{topic}")));
    more.push_str(&mqtt("elsewhere", &url, &format!("{user}topic = \"private/leads\"\n")));
    home.configure(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    // More than the broker takes before the first must be acknowledged.
    let ids = leads(&client, 50);
    eventually("all have come", || reader.ids().len() >= 50);
    assert_eq!(reader.ids(), ids, "in order, and each once");
    let secret = Secret::new(SECRET).unwrap();
    for line in reader.lines() {
        let parts: Vec<&str> = line.splitn(5, '|').collect();
        assert_eq!((parts[0], parts[2]), ("leads/stand_4/lead.created", "application/json"));
        let id = event(&line)["id"].as_str().unwrap().to_owned();
        let signed = signature::leadsbot(&secret, parts[4].as_bytes());
        assert_eq!(parts[3], format!("event-id:{id} event:lead.created signature:{signed}"));
    }
    for (name, what) in [("stranger", "compare user"), ("elsewhere", "may not publish")] {
        eventually("it is blocked", || state(&client, name).0 == "blocked");
        assert!(state(&client, name).1.contains(what), "{:?}", state(&client, name));
    }
    drop(reader);
    let Some(late) = Reader::start(broker.port, "leads/stand_4/#", &["-u", "reader", "-P", PASSWORD, "-i", "late"]) else { return };
    eventually("the last one was retained", || !late.lines().is_empty());
    assert_eq!((late.ids(), late.lines()[0].split('|').nth(1)), (vec![ids[49].clone()], Some("1")));
    assert!(!daemon.log().contains(PASSWORD), "a password in the log");
}

#[test]
fn leads_travel_by_mqtt_3_over_tls_to_a_broker_whose_certificate_holds() {
    let home = Home::new("");
    certificates(&home.path(""));
    let file = |name: &str| home.path(name).display().to_string();
    let tls = format!("allow_anonymous true\ncertfile {}\nkeyfile {}\n", file("cert.pem"), file("key.pem"));
    let Some(broker) = mosquitto(&home.path(""), &tls) else { return };
    let Some(reader) = Reader::start(broker.port, "leadsbot/#", &["--cafile", &file("ca.pem"), "-W", "300"]) else { return };
    let url = format!("mqtts://localhost:{}", broker.port);
    let by_address = format!("mqtts://127.0.0.1:{}", broker.port);
    home.configure(&format!(
        "ca_file = {:?}\n[device]\nid = \"kiosk-7\"\n{}{}{}",
        home.path("ca.pem"),
        mqtt("old", &url, "version = 4"),
        mqtt("new", &url, ""),
        mqtt("misnamed", &by_address, "")
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut seen = Vec::new();
    eventually("the reader subscribes, and hears of a lead twice", || {
        seen.extend(leads(&client, 1));
        std::thread::sleep(Duration::from_millis(200));
        seen.iter().any(|id| reader.ids().iter().filter(|i| *i == id).count() == 2)
    });
    let lines = reader.lines();
    let topics: BTreeSet<&str> = lines.iter().map(|line| line.split('|').next().unwrap()).collect();
    assert_eq!(topics, BTreeSet::from(["leadsbot/kiosk-7/lead.created"]));
    eventually("a certificate of another name is not taken", || state(&client, "misnamed").0 == "blocked");
    assert!(state(&client, "misnamed").1.contains("certificate"), "{:?}", state(&client, "misnamed"));
}

/// How often the log says that each event was delivered: that the broker has acknowledged it.
fn acknowledged(daemon: &Daemon) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for line in daemon.log().lines().filter(|line| line.contains(": delivered delivered: ")) {
        *times.entry(line.split(' ').find(|word| word.starts_with("evt_")).unwrap().to_owned()).or_default() += 1;
    }
    times
}

/// Captures leads while the broker is killed and started again; all must reach the subscriber, but for what the broker had acknowledged and
/// took with it: Mosquitto acknowledges before its own file is written.
#[track_caller]
fn survives(version: &str) {
    let home = Home::new("");
    let rules = format!(
        "allow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\npersistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes true\n",
        home.path("").display()
    );
    let Some(mut broker) = mosquitto(&home.path(""), &rules) else { return };
    let Some(reader) = Reader::start(broker.port, "leadsbot/#", &[]) else { return };
    subscribed(&home.path("mosquitto.db"));
    home.configure(&mqtt("bus", &format!("mqtt://127.0.0.1:{}", broker.port), version));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (mut ids, mut lost_by_the_broker) = (Vec::new(), BTreeSet::new());
    for round in 0..3 {
        let before = reader.ids().len();
        let capturing = std::thread::spawn({
            let client = client.clone();
            move || leads(&client, 150)
        });
        eventually("some have come", || reader.ids().len() > before + 20);
        broker.kill();
        ids.extend(capturing.join().unwrap());
        eventually("the lane holds", || state(&client, "bus").0 == "offline");
        let had: BTreeSet<String> = reader.ids().into_iter().collect();
        lost_by_the_broker.extend(acknowledged(&daemon).into_keys().filter(|id| !had.contains(id)));
        assert!(lost_by_the_broker.len() < 100, "it keeps them for one moment only");
        broker.again();
        eventually("all have come", || {
            let have: BTreeSet<String> = reader.ids().into_iter().collect();
            ids.iter().all(|id| have.contains(id) || lost_by_the_broker.contains(id))
        });
        assert_eq!(ids.len(), (round + 1) * 150);
    }
    // One that the broker sent on twice it had from its own store: what it has acknowledged it is not sent again.
    eventually("all are acknowledged", || acknowledged(&daemon).len() == ids.len());
    assert!(acknowledged(&daemon).values().all(|times| *times == 1), "{:?}", acknowledged(&daemon));
    // While idle the broker is started anew: the next lead finds a new connection by itself.
    broker.kill();
    broker.again();
    let log = daemon.log().lines().count();
    ids.extend(leads(&client, 1));
    eventually("it has come", || reader.ids().contains(ids.last().unwrap()));
    let since: Vec<String> = daemon.log().lines().skip(log).map(str::to_owned).collect();
    assert!(!since.iter().any(|line| line.contains(": temporary ") || line.contains(": offline ")), "{since:?}");
}

#[test]
fn no_lead_is_lost_when_a_broker_of_mqtt_5_is_killed_and_comes_back() {
    survives("");
}

#[test]
fn no_lead_is_lost_when_a_broker_of_mqtt_3_is_killed_and_comes_back() {
    survives("version = 4");
}

// ---- NATS ------------------------------------------------------------------------------------------

const NATS: &str = "apt-get install nats-server";

/// nats-server with JetStream and these lines in its configuration.
fn nats_server(folder: &Path, more: &str) -> Option<Server> {
    let (program, port) = (peer("nats-server", NATS)?, free_port());
    let config = folder.join("nats.conf");
    let store = folder.join("jetstream");
    std::fs::write(&config, format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?} }}\n{more}\n")).unwrap();
    Some(Server::start(program, vec!["-c".to_owned(), config.display().to_string()], port))
}

/// A client of our own, that asks JetStream's API and reads streams back.
struct Nats {
    stream: BufReader<TcpStream>,
}

impl Nats {
    fn connect(port: u16, login: &str) -> Self {
        let mut nats = Self { stream: BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap()) };
        nats.stream.get_ref().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(nats.line().starts_with("INFO "));
        nats.say(&format!("CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true{login}}}\r\nSUB in 1\r\nPING\r\n"));
        while nats.line() != "PONG" {}
        nats
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stream.read_line(&mut line).unwrap() > 0, "the server has gone");
        assert!(!line.starts_with("-ERR"), "{line}");
        line.trim_end().to_owned()
    }

    /// A request of the API; gives its answer.
    fn ask(&mut self, subject: &str, body: &Value) -> Value {
        let body = body.to_string();
        self.say(&format!("PUB $JS.API.{subject} in {}\r\n{body}\r\n", body.len()));
        loop {
            let line = self.line();
            if line == "PING" {
                self.say("PONG\r\n");
            }
            if line.starts_with("MSG ") {
                let length: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
                let mut payload = vec![0; length + 2];
                self.stream.read_exact(&mut payload).unwrap();
                return serde_json::from_slice(&payload).unwrap();
            }
        }
    }

    fn create(&mut self, more: &Value) {
        let mut config = json!({"name":"LEADS","subjects":["leads.>"],"storage":"file","num_replicas":1,"retention":"limits"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.ask("STREAM.CREATE.LEADS", &config);
        assert!(made["error"].is_null(), "{made}");
    }

    /// Everything in the stream: subject, headers, body.
    fn all(&mut self) -> Vec<(String, String, Vec<u8>)> {
        let info = self.ask("STREAM.INFO.LEADS", &json!({}));
        let state = &info["state"];
        let (first, last) = (state["first_seq"].as_u64().unwrap(), state["last_seq"].as_u64().unwrap());
        let text = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        let mut out = Vec::new();
        for seq in first.max(1)..=last {
            let got = self.ask("STREAM.MSG.GET.LEADS", &json!({"seq":seq}));
            let message = &got["message"];
            let headers = String::from_utf8(text(&message["hdrs"])).unwrap();
            out.push((message["subject"].as_str().unwrap().to_owned(), headers, text(&message["data"])));
        }
        out
    }

    fn ids(&mut self) -> Vec<String> {
        let id = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["id"].as_str().unwrap().to_owned();
        self.all().iter().map(|(_, _, body)| id(body)).collect()
    }

    fn count(&mut self) -> u64 {
        self.ask("STREAM.INFO.LEADS", &json!({}))["state"]["messages"].as_u64().unwrap_or(0)
    }
}

fn nats(name: &str, url: &str, more: &str) -> String {
    format!("[[destination]]\nname = \"{name}\"\ntype = \"nats\"\nurl = \"{url}\"\n{more}\n")
}

#[test]
fn leads_wait_for_a_stream_that_takes_them_and_stand_in_it_with_their_ids() {
    let home = Home::new("");
    let users = format!(
        "authorization {{ users = [ {{user: admin, password: {PASSWORD:?}}}, {{user: kiosk, password: {PASSWORD:?}, permissions: {{\
         publish: {{deny: [\"private.>\"]}} }} }} ] }}"
    );
    let Some(server) = nats_server(&home.path(""), &users) else { return };
    let url = format!("nats://localhost:{}", server.port);
    let user = format!("user = \"kiosk\"\nsecret = \"{PASSWORD}\"\n");
    let signing = format!("signing = {{ secret = \"{SECRET}\" }}\n");
    let mut more =
        nats("bus", &url, &format!("{user}{signing}stream = \"LEADS\"\nsubject = \"leads.{{{{ data.source }}}}.{{{{ event }}}}\"\n"));
    more.push_str(&nats("stranger", &url, "user = \"kiosk\"\nsecret = \"wrong-password-here\"\n"));
    more.push_str(&nats("elsewhere", &url, &format!("{user}subject = \"private.leads\"\n")));
    more.push_str(&nats("other-stream", &url, &format!("{user}stream = \"OTHER\"\n")));
    home.configure(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let ids = leads(&client, 40);
    eventually("nobody takes them", || state(&client, "bus").0 == "blocked");
    assert!(state(&client, "bus").1.contains("no stream takes this subject"), "{:?}", state(&client, "bus"));
    let mut reader = Nats::connect(server.port, &format!(",\"user\":\"admin\",\"pass\":\"{PASSWORD}\""));
    reader.create(&json!({"max_msgs":10,"discard":"new"}));
    eventually("the stream is full", || state(&client, "bus").0 == "throttled");
    assert!(state(&client, "bus").1.contains("the stream is full"), "{:?}", state(&client, "bus"));
    assert_eq!(reader.count(), 10);
    for (name, what) in [("stranger", "compare user and secret"), ("elsewhere", "may not publish")] {
        eventually("it is blocked", || state(&client, name).0 == "blocked");
        assert!(state(&client, name).1.contains(what), "{:?}", state(&client, name));
    }
    eventually("it is told which stream it got", || daemon.log().contains("another stream than the configured one"));
    let mut config = reader.ask("STREAM.INFO.LEADS", &json!({}))["config"].clone();
    config["max_msgs"] = json!(-1);
    assert!(reader.ask("STREAM.UPDATE.LEADS", &config)["error"].is_null());
    eventually("all have come", || reader.count() == 40);
    assert_eq!(reader.ids().into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    let secret = Secret::new(SECRET).unwrap();
    for (subject, headers, body) in reader.all() {
        assert_eq!(subject, "leads.stand/4.lead_created");
        let event: Value = serde_json::from_slice(&body).unwrap();
        let id = event["id"].as_str().unwrap();
        let signed = signature::leadsbot(&secret, &body);
        for wanted in [
            format!("Nats-Msg-Id: {id}\r\n"),
            "Content-Type: application/json\r\n".to_owned(),
            format!("X-LeadsBot-Signature: {signed}\r\n"),
        ] {
            assert!(headers.contains(&wanted), "{headers}");
        }
    }
    assert!(!daemon.log().contains(PASSWORD), "a password in the log");
}

#[test]
fn no_lead_is_lost_and_none_stands_twice_in_a_stream_whose_server_is_killed_and_comes_back() {
    let home = Home::new("");
    let Some(mut server) = nats_server(&home.path(""), "") else { return };
    let mut reader = Nats::connect(server.port, "");
    reader.create(&json!({"duplicate_window":600_000_000_000_u64}));
    home.configure(&nats("bus", &format!("nats://127.0.0.1:{}", server.port), ""));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..3 {
        let before = reader.count();
        let capturing = std::thread::spawn({
            let client = client.clone();
            move || leads(&client, 150)
        });
        eventually("some have come", || reader.count() > before + 20);
        server.kill();
        ids.extend(capturing.join().unwrap());
        eventually("the lane holds", || state(&client, "bus").0 == "offline");
        server.again();
        reader = Nats::connect(server.port, "");
        eventually("all have come", || reader.count() >= ids.len() as u64 && state(&client, "bus").0 == "open");
    }
    let (mut stand, mut wanted) = (reader.ids(), ids.clone());
    stand.sort();
    wanted.sort();
    assert_eq!(stand, wanted);
    // While idle the server is started anew: the next lead finds a new connection by itself.
    server.kill();
    server.again();
    let log = daemon.log().lines().count();
    ids.extend(leads(&client, 1));
    reader = Nats::connect(server.port, "");
    eventually("it has come", || reader.count() == ids.len() as u64);
    let since: Vec<String> = daemon.log().lines().skip(log).map(str::to_owned).collect();
    assert!(!since.iter().any(|line| line.contains(": temporary ") || line.contains(": offline ")), "{since:?}");
}

#[cfg(feature = "nats")]
#[test]
fn leads_travel_over_tls_to_a_nats_server_that_knows_the_senders_key() {
    use leadsbotd::delivery::nats::nkey::Nkey;
    // Of a user that exists nowhere: 32 bytes of ones.
    let seed = "SUAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAN7EY";
    let public = Nkey::from_seed(seed).map(|key| key.public());
    let home = Home::new("");
    certificates(&home.path(""));
    let config = format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}\nauthorization {{ users = [ {{nkey: {:?}}} ] }}",
        home.path("cert.pem"),
        home.path("key.pem"),
        public.expect("a whole seed")
    );
    let Some(server) = nats_server(&home.path(""), &config) else { return };
    let login = format!("secret = \"{seed}\"\n");
    let mut more = format!("ca_file = {:?}\n", home.path("ca.pem"));
    more.push_str(&nats("asks", &format!("tls://localhost:{}", server.port), &login));
    more.push_str(&nats("is-told", &format!("nats://localhost:{}", server.port), &login));
    more.push_str(&nats("misnamed", &format!("tls://127.0.0.1:{}", server.port), &login));
    more.push_str(&nats("unknown", &format!("tls://localhost:{}", server.port), "secret = \"a-token-it-does-not-know\"\n"));
    home.configure(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    leads(&client, 1);
    // There is no stream: whoever is told that has been let in.
    for (name, what) in
        [("asks", "no stream"), ("is-told", "no stream"), ("misnamed", "certificate"), ("unknown", "compare user and secret")]
    {
        eventually("it is blocked", || state(&client, name).0 == "blocked");
        assert!(state(&client, name).1.contains(what), "{name}: {:?}", state(&client, name));
    }
    assert!(!daemon.log().contains(seed), "a seed in the log");
}

#[test]
fn a_lead_too_large_for_a_broker_is_a_dead_letter_and_the_others_arrive() {
    let home = Home::new("");
    let Some(server) = nats_server(&home.path(""), "max_payload: 2048") else { return };
    let Some(broker) = mosquitto(&home.path(""), "allow_anonymous true\nmax_packet_size 2048\n") else { return };
    let mut reader = Nats::connect(server.port, "");
    reader.create(&json!({}));
    home.configure(&format!(
        "rejected_attempts = 2\n{}{}",
        nats("bus", &format!("nats://127.0.0.1:{}", server.port), ""),
        mqtt("hall", &format!("mqtt://127.0.0.1:{}", broker.port), "")
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut ids = leads(&client, 5);
    let (_, large) = client.lead(&json!({"name":"Visitor","message":"x".repeat(3000)}));
    ids.extend(leads(&client, 5));
    for name in ["bus", "hall"] {
        eventually("it is a dead letter", || home.ok(&["queue", "list", name, "--state", "dead"]).contains(&large));
    }
    eventually("all others have come", || reader.count() == 10);
    assert_eq!(reader.ids().into_iter().collect::<BTreeSet<_>>(), ids.iter().cloned().collect());
    let delivered = |id: &String| daemon.log().contains(&format!("destination hall: {id} attempt 1: delivered"));
    eventually("the other broker has them too", || ids.iter().all(delivered));
    assert_eq!((state(&client, "bus").0, state(&client, "hall").0), ("open".to_owned(), "open".to_owned()));
}
