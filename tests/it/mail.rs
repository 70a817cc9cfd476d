//! Mails over real SMTP: aiosmtpd takes them, and Python's email package reads them; Debian's Exim takes them as well.

use crate::support::http::Client;
use crate::support::peers::{missing, peer, peer_at};
use crate::support::{Daemon, Home, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

/// An interpreter that has aiosmtpd.
#[track_caller]
fn python() -> Option<PathBuf> {
    let how = "python3 -m venv DIR; DIR/bin/pip install aiosmtpd; and name DIR/bin/python in it";
    let python = peer_at("LEADSBOT_PYTHON", how)?;
    if !Command::new(&python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status().expect("python runs").success() {
        missing("aiosmtpd", "pip install aiosmtpd in the environment of LEADSBOT_PYTHON");
        return None;
    }
    Some(python)
}

/// A mail server. Dropping it kills it as a power cut would.
struct MailServer {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl MailServer {
    /// Keeps its mails in `folder`, in which it finds those of an earlier one.
    #[track_caller]
    fn start(python: &Path, folder: PathBuf, options: &Value) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/mail_server.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(&folder)
            .arg(options.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the mail server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening on ").and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("it said {line:?}"));
        Self { child, port, folder }
    }

    /// Without TLS and login.
    #[track_caller]
    fn plain(python: &Path, home: &Home) -> Self {
        Self::start(python, home.path("mails"), &json!({"tls":"none"}))
    }

    fn order(&self, orders: &Value) {
        std::fs::write(self.folder.join("orders.part"), orders.to_string()).unwrap();
        std::fs::rename(self.folder.join("orders.part"), self.folder.join("orders.json")).unwrap();
    }

    /// What it has kept, in order.
    fn mails(&self) -> Vec<Value> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.to_string_lossy().ends_with(".mail.json"));
        files.sort();
        files.iter().map(|file| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).collect()
    }

    fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.folder.clone()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A destination named "sales"; `more` may hold any of its keys.
fn destination(port: u16, more: &str) -> String {
    let to = if more.contains("\nto = ") { "" } else { "to = [\"sales@example.com\"]\n" };
    format!(
        "[[destination]]\nname = \"sales\"\ntype = \"email\"\nserver = \"localhost\"\nport = {port}\nfrom = \"Kiosk <kiosk@example.com>\"\n{to}{more}\n"
    )
}

fn header<'a>(mail: &'a Value, name: &str) -> &'a str {
    mail["headers"][name].as_str().unwrap_or_default()
}

/// The ids of the events in these mails.
fn events(mails: &[Value]) -> BTreeSet<String> {
    mails.iter().flat_map(|mail| header(mail, "x-leadsbot-event-id").split_whitespace().map(str::to_owned)).collect()
}

