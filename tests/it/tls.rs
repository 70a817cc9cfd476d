//! HTTPS receivers with certificates of every quality.

use crate::support::http::Client;
use crate::support::{Daemon, Home, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a server shows: its chain and key.
type Identity = (Vec<CertificateDer<'static>>, Vec<u8>);

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ca: &CertifiedIssuer<'static, KeyPair>, name: &str, expired: bool) -> Identity {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, ca).unwrap();
    (vec![cert.der().clone()], key.serialize_der())
}

fn self_signed(name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    (vec![cert.der().clone()], key.serialize_der())
}

/// An HTTPS receiver that counts what it takes; its certificate can be changed.
struct Secure {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

fn server_config((chain, key): Identity) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

impl Secure {
    fn start(identity: Identity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let secure =
            Self { address: listener.local_addr().unwrap(), taken: Arc::default(), config: Arc::new(Mutex::new(server_config(identity))) };
        let (taken, config) = (Arc::clone(&secure.taken), Arc::clone(&secure.config));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (taken, config) = (Arc::clone(&taken), Arc::clone(&config.lock().unwrap()));
                std::thread::spawn(move || {
                    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                    let mut seen = Vec::new();
                    let mut chunk = [0; 4096];
                    while let Ok(n @ 1..) = tls.read(&mut chunk) {
                        seen.extend_from_slice(&chunk[..n]);
                        // The body is JSON and ends with its last brace.
                        if seen.ends_with(b"}") {
                            taken.fetch_add(1, Ordering::SeqCst);
                            seen.clear();
                            if tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        secure
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/hook", self.address.port())
    }
}

fn state(client: &Client, name: &str) -> (String, String) {
    let ready = client.get("/readyz").json();
    let lane = ready["destinations"].as_array().unwrap().iter().find(|d| d["name"] == name).unwrap().clone();
    (lane["state"].as_str().unwrap().to_owned(), lane["reason"].as_str().unwrap().to_owned())
}

#[test]
fn leads_go_only_to_a_receiver_whose_certificate_holds_and_wait_for_the_others() {
    let (ca, stranger) = (authority(), authority());
    let good = Secure::start(leaf(&ca, "localhost", false));
    let expired = Secure::start(leaf(&ca, "localhost", true));
    let wrong_host = Secure::start(leaf(&ca, "elsewhere.example", false));
    let unknown = Secure::start(leaf(&stranger, "localhost", false));
    let alone = Secure::start(self_signed("localhost"));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = [("expired", &expired), ("wrong-host", &wrong_host), ("unknown", &unknown), ("self-signed", &alone)];
    let home = Home::new("");
    std::fs::write(home.path("ca.pem"), ca.pem()).unwrap();
    let mut more = format!("ca_file = {:?}\nconnect_timeout_seconds = 2\ntimeout_seconds = 4\n", home.path("ca.pem"));
    more.push_str(&Home::webhook("good", &good.url(), ""));
    for (name, server) in &bad {
        more.push_str(&Home::webhook(name, &server.url(), ""));
    }
    let stalls = format!("https://localhost:{}/hook", silent.local_addr().unwrap().port());
    more.push_str(&Home::webhook("stalls", &stalls, ""));
    home.configure(&more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..3 {
        client.lead(&json!({"name":format!("Visitor {n}")}));
    }
    eventually("the good one has all", || good.taken.load(Ordering::SeqCst) == 3);
    for (name, server) in &bad {
        eventually("it is blocked", || state(&client, name).0 == "blocked");
        assert!(state(&client, name).1.contains("certificate"), "{}", state(&client, name).1);
        assert_eq!(server.taken.load(Ordering::SeqCst), 0, "{name} saw a lead");
    }
    eventually("a stalled handshake is a receiver that is not there", || state(&client, "stalls").0 == "offline");
    for name in bad.iter().map(|(name, _)| *name).chain(["stalls"]) {
        let told = if name == "stalls" { " attempt 1: offline timeout: " } else { " attempt 1: refused tls_error: " };
        let log = daemon.log();
        let mut said = log.lines().filter(|l| l.contains(&format!("destination {name}: evt_"))).peekable();
        assert!(said.peek().is_some() && said.all(|l| l.contains(told)), "{name} counted an attempt, or gave it another class: {log}");
    }
    for (_, server) in &bad {
        *server.config.lock().unwrap() = server_config(leaf(&ca, "localhost", false));
    }
    for (name, server) in &bad {
        eventually("a renewed certificate opens the lane by itself", || server.taken.load(Ordering::SeqCst) == 3);
        eventually("it is open", || state(&client, name).0 == "open");
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(good.taken.load(Ordering::SeqCst), 3);
}
