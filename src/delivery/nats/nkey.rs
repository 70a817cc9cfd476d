//! Nkeys, the key pairs of NATS: a user's seed in, a signature out. <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth>
//!
//! It must never show a seed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::BASE32_NOPAD;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The first byte of a seed: "S". The kind of its key follows, in the bits after it.
const SEED: u8 = 18 << 3;
/// The first byte of a user's public key: "U".
const USER: u8 = 20 << 3;

/// A user's key pair.
pub struct Nkey(Ed25519KeyPair);

impl std::fmt::Debug for Nkey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nkey(..)")
    }
}

impl Nkey {
    /// From a seed, `SU…`.
    pub fn from_seed(seed: &str) -> Option<Self> {
        let bytes = BASE32_NOPAD.decode(seed.trim().as_bytes()).ok()?;
        let (content, sum) = bytes.split_last_chunk::<2>()?;
        let (kind, secret) = content.split_first_chunk::<2>()?;
        let user = [SEED | (USER >> 5), (USER & 31) << 3];
        if crc16(content).to_le_bytes() != *sum || *kind != user {
            return None;
        }
        Ed25519KeyPair::from_seed_unchecked(secret).ok().map(Self)
    }

    /// The public key, `U…`: what the server knows it by.
    pub fn public(&self) -> String {
        let mut bytes = vec![USER];
        bytes.extend_from_slice(self.0.public_key().as_ref());
        let sum = crc16(&bytes);
        bytes.extend(sum.to_le_bytes());
        BASE32_NOPAD.encode(&bytes)
    }

    /// The answer to a server's challenge.
    pub fn sign(&self, nonce: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.0.sign(nonce.as_bytes()))
    }
}

/// The token and the seed of a credentials file, as `nsc` writes it.
pub fn credentials(text: &str) -> Option<(&str, &str)> {
    let block = |name: &str| {
        let (_, after) = text.split_once(&format!("-----BEGIN {name}-----"))?;
        let (inside, _) = after.split_once("---")?;
        Some(inside.trim())
    };
    Some((block("NATS USER JWT")?, block("USER NKEY SEED")?))
}

/// CRC-16/XMODEM, the sum that nkeys end with.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(sum ^ (u16::from(*byte) << 8), |sum, _| if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a seed of 32 ones.
    pub fn seed(kind: [u8; 2]) -> String {
        let mut bytes = kind.to_vec();
        bytes.extend([1; 32]);
        let sum = crc16(&bytes);
        bytes.extend(sum.to_le_bytes());
        BASE32_NOPAD.encode(&bytes)
    }

    #[test]
    fn only_a_users_whole_seed_is_taken() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value of CRC-16/XMODEM");
        let user = seed([SEED | (USER >> 5), (USER & 31) << 3]);
        assert!(user.starts_with("SU") && user.len() == 58, "{user}");
        let key = Nkey::from_seed(&format!("{user}\n")).unwrap();
        assert!(key.public().starts_with('U') && key.public().len() == 56, "{}", key.public());
        assert!(!format!("{key:?}").contains(&user));
        assert!(Nkey::from_seed(&user.replacen('A', "B", 1)).is_none());
        assert!(Nkey::from_seed(&key.public()).is_none());
        assert!(Nkey::from_seed(&seed([SEED, 0])).is_none(), "an account's");
        assert!(Nkey::from_seed("").is_none() && Nkey::from_seed("password").is_none());
    }

    #[test]
    fn a_credentials_file_gives_its_token_and_its_seed() {
        let file = "-----BEGIN NATS USER JWT-----\neyJ0.a.b\n------END NATS USER JWT------\n\n***** NOTE *****\n\n\
                    -----BEGIN USER NKEY SEED-----\nSUAX\n------END USER NKEY SEED------\n";
        assert_eq!(credentials(file), Some(("eyJ0.a.b", "SUAX")));
        assert_eq!(credentials("token"), None);
    }
}
