//! `type = "pipedrive"`.

use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::pipedrive::{NOTE, Pipedrive, TITLE};

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url("url");
    let token = given.token("API token");
    let persons_path = given.text_or("persons_path", "/api/v2/persons");
    let leads_path = given.text_or("leads_path", "/api/v1/leads");
    let notes_path = given.text_or("notes_path", "/api/v1/notes");
    let title = given.template_or("title", TITLE);
    let note = given.template_or("note", NOTE);
    let fields = given.fields(&[]);
    let url = url?;
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let connector = Pipedrive { url, token: token?, persons_path, leads_path, notes_path, title: title?, note: note?, fields: fields? };
    Some(Made { connector: Box::new(connector), wire })
}
