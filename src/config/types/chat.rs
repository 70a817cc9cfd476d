//! What the types for chats and alarms read alike.

use super::super::secrets;
use super::Given;
use crate::destination::alarm::Severity;
use crate::destination::message::{self, Message};
use crate::mapping::Chat;
use crate::secret::Hidden;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// `title` and `text`. The title is one line without markup; `bold` and `quote` are the service's marks in the default text.
pub fn message(given: &Given<'_, '_, '_, '_>, chat: Option<Chat>, bold: (&str, &str), quote: &str) -> Option<Message> {
    let title = given.chat_or("title", None, message::TITLE);
    let text = given.chat_or("text", chat, &message::text(bold, quote));
    Some(Message { title: title?, text: text? })
}

/// The `Authorization` header: the destination's own secret is a bearer token or, where there is a `user`, its password. `Err` when
/// something is wrong, which has been said.
pub fn authorization(given: &mut Given<'_, '_, '_, '_>) -> Result<Option<Hidden>, ()> {
    let user = given.table.name("user");
    if !secrets::given(given.table) {
        return match user {
            None => Ok(None),
            Some(user) => {
                given.table.fault_at(&user, format!("has no password; {}", secrets::NEEDED));
                Err(())
            }
        };
    }
    let secret = secrets::hidden(given.table, given.warnings).ok_or(())?;
    let value = match &user {
        Some(user) if user.value.contains(':') => {
            given.table.fault_at(user, "must not have a colon");
            return Err(());
        }
        Some(user) => format!("Basic {}", STANDARD.encode(format!("{}:{}", user.value, secret.value))),
        None => format!("Bearer {}", secret.value),
    };
    if http::HeaderValue::from_str(&value).is_err() {
        given.table.fault_at(&secret, "cannot be sent in a header; it must be one line of text");
        return Err(());
    }
    Ok(Some(Hidden(value)))
}

/// A token that stands in a header or a URL.
pub fn token(given: &mut Given<'_, '_, '_, '_>, what: &str) -> Option<Hidden> {
    let token = given.token(what)?;
    if secrets::is_unseen(&token.0) || token.0.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(token);
    }
    given.table.fault(format!("has a {what} with a blank or another character that no {what} has"));
    None
}

/// `severity`, if it is given.
pub fn severity(given: &Given<'_, '_, '_, '_>) -> Option<Severity> {
    let text = given.table.name("severity")?;
    let known = Severity::ALL.into_iter().find(|severity| severity.name() == text.value);
    if known.is_none() {
        given.table.fault_at(&text, format!("must be one of {}", Severity::ALL.map(Severity::name).join(", ")));
    }
    known
}
