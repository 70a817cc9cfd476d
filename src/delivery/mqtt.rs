//! Messages over MQTT 5 or 3.1.1 to one broker. It judges nothing.
//!
//! The connection stays open between exchanges. There is no thread for its keep-alive: the broker closes what has been silent for too long,
//! and the next exchange opens a new one. It must never answer for the broker: a message that was not acknowledged says so.

use super::dial::{dial, tls_config};
use super::line::Line;
use super::{Link, MqttServer, MqttVersion, Transport};
use crate::destination::broker::{LOST, Message};
use crate::destination::{Answer, Failure, Reply, Request, Unanswered};
use mqtt_protocol_core::mqtt::packet::{
    ContentType, DecodeResult, MessageExpiryInterval, PacketType, Properties, Property, Qos, UserProperty, VariableByteInteger, v3_1_1,
    v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, MqttError};
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the broker is told: after one and a half times this without a word it may close.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Bytes of a packet of the broker's. Those it sends to one that subscribes to nothing are short.
const PACKET_BYTES_MAX: u32 = 64 * 1024;

/// See the module.
pub struct Mqtt {
    link: Link,
    server: MqttServer,
    tls: Option<Arc<ClientConfig>>,
    state: Mutex<State>,
}

impl fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mqtt({}:{})", self.server.host, self.server.port)
    }
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    // Messages without an acknowledgement when their connection broke, by event, with their numbers. A broker that kept the session (which
    // MQTT 3.1.1 makes it do) is to get them again under the same ones: section 4.4 of the standard.
    unsettled: BTreeMap<String, u16>,
}

/// A connection that the broker has accepted.
struct Session {
    line: Line,
    version: MqttVersion,
    /// Messages without an acknowledgement that the broker takes at once.
    window: usize,
    /// Bytes of a packet that the broker takes.
    packet_bytes_max: usize,
    keep_alive: Duration,
    last: u16,
}

/// A packet of the broker's.
enum Heard {
    /// The broker accepts the connection or, with another reason than 0, does not.
    Accepted { reason: u8, session_present: bool, properties: Vec<Property> },
    /// It has a message, or does not want it.
    Acknowledged { packet: u16, reason: u8, text: String },
    /// It closes.
    Closed { reason: u8, text: String },
    /// Nothing that matters here.
    Other,
}

/// Why an exchange ended before all its messages were answered.
enum Broken {
    Unanswered(Unanswered),
    Told(Reply),
}

impl From<Unanswered> for Broken {
    fn from(unanswered: Unanswered) -> Self {
        Broken::Unanswered(unanswered)
    }
}

impl Mqtt {
    /// For one destination. Fails with a sentence when the CA file is not usable.
    pub fn new(link: &Link, server: &MqttServer) -> Result<Self, String> {
        let tls = if server.tls { Some(tls_config(&link.network)?) } else { None };
        Ok(Self { link: link.clone(), server: server.clone(), tls, state: Mutex::default() })
    }

    fn connect(&self, state: &mut State, deadline: Instant) -> Result<Session, Broken> {
        let stream = dial(&self.link, &self.server.host, self.server.port, self.tls.as_ref())?;
        let mut session = Session {
            line: Line::new(stream),
            version: self.server.version,
            window: usize::from(u16::MAX),
            packet_bytes_max: usize::MAX,
            keep_alive: KEEP_ALIVE,
            last: 0,
        };
        let hello = hello(&self.server).map_err(|e| unspeakable(&e))?;
        session.line.write(&hello, deadline)?;
        let Heard::Accepted { reason, session_present, properties } = session.hear(deadline)? else {
            return Err(strange("another packet than the answer to CONNECT").into());
        };
        let mut text = String::new();
        for property in properties {
            match property {
                Property::ReceiveMaximum(p) => session.window = usize::from(p.val().max(1)),
                Property::MaximumPacketSize(p) => session.packet_bytes_max = usize::try_from(p.val()).unwrap_or(usize::MAX),
                Property::ServerKeepAlive(p) if p.val() > 0 => session.keep_alive = Duration::from_secs(p.val().into()),
                // It takes messages of quality 0 only, and acknowledges none.
                Property::MaximumQos(p) if p.val() == 0 => return Err(Broken::Told(reply("CONNACK", 0x9b, String::new()))),
                Property::ReasonString(p) => p.val().clone_into(&mut text),
                _ => {}
            }
        }
        if reason != 0 {
            return Err(Broken::Told(reply("CONNACK", reason, text)));
        }
        if !session_present {
            state.unsettled.clear();
        }
        Ok(session)
    }

