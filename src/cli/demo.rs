//! `demo`: the whole job on loopback, with everything real but the receiver's address.

use super::Failure;
use super::listen::indent;
use super::output::say;
use super::receiver::{self, Manners, Received};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::delivery::{self, Link, Network, Wire};
use crate::destination::{Answer, HttpRequest, Request, Timeouts};
use crate::secret::Secret;
use crate::time::SystemClock;
use clap::Args;
use http::Method;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use url::Url;

#[derive(Debug, Args)]
pub struct Options {
    /// The form's port; another one is taken when it is not free.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// End after the sample lead instead of staying up.
    #[arg(long)]
    once: bool,
}

/// A folder that goes away with the demo.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("leadsbotd-demo-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A demo that could not tidy up is not worth a complaint: the folder is in the system's temporary one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let started = Instant::now();
    crate::logging::start(log::LevelFilter::Warn);
    let folder = Folder::new()?;
    let secret = Secret::generate().map_err(|e| Failure::new(e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (listener, receiver_at) = runtime.block_on(receiver::bind(loopback(9000), true))?;
    let (tx, rx) = sync_channel(64);
    // A full channel means that nobody reads along; the delivery itself does not depend on it.
    let tell = Box::new(move |received: Received| drop(tx.try_send(received)));
    runtime.spawn(receiver::serve(listener, vec![secret.clone()], Manners::default(), tell));
    let database = folder.0.join("leads.db");
    let config_for = |port: u16| {
        let text = format!(
            "[device]\nid = \"demo\"\n[server]\nlisten = [\"127.0.0.1:{port}\"]\n[storage]\npath = {:?}\n\
             [[destination]]\nname = \"demo-receiver\"\ntype = \"webhook\"\nurl = \"http://{receiver_at}/\"\nsecret = {:?}\n",
            database.display().to_string(),
            secret.expose()
        );
        Config::parse(&text).map_err(|faults| Failure::new(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
    };
    let free = std::net::TcpListener::bind(loopback(options.port)).is_ok();
    let daemon = Daemon::start(&config_for(if free { options.port } else { 0 })?, Arc::new(SystemClock))?;
    let at = daemon.addresses.first().copied().unwrap_or_else(|| loopback(options.port));
    say("leadsbotd demo: one lead, from a form to a verified webhook, all on this machine");
    if !free {
        say(&format!("(port {} is taken, so the form is at another one)", options.port));
    }
    say("");
    say(&format!("  form      http://{at}/f/contact"));
    say(&format!("  receiver  http://{receiver_at}/  (verifies X-LeadsBot-Signature)"));
    say(&format!("  database  {}  (goes away with the demo)", database.display()));
    say("");
    say("A sample visitor fills in the form:");
    let id = submit(at)?;
    say(&format!("  captured   POST /f/contact was answered 201 after the fsync: {id}"));
    let first =
        rx.recv_timeout(Duration::from_secs(20)).map_err(|_| Failure::new("the sample lead did not reach the receiver within 20 s"))?;
    tell_story(&daemon, &first, &secret)?;
    say("");
    say(&format!("From start to verified: {} ms.", started.elapsed().as_millis()));
    if !options.once {
        say("");
        say(&format!("Now you: open http://{at}/f/contact in a browser and send the form. Ctrl-C ends the demo."));
        stay(&daemon, &rx, &secret, &runtime)?;
        say("");
        say("Stopped. The demo's database is gone; nothing else was touched.");
    }
    daemon.stop();
    runtime.shutdown_background();
    drop(folder);
    Ok(())
}

/// Sends the sample through the form's own endpoint, as a browser would, but asks for JSON to learn the id.
fn submit(at: SocketAddr) -> Result<String, Failure> {
    let failed = |what: String| Failure::new(format!("the sample lead was not taken: {what}"));
    let url = Url::parse(&format!("http://{at}/f/contact")).map_err(|e| failed(e.to_string()))?;
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("name", "Jane Smith"),
            ("email", "jane@example.com"),
            ("phone", "+1 555 0100"),
            ("message", "Please call me back."),
        ])
        .append_pair("_submission_id", &format!("{:016x}", fastrand::u64(..)))
        .finish();
    let timeouts = Timeouts { connect: Duration::from_secs(5), total: Duration::from_secs(20) };
    let wire = Wire::Http { tls: false };
    let http =
        delivery::connect(&Link { wire, timeouts, network: Network::default(), allow_http: false, deny_private: false, own: Vec::new() })
            .map_err(failed)?;
    let request = HttpRequest::new(Method::POST, url)
        .body("application/x-www-form-urlencoded", body.into_bytes())
        .header("Accept", "application/json");
    match http.send(&Request::Http(Box::new(request))) {
        Answer::Response(r) if r.status == 201 => {
            let answer: Value = serde_json::from_slice(&r.body).unwrap_or_default();
            Ok(answer.get("id").and_then(Value::as_str).unwrap_or_default().to_owned())
        }
        Answer::Response(r) => Err(failed(format!("HTTP {}", r.status))),
        Answer::Failure { detail, .. } => Err(failed(detail)),
        Answer::Replies(_) => Err(failed("no HTTP".to_owned())),
    }
}

/// Says, from what can be seen in the database and at the receiver, what became of one event.
fn tell_story(daemon: &Daemon, r: &Received, secret: &Secret) -> Result<(), Failure> {
    let event: Value = serde_json::from_slice(&r.body).unwrap_or_default();
    let lead_id = event.pointer("/data/id").and_then(Value::as_str).unwrap_or_default();
    let record = daemon.store().read(|view| view.lead(daemon.store().ids(), lead_id))?;
    match record {
        Some(record) => say(&format!(
            "  kept       lead number {} is in the database, with its event and its delivery, in one transaction",
            record.number
        )),
        None => say("  kept       NOT FOUND in the database"),
    }
    say(&format!("  signed     HMAC-SHA256 over the {} bytes of the body: {}", r.body.len(), crate::signature::leadsbot(secret, &r.body)));
    say(&format!(
        "  delivered  attempt {} of {} was answered {}",
        r.header("x-leadsbot-attempt"),
        r.header("x-leadsbot-delivery-id"),
        r.answered
    ));
    match (r.signature, r.standard) {
        (Ok(()), Ok(())) => say("  verified   the receiver computed both signatures from the raw body: they match"),
        (Err(e), _) | (_, Err(e)) => say(&format!("  NOT VERIFIED: {e}")),
    }
    say("");
    say("The request the receiver saw:");
    for (name, value) in &r.headers {
        say(&format!("  {name}: {}", super::output::plain(&String::from_utf8_lossy(value.as_bytes()))));
    }
    say(&indent(&r.body));
    Ok(())
}

fn stay(daemon: &Daemon, rx: &Receiver<Received>, secret: &Secret, runtime: &tokio::runtime::Runtime) -> Result<(), Failure> {
    let (stop_tx, stop_rx) = sync_channel(1);
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut term) = signal(SignalKind::terminate()) else { return };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
        }
        let _ = stop_tx.try_send(());
    });
    loop {
        if stop_rx.try_recv().is_ok() {
            return Ok(());
        }
        match rx.recv_timeout(Duration::from_millis(200)) {
            Ok(received) => {
                say("");
                let event: Value = serde_json::from_slice(&received.body).unwrap_or_default();
                say(&format!("{}:", received.header("x-leadsbot-event")));
                say(&format!("  captured   through {}", event.pointer("/context/channel").and_then(Value::as_str).unwrap_or("?")));
                tell_story(daemon, &received, secret)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
