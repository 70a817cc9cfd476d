//! Warehouses: a real PostgreSQL, a real ClickHouse and a real object store, each of them killed while leads are on their way; and a store
//! that takes only what Amazon's own library signs alike.

use crate::support::http::Client;
use crate::support::peers::{missing, peer, peer_at};
use crate::support::{Daemon, Home, eventually, free_port};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// Of every server here.
const PASSWORD: &str = "correct horse battery";

/// A server's process. Dropping it ends it.
struct Process(Option<Child>);

impl Process {
    #[track_caller]
    fn start(command: &mut Command, what: &str, mut ready: impl FnMut() -> bool) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{what} does not start: {e}"));
        eventually(what, || {
            let ended = child.try_wait().expect("its state");
            assert!(ended.is_none(), "{what}: it ended by itself ({ended:?})");
            ready()
        });
        Self(Some(child))
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.0.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// Captures `count` leads named `prefix 0`, …; gives event id -> name.
fn capture(client: &Client, prefix: &str, count: usize) -> BTreeMap<String, String> {
    let one = |n: usize| {
        let name = format!("{prefix} {n}");
        (client.lead(&json!({"name":name,"score":n % 100,"email":format!("{n}@example.com")})).1, name)
    };
    (0..count).map(one).collect()
}

/// The state and the reason of the only destination.
fn state(client: &Client) -> (String, String) {
    let lane = client.get("/readyz").json()["destinations"][0].clone();
    (lane["state"].as_str().unwrap().to_owned(), lane["reason"].as_str().unwrap_or_default().to_owned())
}

/// Leads arrive while `kill` and `revive` do their work; all of them are there in the end.
fn while_it_dies(
    client: &Client,
    rows: &mut dyn FnMut() -> usize,
    kill: &mut dyn FnMut(),
    revive: &mut dyn FnMut(),
) -> BTreeMap<String, String> {
    let mut sent = capture(client, "Before", 40);
    eventually("the first rows are there", || rows() > 0);
    let more = std::thread::scope(|scope| {
        let at = scope.spawn(|| capture(client, "Meanwhile", 300));
        let before = rows();
        eventually("it is at work", || rows() > before);
        kill();
        at.join().unwrap()
    });
    sent.extend(more);
    eventually("its lane is held", || matches!(state(client).0.as_str(), "offline" | "failing"));
    sent.extend(capture(client, "While it was away", 20));
    revive();
    sent
}

// ---- PostgreSQL ----------------------------------------------------------------------------------

/// A cluster of its own in a temporary folder, with TLS and SCRAM.
struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    user: Option<u32>,
    port: u16,
    process: Process,
}