    /// All messages, answered one by one.
    fn exchange(&self, state: &mut State, messages: &[Message]) -> Answer {
        let deadline = Instant::now() + self.link.timeouts.total;
        let mut session = match state.session.take().and_then(Session::still_there) {
            Some(session) => session,
            None => match self.connect(state, deadline) {
                Ok(session) => session,
                Err(Broken::Unanswered(unanswered)) => return unanswered.into(),
                Err(Broken::Told(reply)) => return Answer::Replies(vec![reply]),
            },
        };
        let mut replies: Vec<Option<Reply>> = vec![None; messages.len()];
        let end = session.publish(&mut state.unsettled, messages, &mut replies, deadline);
        let any = replies.iter().any(Option::is_some);
        let missing = match end {
            Ok(()) => {
                state.session = Some(session);
                Reply { code: LOST.to_owned(), text: String::new() }
            }
            Err(Broken::Unanswered(unanswered)) if !any => return unanswered.while_talking().into(),
            Err(Broken::Told(reply)) if !any => return Answer::Replies(vec![reply]),
            // What it says of the whole may be the fault of one of those that are left; they are tried again.
            Err(Broken::Told(Reply { code, .. })) => Reply { code: LOST.to_owned(), text: code },
            Err(Broken::Unanswered(Unanswered { detail, .. })) => Reply { code: LOST.to_owned(), text: detail },
        };
        Answer::Replies(replies.into_iter().map(|reply| reply.unwrap_or_else(|| missing.clone())).collect())
    }
}

impl Transport for Mqtt {
    fn send(&self, request: &Request) -> Answer {
        let Request::Publish(batch) = request else {
            return Answer::Failure { kind: Failure::Protocol, detail: "a request that is no message".to_owned() };
        };
        // One connection for each client id: other workers wait.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.exchange(&mut state, &batch.messages)
    }
}

impl Session {
    /// Itself, if the broker has neither gone nor may be about to.
    fn still_there(mut self) -> Option<Self> {
        // What it says unasked is a goodbye.
        (self.line.idle() < self.keep_alive && self.line.catch_up() && self.line.unread().is_empty()).then_some(self)
    }

    fn publish(
        &mut self,
        unsettled: &mut BTreeMap<String, u16>,
        messages: &[Message],
        replies: &mut [Option<Reply>],
        deadline: Instant,
    ) -> Result<(), Broken> {
        let mut left = messages.iter().zip(0_usize..);
        let mut under_way: BTreeMap<u16, usize> = BTreeMap::new();
        loop {
            let mut bytes = Vec::new();
            while under_way.len() < self.window {
                let Some((message, index)) = left.next() else { break };
                let (number, again) = match unsettled.get(&message.event_id) {
                    Some(number) => (*number, true),
                    None => (self.next_number(|n| under_way.contains_key(&n) || unsettled.values().any(|u| *u == n)), false),
                };
                let packet = publish(self.version, message, number, again).map_err(|e| unspeakable(&e))?;
                if packet.len() > self.packet_bytes_max {
                    set(replies, index, reply("PACKET", 0x95, format!("{} bytes of {}", packet.len(), self.packet_bytes_max)));
                    continue;
                }
                unsettled.insert(message.event_id.clone(), number);
                under_way.insert(number, index);
                bytes.extend(packet);
            }
            if under_way.is_empty() {
                return Ok(());
            }
            if !bytes.is_empty() {
                self.line.write(&bytes, deadline)?;
            }
            match self.hear(deadline)? {
                Heard::Acknowledged { packet, reason, text } => {
                    if let Some(index) = under_way.remove(&packet) {
                        set(replies, index, reply("PUBACK", reason, text));
                        unsettled.retain(|_, number| *number != packet);
                    }
                }
                Heard::Closed { reason, text } => return Err(Broken::Told(reply("DISCONNECT", reason, text))),
                Heard::Accepted { .. } => return Err(strange("a second answer to CONNECT").into()),
                Heard::Other => {}
            }
        }
    }

