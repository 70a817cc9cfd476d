//! `type = "telegram"`.

use super::{Given, Made, chat};
use crate::delivery::Wire;
use crate::destination::telegram::Telegram;
use crate::mapping::Chat;

/// The service's own Bot API; a server of one's own may stand in for it.
const URL: &str = "https://api.telegram.org";

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url_or("url", URL);
    let token = chat::token(given, "bot token");
    let to = given.table.required("chat_id");
    let to = to.filter(|to| {
        let usable = to.value.parse::<i64>().is_ok() || to.value.strip_prefix('@').is_some_and(|name| !name.is_empty());
        if !usable {
            given.table.fault_at(to, "must be a chat's number in quotes, as in \"-1009876543210\", or the @name of a public channel");
        }
        usable
    });
    let thread = Some(given.table.number("thread_id", 1..=u64::from(u32::MAX), 0)).filter(|n| *n > 0);
    let silent = given.table.flag("silent", false);
    let message = chat::message(given, Some(Chat::Telegram), ("<b>", "</b>"), "&gt; ");
    let (url, token, message) = (url?, token?, message?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(Telegram { url, token, chat: to?.value, thread, silent, message }), wire })
}