fn lane(client: &Client) -> (String, String) {
    let ready = client.get("/readyz").json();
    let lane = &ready["destinations"][0];
    (lane["state"].as_str().unwrap().to_owned(), lane["reason"].as_str().unwrap_or_default().to_owned())
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Options of a server with a certificate for localhost, which `home` trusts through ca.pem.
fn with_certificate(home: &Home, ca: &CertifiedIssuer<'static, KeyPair>, tls: &str) -> Value {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    std::fs::write(home.path("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(home.path("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(home.path("ca.pem"), ca.pem()).unwrap();
    json!({"tls":tls,"cert":home.path("cert.pem"),"key":home.path("key.pem"),"user":"kiosk@example.com","password":PASSWORD})
}

fn trusting(home: &Home) -> String {
    format!("ca_file = {:?}\n", home.path("ca.pem"))
}

fn login(password: &str) -> String {
    format!("user = \"kiosk@example.com\"\nsecret = \"{password}\"\n")
}

#[test]
fn a_lead_arrives_over_starttls_as_a_mail_that_others_can_read() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::start(&python, home.path("mails"), &with_certificate(&home, &authority(), "starttls"));
    let more = format!("cc = [\"Jürgen Groß <archive@example.com>\"]\n{}", login(PASSWORD));
    home.configure(&format!("{}{}", trusting(&home), destination(server.port, &more)));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (_, event) = client.lead(&json!({"name":"Zoë 日本","email":"zoe@example.org","company":"Größe & Co",
        "message":"First\n.\n..\n.dot\nGrüße \u{1f600}","fields":{"interest":"a < b"}}));
    eventually("it arrives", || server.mails().len() == 1);
    let mail = server.mails().remove(0);
    assert_eq!(mail["from"], "kiosk@example.com");
    assert_eq!(mail["to"], json!(["sales@example.com", "archive@example.com"]));
    assert_eq!((&mail["encrypted"], &mail["user"]), (&json!(true), &json!("PLAIN kiosk@example.com")));
    assert_eq!(mail["defects"], json!([]), "{mail}");
    assert!(mail["longest"].as_u64().unwrap() <= 998);
    for (name, value) in [
        ("from", "Kiosk <kiosk@example.com>"),
        ("to", "sales@example.com"),
        ("cc", "Jürgen Groß <archive@example.com>"),
        ("reply-to", "zoe@example.org"),
        ("subject", "New lead: Zoë 日本 (Größe & Co)"),
        ("auto-submitted", "auto-generated"),
        ("x-leadsbot-event-id", &event),
    ] {
        assert_eq!(header(&mail, name), value, "{name}");
    }
    assert!(header(&mail, "message-id").starts_with(&format!("<{event}.")) && header(&mail, "message-id").ends_with("@example.com>"));
    assert_eq!(mail["type"], "multipart/alternative");
    let parts = mail["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    for (part, kind) in parts.iter().zip(["text/plain", "text/html"]) {
        assert_eq!((&part["type"], &part["charset"], &part["defects"]), (&json!(kind), &json!("utf-8"), &json!([])));
    }
    let (text, html) = (parts[0]["text"].as_str().unwrap().replace("\r\n", "\n"), parts[1]["text"].as_str().unwrap());
    assert!(text.contains("First\n.\n..\n.dot\nGrüße \u{1f600}\n") && text.contains("interest: a < b"), "{text}");
    assert!(html.contains("Größe &amp; Co") && html.contains("a &lt; b") && html.contains("Zoë 日本"), "{html}");
    eventually("it is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
}

#[test]
fn a_drain_goes_over_few_connections_with_tls_from_the_first_byte() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let mut options = with_certificate(&home, &authority(), "wrapped");
    options["mechanisms"] = json!(["LOGIN"]);
    let server = MailServer::start(&python, home.path("mails"), &options);
    home.configure(&format!("{}{}", trusting(&home), destination(server.port, &format!("security = \"tls\"\n{}", login(PASSWORD)))));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let sent: BTreeSet<String> = (0..30).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).1).collect();
    eventually("all of them arrive", || events(&server.mails()) == sent);
    let mails = server.mails();
    assert_eq!(mails.len(), 30);
    assert!(mails.iter().all(|mail| mail["user"] == "LOGIN kiosk@example.com" && mail["encrypted"] == true));
    let connections: BTreeSet<u64> = mails.iter().map(|mail| mail["session"].as_u64().unwrap()).collect();
    assert!(connections.len() <= 3, "{} connections for 30 mails", connections.len());
}

