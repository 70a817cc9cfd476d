//! Events: what happened to a lead, as bytes that never change once they have an id.
//!
//! A [`Draft`] is the event's JSON with room for the ids, which are known only once the store has given the event its number;
//! [`Draft::seal`] writes them in. After that nobody may touch the bytes.

use crate::id::{self, Seed};
use crate::lead::{Lead, Reply};
use crate::time::Wall;
use serde::Serialize;
use serde_json::{Map, Value};

/// What happened. Stored as its text; a text this version does not know stays readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `lead.created`
    LeadCreated,
    /// `lead.updated`
    LeadUpdated,
    /// `lead.status_changed`
    LeadStatusChanged,
    /// `lead.replied`
    LeadReplied,
    /// `storage.low`: about the device, not about a lead.
    StorageLow,
    /// `storage.wear`: likewise.
    StorageWear,
    /// `destination.failing`: likewise, never sent to the one that is failing.
    DestinationFailing,
    /// `destination.recovered`: likewise.
    DestinationRecovered,
    /// `device.heartbeat`: likewise.
    DeviceHeartbeat,
    /// `test.ping`
    TestPing,
}

impl Kind {
    /// All kinds this version makes.
    pub const ALL: [Kind; 10] = [
        Kind::LeadCreated,
        Kind::LeadUpdated,
        Kind::LeadStatusChanged,
        Kind::LeadReplied,
        Kind::StorageLow,
        Kind::StorageWear,
        Kind::DestinationFailing,
        Kind::DestinationRecovered,
        Kind::DeviceHeartbeat,
        Kind::TestPing,
    ];

    /// The published name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::LeadCreated => "lead.created",
            Kind::LeadUpdated => "lead.updated",
            Kind::LeadStatusChanged => "lead.status_changed",
            Kind::LeadReplied => "lead.replied",
            Kind::StorageLow => "storage.low",
            Kind::StorageWear => "storage.wear",
            Kind::DestinationFailing => "destination.failing",
            Kind::DestinationRecovered => "destination.recovered",
            Kind::DeviceHeartbeat => "device.heartbeat",
            Kind::TestPing => "test.ping",
        }
    }
}

/// Where and how it happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Context {
    /// The machine that took it.
    pub device: Device,
    /// `form`, `api`, `inbound`, `cli`, `device`.
    pub channel: &'static str,
    /// The form's id.
    pub form: Option<String>,
    /// The page the visitor was on.
    pub page_url: Option<String>,
    /// Where the visitor came from.
    pub referrer: Option<String>,
    /// Campaign parameters.
    pub utm: Map<String, Value>,
    /// The visitor's address.
    pub ip: Option<String>,
    /// The visitor's browser.
    pub user_agent: Option<String>,
    /// `trusted` or `untrusted`: whether the device's clock could be right.
    pub clock: &'static str,
    /// Why the lead may be spam; absent when nothing speaks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<&'static str>,
}

/// The machine, as configured under `[device]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Device {
    /// `device.id`
    pub id: String,
    /// `device.name`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `device.site`
    pub site: Option<String>,
    /// `device.labels`
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub labels: Map<String, Value>,
}

/// What is particular to one kind, beside the lead as it now stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Detail {
    /// `lead.updated`: names of the fields that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<String>>,
    /// `lead.status_changed`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// `lead.status_changed`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `lead.replied`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

#[derive(Serialize)]
struct Body<'a, D> {
    id: &'a str,
    event: &'a str,
    created_at: String,
    data: D,
    context: &'a Context,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(flatten)]
    lead: &'a Lead,
    #[serde(flatten)]
    detail: &'a Detail,
}

/// Stands for a lead id that is not known yet; same length as a real one.
pub const LEAD_ID_OPEN: &str = "lead_00000000000000000000000000";
/// `context.clock` of an event whose time is believed.
pub const TRUSTED: &str = "trusted";
/// `context.clock` of one whose time is not.
pub const UNTRUSTED: &str = "untrusted";
const EVENT_ID_OPEN: &str = "evt_00000000000000000000000000";

/// An event without its number.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// What happened.
    pub kind: Kind,
    /// When, by the wall clock.
    pub at: Wall,
    /// The clock it was taken from could not be believed.
    pub untrusted: bool,
    body: Vec<u8>,
    event_id_at: usize,
    lead_id_at: Option<usize>,
}

/// Serialisation of an event failed; with plain data it cannot.
#[derive(Debug)]
pub struct Unserialisable(serde_json::Error);

impl std::fmt::Display for Unserialisable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the event cannot be written as JSON: {}", self.0)
    }
}

impl std::error::Error for Unserialisable {}

impl Draft {
    /// Writes the event. A lead whose id is [`LEAD_ID_OPEN`] gets its real one from [`Draft::seal`].
    pub fn new(kind: Kind, at: Wall, lead: &Lead, detail: &Detail, context: &Context) -> Result<Self, Unserialisable> {
        let mut draft = Self::written(kind, at, Data { lead, detail }, context)?;
        if lead.id == LEAD_ID_OPEN {
            draft.lead_id_at = find(&draft.body, LEAD_ID_OPEN).map(|at| at + id::Kind::Lead.prefix().len());
        }
        Ok(draft)
    }

