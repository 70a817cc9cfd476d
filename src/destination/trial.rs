//! What the connectors' own tests need: invented events, the request one of them becomes, and answers.

use super::message::{self, Message};
use super::{
    Answer, Class, Connector, Failure, HttpRequest, Identity, Incoming, Judgement, Memory, Moment, Next, Record, Request, Response, Verdict,
};
use crate::event::{Context, Device, Draft, Kind, TRUSTED};
use crate::mapping::{Chat, Template};
use crate::time::{Tick, Wall};
use serde_json::Value;
use std::time::Duration;

pub const EVENT_ID: &str = "evt_00000000000000000000000000";

/// A time at which nobody believes the clock: no connector here may care.
pub const MOMENT: Moment = Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: false, vouched: false };

/// The sample event of this kind, from kiosk-12 in Hall 3.
pub fn event(kind: Kind) -> Vec<u8> {
    let device = Device { id: "kiosk-12".into(), site: Some("Hall 3".into()), ..Device::default() };
    let context = Context { device, channel: "form", form: Some("contact".into()), clock: TRUSTED, ..Context::default() };
    Draft::sample(kind, Wall(1_795_435_200_123), &context).unwrap().bytes().to_vec()
}

/// The sample lead with other words in some places of the event.
pub fn lead(changes: &[(&str, Value)]) -> Vec<u8> {
    let mut event: Value = serde_json::from_slice(&event(Kind::LeadCreated)).unwrap();
    for (at, value) in changes {
        *event.pointer_mut(at).unwrap() = value.clone();
    }
    event.to_string().into_bytes()
}

/// An event of the device as another version may make it.
pub fn of_device(kind: &str, data: &Value) -> Vec<u8> {
    let mut event: Value = serde_json::from_slice(&event(Kind::StorageLow)).unwrap();
    event["event"] = kind.into();
    event["data"] = data.clone();
    event.to_string().into_bytes()
}

pub fn message(chat: Option<Chat>, bold: (&str, &str), quote: &str) -> Message {
    let text = message::text(bold, quote);
    let text = chat.map_or_else(|| Template::new("text", &text), |chat| Template::chat("text", chat, &text));
    Message { title: Template::new("title", message::TITLE).unwrap(), text: text.unwrap() }
}

fn identity() -> Identity<'static> {
    Identity { event_id: EVENT_ID, kind: "lead.created", destination: "team" }
}

pub fn render(connector: &dyn Connector, event: &[u8]) -> Vec<u8> {
    connector.render(&Incoming { identity: identity(), bytes: event }).unwrap().unwrap()
}

/// The next step for one delivery with this body.
pub fn step(connector: &dyn Connector, body: &[u8], said: &[Answer], memory: &mut Memory) -> Next {
    let record = Record { identity: identity(), body, event: None, attempt: 1 };
    connector.next(&[record], said, &MOMENT, memory).unwrap()
}

pub fn asked(next: Next) -> HttpRequest {
    match next {
        Next::Send(Request::Http(request)) => *request,
        other => panic!("{other:?}"),
    }
}

/// The request that an event becomes.
pub fn request(connector: &dyn Connector, event: &[u8]) -> HttpRequest {
    asked(step(connector, &render(connector, event), &[], &mut Memory::default()))
}

/// Its body as text.
pub fn body(connector: &dyn Connector, event: &[u8]) -> String {
    String::from_utf8(request(connector, event).body).unwrap()
}

pub fn answer(status: u16, body: &str) -> Answer {
    Answer::Response(Response { status, body: body.as_bytes().to_vec(), ..Response::default() })
}

pub fn judged(connector: &dyn Connector, answer: Answer) -> Verdict {
    match step(connector, b"{}", &[answer], &mut Memory::default()) {
        Next::Judged(Judgement::All(verdict)) => verdict,
        other => panic!("{other:?}"),
    }
}

/// Status, body, and what that means.
pub type Row = (u16, &'static str, Class, &'static str, Option<Duration>);

/// Every answer of the table means what it says there; none that is lost, and none of a server on the way, is the service's.
pub fn answers_mean(connector: &dyn Connector, table: &[Row]) {
    for (status, body, class, code, wait) in table {
        let verdict = judged(connector, answer(*status, body));
        assert_eq!((verdict.class, verdict.code, verdict.wait), (*class, *code, *wait), "HTTP {status} {body}: {}", verdict.reason);
        assert_eq!(verdict.status, Some(*status));
    }
    let later = Response { status: 429, retry_after: Some("30".into()), ..Response::default() };
    let verdict = judged(connector, Answer::Response(later));
    assert_eq!((verdict.class, verdict.wait), (Class::Throttled, Some(Duration::from_secs(30))));
    for (kind, class) in [(Failure::Dns, Class::Offline), (Failure::Timeout, Class::Temporary), (Failure::Tls, Class::Clock)] {
        assert_eq!(judged(connector, Answer::Failure { kind, detail: String::new() }).class, class);
    }
}