    /// The next number that is not `taken`; there are far more than messages under way.
    fn next_number(&mut self, taken: impl Fn(u16) -> bool) -> u16 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !taken(self.last) {
                return self.last;
            }
        }
    }

    /// The broker's next packet.
    fn hear(&mut self, deadline: Instant) -> Result<Heard, Unanswered> {
        loop {
            if let Some(Raw { first, body, length }) = packet(self.line.unread())? {
                let heard = read(self.version, first, body).map_err(|e| strange(&format!("a packet that cannot be read: {e:?}")))?;
                self.line.used_up(length);
                return Ok(heard);
            }
            self.line.more(deadline)?;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A goodbye, if it goes out at once; the broker does without.
        if let Ok(goodbye) = v3_1_1::Disconnect::builder().build() {
            let _ = self.line.write(&goodbye.to_continuous_buffer(), Instant::now() + Duration::from_millis(100));
        }
    }
}

/// A packet as it stands among others: its first byte, its contents, and the length of all of it.
struct Raw<'b> {
    first: u8,
    body: &'b [u8],
    length: usize,
}

/// The first packet in these bytes, if it is whole.
fn packet(bytes: &[u8]) -> Result<Option<Raw<'_>>, Unanswered> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let (length, taken) = match VariableByteInteger::decode_stream(rest) {
        DecodeResult::Ok(length, taken) => (length.to_u32(), taken),
        DecodeResult::Incomplete => return Ok(None),
        DecodeResult::Err(_) => return Err(strange("no packet of MQTT")),
    };
    if length > PACKET_BYTES_MAX {
        return Err(strange("a packet of more than 64 KB"));
    }
    let end = taken + usize::try_from(length).unwrap_or(usize::MAX);
    Ok(rest.get(taken..end).map(|body| Raw { first: *first, body, length: 1 + end }))
}

/// What a packet says. Its reason is taken as it came: one that this version does not know is no success.
fn read(version: MqttVersion, first: u8, body: &[u8]) -> Result<Heard, MqttError> {
    let kind = first >> 4;
    let is = |wanted: PacketType| kind == wanted.as_u8();
    if is(PacketType::Connack) {
        return accepted(version, body);
    }
    if is(PacketType::Puback) {
        return Ok(match version {
            MqttVersion::V4 => {
                let (packet, _) = v3_1_1::Puback::parse(body)?;
                Heard::Acknowledged { packet: packet.packet_id(), reason: 0, text: String::new() }
            }
            MqttVersion::V5 => {
                let (packet, _) = v5_0::Puback::parse(body)?;
                let reason = packet.reason_code().map_or(0, |code| code as u8);
                Heard::Acknowledged { packet: packet.packet_id(), reason, text: reason_string(packet.props.as_deref()) }
            }
        });
    }
    if is(PacketType::Disconnect) && version == MqttVersion::V5 {
        let (packet, _) = v5_0::Disconnect::parse(body)?;
        let reason = packet.reason_code().map_or(0, |code| code as u8);
        return Ok(Heard::Closed { reason, text: reason_string(packet.props.as_deref()) });
    }
    // Nothing was subscribed to and nothing else asked.
    if is(PacketType::Pingresp) || is(PacketType::Publish) { Ok(Heard::Other) } else { Err(MqttError::ProtocolError) }
}

