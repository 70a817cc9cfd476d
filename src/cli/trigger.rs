//! `trigger`: one invented event to one destination, now, outside the queue.

use super::listen::indent;
use super::output::{plain, say, say_json};
use super::{Cli, Failure, find};
use crate::config::Config;
use crate::delivery::{Http, Transport};
use crate::destination::{Answer, Class, judge, webhook};
use crate::event::{self, Context, Draft, Kind};
use crate::id::IdKey;
use crate::intake::random;
use crate::time::{Clock, SystemClock};
use clap::Args;
use serde_json::json;
use std::time::SystemTime;

#[derive(Debug, Args)]
pub struct Options {
    /// The destination's name.
    destination: String,
    /// The kind of event.
    #[arg(long, value_name = "KIND", default_value = "lead.created", value_parser = kind)]
    event: Kind,
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|k| k.name() == text).ok_or_else(|| format!("there are {}", Kind::ALL.map(Kind::name).join(", ")))
}

pub fn run(cli: &Cli, options: &Options) -> Result<(), Failure> {
    let config = Config::load(&cli.config)?;
    let destination = find(&config, &options.destination)?;
    let spec = &destination.spec;
    let now = SystemClock.wall();
    let context = Context { device: config.device.clone(), channel: "cli", clock: event::TRUSTED, ..Context::default() };
    let draft = Draft::sample(options.event, now, &context).map_err(|e| Failure::new(e.to_string()))?;
    // Not from the database: a test has no row, and its ids must not look like anybody's.
    let bits = random().map_err(|e| Failure::new(e.to_string()))?;
    let ids = IdKey::new([0; 32]);
    let (seed, lead_seed) = (ids.event(bits), ids.lead(bits));
    let (event_id, event_body) = (seed.id(1), draft.seal(1, seed, lead_seed));
    let body = match webhook::render(spec, &event_body) {
        Ok(None) => event_body,
        Ok(Some(body)) => body,
        Err(e) => return Err(Failure::new(format!("the body cannot be made: {e}"))),
    };
    let identity = webhook::Identity { event_id: &event_id, kind: options.event.name() };
    let request = webhook::request(spec, identity, body, 1, now);
    let transport = Http::new(&spec.url, &spec.timeouts, &destination.network, destination.allow_http).map_err(Failure::new)?;
    let answer = transport.send(&spec.url, &request);
    let verdict = judge(&spec.url, &answer, true, SystemTime::now());
    let secret_headers: Vec<&str> = spec.headers.iter().map(|(n, _)| n.as_str()).collect();
    let shown = |name: &str, value: &str| if secret_headers.contains(&name) { "(hidden)".to_owned() } else { value.to_owned() };
    // Not its path: tokens live there.
    let port = spec.url.port().map_or_else(String::new, |p| format!(":{p}"));
    let place = format!("{}://{}{port}", spec.url.scheme(), spec.url.host_str().unwrap_or("?"));
    if cli.json {
        let headers: serde_json::Map<_, _> = request.headers.iter().map(|(n, v)| (n.clone(), shown(n, v).into())).collect();
        say_json(&json!({
            "delivered": verdict.class == Class::Delivered, "class": verdict.class.name(), "code": verdict.code, "status": verdict.status,
            "reason": verdict.reason, "answer": verdict.answer, "event_id": event_id, "real_event_would": fate(verdict.class),
            "request": { "to": place, "headers": headers, "body": String::from_utf8_lossy(&request.body) },
        }));
    } else {
        say(&format!("POST to {} ({place})", spec.name));
        for (name, value) in &request.headers {
            say(&format!("  {name}: {}", shown(name, value)));
        }
        say(&indent(&request.body));
        match &answer {
            Answer::Response(r) => say(&format!("answer: HTTP {} {}", r.status, plain(&verdict.answer))),
            Answer::Failure { .. } => say("answer: none"),
        }
        say(&format!("{}: {}", verdict.class, verdict.reason));
    }
    match verdict.class {
        Class::Delivered => Ok(()),
        class => Err(Failure::new(format!("not delivered: {class}; a real event would {}", fate(class))).told_in_json()),
    }
}

fn fate(class: Class) -> &'static str {
    match class {
        Class::Delivered => "be done",
        Class::Offline => "wait until the receiver can be reached; nothing is lost",
        Class::Clock => "wait until this device's clock is right; nothing is lost",
        Class::Throttled => "wait as long as the receiver asks; nothing is lost",
        Class::Temporary => "be tried again later; nothing is lost",
        Class::Refused => "be held, with all others, until the destination is put right; nothing is lost",
        Class::Rejected => "become a dead letter after a few attempts; the others would go on",
        Class::Internal => "become a dead letter",
    }
}
