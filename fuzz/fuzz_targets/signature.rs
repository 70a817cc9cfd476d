//! Signature headers from anybody, and secrets from anybody's file.
#![no_main]

use arbitrary::Arbitrary;
use leadsbotd::secret::Secret;
use leadsbotd::signature::{Invalid, leadsbot, standard, verify_leadsbot, verify_standard};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    secret: &'a str,
    header: &'a str,
    id: &'a str,
    timestamp: i64,
    body: &'a [u8],
    flip: u8,
}

fuzz_target!(|input: Input| {
    let secret = match Secret::new(input.secret) {
        Ok(secret) => secret,
        Err(e) => {
            assert!(input.secret.len() < 16 || !e.to_string().contains(input.secret), "the message holds the secret");
            Secret::new("0123456789abcdef0123456789abcdef").expect("a secret")
        }
    };
    assert!(!format!("{secret:?}").contains(input.secret) || "Secret(..)".contains(input.secret));
    let (id, body, time) = (input.id, input.body, input.timestamp.to_string());
    let ours = leadsbot(&secret, body);
    assert_eq!(verify_leadsbot(&secret, body, Some(&ours)), Ok(()));
    let taken = verify_leadsbot(&secret, body, Some(input.header));
    assert_eq!(taken.is_ok(), input.header == ours, "a signature that is not ours");
    let well_formed = input.header.len() == 64 && input.header.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    assert_eq!(taken == Err(Invalid::Malformed), !well_formed);

    let header = standard(std::slice::from_ref(&secret), id, input.timestamp, body);
    assert_eq!(verify_standard(&secret, id, &time, body, Some(&header)), Ok(()));
    assert_eq!(verify_standard(&secret, id, &time, body, Some(input.header)).is_ok(), input.header.split(' ').any(|part| part == header));
    assert_eq!(verify_standard(&secret, id, &time, body, Some(&format!("{} {header}", input.header))), Ok(()));
    let mut other = body.to_vec();
    if let Some(byte) = other.get_mut(usize::from(input.flip)) {
        *byte ^= 1;
        assert_eq!(verify_leadsbot(&secret, &other, Some(&ours)), Err(Invalid::Mismatch));
        assert_eq!(verify_standard(&secret, id, &time, &other, Some(&header)), Err(Invalid::Mismatch));
    }
});