#[test]
fn a_wrong_password_holds_every_lead_until_it_is_put_right_and_is_shown_nowhere() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::start(&python, home.path("mails"), &with_certificate(&home, &authority(), "starttls"));
    let configure = |password: &str| home.configure(&format!("{}{}", trusting(&home), destination(server.port, &login(password))));
    configure("another horse battery");
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let sent: BTreeSet<String> = (0..3).map(|n| client.lead(&json!({"name":format!("Visitor {n}")})).1).collect();
    eventually("the lane is blocked", || lane(&client).0 == "blocked");
    assert!(lane(&client).1.contains("SMTP 535 after AUTH"), "{:?}", lane(&client));
    let tried = home.run(&["trigger", "sales"]);
    let told = format!("{}{}", String::from_utf8_lossy(&tried.stdout), String::from_utf8_lossy(&tried.stderr));
    assert!(!tried.status.success() && told.contains("answer: AUTH 535"), "{told}");
    assert!(home.ok(&["preview", "sales"]).contains("RCPT TO: sales@example.com"));
    for shown in [&told, &home.ok(&["preview", "sales"]), &home.ok(&["check"]), &daemon.log()] {
        assert!(!shown.contains("horse"), "{shown}");
    }
    configure(PASSWORD);
    daemon.signal(Signal::HUP);
    eventually("all of them arrive", || events(&server.mails()) == sent);
    assert_eq!(server.mails().len(), 3);
    assert!(home.ok(&["trigger", "sales"]).contains("delivered: SMTP 250"));
}

#[test]
fn nothing_is_said_to_a_server_without_tls_or_with_a_strangers_certificate() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let options = with_certificate(&home, &authority(), "starttls");
    // Another authority is trusted than the one that made the certificate.
    std::fs::write(home.path("ca.pem"), authority().pem()).unwrap();
    let stranger = MailServer::start(&python, home.path("mails"), &options);
    let plain = MailServer::start(&python, home.path("plain"), &json!({"tls":"none"}));
    for (server, more, said) in [
        (&stranger, "", "certificate is not acceptable"),
        (&plain, "", "does not offer STARTTLS"),
        (&plain, "security = \"tls\"\n", "does not speak TLS at this port"),
    ] {
        home.configure(&format!("{}{}", trusting(&home), destination(server.port, more)));
        let tried = home.run(&["trigger", "sales"]);
        let told = String::from_utf8_lossy(&tried.stdout);
        assert!(!tried.status.success() && told.contains("refused: ") && told.contains(said), "{told}");
        assert_eq!(server.mails().len(), 0);
    }
}

