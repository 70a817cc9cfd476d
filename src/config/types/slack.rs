//! `type = "slack"`.

use super::{Given, Made, chat};
use crate::delivery::Wire;
use crate::destination::slack::Slack;
use crate::mapping::Chat;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.secret_url("url");
    let message = chat::message(given, Some(Chat::Slack), ("*", "*"), "> ");
    let (url, message) = (url?, message?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(Slack { url, message }), wire })
}
