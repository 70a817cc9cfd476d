//! How the bytes of an event lie in the database: packed, so that a page holds twice as many leads and a card is written half as much.
//!
//! A packed body begins with a byte that says how, and its length; one that begins with `{` is the JSON itself. What was packed in one of
//! these ways must stay readable. A new way gets a new number.

mod short;

use super::Error;
use lz4_flex::block::decompress_into_with_dict;
use std::borrow::Cow;

/// LZ4 with [`DICTIONARY_1`]. Only read.
const PACKED_1: u8 = 1;
/// See [`short`].
const PACKED_2: u8 = 2;
/// What every event of a lead has in common; what is nearest to the end is found cheapest.
const DICTIONARY_1: &[u8] = br#"http://https://www..com/@example.com@gmail.com","suspicion":"honeypot","labels":{"name":"","changed":["score"],"from":"new","to":"contacted","reply":{"text":"","channel":"email","direction":"outbound","author":null}{"id":"evt_","event":"lead.status_changed","created_at":"lead.replied","created_at":"lead.updated","created_at":"lead.created","created_at":"2026-12-01T10:00:00.000Z","data":{"id":"lead_","name":"","email":"","phone":null,"company":null,"message":null,"score":0,"source":"contact","status":"new","fields":{"interest":""},"consent":{"text":"I agree that you keep my details to answer me.","version":"1","at":"2026-12-01T10:00:00.000Z"}},"context":{"device":{"id":"kiosk","name":"","site":"","site":null},"channel":"api","form":null,"page_url":null,"referrer":null,"channel":"inbound","channel":"form","form":"contact","page_url":null,"referrer":null,"utm":{},"ip":"192.168.1.127.0.0.1","user_agent":null,"user_agent":"Mozilla/5.0 (Linux; Android 14; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36","clock":"untrusted"}}","clock":"trusted"}},"score":0,"source":"api","status":"new","fields":{},"consent":null},"context":{"device":{"id":""#;
/// No event is larger; more is no body of ours.
const BYTES_MAX: usize = 32 << 20;

/// The body as it is stored.
pub fn pack(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + body.len() / 2);
    out.push(PACKED_2);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    let packed = short::write(body, out);
    if packed.len() < body.len() { packed } else { body.to_vec() }
}

/// The event's own bytes.
pub fn unpack(stored: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    let unreadable = |what: &str| Error::Unreadable(format!("the stored bytes of an event {what}"));
    match stored.split_at_checked(5) {
        Some(([how @ (PACKED_1 | PACKED_2), a, b, c, d], packed)) => {
            let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
            if length > BYTES_MAX {
                return Err(unreadable("claim to be larger than any"));
            }
            let body = if *how == PACKED_2 {
                short::read(packed, length)
            } else {
                let mut body = vec![0; length];
                decompress_into_with_dict(packed, &mut body, DICTIONARY_1).ok().filter(|n| *n == length).map(|_| body)
            };
            body.map(Cow::Owned).ok_or_else(|| unreadable("are damaged"))
        }
        _ if stored.first() == Some(&b'{') => Ok(Cow::Borrowed(stored)),
        _ => Err(unreadable("are no event of this version or an earlier one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Context, Draft, Kind};
    use crate::time::Wall;

    #[test]
    fn every_body_comes_back_as_it_was_and_an_event_takes_less_than_half_its_room() {
        let mut text = String::from("{");
        for n in 0..3000 {
            text.push_str(&fastrand::u32(..n + 1).to_string());
            assert_eq!(unpack(&pack(text.as_bytes())).unwrap(), text.as_bytes());
        }
        let event = Draft::sample(Kind::LeadCreated, Wall(0), &Context::default()).unwrap();
        let packed = pack(event.bytes());
        assert_eq!(unpack(&packed).unwrap(), event.bytes());
        assert!(packed.len() * 2 < event.bytes().len(), "{} of {}", packed.len(), event.bytes().len());
    }

    #[test]
    fn what_was_packed_when_the_dictionary_was_new_reads_the_same_for_ever() {
        assert_eq!(unpack(PACKED).unwrap(), EVENT);
        assert_eq!(unpack(PACKED_SHORT).unwrap(), EVENT);
    }

    const EVENT: &[u8] = br#"{"id":"evt_160aqpya3zsg1cvmv343gzqs8x","event":"lead.created","created_at":"2026-11-23T12:00:00.123Z","data":{"id":"lead_0chpj1744199tap76neepnqhq1","name":"Jane Smith","email":"jane@example.com","phone":null,"company":null,"message":null,"score":0,"source":"contact","status":"new","fields":{},"consent":null},"context":{"device":{"id":"kiosk","site":null},"channel":"form","form":"contact","page_url":null,"referrer":null,"utm":{},"ip":"192.168.1.20","user_agent":null,"clock":"trusted"}}"#;
    const PACKED: &[u8] = b"\x01\xea\x01\x00\x00\x03\x00\x02\x00\xc8\x03\xf0\x0b160aqpya3zsg1cvmv343gzqs8x)\x03\x11vP\x00\x01C\x03\x0f\x87\x03\x0bs1-23T12|\x02?123\x87\x03\x03\xf0\n0chpj1744199tap76neepnqhq\xb0\x01\x03\x87\x02\xa0Jane Smith\x82\x00\x03\xab\x03Hjane=\x05\x0f\xbb\x03P\x08\xae\x03\x00\x85\x02\x02\x10\x00\x0fR\x01\x04\x04K\x03\x02A\x03\x04/\x00\x05\xfb\x02\x01\xe0\x02\x12,\x07\x00\x10:\xa9\x01\x0f\xe7\x02,:20\"\xce\x02\x00r\x00\x06a\x02\xa0trusted\"}}";

    const PACKED_SHORT: &[u8] = b"\x02\xea\x01\x00\x00Kt\x07\x93a9#\xe6\\&z8.\xc6\xa6e&\xf3\xa1\xf4\xa6{\xa9\xeb]\xc3\xdc\xd0\x8d\x00\xe3\x00cM7\xcc\xcd]\xe10-\xfb\xbakY\xba\xef+R\xba\x0e\xa3\xb4d\xc3t\xa8/>\x880\x0a\xa7\x8bL\xa5K\xfa\x84\xd1\xdd\xb1z\x9f\xf8%f\x96FG\xadz$VuQ\\3T\xb59\xe1*y\xda\xbe\x17U&\xe6\x07U\x8cZ\x12\x0fx8\xad\x061\xf0\xdd:\x94\xd8?\x00";

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let packed = pack(&br#"{"id":"evt_","event":"lead.created"}"#.repeat(20));
        for at in 0..packed.len() {
            for byte in 0..=255 {
                let mut bad = packed.clone();
                bad[at] = byte;
                drop(unpack(&bad));
                drop(unpack(&bad[..at]));
            }
        }
        for bad in [&b""[..], b"x", b"\x01", b"\x01\xff\xff\xff\xff", b"\x02abcdef"] {
            assert!(unpack(bad).is_err(), "{bad:?}");
        }
    }
}
