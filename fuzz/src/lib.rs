//! What several targets ask of a submission: that its event is JSON again and holds everything that was said.

use leadsbotd::event::{Context, Device, lead_of};
use leadsbotd::id::IdKey;
use leadsbotd::intake::Router;
use leadsbotd::lead::{Limits, Submission};
use leadsbotd::mapping::Event;
use leadsbotd::time::Wall;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Poll, Waker};

/// The event a submission becomes, as the edge makes it. It must be JSON, for us and for others.
pub fn event_of(mut submission: Submission) -> Value {
    let router = Router { device: Device::default(), limits: Limits::default(), destinations: Vec::new() };
    let context = Context {
        page_url: submission.page_url.take(),
        referrer: submission.referrer.take(),
        utm: std::mem::take(&mut submission.utm),
        ..Context::default()
    };
    let ids = IdKey::new([7; 32]);
    let made = router.created(&ids, submission, "fuzz", context, Wall(1_795_435_200_123)).expect("an event");
    let body = made.draft.seal(i64::MAX, made.event, made.lead);
    let event: Value = serde_json::from_slice(&body).expect("the event is JSON");
    assert_eq!(event["id"], made.event.id(i64::MAX));
    assert_eq!(event["data"]["id"], made.lead.id(i64::MAX));
    lead_of(&body).expect("the lead is in it");
    Event::parse(&body).expect("expressions can read it");
    event
}

/// Everything said that is not found in the event. White space and control characters aside: names lose their line ends.
pub fn lost(said: &Map<String, Value>, event: &Value) -> BTreeSet<String> {
    let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in said {
        // These steer the capture; they are nothing about the person.
        if !matches!(key.as_str(), "_submission_id" | "_next" | "_gotcha") {
            leaves(value, &mut before);
        }
    }
    leaves(event, &mut after);
    before.difference(&after).cloned().collect()
}

fn leaves(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Null => {}
        Value::Array(list) => list.iter().for_each(|v| leaves(v, found)),
        Value::Object(map) => map.values().for_each(|v| leaves(v, found)),
        Value::String(text) => {
            let text: String = text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
            if !text.is_empty() {
                found.insert(text);
            }
        }
        other => drop(found.insert(other.to_string())),
    }
}

/// The result of a future that waits for nothing.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits, and nothing is there to wait for"),
    }
}
