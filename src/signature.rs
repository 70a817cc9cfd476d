//! Signing and verifying the bytes of a delivery.
//!
//! Two signatures go with every delivery: `X-LeadsBot-Signature`, the published one (64 lower-case hex digits of HMAC-SHA256 over
//! the raw body), and `webhook-signature` of Standard Webhooks v1 (<https://www.standardwebhooks.com>). Nothing here may look into
//! the body: what is signed is what is sent.

use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Name of the header with the hex signature.
pub const HEADER: &str = "X-LeadsBot-Signature";
/// Name of the header with the hex signature made with the next secret, while secrets are rotated.
pub const HEADER_NEXT: &str = "X-LeadsBot-Signature-Next";

/// Why a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// There is no signature header.
    Missing,
    /// Not exactly 64 lower-case hex digits (or, for Standard Webhooks, no `v1,<base64>` in it).
    Malformed,
    /// Well formed, but made with another secret or over other bytes.
    Mismatch,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Invalid::Missing => "no signature header",
            Invalid::Malformed => "the signature is not 64 lower-case hex digits",
            Invalid::Mismatch => "the signature does not match: another secret, or the body was changed on the way",
        })
    }
}

impl std::error::Error for Invalid {}

/// `X-LeadsBot-Signature` of `body`: exactly 64 lower-case hex digits.
pub fn leadsbot(secret: &Secret, body: &[u8]) -> String {
    let digest = mac(secret.leadsbot_key(), &[body]).map(|m| m.finalize().into_bytes());
    let digits = digest.into_iter().flatten().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')).collect()
}

/// Checks an `X-LeadsBot-Signature` header, in time that does not depend on where it differs.
pub fn verify_leadsbot(secret: &Secret, body: &[u8], header: Option<&str>) -> Result<(), Invalid> {
    let given = unhex(header.ok_or(Invalid::Missing)?).ok_or(Invalid::Malformed)?;
    let mac = mac(secret.leadsbot_key(), &[body]).ok_or(Invalid::Mismatch)?;
    mac.verify_slice(&given).map_err(|_| Invalid::Mismatch)
}

/// `webhook-signature`: one `v1,<base64>` per secret, separated by spaces, over `id.timestamp.body`.
pub fn standard(secrets: &[Secret], id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let timestamp = timestamp_seconds.to_string();
    let mut header = String::new();
    for secret in secrets {
        if let Some(mac) = mac(secret.standard_key(), &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]) {
            if !header.is_empty() {
                header.push(' ');
            }
            header.push_str("v1,");
            STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
        }
    }
    header
}

/// Checks a `webhook-signature` header: any one of its `v1` signatures may match. The caller judges the timestamp's age.
pub fn verify_standard(secret: &Secret, id: &str, timestamp: &str, body: &[u8], header: Option<&str>) -> Result<(), Invalid> {
    let header = header.ok_or(Invalid::Missing)?;
    let mut seen = false;
    for part in header.split(' ') {
        let Some(Ok(given)) = part.strip_prefix("v1,").map(|b| STANDARD.decode(b)) else { continue };
        seen = true;
        if let Some(mac) = mac(secret.standard_key(), &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body])
            && mac.verify_slice(&given).is_ok()
        {
            return Ok(());
        }
    }
    Err(if seen { Invalid::Mismatch } else { Invalid::Malformed })
}

// HMAC takes keys of any length, so this is always `Some`; spelled as an option because nothing here may panic.
fn mac(key: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(part);
    }
    Some(mac)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; 32];
    let mut bytes = text.bytes();
    for byte in &mut out {
        *byte = digit(bytes.next()?)? << 4 | digit(bytes.next()?)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        br#"{"event":"lead.created","data":{"name":"Jane Smith","email":"jane@example.com","score":88,"source":"website-widget"}}"#;
    const HEX: &str = "501e7a093299d00a65125a8b217b28ebc53efe0a4eb349496c10241da5f26cde";

    fn secret() -> Secret {
        Secret::new("0123456789abcdef0123456789abcdef").unwrap()
    }

    #[test]
    fn the_published_vector_is_reproduced() {
        assert_eq!(BODY.len(), 117);
        assert_eq!(leadsbot(&secret(), BODY), HEX);
        assert_eq!(verify_leadsbot(&secret(), BODY, Some(HEX)), Ok(()));
        assert_ne!(HEX, "7df8ade7457b2e8a962bd599412ad239ff1731798ba8b2102391f452768e03cd", "the key is never hex-decoded");
    }

    #[test]
    fn the_standard_webhooks_vectors_are_reproduced() {
        for (secret, id, timestamp, body, expected) in [
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "whsec_plJ3nmyCDGBKInavdOK15jsl",
                "msg_loFOjxBNrRLzqYUf",
                1_731_705_121,
                r#"{"event_type":"ping","data":{"success":true}}"#,
                "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
            ),
        ] {
            let secret = Secret::new(secret).unwrap();
            assert_eq!(standard(std::slice::from_ref(&secret), id, timestamp, body.as_bytes()), expected);
            let header = format!("v1,AAAA {expected} v2,xyz");
            assert_eq!(verify_standard(&secret, id, &timestamp.to_string(), body.as_bytes(), Some(&header)), Ok(()));
            assert_eq!(verify_standard(&secret, id, "0", body.as_bytes(), Some(&header)), Err(Invalid::Mismatch));
        }
    }

    #[test]
    fn a_malformed_header_is_an_answer_and_never_a_panic() {
        let long = HEX.repeat(2);
        let prefixed = format!("sha256={HEX}");
        let twice = format!("{HEX},{HEX}");
        let upper = HEX.to_uppercase();
        for bad in ["", "0", HEX.get(1..).unwrap(), long.as_str(), &prefixed, &twice, &upper, &"é".repeat(32), &"g".repeat(64)] {
            assert_eq!(verify_leadsbot(&secret(), BODY, Some(bad)), Err(Invalid::Malformed), "{bad}");
        }
        assert_eq!(verify_leadsbot(&secret(), BODY, None), Err(Invalid::Missing));
        assert_eq!(verify_leadsbot(&secret(), b"{}", Some(HEX)), Err(Invalid::Mismatch));
        assert_eq!(verify_standard(&secret(), "a", "1", b"", Some("v1a,x")), Err(Invalid::Malformed));
    }

    #[test]
    fn rotation_signs_with_every_secret() {
        let next = Secret::new("fedcba9876543210fedcba9876543210").unwrap();
        let header = standard(&[secret(), next.clone()], "evt_1", 1, b"{}");
        assert_eq!(header.split(' ').count(), 2);
        assert_eq!(verify_standard(&secret(), "evt_1", "1", b"{}", Some(&header)), Ok(()));
        assert_eq!(verify_standard(&next, "evt_1", "1", b"{}", Some(&header)), Ok(()));
    }
}