    /// Writes an event that is about the device.
    pub fn of_device(kind: Kind, at: Wall, data: &Map<String, Value>, context: &Context) -> Result<Self, Unserialisable> {
        Self::written(kind, at, data, context)
    }

    /// An invented event of this kind, for tests of a connection and of expressions.
    pub fn sample(kind: Kind, at: Wall, context: &Context) -> Result<Self, Unserialisable> {
        let of_device: Option<Vec<(&str, Value)>> = match kind {
            Kind::StorageLow => {
                Some(vec![("level", "low".into()), ("used_bytes", 900.into()), ("max_bytes", 1000.into()), ("free_bytes", 5000.into())])
            }
            Kind::StorageWear => Some(vec![
                ("day", "2026-11-23".into()),
                ("written_bytes", 1_200_000.into()),
                ("budget_bytes", 1_000_000.into()),
                ("leads", 20.into()),
                ("deliveries", 40.into()),
            ]),
            Kind::DestinationFailing => Some(vec![
                ("destination", "crm".into()),
                ("state", "blocked".into()),
                ("reason", "HTTP 401: the receiver does not accept this sender; compare the secrets and its access rules".into()),
                ("since", "2026-11-23T12:00:00.000Z".into()),
                ("waiting", 12.into()),
                ("oldest_at", "2026-11-23T11:00:00.000Z".into()),
            ]),
            Kind::DestinationRecovered => Some(vec![
                ("destination", "crm".into()),
                ("state", "open".into()),
                ("reason", "".into()),
                ("since", Value::Null),
                ("waiting", 0.into()),
                ("oldest_at", Value::Null),
            ]),
            Kind::DeviceHeartbeat => Some(vec![
                ("version", env!("CARGO_PKG_VERSION").into()),
                ("uptime_seconds", 86_400.into()),
                ("waiting", 0.into()),
                ("troubled", 0.into()),
            ]),
            _ => None,
        };
        if let Some(data) = of_device {
            let data = data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            return Self::of_device(kind, at, &data, context);
        }
        let mut lead = sample_lead();
        if kind == Kind::LeadStatusChanged {
            "contacted".clone_into(&mut lead.status);
        }
        Self::new(kind, at, &lead, &sample_detail(kind), context)
    }

    fn written(kind: Kind, at: Wall, data: impl Serialize, context: &Context) -> Result<Self, Unserialisable> {
        let body = Body { id: EVENT_ID_OPEN, event: kind.name(), created_at: at.rfc3339(), data, context };
        // Room for the usual lead.
        let mut bytes = Vec::with_capacity(1536);
        serde_json::to_writer(&mut bytes, &body).map_err(Unserialisable)?;
        // `id` is the first key of the event and of `data`, and what stands before both is ours alone, so the first match of each is
        // the real one whatever a visitor typed.
        let event_id_at = find(&bytes, EVENT_ID_OPEN).map_or(0, |at| at + id::Kind::Event.prefix().len());
        Ok(Self { kind, at, untrusted: context.clock == UNTRUSTED, body: bytes, event_id_at, lead_id_at: None })
    }

    /// The bytes so far, ids open: for filters, which may not ask for ids.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Writes the ids of event number `seq` in and gives the final bytes.
    pub fn seal(&self, seq: i64, event: Seed, lead: Seed) -> Vec<u8> {
        let mut body = self.body.clone();
        overwrite(&mut body, self.event_id_at, &event.digits(seq));
        if let Some(at) = self.lead_id_at {
            overwrite(&mut body, at, &lead.digits(seq));
        }
        body
    }
}

fn find(haystack: &[u8], needle: &str) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w.first() == needle.as_bytes().first() && w == needle.as_bytes())
}

fn overwrite(body: &mut [u8], at: usize, digits: &[u8; id::DIGITS]) {
    for (to, from) in body.iter_mut().skip(at).zip(digits) {
        *to = *from;
    }
}

/// Whether these bytes say of themselves that their time was taken with a clock that could not be believed.
pub fn is_untrusted(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        context: Clock<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Clock<'a> {
        clock: &'a str,
    }
    serde_json::from_slice::<Envelope<'_>>(body).is_ok_and(|e| e.context.clock == UNTRUSTED)
}

/// The same event with its time put right: `created_at`, the consent's time by as much, and `context.clock`. `None` when nothing is to
/// be put right. Only for bytes that nobody has seen.
pub fn put_right(body: &[u8], at: Wall) -> Option<Vec<u8>> {
    let mut event: Value = serde_json::from_slice(body).ok()?;
    let clock = event.pointer_mut("/context/clock").filter(|c| *c == UNTRUSTED)?;
    *clock = Value::from(TRUSTED);
    let stated = event.get("created_at").and_then(Value::as_str).and_then(Wall::parse)?;
    if let Some(consent) = event.pointer_mut("/data/consent/at")
        && let Some(was) = consent.as_str().and_then(Wall::parse)
    {
        *consent = Value::from(Wall(was.0 + (at.0 - stated.0)).rfc3339());
    }
    *event.get_mut("created_at")? = Value::from(at.rfc3339());
    serde_json::to_vec(&event).ok()
}

