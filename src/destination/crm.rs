//! What the CRM types share: a mapping with defaults, rounds of a batch, verdicts. Pure.
//!
//! It must never let a value of the lead into a reason: what a CRM says in words may repeat it.

use super::{Class, HttpRequest, Judgement, Record, Verdict, printable};
use crate::mapping::{Event, Expr, MappingError, Shape};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::time::Duration;
use url::Url;

/// Requests of one exchange that carry records. One person who came more often in a batch waits for the next.
const ROUNDS_MAX: usize = 8;
/// How long such a one waits.
const NEXT_ROUND: Duration = Duration::from_secs(1);
/// Bytes of an answer that tells of each record of a batch.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a record of the CRM is made of: a default for each usual property, and the user's own over it.
#[derive(Debug)]
pub struct Fields(Vec<(String, Shape)>);

impl Fields {
    /// The user's `own` over `defaults`: the same name replaces, and an expression that gives nothing takes a property out.
    pub fn new(defaults: &[(&str, &str)], own: Option<Shape>) -> Result<Self, MappingError> {
        let mut fields = Vec::new();
        for (name, source) in defaults {
            fields.push(((*name).to_owned(), Shape::Leaf(Expr::new(name, source)?)));
        }
        if let Some(Shape::Object(own)) = own {
            for (name, shape) in own {
                match fields.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, there)) => *there = shape,
                    None => fields.push((name, shape)),
                }
            }
        }
        Ok(Self(fields))
    }

    /// The properties for an event. What is missing or empty is left out, so that an update never wipes what somebody entered by hand.
    pub fn record(&self, event: &Event) -> Result<Map<String, Value>, MappingError> {
        let mut out = Map::new();
        for (name, shape) in &self.0 {
            let value = shape.render(event)?;
            if !(value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())) {
                out.insert(name.clone(), value);
            }
        }
        Ok(out)
    }
}

/// A value as text, for services that take nothing else.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The bytes of a body.
pub fn bytes(value: &Value) -> Result<Vec<u8>, MappingError> {
    serde_json::to_vec(value).map_err(|e| MappingError { at: "body".to_owned(), message: format!("gives no JSON: {e}") })
}

/// What a delivery's kept body says.
pub fn kept(record: &Record<'_>) -> Result<Value, MappingError> {
    serde_json::from_slice(record.body)
        .map_err(|e| MappingError { at: "body".to_owned(), message: format!("what was kept of an earlier attempt is no JSON: {e}") })
}

/// `url` with more path, and a query where there is one. The path may hold `/`.
pub fn under(url: &Url, path: &str, query: &[(&str, &str)]) -> Url {
    let mut whole = url.clone();
    whole.set_path(&format!("{}/{}", url.path().trim_end_matches('/'), path.trim_start_matches('/')));
    if !query.is_empty() {
        whole.query_pairs_mut().extend_pairs(query);
    }
    whole
}

/// A request is shown with its path, which holds no secret here, but without its query, which may name the lead.
pub fn shown_with_path(mut request: HttpRequest) -> HttpRequest {
    request.shown = format!("{}{}", super::place(&request.url), request.url.path());
    request
}

/// Parts a batch into rounds so that none holds a key twice: services refuse that, or take either. Also those for whom there is none.
pub fn rounds(keys: &[(usize, Option<String>)]) -> (Vec<Vec<usize>>, Vec<usize>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let (mut rounds, mut left): (Vec<Vec<usize>>, Vec<usize>) = (Vec::new(), Vec::new());
    for (index, key) in keys {
        let round = key.as_deref().map_or(0, |key| {
            let count = seen.entry(key).or_default();
            *count += 1;
            *count - 1
        });
        if round >= ROUNDS_MAX {
            left.push(*index);
            continue;
        }
        if rounds.len() <= round {
            rounds.resize_with(round + 1, Vec::new);
        }
        if let Some(round) = rounds.get_mut(round) {
            round.push(*index);
        }
    }
    (rounds, left)
}

