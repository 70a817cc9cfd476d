//! What an event is to a service that wakes people: an alarm about something, raised or over. Pure.
//!
//! Read by the event's name and data alone, so that an event of a kind this version does not make is an alarm, too. What is raised and
//! what is over must have the same [`Alarm::about`], or nobody's pager stops.

use crate::mapping::MappingError;
use crate::time::Wall;
use serde_json::Value;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Leads are refused or lost if nobody comes.
    Critical,
    /// Something does not work.
    Error,
    /// Something will not work soon.
    Warning,
    /// To be known.
    Info,
}

impl Severity {
    /// All of them.
    pub const ALL: [Severity; 4] = [Severity::Critical, Severity::Error, Severity::Warning, Severity::Info];

    /// The word both services use.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

/// An event as an alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// What kind of alarm, in one word: `DestinationFailing`.
    pub name: String,
    /// What it is about: stable for as long as it lasts.
    pub about: String,
    /// How bad it is.
    pub severity: Severity,
    /// It is over.
    pub over: bool,
    /// The destination that it is about.
    pub destination: Option<String>,
    /// The device's id.
    pub device: String,
    /// Where the device stands.
    pub site: Option<String>,
    /// When the event was made; `None` when the device's clock could not be believed.
    pub at: Option<Wall>,
    /// Since when it lasts, where the event says so; never after `at`.
    pub since: Option<Wall>,
    /// The event's data.
    pub data: Value,
}

impl Alarm {
    /// Reads an event's JSON.
    pub fn of(event: &[u8]) -> Result<Self, MappingError> {
        let event: Value = serde_json::from_slice(event)
            .map_err(|e| MappingError { at: "event".to_owned(), message: format!("the stored event is no JSON: {e}") })?;
        let text = |at: &str| event.pointer(at).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        let kind = text("/event").unwrap_or_default();
        let id = text("/id").unwrap_or_default();
        let destination = text("/data/destination").filter(|_| kind.starts_with("destination."));
        let to = destination.as_deref().unwrap_or_default();
        let level = text("/data/level").unwrap_or_default();
        let (name, about, severity, over) = match kind.as_str() {
            "destination.failing" => ("DestinationFailing".to_owned(), format!("destination/{to}"), Severity::Error, false),
            "destination.recovered" => ("DestinationFailing".to_owned(), format!("destination/{to}"), Severity::Error, true),
            "storage.low" => {
                let (name, severity) =
                    if level == "full" { ("StorageFull", Severity::Critical) } else { ("StorageLow", Severity::Warning) };
                (name.to_owned(), "storage".to_owned(), severity, level == "well")
            }
            "storage.wear" => ("StorageWear".to_owned(), "storage.wear".to_owned(), Severity::Warning, false),
            "device.heartbeat" | "test.ping" => (camel(&kind), kind.clone(), Severity::Info, false),
            _ => (camel(&kind), format!("{kind}/{id}"), Severity::Info, false),
        };
        let trusted = text("/context/clock").is_none_or(|clock| clock != crate::event::UNTRUSTED);
        let at = text("/created_at").and_then(|t| Wall::parse(&t)).filter(|_| trusted);
        let since = text("/data/since").and_then(|t| Wall::parse(&t)).filter(|since| at.is_some_and(|at| *since <= at));
        let device = text("/context/device/id").unwrap_or_else(|| "leadsbotd".to_owned());
        let (site, data) = (text("/context/device/site"), event.get("data").cloned().unwrap_or_default());
        Ok(Self { name, about, severity, over, destination, device, site, at, since, data })
    }
}

/// `lead.status_changed` as `LeadStatusChanged`.
fn camel(kind: &str) -> String {
    kind.split(['.', '_'])
        .flat_map(|word| word.chars().enumerate().map(|(index, c)| if index == 0 { c.to_ascii_uppercase() } else { c }))
        .filter(char::is_ascii_alphanumeric)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn alarm(kind: &str, data: &Value) -> Alarm {
        let event = json!({
            "id": "evt_1", "event": kind, "created_at": "2026-11-23T12:00:00.000Z", "data": data,
            "context": { "device": { "id": "kiosk-12", "site": "Hall 3" }, "clock": "trusted" },
        });
        Alarm::of(event.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_over_is_about_what_was_raised() {
        let failing = alarm("destination.failing", &json!({ "destination": "crm", "state": "offline" }));
        let recovered = alarm("destination.recovered", &json!({ "destination": "crm", "since": "2026-11-23T11:00:00.000Z" }));
        let other = alarm("destination.failing", &json!({ "destination": "sheet" }));
        assert_eq!((&failing.name, &failing.about, failing.over), (&recovered.name, &recovered.about, false));
        assert!(recovered.over && recovered.since.is_some());
        assert_ne!(failing.about, other.about);
        assert_eq!((failing.device.as_str(), failing.site.as_deref()), ("kiosk-12", Some("Hall 3")));
    }

    #[test]
    fn every_event_is_an_alarm_of_some_kind() {
        for (kind, data, name, about, severity, over) in [
            ("storage.low", json!({ "level": "low" }), "StorageLow", "storage", Severity::Warning, false),
            ("storage.low", json!({ "level": "full" }), "StorageFull", "storage", Severity::Critical, false),
            ("storage.low", json!({ "level": "well" }), "StorageLow", "storage", Severity::Warning, true),
            ("storage.wear", json!({}), "StorageWear", "storage.wear", Severity::Warning, false),
            ("device.heartbeat", json!({}), "DeviceHeartbeat", "device.heartbeat", Severity::Info, false),
            ("lead.status_changed", json!({}), "LeadStatusChanged", "lead.status_changed/evt_1", Severity::Info, false),
        ] {
            let alarm = alarm(kind, &data);
            assert_eq!((alarm.name.as_str(), alarm.about.as_str(), alarm.severity, alarm.over), (name, about, severity, over));
        }
    }

    #[test]
    fn a_time_nobody_believes_is_no_time() {
        let event = br#"{"event":"storage.low","created_at":"1970-01-01T00:00:05.000Z","data":{},"context":{"clock":"untrusted"}}"#;
        assert_eq!(Alarm::of(event).unwrap().at, None);
        let later = json!({ "destination": "crm", "since": "2026-11-24T00:00:00.000Z" });
        assert_eq!(alarm("destination.failing", &later).since, None);
    }
}