impl Postgres {
    /// `None` when the programs are missing.
    fn start() -> Option<Self> {
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).max();
        let found = debian.filter(|programs| programs.join("initdb").is_file());
        let programs = match found {
            Some(programs) => programs,
            None => peer("initdb", "apt-get install postgresql")?.parent()?.to_owned(),
        };
        let folder = tempfile::tempdir().unwrap();
        // The server refuses to be root.
        let user = rustix::process::geteuid().is_root().then(|| {
            let users = std::fs::read_to_string("/etc/passwd").unwrap();
            let of = |name: &str| users.lines().find(|l| l.starts_with(&format!("{name}:")))?.split(':').nth(2)?.parse::<u32>().ok();
            of("postgres").or_else(|| of("nobody")).expect("a user without rights")
        });
        let mut server = Self { folder, programs, user, port: free_port(), process: Process(None) };
        server.set_up();
        server.up();
        server.sql("postgres", &format!("CREATE ROLE leads LOGIN PASSWORD '{PASSWORD}'"));
        server.sql("postgres", "CREATE DATABASE crm OWNER leads");
        Some(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user);
        }
        command
    }

    fn set_up(&self) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let files = [("ca.pem", ca.pem()), ("server.crt", certificate.pem()), ("server.key", key.serialize_pem())];
        for (name, text) in files {
            std::fs::write(self.path(name), text).unwrap();
            std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
            chown(self.path(name), self.user, None).unwrap();
        }
        chown(self.folder.path(), self.user, None).unwrap();
        let data = self.path("data");
        let initdb = ["-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--no-locale", "-D"];
        assert!(self.command("initdb").args(initdb).arg(&data).status().unwrap().success(), "initdb failed");
        let (folder, port) = (self.folder.path().display(), self.port);
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{folder}'\nssl = on\n\
             ssl_cert_file = '{folder}/server.crt'\nssl_key_file = '{folder}/server.key'\n"
        );
        let file = data.join("postgresql.auto.conf");
        std::fs::write(&file, settings).unwrap();
    }

    fn up(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.path("data"));
        self.process = Process::start(&mut command, "PostgreSQL is up", || self.psql("postgres", "SELECT 1").status.success());
    }

    /// An immediate shutdown: what was not committed is lost, and the next start recovers from the log.
    fn kill(&mut self) {
        self.process.end(Signal::QUIT);
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-X", "-A", "-t", "-q", "-U", "postgres", "-h"]).arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        command.args(["-d", database, "-c", sql]).stdin(Stdio::null()).output().expect("psql runs")
    }

    #[track_caller]
    fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn count(&self, table: &str) -> usize {
        let output = self.psql("crm", &format!("SELECT count(*) FROM {table}"));
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
    }

    /// A destination in it.
    fn destination(&self, more: &str) -> String {
        format!(
            "ca_file = {:?}\n[[destination]]\nname = \"warehouse\"\ntype = \"postgres\"\nurl = \"postgres://leads@localhost:{}/crm\"\n\
             sslmode = \"require\"\n{more}\n",
            self.path("ca.pem"),
            self.port
        )
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn secret() -> String {
    format!("secret = \"{PASSWORD}\"\n")
}

#[test]
fn a_postgres_that_is_killed_mid_drain_has_every_lead_once() {
    let Some(mut server) = Postgres::start() else { return };
    let home = Home::new(&server.destination(&secret()));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (_, odd) = client.lead(&json!({"name":"Robert'); DROP TABLE leads;--","message":"a\u{0}b"}));
    let server_cell = std::cell::RefCell::new(&mut server);
    let mut sent =
        while_it_dies(&client, &mut || server_cell.borrow().count("leads"), &mut || server_cell.borrow_mut().kill(), &mut || {
            server_cell.borrow_mut().up()
        });
    sent.insert(odd.clone(), "Robert'); DROP TABLE leads;--".to_owned());
    eventually("all rows are there", || server.count("leads") == sent.len());
    let rows =
        server.sql("crm", "SELECT json_build_object('id', event_id, 'name', data->>'name', 'event', event, 'lead', lead_id) FROM leads");
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let names: BTreeMap<String, String> =
        rows.iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row["name"].as_str().unwrap().to_owned())).collect();
    assert_eq!((rows.len(), &names), (sent.len(), &sent));
    assert!(rows.iter().all(|row| row["event"] == "lead.created" && row["lead"].as_str().unwrap().starts_with("lead_")));
    assert_eq!(server.sql("crm", &format!("SELECT data->>'message' FROM leads WHERE event_id = '{odd}'")), "a\u{fffd}b");
    assert_eq!(server.sql("crm", "SELECT count(*) FROM leads WHERE abs(extract(epoch FROM now() - created_at)) > 3600"), "0");
    let encrypted = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'leadsbotd'";
    assert_eq!(server.sql("crm", encrypted), "t");
    eventually("every delivery is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    for hidden in [PASSWORD, "Robert", "@example.com"] {
        assert!(!log.contains(hidden), "the log holds {hidden}");
    }
}

