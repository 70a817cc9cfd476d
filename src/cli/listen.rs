//! `listen`: a receiver for whoever writes one.

use super::output::{hint, plain, say, say_json};
use super::receiver::{self, Manners, Received};
use super::{Cli, Failure, SecretSource};
use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    secret: SecretSource,
    /// The port; 0 takes any free one.
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// The address.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Answer verified deliveries with this status instead of 200, for example 500 or 429.
    #[arg(long, value_name = "STATUS")]
    answer: Option<u16>,
    /// Add Retry-After to answers that are no success.
    #[arg(long, value_name = "SECONDS")]
    retry_after: Option<u32>,
    /// Answer only after so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    delay: u64,
    /// Answer so many in a hundred with 500.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    fail: u8,
}

pub fn run(cli: &Cli, options: &Options) -> Result<(), Failure> {
    let secrets = options.secret.read(&cli.config)?;
    let answer = match options.answer {
        None => None,
        Some(status) => Some(
            StatusCode::from_u16(status)
                .ok()
                .filter(|s| s.as_u16() >= 200)
                .ok_or_else(|| Failure::new("--answer takes an HTTP status from 200 to 999"))?,
        ),
    };
    let manners =
        Manners { answer, retry_after: options.retry_after, delay: Duration::from_secs(options.delay), fail_percent: options.fail };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let json = cli.json;
    runtime.block_on(async {
        let (listener, bound) = receiver::bind(SocketAddr::new(options.host, options.port), false)
            .await
            .map_err(|e| Failure::new(format!("cannot listen at {}:{}: {e}", options.host, options.port)))?;
        if json {
            say_json(&json!({ "listening": format!("http://{bound}/") }));
        } else {
            say(&format!("listening on http://{bound}/"));
            hint("Set this as the url of a destination (leadsbotd trigger NAME sends a test). Ctrl-C ends it.");
        }
        let tell = Box::new(move |received: Received| if json { say_json(&as_json(&received)) } else { print(&received) });
        tokio::select! {
            () = receiver::serve(listener, secrets, manners, tell) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(())
    })
}

fn as_json(r: &Received) -> Value {
    let headers: serde_json::Map<String, Value> =
        r.headers.iter().map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into())).collect();
    json!({
        "answered": r.answered.as_u16(), "duplicate": r.duplicate,
        "signature": r.signature.map_or_else(|e| e.to_string(), |()| "valid".to_owned()),
        "standard_signature": r.standard.map_or_else(|e| e.to_string(), |()| "valid".to_owned()),
        "headers": headers, "body": serde_json::from_slice::<Value>(&r.body).unwrap_or_else(|_| String::from_utf8_lossy(&r.body).into()),
    })
}

fn print(r: &Received) {
    let verdict = |v: Result<(), crate::signature::Invalid>| v.map_or_else(|e| format!("NOT VALID: {e}"), |()| "valid".to_owned());
    say(&format!(
        "{} {} attempt {} -> {}{}",
        plain(r.header("x-leadsbot-event")),
        plain(r.header("x-leadsbot-event-id")),
        plain(r.header("x-leadsbot-attempt")),
        r.answered.as_u16(),
        if r.duplicate { " (duplicate, dropped)" } else { "" }
    ));
    say(&format!("  X-LeadsBot-Signature {}; webhook-signature {}", verdict(r.signature), verdict(r.standard)));
    say(&indent(&r.body));
}

/// A body for people: JSON on several lines, anything else as it is.
pub fn indent(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_default(),
        Err(_) => plain(&String::from_utf8_lossy(body)),
    };
    text.lines().map(|l| format!("  {}", plain(l))).collect::<Vec<_>>().join("\n")
}
