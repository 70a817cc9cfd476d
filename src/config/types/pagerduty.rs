//! `type = "pagerduty"`.

use super::{Given, Made, chat};
use crate::delivery::Wire;
use crate::destination::message;
use crate::destination::pagerduty::PagerDuty;

/// The service's own address; accounts in Europe have another.
const URL: &str = "https://events.pagerduty.com/v2/enqueue";

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url_or("url", URL);
    let routing_key = chat::token(given, "routing key");
    let severity = chat::severity(given);
    let title = given.chat_or("title", None, message::TITLE);
    let (url, routing_key, title) = (url?, routing_key?, title?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(PagerDuty { url, routing_key, severity, title }), wire })
}