#[test]
fn a_row_that_a_table_refuses_becomes_a_dead_letter_and_the_others_get_in() {
    let Some(server) = Postgres::start() else { return };
    server.sql(
        "crm",
        "CREATE SCHEMA sales AUTHORIZATION leads; CREATE TABLE sales.\"Visi\"\"tors\" (event_id text PRIMARY KEY, who varchar(20) NOT NULL, \
         score smallint CHECK (score < 90), at timestamptz, day date, hot boolean, said text, fields jsonb, word jsonb, ratio double precision); \
         ALTER TABLE sales.\"Visi\"\"tors\" OWNER TO leads",
    );
    let map = "table = 'sales.Visi\"tors'\ncreate_table = false\nmap = { who = \"data.name\", score = \"data.score\", at = \"created_at\", \
               day = \"created_at | date('%Y-%m-%d')\", hot = \"data.score > 50\", said = \"data.message\", fields = \"data.fields\", \
               word = \"data.name\", ratio = \"data.score / 7\" }\n";
    let home = Home::new(&server.destination(&format!("{}{map}", secret())));
    home.ok(&["--json", "preview", "warehouse"]);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    home.ok(&["queue", "pause", "warehouse"]);
    client.lead(&json!({"name":"well","score":88,"fields":{"n":1}}));
    client.lead(&json!({"name":"breaks a check","score":95}));
    client.lead(&json!({"name":"is much too long for the column","score":1}));
    client.lead(&json!({"name":"also \"well\"","score":2}));
    home.ok(&["queue", "resume", "warehouse"]);
    let table = "sales.\"Visi\"\"tors\"";
    eventually("the good ones are in", || server.count(table) == 2);
    eventually("the bad ones are dead letters", || home.ok(&["--json", "queue", "list", "--state", "dead"]).lines().count() == 2);
    let row = server
        .sql("crm", &format!("SELECT row_to_json(t) FROM (SELECT who, score, hot, said, fields, word FROM {table} ORDER BY score DESC) t"));
    let rows: Vec<Value> = row.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0], json!({"who":"well","score":88,"hot":true,"said":null,"fields":{"n":1},"word":"well"}));
    assert_eq!(rows[1]["word"], "also \"well\"");
    let dead = home.ok(&["--json", "queue", "list", "--state", "dead"]);
    assert!(dead.contains("23514") && dead.contains("22001"), "{dead}");
    let (_, log) = daemon.stop();
    assert!(!log.contains("breaks a check") && !log.contains("too long for the column"), "{log}");
}

#[test]
fn a_postgres_that_refuses_the_password_or_lacks_the_table_holds_everything_until_it_is_put_right() {
    let Some(server) = Postgres::start() else { return };
    let wrong = server.destination("secret = \"another password\"\ncreate_table = false");
    let home = Home::new(&wrong);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let sent = capture(&client, "Held", 3);
    eventually("the password blocks the lane", || state(&client).0 == "blocked");
    assert!(state(&client).1.contains("28P01"), "{}", state(&client).1);
    home.configure(&server.destination(&format!("{}create_table = false", secret())));
    daemon.signal(Signal::HUP);
    eventually("the table is missing", || daemon.log().contains("42P01"));
    server.sql("crm", "CREATE TABLE leads (event_id text, event text, created_at timestamptz, lead_id text, data jsonb); ALTER TABLE leads OWNER TO leads");
    eventually("the key is missing", || daemon.log().contains("42P10"));
    server.sql("crm", "ALTER TABLE leads ADD PRIMARY KEY (event_id)");
    eventually("all rows are there", || server.count("leads") == sent.len());
    eventually("it is open", || state(&client).0 == "open");
    // Another authority's certificate, and a server that is not spoken to in the clear.
    let ca = format!("{:?}", server.path("ca.pem"));
    let stranger = KeyPair::generate().unwrap();
    let stranger = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&stranger).unwrap();
    std::fs::write(home.path("stranger.pem"), stranger.pem()).unwrap();
    home.configure(&server.destination(&secret()).replace(&ca, &format!("{:?}", home.path("stranger.pem"))));
    let refused = String::from_utf8_lossy(&home.run(&["trigger", "warehouse"]).stdout).into_owned();
    assert!(refused.contains("refused: ") && refused.contains("certificate"), "{refused}");
    for sslmode in ["require", "disable"] {
        let text = server.destination(&secret()).replace("\"require\"", &format!("{sslmode:?}"));
        home.configure(&text);
        let said = home.ok(&["trigger", "warehouse"]);
        assert!(said.contains("delivered: inserted") && !said.contains(PASSWORD), "{said}");
    }
    // A server without TLS says N to the first packet.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = deaf.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut socket, _) = deaf.accept().unwrap();
        socket.read_exact(&mut [0; 8]).unwrap();
        socket.write_all(b"N").unwrap();
        // Nothing more is said in the clear.
        assert_eq!(socket.read(&mut [0; 8]).unwrap(), 0);
    });
    home.configure(&server.destination(&secret()).replace(&format!(":{}/", server.port), &format!(":{at}/")));
    let output = home.run(&["trigger", "warehouse"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("refused: the server does not offer TLS"), "{said}");
    answering.join().unwrap();
    let (_, log) = daemon.stop();
    assert!(!log.contains(PASSWORD) && !log.contains("another password"), "{log}");
}