#[test]
fn a_server_killed_in_the_middle_of_a_drain_costs_nothing() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let mut server = MailServer::plain(&python, &home);
    let port = server.port;
    home.configure(&destination(port, "security = \"none\"\nworkers = 2\n"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut sent = BTreeSet::new();
    for round in 1..=3 {
        sent.extend((0..30).map(|n| client.lead(&json!({"name":format!("Visitor {round}-{n}")})).1));
        let before = server.mails().len();
        eventually("some arrive", || server.mails().len() >= before + 3);
        let folder = server.kill();
        server = MailServer::start(&python, folder, &json!({"tls":"none","port":port}));
    }
    eventually("all of them arrive", || events(&server.mails()) == sent);
    eventually("all are done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    let mails = server.mails();
    let ids: BTreeSet<&str> = mails.iter().map(|mail| header(mail, "message-id")).collect();
    assert_eq!(ids.len(), sent.len(), "a mail that came twice has the same Message-ID");
    // Of each worker one mail was under way at each kill.
    assert!(mails.len() <= sent.len() + 6, "{} mails for {} leads", mails.len(), sent.len());
}

#[test]
fn a_mail_whose_taking_nobody_confirmed_comes_again_the_same() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::plain(&python, &home);
    home.configure(&destination(server.port, "security = \"none\"\n"));
    server.order(&json!({"after":"drop"}));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane Smith","message":"Grüße"}));
    eventually("it came twice", || server.mails().len() == 2);
    let mails = server.mails();
    assert_eq!(mails[0]["bytes"], mails[1]["bytes"]);
    let log = daemon.log();
    assert!(log.contains(" attempt 1: temporary connection_reset: ") && log.contains("it may arrive twice"), "{log}");
    eventually("it is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    assert_eq!(server.mails().len(), 2);
}

#[test]
fn a_server_that_never_answers_is_waited_for_no_longer_than_was_said() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::plain(&python, &home);
    home.configure(&destination(server.port, "security = \"none\"\nconnect_timeout_seconds = 1\ntimeout_seconds = 1\n"));
    for (step, words) in [
        (json!({"MAIL":"hang"}), "did not answer within the deadline"),
        (json!({"RCPT":{"sales@example.com":"hang"}}), "did not answer within the deadline"),
        (json!({"DATA":"hang"}), "it may arrive twice"),
    ] {
        server.order(&step);
        let tried = home.run(&["trigger", "sales"]);
        let told = String::from_utf8_lossy(&tried.stdout);
        assert!(told.contains("temporary: ") && told.contains(words), "{told}");
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    home.configure(&destination(
        silent.local_addr().unwrap().port(),
        "security = \"none\"\nconnect_timeout_seconds = 1\ntimeout_seconds = 2\n",
    ));
    let told = String::from_utf8_lossy(&home.run(&["trigger", "sales"]).stdout).into_owned();
    assert!(told.contains("offline: "), "{told}");
}

#[test]
fn a_recipient_that_is_refused_keeps_no_mail_from_the_others() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::plain(&python, &home);
    home.configure(&destination(server.port, "security = \"none\"\nto = [\"gone@example.com\", \"sales@example.com\"]\n"));
    server.order(&json!({"RCPT":{"gone@example.com":"550 5.1.1 no such user"}}));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane Smith"}));
    client.lead(&json!({"name":"John Smith"}));
    eventually("they arrive", || server.mails().len() == 2);
    eventually("they are done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    assert!(server.mails().iter().all(|mail| mail["to"] == json!(["sales@example.com"])));
    assert_eq!(daemon.log().matches("RCPT 550 for the recipient gone@example.com").count(), 1, "{}", daemon.log());

    // With nobody left the destination is wrong, and everything waits.
    server.order(&json!({"RCPT":{"gone@example.com":"550 5.1.1 no such user","sales@example.com":"554 5.7.1 relay access denied"}}));
    client.lead(&json!({"name":"Joan Smith"}));
    eventually("the lane is blocked", || lane(&client).0 == "blocked");
    server.order(&json!({}));
    eventually("it arrives", || server.mails().len() == 3);
    assert_eq!(server.mails()[2]["to"], json!(["gone@example.com", "sales@example.com"]));
}

#[test]
fn greylisting_is_waited_out_and_then_everybody_has_the_mail_once() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::plain(&python, &home);
    home.configure(&destination(server.port, "security = \"none\"\nto = [\"new@example.com\", \"sales@example.com\"]\n"));
    server.order(&json!({"RCPT":{"new@example.com":"451 4.7.1 greylisted, come back later"}}));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane Smith"}));
    eventually("it was tried twice", || daemon.log().contains(" attempt 2: temporary receiver_4xx: SMTP 451 after RCPT"));
    assert_eq!(server.mails().len(), 0);
    server.order(&json!({}));
    eventually("it arrives", || server.mails().len() == 1);
    assert_eq!(server.mails()[0]["to"], json!(["new@example.com", "sales@example.com"]));
}

#[test]
fn a_mail_that_is_refused_becomes_a_dead_letter_and_leaves_the_others_going() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::plain(&python, &home);
    home.configure(&destination(server.port, "security = \"none\"\n"));
    server.order(&json!({"poison":"casino"}));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut sent = BTreeSet::new();
    for n in 0..10 {
        let message = if n == 4 { "casino" } else { "Please call." };
        let (_, event) = client.lead(&json!({"name":format!("Visitor {n}"),"message":message}));
        if n != 4 {
            sent.insert(event);
        }
    }
    eventually("the others arrive", || events(&server.mails()) == sent);
    eventually("the one is dead", || home.ok(&["queue", "list", "--state", "dead"]).contains("SMTP 554 after DATA"));
    assert_eq!(server.mails().len(), 9);
    assert_eq!(lane(&client).0, "open");
}

