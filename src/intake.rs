//! From what was said to an event with its destinations: the last step before the store. Touches neither socket nor disk.

use crate::alarm::{Alarm, Seen};
use crate::destination::Spec;
use crate::event::{Context, Detail, Device, Draft, Kind, LEAD_ID_OPEN, Unserialisable};
use crate::id::IdKey;
use crate::lead::{Fault, Lead, Limits, Patch, Reply, Submission};
use crate::mapping::Event;
use crate::store::{Changes, Day, NewEvent, Record, Room, Target};
use crate::time::Wall;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Who gets what, as configured at the moment.
#[derive(Debug)]
pub struct Router {
    /// The machine, for every event's context.
    pub device: Device,
    /// What a lead may hold.
    pub limits: Limits,
    /// Each destination with its number.
    pub destinations: Vec<(i64, Arc<Spec>)>,
}

/// What a heartbeat tells.
#[derive(Debug)]
pub struct Vitals<'a> {
    /// Since the machine's boot.
    pub uptime_ms: i64,
    /// Every destination.
    pub destinations: &'a [Seen],
}

/// Fresh random bits for an id. Comes from the operating system; without them nothing can be captured.
pub type Random = u64;

/// Why no event could be made: a fault of this program or of the operating system, never of the sender.
#[derive(Debug)]
pub enum IntakeError {
    /// No random bits.
    Random(getrandom::Error),
    /// See [`Unserialisable`].
    Event(Unserialisable),
}