#[test]
fn a_postgres_that_does_not_get_on_is_asked_again_and_has_the_row_once() {
    let Some(server) = Postgres::start() else { return };
    let more = format!("{}timeout_seconds = 1\nconnect_timeout_seconds = 1", secret());
    let home = Home::new(&server.destination(&more));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    capture(&client, "Before", 1);
    eventually("the table is made", || server.count("leads") == 1);
    let mut psql = Command::new(server.programs.join("psql"));
    psql.args(["-X", "-q", "-U", "postgres", "-d", "crm", "-h"]).arg(server.folder.path()).args(["-p", &server.port.to_string()]);
    psql.args(["-c", "BEGIN; LOCK TABLE leads IN SHARE MODE; SELECT pg_sleep(1000)"]).stdout(Stdio::null()).stderr(Stdio::null());
    let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'leads'::regclass AND mode = 'ShareLock' AND granted";
    let mut lock = Process::start(&mut psql, "the table is locked", || server.sql("crm", locked) == "1");
    capture(&client, "Locked out", 3);
    eventually("the server gives up", || daemon.log().contains("57014"));
    lock.end(Signal::KILL);
    server.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)%' AND pid <> pg_backend_pid()",
    );
    eventually("all rows are there", || server.count("leads") == 4);
    // A connection that the server has ended is no failure of the next insert.
    server.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'leadsbotd'");
    let failures = daemon.log().matches(" attempt 1: temporary").count();
    capture(&client, "After", 1);
    eventually("the last row is there", || server.count("leads") == 5);
    eventually("every delivery is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    assert_eq!(daemon.log().matches(" attempt 1: temporary").count(), failures);
}

// ---- ClickHouse ----------------------------------------------------------------------------------

/// Debian's version, which is old: it knows neither asynchronous inserts nor tokens, and tells its exceptions in the body only.
struct ClickHouse {
    folder: TempDir,
    program: PathBuf,
    port: u16,
    process: Process,
}

impl ClickHouse {
    fn start() -> Option<Self> {
        let how = "apt-get install --no-install-recommends clickhouse-server";
        let sbin = Path::new("/usr/sbin/clickhouse-server");
        let program = if sbin.is_file() { sbin.to_owned() } else { peer("clickhouse-server", how)? };
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let at = folder.path().display();
        let config = format!(
            "<yandex><logger><level>error</level><console>1</console></logger><http_port>{port}</http_port><listen_host>127.0.0.1</listen_host>\
             <path>{at}/data/</path><tmp_path>{at}/tmp/</tmp_path><users_config>{at}/users.xml</users_config>\
             <default_profile>default</default_profile><default_database>default</default_database><mark_cache_size>5242880</mark_cache_size></yandex>"
        );
        let users = format!(
            "<yandex><profiles><default></default></profiles><users><leads><password>{PASSWORD}</password>\
             <networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></leads></users><quotas><default></default></quotas></yandex>"
        );
        std::fs::write(folder.path().join("config.xml"), config).unwrap();
        std::fs::write(folder.path().join("users.xml"), users).unwrap();
        let mut server = Self { folder, program, port, process: Process(None) };
        server.up();
        Some(server)
    }

