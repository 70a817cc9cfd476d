//! `type = "matrix"`.

use super::{Given, Made, chat};
use crate::delivery::Wire;
use crate::destination::matrix::Matrix;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url("url");
    let room = given.table.required("room").filter(|room| {
        let usable = room.value.len() > 1 && room.value.starts_with('!');
        if !usable {
            given.table.fault_at(room, "must be the room's internal id, which begins with !, as in \"!abcdef:example.com\"");
        }
        usable
    });
    let token = chat::token(given, "access token");
    let notice = given.table.flag("notice", false);
    let message = chat::message(given, None, ("", ""), "> ");
    let (url, message, token) = (url?, message?, token?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    Some(Made { connector: Box::new(Matrix { url, room: room?.value, token, notice, message }), wire })
}
