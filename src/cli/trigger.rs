//! `preview` and `trigger`: one event for one destination, outside the queue. The first shows the request, the second sends it.

use super::listen::indent;
use super::output::{plain, say, say_json};
use super::{Cli, Failure, find};
use crate::config::{Config, Destination};
use crate::delivery;
use crate::destination::{
    Answer, Class, Identity, Incoming, Judgement, Memory, Moment, Next, Record, Request, Shown, Spec, Token, Verdict, exchange,
};
use crate::event::{self, Context, Draft, Kind};
use crate::id::IdKey;
use crate::intake::random;
use crate::mapping::Event;
use crate::secret::Hidden;
use crate::time::{Clock, SystemClock, Tick, Wall};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

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
    kind: String,
    event: Vec<u8>,
    body: Vec<u8>,
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
    let (event_id, kind, event) = match &options.event {
        None => invented(&config, options.kind, SystemClock.wall())?,
        Some(path) => from_file(path)?,
    };
    let failed = |e: &dyn std::fmt::Display| Failure::new(format!("the body cannot be made: {e}"));
    let wanted = spec
        .wants(&kind, &Event::parse(&event).map_err(|e| failed(&e))?)
        .map_err(|e| Failure::new(format!("it cannot be told whether the destination wants it: {e}")))?;
    let identity = Identity { event_id: &event_id, kind: &kind, destination: &spec.name };
    let body = spec.connector.render(&Incoming { identity, bytes: &event }).map_err(|e| failed(&e))?.unwrap_or_else(|| event.clone());
    Ok(Prepared { destination, event_id, kind, event, body, wanted })
}

fn moment() -> Moment {
    Moment { wall: SystemClock.wall(), tick: Tick::ZERO, clock_trusted: true, vouched: false }
}

impl Prepared {
    fn spec(&self) -> &Spec {
        &self.destination.spec
    }

    fn record(&self) -> Record<'_> {
        let identity = Identity { event_id: &self.event_id, kind: &self.kind, destination: &self.spec().name };
        Record { identity, body: &self.body, event: Some(&self.event), attempt: 1 }
    }

    /// The first request that says something of the event: one for an access token, which may come before, says nothing.
    fn first(&self) -> Result<Shown, Failure> {
        let mut memory = Memory { token: Some(Token { value: Hidden(String::new()), until: Tick::HELD }), moved_to: None };
        match self.spec().connector.next(&[self.record()], &[], &moment(), &mut memory) {
            Ok(Next::Send(request)) => Ok(request.shown()),
            Ok(Next::Judged(Judgement::All(verdict))) => Err(Failure::new(format!("nothing would be sent: {}", verdict.reason))),
            Ok(Next::Judged(Judgement::Each(_))) => Err(Failure::new("nothing would be sent")),
            Err(e) => Err(Failure::new(format!("the request cannot be made: {e}"))),
        }
    }

    fn say(&self, shown: &Shown) {
        say(&format!("{} to {} ({})", shown.verb, self.spec().name, shown.place));
        for (name, value) in &shown.headers {
            say(&format!("  {name}: {value}"));
        }
        if serde_json::from_slice::<Value>(&shown.body).is_ok() {
            return say(&indent(&shown.body));
        }
        // A mail is many lines.
        for line in String::from_utf8_lossy(&shown.body).lines() {
            say(&if line.is_empty() { String::new() } else { format!("  {}", plain(line)) });
        }
    }
}

fn as_json(shown: &Shown) -> Value {
    let headers: Map<String, Value> = shown.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({ "verb": shown.verb, "to": shown.place, "headers": headers, "body": String::from_utf8_lossy(&shown.body) })
}

/// Shows the request and sends nothing.
pub fn preview(cli: &Cli, options: &Options) -> Result<(), Failure> {
    let prepared = prepare(cli, options)?;
    let shown = prepared.first()?;
    if cli.json {
        say_json(&json!({ "event_id": prepared.event_id, "wanted": prepared.wanted, "request": as_json(&shown) }));
        return Ok(());
    }
    prepared.say(&shown);
    if !prepared.wanted {
        say("this destination does not ask for such an event (events, when); it would not be sent");
    }
    Ok(())
}

/// Sends the request and explains the answer.
pub fn run(cli: &Cli, options: &Options) -> Result<(), Failure> {
    let prepared = prepare(cli, options)?;
    let transport = delivery::connect(&prepared.destination.link).map_err(Failure::new)?;
    let mut asked: Vec<Shown> = Vec::new();
    let send = |request: &Request| {
        let shown = request.shown();
        if !cli.json {
            prepared.say(&shown);
        }
        asked.push(shown);
        let answer = transport.send(request);
        if !cli.json {
            match &answer {
                Answer::Response(r) if request.confidential() => say(&format!("answer: HTTP {} (hidden)", r.status)),
                Answer::Response(r) => say(&format!("answer: HTTP {} {}", r.status, plain(&String::from_utf8_lossy(&r.body)))),
                Answer::Replies(replies) => {
                    for reply in replies {
                        say(&format!("answer: {} {}", reply.code, plain(&reply.text)));
                    }
                }
                Answer::Failure { .. } => say("answer: none"),
            }
        }
        answer
    };
    let (judgement, _) = exchange(&*prepared.spec().connector, &[prepared.record()], &mut Memory::default(), moment, send);
    let verdict = match judgement {
        Judgement::All(verdict) => verdict,
        Judgement::Each(verdicts) => verdicts.into_iter().next().unwrap_or_else(|| Verdict::internal("it was not judged")),
    };
    if cli.json {
        let requests: Vec<Value> = asked.iter().map(as_json).collect();
        say_json(&json!({
            "delivered": verdict.class == Class::Delivered, "class": verdict.class.name(), "code": verdict.code, "status": verdict.status,
            "reason": verdict.reason, "answer": verdict.answer, "event_id": prepared.event_id, "real_event_would": fate(verdict.class),
            "requests": requests,
        }));
    } else {
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