#[test]
fn nothing_a_visitor_types_changes_who_gets_a_mail_or_what_its_headers_are() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::plain(&python, &home);
    home.configure(&destination(
        server.port,
        "security = \"none\"\nsubject = \"{{ data.name }} {{ data.fields.more }} {{ data.message }}\"\n",
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let evil = [
        "Eve\r\nBcc: all@example.org",
        "Eve\nBcc: all@example.org\n\nHello",
        "Eve\rTo: all@example.org",
        "=?utf-8?q?Eve=0D=0ABcc:_all@example.org?=",
        "\r\n.\r\nMAIL FROM:<eve@example.org>\r\nRCPT TO:<all@example.org>\r\nDATA\r\n",
        ".\n\n.",
        "<script>alert(1)</script>",
        "Eve\u{2028}Bcc: all@example.org \u{85}X: y",
        "\u{202e}evil\u{0}",
    ];
    let mut count = 0;
    for text in evil.into_iter().map(str::to_owned).chain(["x".repeat(1500), "é".repeat(1500)]) {
        let lead = json!({"name":text.chars().take(190).collect::<String>(),"company":text.chars().take(190).collect::<String>(),
            "email":"eve?bcc=all@example.org","message":text,"fields":{"more":text}});
        if client.json("POST", "/api/v1/leads", &lead).status == 201 {
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} were taken");
    eventually("they arrive", || server.mails().len() == count);
    for mail in server.mails() {
        assert_eq!(mail["to"], json!(["sales@example.com"]));
        let names: Vec<&str> = mail["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "Message-ID",
                "Date",
                "From",
                "To",
                "Reply-To",
                "Subject",
                "Auto-Submitted",
                "X-LeadsBot-Event-Id",
                "MIME-Version",
                "Content-Type"
            ]
        );
        assert_eq!(mail["parts"].as_array().unwrap().len(), 2);
        assert_eq!(mail["defects"], json!([]), "{mail}");
        assert!(!header(&mail, "subject").contains(['\r', '\n']) && mail["longest"].as_u64().unwrap() <= 998);
        assert!(!mail["parts"][1]["text"].as_str().unwrap().contains("<script>"));
    }
}

#[test]
fn twenty_leads_are_one_mail() {
    let Some(python) = python() else { return };
    let home = Home::new("");
    let server = MailServer::plain(&python, &home);
    home.configure(&destination(server.port, "security = \"none\"\ndigest_minutes = 1\ndigest_max = 20\n"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let sent: BTreeSet<String> = (0..20).map(|n| client.lead(&json!({"name":format!("Visitor <{n}>")})).1).collect();
    assert_eq!(server.mails().len(), 0);
    // A minute at least; the limit only ends a test that has failed.
    let until = Instant::now() + Duration::from_secs(180);
    while server.mails().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200));
    }
    eventually("all are done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    let mails = server.mails();
    assert_eq!(mails.len(), 1, "one mail for all");
    assert_eq!(events(&mails), sent);
    assert_eq!((header(&mails[0], "subject"), header(&mails[0], "reply-to")), ("20 new leads", ""));
    assert_eq!(mails[0]["defects"], json!([]));
    for part in mails[0]["parts"].as_array().unwrap() {
        let text = part["text"].as_str().unwrap();
        let name = |n: usize| if part["type"] == "text/html" { format!("Visitor &lt;{n}&gt;") } else { format!("Visitor <{n}>") };
        assert!((0..20).all(|n| text.contains(&name(n))), "{text}");
    }
}

/// Debian's Exim, which keeps what it takes in its queue and delivers nothing. Dropping it kills it with its children.
struct Exim {
    child: Child,
}

/// Takes mails of those who log in, ten over one connection.
const EXIM: &str = r"
primary_hostname = mail.test
spool_directory = FOLDER/spool
log_file_path = FOLDER/spool/%slog
pid_file_path = FOLDER/spool/pid
daemon_smtp_ports = PORT
local_interfaces = 127.0.0.1
keep_environment =
queue_only = true
tls_advertise_hosts = *
tls_certificate = FOLDER/cert.pem
tls_privatekey = FOLDER/key.pem
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
acl_smtp_rcpt = rcpt
acl_smtp_data = data
rfc1413_query_timeout = 0s
smtp_accept_max_per_connection = 10
host_lookup =
begin acl
rcpt:
  accept authenticated = *
  deny message = 5.7.1 relay not permitted
data:
  accept
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{kiosk@example.com}}{eq{$auth3}{PASSWORD}}}}
  server_set_id = $auth2
