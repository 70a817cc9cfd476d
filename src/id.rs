//! Public ids: opaque to strangers, found without an index by the store that made them.
//!
//! An id is a prefix and 26 Crockford base32 digits (lower case) over 128 bits: 64 random bits, then the row's sequence number
//! masked with a keyed digest of those random bits. The mask hides how many leads a kiosk has; it is no secret worth attacking, and
//! nothing is authenticated by it. An id must never be trusted before the row it names has been compared with it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Base32 digits after the prefix.
pub const DIGITS: usize = 26;

/// What an id names; its prefix tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `evt_…`
    Event,
    /// `lead_…`
    Lead,
    /// `dlv_…`
    Delivery,
}

impl Kind {
    /// The prefix with its underscore.
    pub const fn prefix(self) -> &'static str {
        match self {
            Kind::Event => "evt_",
            Kind::Lead => "lead_",
            Kind::Delivery => "dlv_",
        }
    }
}

/// The 32 bytes, made once per database, that mask sequence numbers in its ids.
#[derive(Clone)]
pub struct IdKey([u8; 32]);

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey(..)")
    }
}

/// The part of an id that can be worked out before its row has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    kind: Kind,
    random: u64,
    mask: u64,
}

impl Seed {
    /// The random half, which the row keeps so that an id can be checked.
    pub fn random(&self) -> u64 {
        self.random
    }

    /// The whole id, prefix included, for row `seq`.
    pub fn id(&self, seq: i64) -> String {
        let mut id = String::with_capacity(self.kind.prefix().len() + DIGITS);
        id.push_str(self.kind.prefix());
        id.extend(self.digits(seq).iter().map(|b| char::from(*b)));
        id
    }

    /// Only the digits, for writing into a place kept for them.
    pub fn digits(&self, seq: i64) -> [u8; DIGITS] {
        let low = u64::from_be_bytes(seq.to_be_bytes()) ^ self.mask;
        encode((u128::from(self.random) << 64) | u128::from(low))
    }
}

impl IdKey {
    /// Wraps the key bytes a database keeps.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The seed of the event id with these random bits.
    pub fn event(&self, random: u64) -> Seed {
        self.seed(Kind::Event, random)
    }

    /// The seed of the id of the lead whose `lead.created` event has these random bits.
    pub fn lead(&self, event_random: u64) -> Seed {
        let random = self.digest(b"lead", event_random);
        self.seed(Kind::Lead, random)
    }

    fn seed(&self, kind: Kind, random: u64) -> Seed {
        let mask = self.digest(kind.prefix().as_bytes(), random);
        Seed { kind, random, mask }
    }

    /// The sequence number inside `id`, or `None` when it is no id of this kind. The caller must compare the row's own id with `id`.
    pub fn seq(&self, kind: Kind, id: &str) -> Option<i64> {
        let value = decode(id.strip_prefix(kind.prefix())?)?;
        let random = u64::try_from(value >> 64).ok()?;
        let low = u64::try_from(value & u128::from(u64::MAX)).ok()?;
        let seq = i64::from_be_bytes((low ^ self.digest(kind.prefix().as_bytes(), random)).to_be_bytes());
        (seq > 0).then_some(seq)
    }

    fn digest(&self, label: &[u8], random: u64) -> u64 {
        let mut bytes = Vec::with_capacity(48);
        bytes.extend_from_slice(&self.0);
        bytes.extend_from_slice(&random.to_be_bytes());
        bytes.extend_from_slice(label);
        first_eight(&Sha256::digest(&bytes))
    }
}

/// The id of the delivery of one event to one destination: a digest of both, so it is stable without being stored.
pub fn delivery(event_id: &str, destination: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(event_id.as_bytes());
    hasher.update(b"\n");
    hasher.update(destination.as_bytes());
    let digest = hasher.finalize();
    let high = first_eight(&digest);
    let low = first_eight(digest.get(8..).unwrap_or_default());
    let digits = encode((u128::from(high) << 64) | u128::from(low));
    let mut id = String::with_capacity(4 + DIGITS);
    id.push_str(Kind::Delivery.prefix());
    id.extend(digits.iter().map(|b| char::from(*b)));
    id
}

/// The key under which a submission is remembered: 16 bytes of HMAC over source and the caller's own key, so that the caller's
/// text is not kept and one source cannot guess another's.
pub fn submission_key(ids: &IdKey, source: &str, key: &str) -> [u8; 16] {
    let mut out = [0_u8; 16];
    // HMAC takes a key of any length; the only error `new_from_slice` can have does not exist for it.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&ids.0) {
        mac.update(source.as_bytes());
        mac.update(&[0]);
        mac.update(key.as_bytes());
        let digest = mac.finalize().into_bytes();
        for (to, from) in out.iter_mut().zip(digest.iter()) {
            *to = *from;
        }
    }
    out
}

fn first_eight(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |acc, b| (acc << 8) | u64::from(*b))
}

fn encode(value: u128) -> [u8; DIGITS] {
    let mut out = [b'0'; DIGITS];
    let mut rest = value;
    for digit in out.iter_mut().rev() {
        let index = usize::try_from(rest & 31).unwrap_or(0);
        *digit = ALPHABET.get(index).copied().unwrap_or(b'0');
        rest >>= 5;
    }
    out
}

fn decode(digits: &str) -> Option<u128> {
    if digits.len() != DIGITS {
        return None;
    }
    let mut value: u128 = 0;
    for byte in digits.bytes() {
        let digit = ALPHABET.iter().position(|a| *a == byte)?;
        if value >> 123 != 0 {
            return None;
        }
        value = (value << 5) | u128::try_from(digit).ok()?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gives_its_row_back_and_only_under_its_own_key_and_kind() {
        let key = IdKey::new([7; 32]);
        for (random, seq) in [(0, 1), (u64::MAX, i64::MAX), (0x1234_5678_9abc_def0, 42)] {
            let event = key.event(random).id(seq);
            assert_eq!(event.len(), 30);
            assert_eq!(key.seq(Kind::Event, &event), Some(seq));
            assert_eq!(key.seq(Kind::Lead, &event), None);
            let lead = key.lead(random).id(seq);
            assert_eq!(key.seq(Kind::Lead, &lead), Some(seq));
            assert_ne!(lead[5..], event[4..]);
            assert_ne!(IdKey::new([8; 32]).seq(Kind::Event, &event), Some(seq));
        }
    }

    #[test]
    fn garbage_is_no_id() {
        let key = IdKey::new([7; 32]);
        for bad in
            ["", "evt_", "evt_0", "evt_zzzzzzzzzzzzzzzzzzzzzzzzzz", "evt_é000000000000000000000000", "EVT_00000000000000000000000000"]
        {
            assert_eq!(key.seq(Kind::Event, bad), None, "{bad}");
        }
    }

    #[test]
    fn a_delivery_id_is_stable_and_differs_by_destination() {
        assert_eq!(delivery("evt_1", "crm"), delivery("evt_1", "crm"));
        assert_ne!(delivery("evt_1", "crm"), delivery("evt_1", "chat"));
        assert_eq!(delivery("evt_1", "crm").len(), 30);
    }
}
