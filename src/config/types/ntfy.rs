//! `type = "ntfy"`.

use super::{Given, Made, chat};
use crate::delivery::Wire;
use crate::destination::ntfy::Ntfy;

/// The service's own server.
const URL: &str = "https://ntfy.sh";
/// Characters of a topic's name: `^[-_A-Za-z0-9]{1,64}$` in ntfy's server.
const TOPIC_MAX: usize = 64;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url_or("url", URL);
    let topic = given.table.required("topic").filter(|topic| {
        let usable = topic.value.len() <= TOPIC_MAX && topic.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !usable {
            given.table.fault_at(topic, format!("must have letters, digits, - and _ only, at most {TOPIC_MAX}"));
        }
        usable
    });
    let authorization = chat::authorization(given);
    let priority = given.table.number("priority", 1..=5, 3);
    let tags = given.table.texts("tags").unwrap_or_default().into_iter().map(|tag| tag.value).collect();
    let click = given.template("click");
    let message = chat::message(given, None, ("", ""), "> ");
    let (url, message, authorization) = (url?, message?, authorization.ok()?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(Ntfy { url, topic: topic?.value, authorization, priority, tags, click, message }), wire })
}