    fn up(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg(format!("--config-file={}/config.xml", self.folder.path().display())).current_dir(self.folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Process::start(&mut command, "ClickHouse is up", || self.sql("SELECT 1").as_deref() == Some("1"));
    }

    fn kill(&mut self) {
        self.process.end(Signal::KILL);
    }

    fn sql(&self, sql: &str) -> Option<String> {
        let headers = [("x-clickhouse-user", "leads"), ("x-clickhouse-key", PASSWORD)];
        let answer = Client::new(([127, 0, 0, 1], self.port).into()).send("POST", "/", &headers, sql.as_bytes())?;
        (answer.status == 200).then(|| answer.body.trim().to_owned())
    }

    fn destination(&self, more: &str) -> String {
        format!(
            "[[destination]]\nname = \"warehouse\"\ntype = \"clickhouse\"\nurl = \"http://127.0.0.1:{}\"\nuser = \"leads\"\n\
             async_insert = false\ndedup_token = false\nlinger_seconds = 0\n{more}\n",
            self.port
        )
    }
}

/// The statement of the manual.
fn documented_table() -> String {
    let manual = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/destinations.md")).unwrap();
    let (_, statement) = manual.split_once("```sql\nCREATE TABLE leads (").expect("the statement in the manual");
    let (columns, _) = statement.split_once("```").unwrap();
    format!("CREATE TABLE leads ({}", columns.trim().trim_end_matches(';'))
}

#[test]
fn a_clickhouse_that_is_killed_mid_drain_has_every_lead_and_one_row_of_each() {
    let Some(mut server) = ClickHouse::start() else { return };
    server.sql(&documented_table()).expect("the table of the manual");
    let home = Home::new(&server.destination(&secret()));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let server_cell = std::cell::RefCell::new(&mut server);
    let count = |server: &ClickHouse| server.sql("SELECT count() FROM leads").and_then(|n| n.parse().ok()).unwrap_or(0);
    let sent = while_it_dies(&client, &mut || count(&server_cell.borrow()), &mut || server_cell.borrow_mut().kill(), &mut || {
        server_cell.borrow_mut().up()
    });
    let rows =
        |server: &ClickHouse| server.sql("SELECT event_id, name, score, event FROM leads FINAL FORMAT JSONCompact").unwrap_or_default();
    eventually("all rows are there", || rows(&server).matches("evt_").count() >= sent.len());
    let rows: Value = serde_json::from_str(&rows(&server)).unwrap();
    let rows = rows["data"].as_array().unwrap();
    let names: BTreeMap<String, String> =
        rows.iter().map(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_str().unwrap().to_owned())).collect();
    assert_eq!((rows.len(), &names), (sent.len(), &sent));
    let age = server.sql("SELECT max(abs(now() - created_at)) FROM leads").unwrap();
    assert!(age.parse::<u64>().unwrap() < 3600, "{age}");
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(PASSWORD) && !log.contains("@example.com"), "{log}");
}

