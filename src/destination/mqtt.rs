//! The `mqtt` type: each event as a message of quality 1, done when the broker has acknowledged it. Pure.
//!
//! Reason codes: section 2.4 of <https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html>. MQTT 3.1.1 has none for a message: a broker that
//! does not want one can only close the connection, or acknowledge it and throw it away.

use super::broker::{Message, Messages, address, judged};
use super::webhook::Body;
use super::{Answer, Batch, Class, Connector, Incoming, Memory, Moment, Next, Record, Reply, Request, Verdict, printable};
use crate::mapping::{MappingError, Template};
use crate::secret::Secret;
use crate::signature;

/// Messages that are under way at once. Mosquitto takes 20 before the first must be acknowledged; the transport keeps to what it says.
const BATCH: Batch = Batch::of(32);
/// Bytes of a topic: a string of MQTT has a length of two bytes.
const TOPIC_BYTES_MAX: usize = 65_535;

/// A topic of a broker.
#[derive(Debug)]
pub struct Mqtt {
    /// Scheme, host and port.
    pub place: String,
    /// Whether messages have properties: MQTT 5.
    pub properties: bool,
    /// Which topic.
    pub topic: Template,
    /// What a message says.
    pub body: Body,
    /// Signing secrets, the current one first; at most two.
    pub secrets: Vec<Secret>,
    /// The broker keeps the last message of each topic.
    pub retain: bool,
    /// Seconds after which the broker forgets a message that nobody fetched.
    pub expiry_seconds: Option<u32>,
}

/// Characters that would lead a value out of its level, or make it a pattern. `$` begins the broker's own topics.
pub fn leaves_level(c: char) -> bool {
    matches!(c, '/' | '+' | '#' | '$')
}

/// Whether a topic may be published to: section 4.7 of the standard.
pub fn fit(topic: &str) -> Result<(), &'static str> {
    if topic.is_empty() {
        return Err("the topic is empty");
    }
    if topic.len() > TOPIC_BYTES_MAX {
        return Err("the topic is longer than 65535 bytes");
    }
    if topic.contains(['+', '#', '\0']) {
        return Err("a topic that is published to must not hold +, # or NUL");
    }
    Ok(())
}

impl Connector for Mqtt {
    fn kind(&self) -> &'static str {
        "mqtt"
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    fn batch(&self) -> Batch {
        BATCH
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        self.body.render(incoming.bytes)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        match said.last() {
            None => {
                let messages = records.iter().map(|record| self.message(record)).collect::<Result<Vec<_>, _>>()?;
                Ok(Next::Send(Request::Publish(Box::new(Messages { shown: self.place.clone(), messages }))))
            }
            Some(answer) => Ok(Next::Judged(judged(records.len(), answer, moment, "MQTT", verdict))),
        }
    }
}

impl Mqtt {
    fn message(&self, record: &Record<'_>) -> Result<Message, MappingError> {
        let mut message = Message {
            address: address(&self.topic, record, fit)?,
            event_id: record.identity.event_id.to_owned(),
            retain: self.retain,
            body: record.body.to_vec(),
            ..Message::default()
        };
        if self.properties {
            self.body.content_type().clone_into(&mut message.content_type);
            message.expiry_seconds = self.expiry_seconds;
            message.headers.push(("event-id".to_owned(), record.identity.event_id.to_owned()));
            message.headers.push(("event".to_owned(), record.identity.kind.to_owned()));
            let names = ["signature", "signature-next"].into_iter();
            message.headers.extend(names.zip(&self.secrets).map(|(n, secret)| (n.to_owned(), signature::leadsbot(secret, record.body))));
        }
        Ok(message)
    }
}

/// What a reply means: the name of a packet and its reason, as in `PUBACK 0x87`.
fn verdict(reply: &Reply) -> Verdict {
    let code = reply.code.split_once(" 0x").and_then(|(packet, code)| Some((packet, u8::from_str_radix(code, 16).ok()?)));
    let Some((packet, code)) = code else { return Verdict::internal("a reply that is none of MQTT") };
    let (class, word, what) = meaning(packet, code);
    let reason = if what.is_empty() { reply.code.clone() } else { format!("{}: {what}", reply.code) };
    Verdict { answer: printable(reply.text.as_bytes()), ..Verdict::new(class, word, reason) }
}