";

impl Exim {
    #[track_caller]
    fn start(program: &Path, folder: &Path, port: u16) -> Self {
        let config = folder.join("exim.conf");
        let text = EXIM.replace("FOLDER", &folder.display().to_string()).replace("PORT", &port.to_string()).replace("PASSWORD", PASSWORD);
        std::fs::write(&config, text).unwrap();
        let child = Command::new(program)
            .args(["-bdf", "-C"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("exim starts");
        let exim = Self { child };
        eventually("exim takes connections", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        exim
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A header of every mail in Exim's queue; the file that ends with -H is there once the mail is taken.
fn queued(folder: &Path, name: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder.join("spool/input")) else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path()).filter(|file| file.to_string_lossy().ends_with("-H"));
    files
        .filter_map(|file| {
            let text = std::fs::read_to_string(file).ok()?;
            Some(text.lines().find_map(|line| line.split_once(&format!("{name}: ")))?.1.to_owned())
        })
        .collect()
}

#[test]
fn debians_exim_takes_every_lead_of_those_who_log_in_though_it_is_killed() {
    let how = "apt-get install exim4-daemon-light";
    let Some(exim) = peer("exim4", how) else { return };
    if !geteuid().is_root() {
        return missing("the right to start exim4 as its own user", "run as root");
    }
    let id = Command::new("id").args(["-u", "Debian-exim"]).output().expect("id runs");
    let Ok(user) = String::from_utf8_lossy(&id.stdout).trim().parse::<u32>() else { return missing("the user Debian-exim", how) };
    let home = Home::new("");
    let options = with_certificate(&home, &authority(), "starttls");
    // Outside the home, which is its owner's alone.
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("spool")).unwrap();
    for name in ["cert", "key"] {
        std::fs::copy(options[name].as_str().unwrap(), at.join(format!("{name}.pem"))).unwrap();
    }
    for path in [at.to_owned(), at.join("spool"), at.join("cert.pem"), at.join("key.pem")] {
        chown(path, Some(user), None).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Exim::start(&exim, at, port);

    home.configure(&format!("{}{}", trusting(&home), destination(port, "")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut sent: BTreeSet<String> =
        (0..40).map(|n| client.lead(&json!({"name":format!("Besucherin Zoë {n}"),"message":".\n.."})).1).collect();
    eventually("without a login the lane is blocked", || lane(&client).0 == "blocked");
    assert!(lane(&client).1.contains("does not pass mails on to this recipient"), "{:?}", lane(&client));

    home.configure(&format!("{}{}", trusting(&home), destination(port, &login(PASSWORD))));
    daemon.signal(Signal::HUP);
    eventually("some arrive", || queued(at, "X-LeadsBot-Event-Id").len() >= 15);
    drop(server);
    sent.extend((0..10).map(|n| client.lead(&json!({"name":format!("While it was away {n}")})).1));
    let server = Exim::start(&exim, at, port);
    eventually("all of them arrive", || queued(at, "X-LeadsBot-Event-Id").into_iter().collect::<BTreeSet<_>>() == sent);
    eventually("all are done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    let ids = queued(at, "Message-ID");
    assert!(ids.len() <= sent.len() + 1, "{} mails for {} leads", ids.len(), sent.len());
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), sent.len());
    assert!(!daemon.log().contains(" 421"), "the end of a connection is no trouble: {}", daemon.log());
    drop(server);
}
