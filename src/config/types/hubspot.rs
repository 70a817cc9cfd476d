//! `type = "hubspot"`.

use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::hubspot::{DEFAULTS, HubSpot, WithoutId};

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url_or("url", "https://api.hubapi.com");
    let path = given.text_or("path", "/crm/objects/2026-03/contacts");
    let token = given.token("access token of a private app");
    let id_property = given.text_or("id_property", "email");
    let fields = given.fields(DEFAULTS);
    let words = [("create", WithoutId::Create), ("reject", WithoutId::Reject), ("skip", WithoutId::Skip)];
    let without_id = given.choice("without_id", &words);
    let url = url?;
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let connector = HubSpot { url, path, token: token?, id_property, fields: fields?, without_id: without_id? };
    Some(Made { connector: Box::new(connector), wire })
}