fn accepted(version: MqttVersion, body: &[u8]) -> Result<Heard, MqttError> {
    // A broker that knows MQTT 3.1.1 only says so in its own words to one that speaks 5.
    if let (MqttVersion::V5, [_, 1]) = (version, body) {
        return Ok(Heard::Accepted { reason: 0x84, session_present: false, properties: Vec::new() });
    }
    Ok(match version {
        MqttVersion::V4 => {
            let (packet, _) = v3_1_1::Connack::parse(body)?;
            // In the words of MQTT 5.
            let reason = match packet.return_code() {
                ConnectReturnCode::Accepted => 0,
                ConnectReturnCode::UnacceptableProtocolVersion => 0x84,
                ConnectReturnCode::IdentifierRejected => 0x85,
                ConnectReturnCode::ServerUnavailable => 0x88,
                ConnectReturnCode::BadUserNameOrPassword => 0x86,
                ConnectReturnCode::NotAuthorized => 0x87,
            };
            Heard::Accepted { reason, session_present: packet.session_present(), properties: Vec::new() }
        }
        MqttVersion::V5 => {
            let (packet, _) = v5_0::Connack::parse(body)?;
            let reason = packet.reason_code() as u8;
            Heard::Accepted { reason, session_present: packet.session_present(), properties: packet.props }
        }
    })
}

fn reason_string(properties: Option<&[Property]>) -> String {
    let texts = properties.into_iter().flatten().filter_map(|property| match property {
        Property::ReasonString(text) => Some(text.val().to_owned()),
        _ => None,
    });
    texts.collect()
}

/// CONNECT. No session is begun anew: a broker that kept one goes on with it.
fn hello(server: &MqttServer) -> Result<Vec<u8>, MqttError> {
    let seconds = u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX);
    let client_id = server.client_id.as_str();
    Ok(match server.version {
        MqttVersion::V4 => {
            let mut connect = v3_1_1::Connect::builder().clean_session(false).keep_alive(seconds).client_id(client_id)?;
            if let Some((user, password)) = &server.login {
                connect = connect.user_name(user.as_str())?;
                if let Some(password) = password {
                    connect = connect.password(password.0.as_str())?;
                }
            }
            connect.build()?.to_continuous_buffer()
        }
        MqttVersion::V5 => {
            let mut connect = v5_0::Connect::builder().clean_start(false).keep_alive(seconds).client_id(client_id)?;
            if let Some((user, password)) = &server.login {
                connect = connect.user_name(user.as_str())?;
                if let Some(password) = password {
                    connect = connect.password(password.0.as_str())?;
                }
            }
            connect.build()?.to_continuous_buffer()
        }
    })
}

fn publish(version: MqttVersion, message: &Message, number: u16, again: bool) -> Result<Vec<u8>, MqttError> {
    let topic = message.address.as_str();
    Ok(match version {
        MqttVersion::V4 => {
            let packet = v3_1_1::Publish::builder().topic_name(topic)?.qos(Qos::AtLeastOnce).dup(again).retain(message.retain);
            packet.packet_id(number).payload(message.body.as_slice()).build()?.to_continuous_buffer()
        }
        MqttVersion::V5 => {
            let packet = v5_0::Publish::builder().topic_name(topic)?.qos(Qos::AtLeastOnce).dup(again).retain(message.retain);
            let packet = packet.packet_id(number).payload(message.body.as_slice()).props(properties(message)?);
            packet.build()?.to_continuous_buffer()
        }
    })
}

fn properties(message: &Message) -> Result<Properties, MqttError> {
    let mut properties = Properties::new();
    if let Some(seconds) = message.expiry_seconds {
        properties.push(Property::MessageExpiryInterval(MessageExpiryInterval::new(seconds)?));
    }
    if !message.content_type.is_empty() {
        properties.push(Property::ContentType(ContentType::new(message.content_type.as_str())?));
    }
    for (name, value) in &message.headers {
        properties.push(Property::UserProperty(UserProperty::new(name.as_str(), value.as_str())?));
    }
    Ok(properties)
}

fn reply(packet: &str, reason: u8, text: String) -> Reply {
    Reply { code: format!("{packet} 0x{reason:02x}"), text }
}

fn set(replies: &mut [Option<Reply>], index: usize, reply: Reply) {
    if let Some(place) = replies.get_mut(index) {
        *place = Some(reply);
    }
}

fn strange(what: &str) -> Unanswered {
    Unanswered { kind: Failure::Protocol, detail: what.to_owned() }
}

