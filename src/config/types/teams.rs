//! `type = "teams"`.

use super::{Given, Made, chat};
use crate::delivery::Wire;
use crate::destination::teams::Teams;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.secret_url("url");
    let message = chat::message(given, None, ("", ""), "> ");
    let (url, message) = (url?, message?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(Teams { url, message }), wire })
}
