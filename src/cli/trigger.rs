//! `preview` and `trigger`: one event for one destination, outside the queue. The first shows the request, the second sends it.

use super::listen::indent;
use super::output::{plain, say, say_json};
use super::{Cli, Failure, find};
use crate::config::{Config, Destination};
use crate::delivery::{Http, Transport};
use crate::destination::{Answer, Class, Request, Spec, judge, webhook};
use crate::event::{self, Context, Draft, Kind};
use crate::id::IdKey;
use crate::intake::random;
use crate::mapping::Event;
use crate::time::{Clock, SystemClock, Wall};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Args)]
pub struct Options {
    /// The destination's name.
    destination: String,
    /// The kind of event to invent.
    #[arg(long, value_name = "KIND", default_value = "lead.created", value_parser = kind)]
    kind: Kind,
    /// Instead of an invented event the one in this file: JSON as a receiver gets it.
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    event: Option<PathBuf>,
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|k| k.name() == text).ok_or_else(|| format!("there are {}", Kind::ALL.map(Kind::name).join(", ")))
}

/// What would be sent, and why it perhaps never is.
struct Prepared {
    destination: Destination,
    event_id: String,
    request: Request,
    /// Whether the destination's filters take the event.
    wanted: bool,
}

/// An event's id, kind and bytes.
type Given = (String, String, Vec<u8>);

fn invented(config: &Config, kind: Kind, now: Wall) -> Result<Given, Failure> {
    let context = Context { device: config.device.clone(), channel: "cli", clock: event::TRUSTED, ..Context::default() };
    let draft = Draft::sample(kind, now, &context).map_err(|e| Failure::new(e.to_string()))?;
    // Not from the database: a test has no row, and its ids must not look like anybody's.
    let bits = random().map_err(|e| Failure::new(e.to_string()))?;
    let ids = IdKey::new([0; 32]);
    let (seed, lead_seed) = (ids.event(bits), ids.lead(bits));
    Ok((seed.id(1), kind.name().to_owned(), draft.seal(1, seed, lead_seed)))
}

fn from_file(path: &Path) -> Result<Given, Failure> {
    let failed = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    let event: Value = serde_json::from_slice(&bytes).map_err(|e| failed(format!("is no JSON: {e}")))?;
    let text = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
    match (text("id"), text("event")) {
        (Some(id), Some(kind)) => Ok((id, kind, bytes)),
        _ => Err(failed("is no event; it must be an object with the texts id and event, as a receiver gets it".to_owned())),
    }
}

fn prepare(cli: &Cli, options: &Options) -> Result<Prepared, Failure> {
    let config = Config::load(&cli.config)?;
    let destination = find(&config, &options.destination)?.clone();
    let spec = &destination.spec;
    let now = SystemClock.wall();
    let (event_id, kind, event_body) = match &options.event {
        None => invented(&config, options.kind, now)?,
        Some(path) => from_file(path)?,
    };
    let failed = |e: &dyn std::fmt::Display| Failure::new(format!("the body cannot be made: {e}"));
    let wanted = webhook::wants(spec, &kind, &Event::parse(&event_body).map_err(|e| failed(&e))?)
        .map_err(|e| Failure::new(format!("it cannot be told whether the destination wants it: {e}")))?;
    let body = webhook::render(spec, &event_body).map_err(|e| failed(&e))?.unwrap_or(event_body);
    let request = webhook::request(spec, webhook::Identity { event_id: &event_id, kind: &kind }, body, 1, now);
    Ok(Prepared { destination, event_id, request, wanted })
}

impl Prepared {
    fn spec(&self) -> &Spec {
        &self.destination.spec
    }

    /// Not the url's path: tokens live there.
    fn place(&self) -> String {
        let url = &self.spec().url;
        let port = url.port().map_or_else(String::new, |p| format!(":{p}"));
        format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
    }

    /// Those the operator added are shown without their values: they may be secrets.
    fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let hidden = |name: &str| self.spec().headers.iter().any(|(n, _)| n == name);
        self.request.headers.iter().map(move |(name, value)| (name.as_str(), if hidden(name) { "(hidden)" } else { value.as_str() }))
    }

    fn say(&self) {
        say(&format!("POST to {} ({})", self.spec().name, self.place()));
        for (name, value) in self.headers() {
            say(&format!("  {name}: {value}"));
        }
        say(&indent(&self.request.body));
    }

    fn json(&self) -> Value {
        let headers: Map<String, Value> = self.headers().map(|(name, value)| (name.to_owned(), value.into())).collect();
        json!({ "to": self.place(), "headers": headers, "body": String::from_utf8_lossy(&self.request.body) })
    }
}

/// Shows the request and sends nothing.
pub fn preview(cli: &Cli, options: &Options) -> Result<(), Failure> {
    let prepared = prepare(cli, options)?;
    if cli.json {
        say_json(&json!({ "event_id": prepared.event_id, "wanted": prepared.wanted, "request": prepared.json() }));
        return Ok(());
    }
    prepared.say();
    if !prepared.wanted {
        say("this destination does not ask for such an event (events, when); it would not be sent");
    }
    Ok(())
}

/// Sends the request and explains the answer.
pub fn run(cli: &Cli, options: &Options) -> Result<(), Failure> {
    let prepared = prepare(cli, options)?;
    let Prepared { destination, request, event_id, .. } = &prepared;
    let spec = &destination.spec;
    let transport = Http::new(&spec.url, &spec.timeouts, &destination.network, destination.allow_http).map_err(Failure::new)?;
    let answer = transport.send(&spec.url, request);
    let verdict = judge(&spec.url, &answer, true, SystemTime::now());
    if cli.json {
        say_json(&json!({
            "delivered": verdict.class == Class::Delivered, "class": verdict.class.name(), "code": verdict.code, "status": verdict.status,
            "reason": verdict.reason, "answer": verdict.answer, "event_id": event_id, "real_event_would": fate(verdict.class),
            "request": prepared.json(),
        }));
    } else {
        prepared.say();
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