/// What a batch came to so far: a verdict for each of its records, or none yet.
#[derive(Debug)]
pub struct Verdicts(Vec<Option<Verdict>>);

impl Verdicts {
    /// For so many.
    pub fn new(records: usize) -> Self {
        Self(vec![None; records])
    }

    /// Whether one is judged already.
    pub fn has(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Option::is_some)
    }

    /// Judges one.
    pub fn set(&mut self, index: usize, verdict: Verdict) {
        if let Some(place) = self.0.get_mut(index) {
            *place = Some(verdict);
        }
    }

    /// Those who must wait for the next exchange.
    pub fn wait(&mut self, left: &[usize]) {
        for index in left {
            let mut verdict = Verdict::new(Class::Throttled, "throttled", "earlier leads of the same person go first");
            verdict.wait = Some(NEXT_ROUND);
            self.set(*index, verdict);
        }
    }

    /// When a request failed as a whole. A rejection is one of all, also of what got through before it: then each is tried by itself, and
    /// what is there already is only updated.
    pub fn failed(self, verdict: Verdict) -> Judgement {
        if verdict.class == Class::Rejected || self.0.iter().all(Option::is_none) { Judgement::All(verdict) } else { self.judged(verdict) }
    }

    /// When nothing more is asked; `rest` for those nobody spoke of.
    pub fn judged(self, rest: Verdict) -> Judgement {
        let mut verdicts: Vec<Verdict> = self.0.into_iter().map(|verdict| verdict.unwrap_or_else(|| rest.clone())).collect();
        match (verdicts.len(), verdicts.pop()) {
            (1, Some(one)) => Judgement::All(one),
            (_, last) => Judgement::Each(verdicts.into_iter().chain(last).collect()),
        }
    }
}

/// The receiver has it.
pub fn delivered(status: u16) -> Verdict {
    Verdict { status: Some(status), ..Verdict::new(Class::Delivered, "delivered", format!("HTTP {status}")) }
}

/// Done, though nothing was sent: the rules of the destination say so.
pub fn nothing_to_send(reason: &str) -> Verdict {
    Verdict::new(Class::Delivered, "delivered", format!("nothing was sent: {reason}"))
}

/// This record alone is not acceptable.
pub fn rejected(status: u16, reason: String, answer: &Value) -> Verdict {
    Verdict {
        status: Some(status),
        answer: printable(answer.to_string().as_bytes()),
        ..Verdict::new(Class::Rejected, "rejected_body", reason)
    }
}

/// An answer with a good status that cannot be understood.
pub fn unclear(status: u16, service: &str) -> Verdict {
    Verdict {
        status: Some(status),
        ..Verdict::new(Class::Temporary, "protocol_error", format!("HTTP {status}, but its body is not what {service} documents"))
    }
}

/// A service's own word for a fault, if it is one and no sentence: sentences may repeat what the lead said.
pub fn word(value: Option<&Value>) -> &str {
    let is_word = |text: &&str| text.len() <= 60 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    value.and_then(Value::as_str).filter(|t| !t.is_empty()).filter(is_word).unwrap_or("an unnamed fault")
}

/// What the tests of the CRM types share: an event, and an exchange with answers that are written down.
#[cfg(test)]
pub(super) mod trying {
    use super::super::{Answer, Connector, Identity, Incoming, Judgement, Memory, Moment, Next, Request, Response, exchange};
    use super::{HttpRequest, Record, Verdict};
    use crate::time::{Tick, Wall};

    pub const EVENT: &str = r#"{"id":"evt_1","event":"lead.created","data":{"id":"lead_0123456789ABCDEFGHJKMNPQRS","name":"Jane van Dyke","email":"Jane@Example.com","phone":"+43 1","company":null,"message":"Hello","score":88,"source":"booth"}}"#;

    pub fn reply(status: u16, body: &str) -> Answer {
        Answer::Response(Response { status, body: body.as_bytes().to_vec(), ..Response::default() })
    }

