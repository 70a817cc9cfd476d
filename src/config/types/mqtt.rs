//! `type = "mqtt"`.

use super::webhook::body;
use super::{Given, Made, broker};
use crate::delivery::{MqttServer, MqttVersion, Wire};
use crate::destination::mqtt::{Mqtt, fit, leaves_level};
use crate::secret::Hidden;

const TOPIC: &str = "leadsbot/{{ context.device.id }}/{{ event }}";
/// What a device is called that nobody gave a name: `device.id` of the configuration.
const UNNAMED: &str = "kiosk";

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    if !cfg!(feature = "mqtt") {
        given.table.fault_of("type", "this leadsbotd was built without mqtt (a feature of that name)");
        given.table.take_all();
        return None;
    }
    let server = broker::server(given, [("mqtt", false, 1883), ("mqtts", true, 8883)]);
    let version = match given.table.number("version", 4..=5, 5) {
        4 => MqttVersion::V4,
        _ => MqttVersion::V5,
    };
    let client_id = client_id(given);
    let login = login(given);
    let topic = broker::address(given, "topic", TOPIC, leaves_level, fit);
    let retain = given.table.flag("retain", false);
    let expiry = given.table.number("expiry_seconds", 0..=u64::from(u32::MAX), 0);
    let secrets = broker::signing(given);
    let body = body(given);
    if version == MqttVersion::V4 {
        for key in ["expiry_seconds", "signing"].into_iter().filter(|key| given.table.has(key)) {
            given.table.fault_of(key, "needs version = 5; MQTT 3.1.1 has no place for it");
        }
    }
    let (server, client_id) = (server?, client_id?);
    let connector = Mqtt {
        place: server.place,
        properties: version == MqttVersion::V5,
        topic: topic?,
        body,
        secrets,
        retain,
        expiry_seconds: u32::try_from(expiry).ok().filter(|seconds| *seconds > 0),
    };
    let wire = MqttServer { host: server.host, port: server.port, tls: server.tls, version, client_id, login: login? };
    Some(Made { connector: Box::new(connector), wire: Wire::Mqtt(Box::new(wire)) })
}

/// As given, or of the device and the destination.
fn client_id(given: &mut Given<'_, '_, '_, '_>) -> Option<String> {
    match given.table.name("client_id") {
        Some(id) if id.value.chars().any(char::is_control) || id.value.len() > 256 => {
            given.table.fault_at(&id, "must be at most 256 bytes without control characters");
            None
        }
        Some(id) => Some(id.value),
        None if given.table.has("client_id") => None,
        None => {
            if given.device == UNNAMED {
                given.warnings.push(
                    "a broker knows a client by its id, and closes the older of two connections with the same one; give device.id, or the \
                     destination a client_id, if there is another kiosk"
                        .to_owned(),
                );
            }
            // A missing name has been complained about.
            let name = given.table.name("name").map(|name| name.value).unwrap_or_default();
            Some(format!("leadsbot-{}-{name}", given.device))
        }
    }
}

/// `user`, and its password by the ways a secret is given.
fn login(given: &mut Given<'_, '_, '_, '_>) -> Option<Option<(String, Option<Hidden>)>> {
    let user = given.table.name("user");
    let secret = super::super::secrets::hidden(given.table, given.warnings);
    match (user, secret) {
        (Some(user), secret) => Some(Some((user.value, secret.map(|s| Hidden(s.value))))),
        (None, Some(secret)) => {
            given.table.fault_at(&secret, "is a password without a user; give user");
            None
        }
        (None, None) => Some(None),
    }
}