/// A packet that cannot be made.
fn unspeakable(e: &MqttError) -> Broken {
    Broken::Told(reply("PACKET", 0x99, format!("{e:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::{Network, Wire};
    use super::*;
    use crate::destination::Timeouts;
    use crate::destination::broker::Messages;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_packet_is_taken_when_it_is_whole_and_not_before() {
        let two = [0x40, 2, 0, 7, 0x40, 3, 0, 8, 0x97];
        for cut in 0..4 {
            assert!(packet(&two[..cut]).unwrap().is_none(), "{cut}");
        }
        let Raw { first, body, length } = packet(&two).unwrap().unwrap();
        assert_eq!((first, body, length), (0x40, &[0, 7][..], 4));
        let Raw { first, body, .. } = packet(&two[length..]).unwrap().unwrap();
        let Ok(Heard::Acknowledged { packet: 8, reason: 0x97, .. }) = read(MqttVersion::V5, first, body) else { panic!() };
        assert!(packet(b"HTTP/1.1 400 Bad Request\r\n").is_ok(), "a length that has not come yet");
        assert!(packet(&[0x40, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(packet(&[0x40, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }

    #[test]
    fn an_unknown_reason_is_no_success() {
        assert!(read(MqttVersion::V5, 0x40, &[0, 1, 0x42]).is_err());
        assert!(read(MqttVersion::V5, 0x20, &[0, 0x42, 0]).is_err());
        assert!(read(MqttVersion::V4, 0x20, &[0, 9]).is_err());
        let Ok(Heard::Accepted { reason: 0x84, .. }) = read(MqttVersion::V5, 0x20, &[0, 1]) else { panic!() };
        let Ok(Heard::Accepted { reason: 0x87, .. }) = read(MqttVersion::V4, 0x20, &[0, 5]) else { panic!() };
    }

    #[test]
    fn no_bytes_of_a_broker_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            for version in [MqttVersion::V4, MqttVersion::V5] {
                let first = *random.choice(&[0x20, 0x40, 0xe0, 0xd0, 0x30]).unwrap();
                let _ = read(version, first, &bytes);
            }
            if let Ok(Some(raw)) = packet(&bytes) {
                let _ = read(MqttVersion::V5, raw.first, raw.body);
            }
        }
    }

    /// The next packet that a client sends: its first byte and contents.
    fn taken(socket: &mut TcpStream) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            if let Some(Raw { first, body, .. }) = packet(&bytes).unwrap() {
                return (first, body.to_vec());
            }
            let mut one = [0];
            socket.read_exact(&mut one).unwrap();
            bytes.extend(one);
        }
    }

    fn server(listener: &TcpListener, version: MqttVersion) -> Mqtt {
        let timeouts = Timeouts { connect: Duration::from_secs(5), total: Duration::from_secs(20) };
        let server = MqttServer {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            tls: false,
            version,
            client_id: "kiosk".to_owned(),
            login: None,
        };
        let wire = Wire::Mqtt(Box::new(server.clone()));
        Mqtt::new(&Link { wire, timeouts, network: Network::default(), allow_http: false, deny_private: false, own: Vec::new() }, &server)
            .unwrap()
    }

    fn batch(events: &[&str]) -> Request {
        let message = |id: &&str| Message {
            address: "leads".to_owned(),
            event_id: (*id).to_owned(),
            body: id.as_bytes().to_vec(),
            ..Message::default()
        };
        Request::Publish(Box::new(Messages { shown: String::new(), messages: events.iter().map(message).collect() }))
    }

    fn codes(answer: Answer) -> Vec<String> {
        match answer {
            Answer::Replies(replies) => replies.into_iter().map(|reply| reply.code).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Number and event of a PUBLISH.
    fn numbered(body: &[u8]) -> (u16, String) {
        (u16::from_be_bytes([body[7], body[8]]), String::from_utf8(body[9..].to_vec()).unwrap())
    }

    #[test]
    fn what_was_on_its_way_when_the_connection_broke_goes_again_under_its_number() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mqtt = server(&listener, MqttVersion::V4);
        let broker = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            taken(&mut socket);
            socket.write_all(&[0x20, 2, 0, 0]).unwrap();
            let first: Vec<(u8, Vec<u8>)> = (0..3).map(|_| taken(&mut socket)).collect();
            let [high, low] = numbered(&first[1].1).0.to_be_bytes();
            socket.write_all(&[0x40, 2, high, low]).unwrap();
            drop(socket);
            let (mut socket, _) = listener.accept().unwrap();
            taken(&mut socket);
            // It kept the session.
            socket.write_all(&[0x20, 2, 1, 0]).unwrap();
            let second: Vec<(u8, Vec<u8>)> = (0..3).map(|_| taken(&mut socket)).collect();
            for (_, body) in second.iter().rev() {
                let [high, low] = numbered(body).0.to_be_bytes();
                socket.write_all(&[0x40, 2, high, low]).unwrap();
            }
            (first, second)
        });
        assert_eq!(codes(mqtt.send(&batch(&["a", "b", "c"]))), [LOST, "PUBACK 0x00", LOST]);
        assert_eq!(codes(mqtt.send(&batch(&["a", "c", "d"]))), ["PUBACK 0x00"; 3]);
        let (first, second) = broker.join().unwrap();
        let of = |packets: &[(u8, Vec<u8>)], event: &str| {
            packets.iter().map(|(head, body)| (*head, numbered(body))).find(|(_, (_, e))| e == event).unwrap()
        };
        for event in ["a", "c"] {
            let ((before, (number, _)), (after, (again, _))) = (of(&first, event), of(&second, event));
            assert_eq!((before, after, again), (0x32, 0x3a, number), "{event} comes as a duplicate under its number");
        }
        let (head, (number, _)) = of(&second, "d");
        assert!(head == 0x32 && second.iter().filter(|(_, body)| numbered(body).0 == number).count() == 1, "a number of its own");
        assert!(mqtt.state.lock().unwrap().unsettled.is_empty());
    }

    #[test]
    fn no_more_is_under_way_than_the_broker_takes_and_nothing_larger() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mqtt = server(&listener, MqttVersion::V5);
        let broker = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            taken(&mut socket);
            // Receive Maximum 2, Maximum Packet Size 40.
            socket.write_all(&[0x20, 11, 0, 0, 8, 0x21, 0, 2, 0x27, 0, 0, 0, 40]).unwrap();
            for _ in 0..2 {
                let pair = [taken(&mut socket), taken(&mut socket)];
                socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                assert!(socket.read(&mut [0]).is_err(), "a third before one was acknowledged");
                socket.set_read_timeout(None).unwrap();
                for (_, body) in pair {
                    socket.write_all(&[0x40, 3, body[7], body[8], 0x97]).unwrap();
                }
            }
            // A goodbye: the broker is shutting down.
            taken(&mut socket);
            socket.write_all(&[0xe0, 1, 0x8b]).unwrap();
        });
        let large = "x".repeat(60);
        let quota = "PUBACK 0x97";
        assert_eq!(codes(mqtt.send(&batch(&["a", "b", &large, "c", "d"]))), [quota, quota, "PACKET 0x95", quota, quota]);
        assert_eq!(codes(mqtt.send(&batch(&["e"]))), ["DISCONNECT 0x8b"]);
        broker.join().unwrap();
    }

    #[test]
    fn a_message_is_written_as_the_standard_has_it() {
        let message = Message { address: "a/b".to_owned(), body: b"hi".to_vec(), retain: true, ..Message::default() };
        assert_eq!(publish(MqttVersion::V4, &message, 7, false).unwrap(), [0x33, 9, 0, 3, b'a', b'/', b'b', 0, 7, b'h', b'i']);
        assert_eq!(publish(MqttVersion::V5, &message, 7, true).unwrap(), [0x3b, 10, 0, 3, b'a', b'/', b'b', 0, 7, 0, b'h', b'i']);
        let with = Message { expiry_seconds: Some(9), headers: vec![("k".to_owned(), "v".to_owned())], ..message };
        let tail = [0x02, 0, 0, 0, 9, 0x26, 0, 1, b'k', 0, 1, b'v', b'h', b'i'];
        assert!(publish(MqttVersion::V5, &with, 7, false).unwrap().ends_with(&tail));
    }
}