fn meaning(packet: &str, code: u8) -> (Class, &'static str, &'static str) {
    match code {
        0x10 => (Class::Delivered, "delivered", "the broker took it; nobody subscribes to its topic at present"),
        0x00..=0x7f if packet == "PUBACK" => (Class::Delivered, "delivered", "the broker took it"),
        0x84 => (Class::Refused, "receiver_4xx", "the broker does not speak this version of MQTT; set version = 4"),
        0x85 => (Class::Refused, "receiver_4xx", "the broker does not take this client_id; set another one"),
        0x86 | 0x8c => (Class::Refused, "receiver_4xx", "the broker does not know this user and password; compare user and secret"),
        0x87 if packet == "PUBACK" => {
            (Class::Refused, "receiver_4xx", "this user may not publish to the topic; compare topic with the broker's access list")
        }
        0x87 => (Class::Refused, "receiver_4xx", "the broker does not let this client in; compare user, secret and its access rules"),
        0x8a => (Class::Refused, "receiver_4xx", "the broker has banned this client; ask who runs it"),
        0x9a => (Class::Refused, "receiver_4xx", "the broker does not retain messages; set retain = false"),
        0x9b => (Class::Refused, "receiver_4xx", "the broker does not acknowledge messages (quality 1); another one is needed"),
        0x9c | 0x9d => (Class::Refused, "redirect", "the broker has moved; put its new address into url"),
        0x89 | 0x93 | 0x96 | 0x97 | 0x9f => (Class::Throttled, "throttled", "the broker asks to slow down"),
        0x90 => (Class::Rejected, "rejected_body", "the broker does not take this topic"),
        0x95 => (Class::Rejected, "rejected_body", "the message is larger than the broker takes"),
        0x99 => (Class::Rejected, "rejected_body", "the broker does not take what the message says"),
        0x8e => (
            Class::Temporary,
            "connection_reset",
            "another client came with the same client_id, and the broker keeps the newer one; give each its own",
        ),
        0x81 | 0x82 => (Class::Temporary, "protocol_error", "the broker could not read what it was sent"),
        0x88 | 0x8b | 0x98 => (Class::Temporary, "receiver_5xx", "the broker is not available at present"),
        _ => (Class::Temporary, "receiver_5xx", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{Failure, Identity, Judgement};
    use crate::time::{Tick, Wall};

    const EVENT: &[u8] =
        br#"{"id":"evt_1","event":"lead.created","data":{"name":"Zo\u00eb","source":"stand/4#"},"context":{"device":{"id":"kiosk-7"}}}"#;
    const MOMENT: Moment = Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: true, vouched: false };

    fn mqtt(topic: &str, properties: bool) -> Mqtt {
        Mqtt {
            place: "mqtt://broker.lan:1883".to_owned(),
            properties,
            topic: Template::address("topic", topic, leaves_level).unwrap(),
            body: Body::Full,
            secrets: vec![Secret::new("0123456789abcdef0123456789abcdef").unwrap()],
            retain: true,
            expiry_seconds: Some(600),
        }
    }

    fn record(event: &'static [u8]) -> Record<'static> {
        let identity = Identity { event_id: "evt_1", kind: "lead.created", destination: "bus" };
        Record { identity, body: event, event: Some(event), attempt: 1 }
    }

    fn asked(mqtt: &Mqtt, records: &[Record<'_>]) -> Result<Messages, MappingError> {
        match mqtt.next(records, &[], &MOMENT, &mut Memory::default())? {
            Next::Send(Request::Publish(messages)) => Ok(*messages),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_carries_the_event_its_id_and_a_signature_over_its_bytes() {
        let messages = asked(&mqtt("leads/{{ context.device.id }}/{{ data.source }}", true), &[record(EVENT)]).unwrap();
        let secret = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let wanted = Message {
            address: "leads/kiosk-7/stand_4_".to_owned(),
            event_id: "evt_1".to_owned(),
            headers: vec![
                pair("event-id", "evt_1"),
                pair("event", "lead.created"),
                pair("signature", &signature::leadsbot(&secret, EVENT)),
            ],
            content_type: "application/json".to_owned(),
            retain: true,
            expiry_seconds: Some(600),
            body: EVENT.to_vec(),
        };
        assert_eq!(messages, Messages { shown: "mqtt://broker.lan:1883".to_owned(), messages: vec![wanted] });
    }

    #[test]
    fn what_mqtt_3_has_no_place_for_is_not_claimed() {
        let messages = asked(&mqtt("leads", false), &[record(EVENT)]).unwrap();
        let message = &messages.messages[0];
        assert!(message.headers.is_empty() && message.content_type.is_empty() && message.expiry_seconds.is_none());
    }

    #[test]
    fn a_topic_that_cannot_be_published_to_is_a_fault_of_the_delivery() {
        for topic in ["a/#", "a/+/b", "a\0", ""] {
            assert!(asked(&mqtt(topic, true), &[record(EVENT)]).is_err(), "{topic}");
        }
        let unreadable = Record { event: None, ..record(EVENT) };
        assert!(asked(&mqtt("leads", true), &[unreadable]).is_err());
    }

    #[test]
    fn every_reason_has_its_class() {
        for (reply, class, code) in [
            ("PUBACK 0x00", Class::Delivered, "delivered"),
            ("PUBACK 0x10", Class::Delivered, "delivered"),
            ("PUBACK 0x80", Class::Temporary, "receiver_5xx"),
            ("PUBACK 0x83", Class::Temporary, "receiver_5xx"),
            ("PUBACK 0x87", Class::Refused, "receiver_4xx"),
            ("PUBACK 0x90", Class::Rejected, "rejected_body"),
            ("PUBACK 0x91", Class::Temporary, "receiver_5xx"),
            ("PUBACK 0x97", Class::Throttled, "throttled"),
            ("PUBACK 0x99", Class::Rejected, "rejected_body"),
            ("PACKET 0x95", Class::Rejected, "rejected_body"),
            ("CONNACK 0x01", Class::Temporary, "receiver_5xx"),
            ("CONNACK 0x84", Class::Refused, "receiver_4xx"),
            ("CONNACK 0x85", Class::Refused, "receiver_4xx"),
            ("CONNACK 0x86", Class::Refused, "receiver_4xx"),
            ("CONNACK 0x87", Class::Refused, "receiver_4xx"),
            ("CONNACK 0x88", Class::Temporary, "receiver_5xx"),
            ("CONNACK 0x89", Class::Throttled, "throttled"),
            ("CONNACK 0x9a", Class::Refused, "receiver_4xx"),
            ("CONNACK 0x9b", Class::Refused, "receiver_4xx"),
            ("CONNACK 0x9d", Class::Refused, "redirect"),
            ("CONNACK 0x9f", Class::Throttled, "throttled"),
            ("DISCONNECT 0x00", Class::Temporary, "receiver_5xx"),
            ("DISCONNECT 0x8b", Class::Temporary, "receiver_5xx"),
            ("DISCONNECT 0x8e", Class::Temporary, "connection_reset"),
            ("DISCONNECT 0x95", Class::Rejected, "rejected_body"),
            ("DISCONNECT 0x96", Class::Throttled, "throttled"),
            ("lost", Class::Temporary, "connection_reset"),
            ("nonsense", Class::Internal, "internal"),
        ] {
            let answer = Answer::Replies(vec![Reply { code: reply.to_owned(), text: "words of Jane".to_owned() }]);
            let Judgement::All(verdict) = judged(1, &answer, &MOMENT, "MQTT", verdict) else { panic!("{reply}") };
            assert_eq!((verdict.class, verdict.code), (class, code), "{reply}");
            assert!(reply == "lost" || !verdict.reason.contains("Jane"), "{reply}");
        }
    }

    #[test]
    fn each_message_has_its_own_end() {
        let reply = |code: &str| Reply { code: code.to_owned(), text: String::new() };
        let answer = Answer::Replies(vec![reply("PUBACK 0x00"), reply("PUBACK 0x90"), reply("lost")]);
        let records = [record(EVENT), record(EVENT), record(EVENT)];
        let Next::Judged(Judgement::Each(verdicts)) =
            mqtt("leads", true).next(&records, &[answer], &MOMENT, &mut Memory::default()).unwrap()
        else {
            panic!()
        };
        let classes: Vec<Class> = verdicts.iter().map(|v| v.class).collect();
        assert_eq!(classes, [Class::Delivered, Class::Rejected, Class::Temporary]);
        let strange = Answer::Failure { kind: Failure::Protocol, detail: "HTTP/1.1".to_owned() };
        let Judgement::All(verdict) = judged(3, &strange, &MOMENT, "MQTT", verdict) else { panic!() };
        assert!(verdict.reason.contains("does not speak MQTT"), "{}", verdict.reason);
    }
}