impl std::fmt::Display for IntakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IntakeError::Random(e) => write!(f, "the operating system gives no random numbers: {e}"),
            IntakeError::Event(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for IntakeError {}

/// 64 random bits from the operating system: two kiosks from one card image must not give the same ids.
pub fn random() -> Result<Random, IntakeError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(IntakeError::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}

impl Router {
    /// The `lead.created` event of a submission.
    pub fn created(&self, ids: &IdKey, submission: Submission, source: &str, context: Context, now: Wall) -> Result<NewEvent, IntakeError> {
        let agreed_at = submission.consent.as_ref().map(|_| now.rfc3339()).unwrap_or_default();
        let lead = submission.into_lead(LEAD_ID_OPEN.to_owned(), source, &agreed_at);
        self.event(ids, Kind::LeadCreated, &lead, &Detail::default(), context, now)
    }

    /// What a patch makes of a lead: `lead.updated` and `lead.status_changed` as the case may be, or nothing when nothing changes.
    pub fn patched(&self, ids: &IdKey, record: &Record, patch: &Patch, context: &Context, now: Wall) -> Result<Changes, Fault> {
        let changed = patch.apply(&record.lead, &self.limits)?;
        let mut events = Vec::new();
        if !changed.names.is_empty() {
            let detail = Detail { changed: Some(changed.names), ..Detail::default() };
            events.push(self.event(ids, Kind::LeadUpdated, &changed.lead, &detail, context.clone(), now).map_err(fault)?);
        }
        if let Some((from, to)) = changed.status {
            let detail = Detail { from: Some(from), to: Some(to), ..Detail::default() };
            events.push(self.event(ids, Kind::LeadStatusChanged, &changed.lead, &detail, context.clone(), now).map_err(fault)?);
        }
        Ok(Changes { lead: (!events.is_empty()).then_some(changed.lead), events })
    }

    /// What a reply makes of a lead: `lead.replied`; its state stays.
    pub fn replied(&self, ids: &IdKey, record: &Record, reply: &Reply, context: &Context, now: Wall) -> Result<Changes, Fault> {
        let detail = Detail { reply: Some(reply.clone()), ..Detail::default() };
        let event = self.event(ids, Kind::LeadReplied, &record.lead, &detail, context.clone(), now).map_err(fault)?;
        Ok(Changes { lead: None, events: vec![event] })
    }

    /// `storage.low`: room is getting short, or there is none.
    pub fn storage_low(&self, ids: &IdKey, room: &Room, clock: &'static str, now: Wall) -> Result<NewEvent, IntakeError> {
        let data = [
            ("level", room.level.name().into()),
            ("used_bytes", room.used.into()),
            ("max_bytes", room.max.into()),
            ("free_bytes", room.free.into()),
        ];
        self.of_device(ids, Kind::StorageLow, data, clock, now)
    }

    /// `storage.wear`: more was written on a day than its budget of so many bytes.
    pub fn storage_wear(&self, ids: &IdKey, day: &Day, budget: u64, clock: &'static str, now: Wall) -> Result<NewEvent, IntakeError> {
        let data = [
            ("day", day.date().into()),
            ("written_bytes", day.bytes.into()),
            ("budget_bytes", budget.into()),
            ("leads", day.leads.into()),
            ("deliveries", day.deliveries.into()),
        ];
        self.of_device(ids, Kind::StorageWear, data, clock, now)
    }

    /// `destination.failing` and `destination.recovered`; for everybody who asks but the one it is about.
    pub fn destination_alarm(
        &self,
        ids: &IdKey,
        alarm: Alarm,
        seen: &Seen,
        clock: &'static str,
        now: Wall,
    ) -> Result<NewEvent, IntakeError> {
        let kind = match alarm {
            Alarm::Failing => Kind::DestinationFailing,
            Alarm::Recovered => Kind::DestinationRecovered,
        };
        let data = [
            ("destination", seen.name.as_str().into()),
            ("state", seen.state.into()),
            ("reason", seen.reason.as_str().into()),
            ("since", seen.since.map(Wall::rfc3339).into()),
            ("waiting", seen.waiting.into()),
            ("oldest_at", seen.oldest.map(Wall::rfc3339).into()),
        ];
        let mut event = self.of_device(ids, kind, data, clock, now)?;
        event.targets.retain(|target| target.dest != seen.dest);
        Ok(event)
    }

    /// `device.heartbeat`
    pub fn heartbeat(&self, ids: &IdKey, vitals: &Vitals<'_>, clock: &'static str, now: Wall) -> Result<NewEvent, IntakeError> {
        let troubled = vitals.destinations.iter().filter(|seen| !matches!(seen.state, "open" | "paused")).count();
        let data = [
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("uptime_seconds", (vitals.uptime_ms / 1000).into()),
            ("waiting", vitals.destinations.iter().map(|seen| seen.waiting).sum::<u64>().into()),
            ("troubled", troubled.into()),
        ];
        self.of_device(ids, Kind::DeviceHeartbeat, data, clock, now)
    }

    fn of_device<const N: usize>(
        &self,
        ids: &IdKey,
        kind: Kind,
        data: [(&str, Value); N],
        clock: &'static str,
        now: Wall,
    ) -> Result<NewEvent, IntakeError> {
        let data: Map<String, Value> = data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let context = Context { device: self.device.clone(), channel: "device", clock, ..Context::default() };
        let draft = Draft::of_device(kind, now, &data, &context).map_err(IntakeError::Event)?;
        self.addressed(ids, draft)
    }

    fn event(
        &self,
        ids: &IdKey,
        kind: Kind,
        lead: &Lead,
        detail: &Detail,
        mut context: Context,
        now: Wall,
    ) -> Result<NewEvent, IntakeError> {
        context.device = self.device.clone();
        let draft = Draft::new(kind, now, lead, detail, &context).map_err(IntakeError::Event)?;
        self.addressed(ids, draft)
    }

    fn addressed(&self, ids: &IdKey, draft: Draft) -> Result<NewEvent, IntakeError> {
        let random = random()?;
        let targets = self.targets(&draft);
        Ok(NewEvent { draft, event: ids.event(random), lead: ids.lead(random), targets })
    }

    /// The destinations that want this event. A filter that fails wants it: as a dead letter that says why, never as a silent no.
    fn targets(&self, draft: &Draft) -> Vec<Target> {
        let mut parsed = None;
        let mut targets = Vec::new();
        for (dest, spec) in &self.destinations {
            if !crate::event::matches(&spec.events, draft.kind.name()) {
                continue;
            }
            if spec.when.is_none() {
                targets.push(Target { dest: *dest, fault: None });
                continue;
            }
            let wanted = match parsed.get_or_insert_with(|| Event::parse(draft.bytes())) {
                Ok(event) => spec.wants(draft.kind.name(), event),
                Err(e) => Err(e.clone()),
            };
            match wanted {
                Ok(false) => {}
                Ok(true) => targets.push(Target { dest: *dest, fault: None }),
                Err(e) => targets.push(Target { dest: *dest, fault: Some(e.to_string()) }),
            }
        }
        targets
    }
}

// Inside the writer a failure of our own has to be told as a fault of the command.
fn fault(e: IntakeError) -> Fault {
    Fault { status: 500, code: "internal", message: e.to_string(), field: None }
}