    pub fn moment() -> Moment {
        Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: true, vouched: false }
    }

    fn identity(id: &str) -> Identity<'_> {
        Identity { event_id: id, kind: "lead.created", destination: "crm" }
    }

    pub fn render(connector: &dyn Connector, event: &str) -> Vec<u8> {
        connector.render(&Incoming { identity: identity("evt_1"), bytes: event.as_bytes() }).unwrap().unwrap()
    }

    pub fn first(connector: &dyn Connector, event: &str) -> HttpRequest {
        let body = render(connector, event);
        let record = Record { identity: identity("evt_1"), body: &body, event: None, attempt: 1 };
        match connector.next(&[record], &[], &moment(), &mut Memory::default()).unwrap() {
            Next::Send(Request::Http(request)) => *request,
            other => panic!("{other:?}"),
        }
    }

    /// An exchange about these events, `evt_0` and so on; gives the requests as well.
    pub fn exchanged(connector: &dyn Connector, events: &[&str], answers: &[Answer], memory: &mut Memory) -> (Judgement, Vec<HttpRequest>) {
        let ids: Vec<String> = (0..events.len()).map(|n| format!("evt_{n}")).collect();
        let bodies: Vec<Vec<u8>> = events.iter().map(|event| render(connector, event)).collect();
        let record = |(id, body)| Record { identity: identity(id), body, event: None, attempt: 1 };
        let records: Vec<Record<'_>> = ids.iter().map(String::as_str).zip(bodies.iter().map(Vec::as_slice)).map(record).collect();
        let (mut asked, mut answers) = (Vec::new(), answers.iter());
        let (judgement, _) = exchange(connector, &records, memory, moment, |request| {
            asked.push(request.http().unwrap().clone());
            answers.next().expect("one request more than there are answers").clone()
        });
        assert_eq!(answers.count(), 0, "fewer requests than answers");
        (judgement, asked)
    }

    pub fn judged(connector: &dyn Connector, event: &str, answers: &[Answer]) -> Verdict {
        match exchanged(connector, &[event], answers, &mut Memory::default()).0 {
            Judgement::All(verdict) => verdict,
            Judgement::Each(verdicts) => panic!("{verdicts:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_twice_in_a_round_and_who_came_too_often_waits() {
        let keys: Vec<(usize, Option<String>)> =
            ["a", "b", "a", "", "a", ""].iter().enumerate().map(|(i, k)| (i, (!k.is_empty()).then(|| (*k).to_owned()))).collect();
        assert_eq!(rounds(&keys), (vec![vec![0, 1, 3, 5], vec![2], vec![4]], vec![]));
        let many: Vec<(usize, Option<String>)> = (0..10).map(|i| (i, Some("a".to_owned()))).collect();
        assert_eq!(rounds(&many).1, [8, 9]);
    }

    #[test]
    fn only_a_word_of_the_service_gets_into_a_reason() {
        assert_eq!(word(Some(&Value::from("DUPLICATE_DATA"))), "DUPLICATE_DATA");
        assert_eq!(word(Some(&Value::from("jane@example.com exists"))), "an unnamed fault");
        assert_eq!(word(None), "an unnamed fault");
    }

    #[test]
    fn the_users_mapping_lies_over_the_default_one() {
        let own = Shape::Object(vec![
            ("b".to_owned(), Shape::Leaf(Expr::new("b", "none").unwrap())),
            ("c".to_owned(), Shape::Leaf(Expr::new("c", "data.score").unwrap())),
        ]);
        let fields = Fields::new(&[("a", "data.name"), ("b", "data.name"), ("d", "data.no")], Some(own)).unwrap();
        let event = Event::parse(br#"{"data":{"name":"Jane","score":5}}"#).unwrap();
        assert_eq!(Value::Object(fields.record(&event).unwrap()), serde_json::json!({"a":"Jane","c":5}));
    }
}
