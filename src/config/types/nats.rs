//! `type = "nats"`.

use super::super::secrets;
use super::webhook::body;
use super::{Given, Made, broker};
use crate::delivery::{NatsLogin, NatsServer, Wire};
use crate::destination::nats::{Nats, fit, leaves_token};
use crate::secret::Hidden;

const SUBJECT: &str = "leads.{{ event }}";

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    if !cfg!(feature = "nats") {
        given.table.fault_of("type", "this leadsbotd was built without nats (a feature of that name)");
        given.table.take_all();
        return None;
    }
    let server = broker::server(given, [("nats", false, 4222), ("tls", true, 4222)]);
    let login = login(given);
    let subject = broker::address(given, "subject", SUBJECT, leaves_token, fit);
    let stream = given.table.name("stream");
    if let Some(stream) = &stream
        && stream.value.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\'))
    {
        given.table.fault_at(stream, "is no name of a stream; it has no blanks and none of . * > / \\");
    }
    let signing = broker::signing(given);
    let body = body(given);
    let server = server?;
    let connector = Nats { place: server.place, subject: subject?, stream: stream.map(|s| s.value), body, secrets: signing };
    let wire = NatsServer { host: server.host, port: server.port, tls: server.tls, login: login? };
    Some(Made { connector: Box::new(connector), wire: Wire::Nats(Box::new(wire)) })
}

/// `user` with a password, or a secret alone: a credentials file, an nkey's seed, or else a token.
fn login(given: &mut Given<'_, '_, '_, '_>) -> Option<NatsLogin> {
    let user = given.table.name("user");
    let has_secret = secrets::given(given.table);
    let secret = secrets::hidden(given.table, given.warnings);
    match (user, secret) {
        (Some(user), Some(secret)) => Some(NatsLogin::Password(user.value, Hidden(secret.value))),
        (Some(user), None) => {
            if !has_secret {
                given.table.fault_at(&user, format!("has no password; {}", secrets::NEEDED));
            }
            None
        }
        (None, Some(secret)) => {
            let login = alone(&secret.value);
            if login.is_none() {
                given.table.fault_at(&secret, "holds an nkey that is not a user's seed (SU…), or not a whole one");
            }
            login
        }
        (None, None) => (!has_secret).then_some(NatsLogin::Nobody),
    }
}

#[cfg(feature = "nats")]
fn alone(secret: &str) -> Option<NatsLogin> {
    use crate::delivery::nats::nkey::{Nkey, credentials};
    let seed = |seed: &str| Nkey::from_seed(seed).map(|_| Hidden(seed.trim().to_owned()));
    if let Some((jwt, key)) = credentials(secret) {
        return Some(NatsLogin::Nkey(seed(key)?, Some(Hidden(jwt.to_owned()))));
    }
    let looks_like_a_seed =
        secret.len() == 58 && secret.starts_with('S') && secret.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    if looks_like_a_seed {
        return Some(NatsLogin::Nkey(seed(secret)?, None));
    }
    Some(NatsLogin::Token(Hidden(secret.to_owned())))
}

#[cfg(not(feature = "nats"))]
fn alone(_: &str) -> Option<NatsLogin> {
    None
}