/// The lead inside an event's bytes, as it stood when the event was made.
pub fn lead_of(body: &[u8]) -> Result<Lead, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        data: Lead,
    }
    serde_json::from_slice::<Envelope>(body).map(|e| e.data)
}

/// Whether the `events` patterns of a destination take this kind: exact, `lead.*`, or `*`.
pub fn matches(patterns: &[String], kind: &str) -> bool {
    patterns.iter().any(|p| match p.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => p == kind,
    })
}

/// An invented person, for tests of a connection; recognisable as one.
pub fn sample_lead() -> Lead {
    Lead {
        id: LEAD_ID_OPEN.to_owned(),
        name: Some("Jane Smith".to_owned()),
        email: Some("jane@example.com".to_owned()),
        phone: Some("+1 555 0100".to_owned()),
        company: Some("Example Ltd".to_owned()),
        message: Some("This is a test by leadsbotd. No person sent it.".to_owned()),
        score: 88,
        source: "test".to_owned(),
        status: "new".to_owned(),
        fields: Map::new(),
        consent: None,
    }
}

/// What an event of this kind would say beside that person.
fn sample_detail(kind: Kind) -> Detail {
    let text = |t: &str| Some(t.to_owned());
    match kind {
        Kind::LeadUpdated => Detail { changed: Some(vec!["score".to_owned()]), ..Detail::default() },
        Kind::LeadStatusChanged => Detail { from: text("new"), to: text("contacted"), ..Detail::default() },
        Kind::LeadReplied => {
            let reply =
                Reply { text: "This is a test.".to_owned(), channel: text("email"), direction: "outbound".to_owned(), author: None };
            Detail { reply: Some(reply), ..Detail::default() }
        }
        _ => Detail::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdKey;

    #[test]
    fn ids_are_written_into_their_own_places_whatever_a_visitor_typed() {
        let key = IdKey::new([1; 32]);
        let mut lead = sample_lead();
        lead.name = Some(format!("{EVENT_ID_OPEN} {LEAD_ID_OPEN} \"id\":\""));
        let draft = Draft::new(Kind::LeadCreated, Wall(0), &lead, &Detail::default(), &Context::default()).unwrap();
        let body = draft.seal(9, key.event(3), key.lead(3));
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["id"], key.event(3).id(9));
        assert_eq!(value["data"]["id"], key.lead(3).id(9));
        assert_eq!(value["data"]["name"], lead.name.clone().unwrap());
        assert_eq!(lead_of(&body).unwrap().name, lead.name);
    }

    #[test]
    fn a_time_is_put_right_once_and_nothing_else_is_touched() {
        let mut lead = sample_lead();
        lead.consent = Some(crate::lead::Consent { text: "yes".into(), version: None, at: Wall(1_500).rfc3339() });
        let context = Context { clock: UNTRUSTED, ..Context::default() };
        let draft = Draft::new(Kind::LeadCreated, Wall(1_000), &lead, &Detail::default(), &context).unwrap();
        assert!(draft.untrusted && is_untrusted(draft.bytes()));
        let right = put_right(draft.bytes(), Wall(1_795_435_200_000)).unwrap();
        let (before, after): (Value, Value) = (serde_json::from_slice(draft.bytes()).unwrap(), serde_json::from_slice(&right).unwrap());
        assert_eq!(after["created_at"], "2026-11-23T12:00:00.000Z");
        assert_eq!(after["data"]["consent"]["at"], "2026-11-23T12:00:00.500Z");
        assert_eq!(after["context"]["clock"], "trusted");
        let mut back = after;
        for at in ["/created_at", "/data/consent/at", "/context/clock"] {
            *back.pointer_mut(at).unwrap() = before.pointer(at).unwrap().clone();
        }
        assert_eq!(back, before);
        assert_eq!(put_right(&right, Wall(0)), None);
        assert_eq!(put_right(b"{}", Wall(0)), None);
    }

    #[test]
    fn the_published_shape_is_there() {
        let draft = Draft::new(
            Kind::LeadStatusChanged,
            Wall(0),
            &sample_lead(),
            &Detail { from: Some("new".into()), to: Some("won".into()), ..Detail::default() },
            &Context::default(),
        )
        .unwrap();
        let value: Value = serde_json::from_slice(draft.bytes()).unwrap();
        assert_eq!(value["event"], "lead.status_changed");
        for key in ["name", "email", "score", "source"] {
            assert!(!value["data"][key].is_null(), "{key}");
        }
        assert_eq!((&value["data"]["from"], &value["data"]["to"]), (&Value::from("new"), &Value::from("won")));
        assert!(value["data"].get("changed").is_none());
    }

    #[test]
    fn patterns_take_whole_kinds_and_prefixes() {
        let all = vec!["lead.*".to_owned(), "test.ping".to_owned()];
        assert!(matches(&all, "lead.created") && matches(&all, "test.ping"));
        assert!(!matches(&all, "device.heartbeat") && !matches(&all, "test.ping2"));
        assert!(matches(&["*".to_owned()], "anything"));
    }
}