#[test]
fn a_clickhouse_holds_everything_for_a_wrong_table_and_only_a_bad_row_for_a_bad_value() {
    let Some(server) = ClickHouse::start() else { return };
    let map = "batch_max = 50\nmap = { who = \"data.name\", n = \"data.fields.n\" }\n";
    let home = Home::new(&server.destination(&format!("secret = \"wrong\"\n{map}")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"first","fields":{"n":1}}));
    client.lead(&json!({"name":"poison","fields":{"n":"many"}}));
    client.lead(&json!({"name":"no number"}));
    eventually("the password blocks the lane", || daemon.log().contains("ClickHouse 193"));
    home.configure(&server.destination(&format!("{}{map}", secret())));
    daemon.signal(Signal::HUP);
    eventually("the table is missing", || daemon.log().contains("ClickHouse 60"));
    server.sql("CREATE TABLE leads (event_id String, who String) ENGINE = ReplacingMergeTree ORDER BY event_id").unwrap();
    eventually("a column is missing", || daemon.log().contains("ClickHouse 16"));
    server.sql("ALTER TABLE leads ADD COLUMN n Int32").unwrap();
    let names = || server.sql("SELECT who, n FROM leads FINAL ORDER BY who FORMAT TSV").unwrap();
    eventually("the good ones are in", || names() == "first\t1\nno number\t0");
    eventually("the bad one is a dead letter", || home.ok(&["--json", "queue", "list", "--state", "dead"]).lines().count() == 1);
    let dead = home.ok(&["--json", "queue", "list", "--state", "dead"]);
    assert!(dead.contains("ClickHouse 27") || dead.contains("ClickHouse 72"), "{dead}");
    home.configure(&server.destination(&secret()).replace("async_insert = false\n", ""));
    let output = home.run(&["trigger", "warehouse"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("refused: ClickHouse 115") && said.contains("async_insert"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
}

// ---- An object store -----------------------------------------------------------------------------

/// s3rver of npm, which keeps its objects as files. It does not verify signatures of version 4; see the last test.
struct Bucket {
    folder: TempDir,
    node: PathBuf,
    script: PathBuf,
    port: u16,
    process: Process,
}

impl Bucket {
    fn start() -> Option<Self> {
        let node = peer("node", "apt-get install nodejs")?;
        let modules = peer_at("LEADSBOT_NODE_MODULES", "npm install s3rver@3, and name the node_modules folder in it")?;
        let script = modules.join("s3rver/bin/s3rver.js");
        if !script.is_file() {
            missing("s3rver", "npm install s3rver@3 in the folder of LEADSBOT_NODE_MODULES");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self { folder, node, script, port: free_port(), process: Process(None) };
        server.up();
        Some(server)
    }

    fn up(&mut self) {
        let mut command = Command::new(&self.node);
        command.arg(&self.script).args(["-s", "-a", "127.0.0.1", "--configure-bucket", "leads", "-p", &self.port.to_string(), "-d"]);
        command.arg(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Process::start(&mut command, "s3rver is up", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    fn kill(&mut self) {
        self.process.end(Signal::KILL);
    }

    /// Key -> content of every object.
    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let (mut out, mut folders) = (BTreeMap::new(), vec![self.folder.path().join("leads")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(key) = path.to_str().and_then(|p| p.strip_suffix("._S3rver_object")) {
                    let key = key.strip_prefix(&format!("{}/leads/", self.folder.path().display())).unwrap().to_owned();
                    out.insert(key, std::fs::read(&path).unwrap_or_default());
                }
            }
        }
        out
    }

    /// The ids in all lines, as often as they are there.
    fn ids(&self) -> Vec<String> {
        let objects = self.objects();
        let lines = objects.values().flat_map(|object| object.split(|b| *b == b'\n')).filter(|line| !line.is_empty());
        lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()?["id"].as_str().map(str::to_owned)).collect()
    }

    fn destination(&self, more: &str) -> String {
        format!(
            "[[destination]]\nname = \"warehouse\"\ntype = \"s3\"\nurl = \"http://127.0.0.1:{}\"\nbucket = \"leads\"\naccess_key = \"S3RVER\"\n{more}\n",
            self.port
        )
    }
}

const S3_SECRET: &str = "secret = \"S3RVER\"\n";

#[test]
fn an_object_store_that_is_killed_mid_drain_has_one_object_for_every_event() {
    let Some(mut server) = Bucket::start() else { return };
    let home = Home::new(&server.destination(&format!("{S3_SECRET}object = \"event\"\nencryption = \"AES256\"")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let server_cell = std::cell::RefCell::new(&mut server);
    let sent = while_it_dies(&client, &mut || server_cell.borrow().ids().len(), &mut || server_cell.borrow_mut().kill(), &mut || {
        server_cell.borrow_mut().up()
    });
    let wanted: BTreeSet<String> = sent.keys().cloned().collect();
    eventually("every delivery is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    let ids = server.ids();
    assert_eq!(ids.len(), wanted.len(), "an event has two objects, or half of one");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), wanted);
    assert!(server.objects().keys().all(|key| key.starts_with("leads/2") && key.ends_with(".jsonl")), "{:?}", server.objects().keys());
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("S3RVER") && !log.contains("X-Amz"), "{log}");
}

#[test]
fn objects_of_many_events_hold_all_of_them_whatever_happens_to_the_store() {
    let Some(mut server) = Bucket::start() else { return };
    let home = Home::new(
        &server.destination(&format!("{S3_SECRET}batch_max = 25\nlinger_seconds = 0\nfolder = \"kiosk/{{{{ data.source | slug }}}}\"")),
    );
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let server_cell = std::cell::RefCell::new(&mut server);
    let sent = while_it_dies(&client, &mut || server_cell.borrow().ids().len(), &mut || server_cell.borrow_mut().kill(), &mut || {
        server_cell.borrow_mut().up()
    });
    eventually("every delivery is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    assert_eq!(server.ids().into_iter().collect::<BTreeSet<_>>(), sent.keys().cloned().collect::<BTreeSet<_>>());
    assert!(server.objects().len() < sent.len(), "no object holds more than one event");
    assert!(server.objects().keys().all(|key| key.starts_with("kiosk/")), "{:?}", server.objects().keys());
}

#[test]
fn an_object_store_that_refuses_the_key_or_lacks_the_bucket_holds_everything_and_shows_no_key() {
    let how = "python3 -m venv DIR; DIR/bin/pip install botocore; and name DIR/bin/python in it";
    let Some(python) = peer_at("LEADSBOT_PYTHON", how) else { return };
    if !Command::new(&python).args(["-c", "import botocore"]).stderr(Stdio::null()).status().expect("python runs").success() {
        return missing("botocore", "pip install botocore in the environment of LEADSBOT_PYTHON");
    }
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/s3_store.py")).arg(port.to_string()).arg(folder.path());
    command.args(["leads", "AKIAKIOSK", PASSWORD]).stdout(Stdio::null());
    let mut server = Process::start(&mut command, "the store is up", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let destination = |more: &str| {
        format!(
            "[[destination]]\nname = \"warehouse\"\ntype = \"s3\"\nurl = \"http://127.0.0.1:{port}\"\nobject = \"event\"\n\
             encryption = \"aws:kms\"\nfolder = \"{{{{ data.name }}}}/a+b =c/~*'()\"\n{more}\n"
        )
    };
    let keys = |access: &str, secret: &str| format!("access_key = \"{access}\"\nsecret = \"{secret}\"\n");
    let place = "bucket = \"leads\"\nregion = \"eu-central-1\"\n";
    let well = destination(&format!("{}{place}", keys("AKIAKIOSK", PASSWORD)));
    let home = Home::new(&destination(&format!("{}{place}", keys("AKIAKIOSK", "not that secret"))));
    let shown = home.ok(&["preview", "warehouse"]);
    assert!(shown.contains("PUT to warehouse"), "{shown}");
    for secret in ["X-Amz", "AKIAKIOSK", "not that secret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut sent = capture(&client, "Zo\u{eb} & 50% / \u{9375}?#", 3);
    eventually("the secret is wrong", || daemon.log().contains("SignatureDoesNotMatch: "));
    assert_eq!(state(&client).0, "blocked");
    for (more, code) in [
        (format!("{}{place}", keys("AKIASOMEBODY", PASSWORD)), "InvalidAccessKeyId: "),
        (format!("{}bucket = \"leads\"\n", keys("AKIAKIOSK", PASSWORD)), "AuthorizationQueryParametersError: "),
        (format!("{}{}", keys("AKIAKIOSK", PASSWORD), place.replace("leads", "nowhere")), "NoSuchBucket: "),
    ] {
        home.configure(&destination(&more));
        daemon.signal(Signal::HUP);
        eventually(code, || daemon.log().contains(code));
    }
    home.configure(&well);
    daemon.signal(Signal::HUP);
    let objects = || {
        let files = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|e| e == "object")).collect::<Vec<_>>()
    };
    sent.extend(capture(&client, "After", 2));
    eventually("all objects are there", || objects().len() == sent.len());
    let id = |path: &PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(objects().iter().map(id).collect::<BTreeSet<_>>(), sent.keys().cloned().collect::<BTreeSet<_>>());
    server.end(Signal::KILL);
    let (_, log) = daemon.stop();
    for secret in ["not that secret", PASSWORD, "X-Amz", "AKIAKIOSK"] {
        assert!(!log.contains(secret), "{log}");
    }
}
