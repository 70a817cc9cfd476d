//! Secrets: shown to nobody, compared without telling where they differ.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use subtle::ConstantTimeEq;

/// A secret shorter than this many bytes is refused: it could be guessed.
pub const BYTES_MIN: usize = 16;
/// A secret longer than this many bytes is refused: it is a file named by mistake.
pub const BYTES_MAX: usize = 1024;

/// A shared secret. `Debug` and `Display` never print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    standard_key: Vec<u8>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a text is no usable secret. The text itself is never part of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretError {
    /// Fewer than [`BYTES_MIN`] bytes.
    TooShort(usize),
    /// More than [`BYTES_MAX`] bytes.
    TooLong(usize),
    /// Begins with `whsec_` but the rest is not base64 of at least [`BYTES_MIN`] bytes.
    BadWhsec,
    /// Holds a control character, often a stray line end.
    Control,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::TooShort(n) => {
                write!(f, "the secret has {n} bytes; it needs at least {BYTES_MIN} (make one with: leadsbotd secret new)")
            }
            SecretError::TooLong(n) => write!(f, "the secret has {n} bytes; at most {BYTES_MAX} are taken (is it the right file?)"),
            SecretError::BadWhsec => f.write_str(
                "the secret begins with whsec_ but what follows is not base64 of 16 bytes or more (make one with: leadsbotd secret new)",
            ),
            SecretError::Control => f.write_str("the secret holds a control character (a line end inside it?)"),
        }
    }
}

impl std::error::Error for SecretError {}

impl Secret {
    /// Takes a secret as configured: any text, or the Standard Webhooks form `whsec_<base64>`.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        if text.len() < BYTES_MIN {
            return Err(SecretError::TooShort(text.len()));
        }
        if text.len() > BYTES_MAX {
            return Err(SecretError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(SecretError::Control);
        }
        let standard_key = match text.strip_prefix("whsec_") {
            Some(rest) => STANDARD.decode(rest).ok().filter(|key| key.len() >= BYTES_MIN).ok_or(SecretError::BadWhsec)?,
            None => text.as_bytes().to_vec(),
        };
        Ok(Self { text: text.to_owned(), standard_key })
    }

    /// A new one: `whsec_` and 32 random bytes in base64, which both signatures can use.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self { text: format!("whsec_{}", STANDARD.encode(bytes)), standard_key: bytes.to_vec() })
    }

    /// The key of `X-LeadsBot-Signature`: the configured text's own UTF-8 bytes.
    pub fn leadsbot_key(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The key of `webhook-signature`: what follows `whsec_`, decoded; of any other secret its UTF-8 bytes.
    pub fn standard_key(&self) -> &[u8] {
        &self.standard_key
    }

    /// Whether `other` is this secret, in time that does not depend on where they differ.
    pub fn matches(&self, other: &str) -> bool {
        bool::from(self.text.as_bytes().ct_eq(other.as_bytes()))
    }

    /// The secret itself, for the one place that must show it: `leadsbotd secret new`.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

/// A value that is sent but never shown, such as a header with a token in it. Any length.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_prints_a_secret() {
        let secret = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
        assert!(!format!("{secret:?}").contains("0123"));
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_with_its_reason() {
        assert_eq!(Secret::new("short"), Err(SecretError::TooShort(5)));
        assert_eq!(Secret::new(&"x".repeat(2000)), Err(SecretError::TooLong(2000)));
        assert_eq!(Secret::new("whsec_not base64 at all!"), Err(SecretError::BadWhsec));
        assert_eq!(Secret::new("0123456789abcdef\n"), Err(SecretError::Control));
    }

    #[test]
    fn a_generated_secret_is_accepted_as_configured() {
        let made = Secret::generate().unwrap();
        assert_eq!(Secret::new(made.expose()).unwrap(), made);
        assert_eq!(made.standard_key().len(), 32);
        assert!(made.matches(made.expose()) && !made.matches("whsec_"));
    }
}
