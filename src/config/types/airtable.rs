//! `type = "airtable"`.

use super::{Given, Made, columns};
use crate::delivery::Wire;
use crate::destination::airtable::Airtable;

const BASE_URL: &str = "https://api.airtable.com";

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let token = given.token("access token");
    let base = given.table.required("base");
    if let Some(base) =
        base.as_ref().filter(|base| !base.value.starts_with("app") || !base.value.bytes().all(|b| b.is_ascii_alphanumeric()))
    {
        given.table.fault_at(base, "must be the id of a base: the part of its page's address that begins with app");
    }
    let table = given.table.required("table");
    let fields = columns::read(given, "id_field", "Event ID", "fields");
    let merge_on = given.table.name("merge_on");
    if let Some(merge_on) = merge_on.as_ref().filter(|name| fields.names().all(|field| field != name.value)) {
        given.table.fault_at(merge_on, "is none of the fields; name one of fields, or id_field");
    }
    let typecast = given.table.flag("typecast", true);
    let mut url = given.url_or("base_url", BASE_URL)?;
    let (base, table) = (base?.value, table?.value);
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v0", &base, &table]);
    }
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let merge_on = merge_on.map_or_else(|| fields.id.clone(), |name| name.value);
    Some(Made { connector: Box::new(Airtable { url, token: token?, fields, merge_on, typecast }), wire })
}
