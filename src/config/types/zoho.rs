//! `type = "zoho"`.

use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::crm::under;
use crate::destination::oauth::OAuth;
use crate::destination::zoho::{DEFAULTS, Zoho};
use crate::secret::Hidden;
use std::time::Duration;

/// The ends of the domains of Zoho's data centres: <https://www.zoho.com/crm/developer/docs/api/v8/multi-dc.html>.
const DATA_CENTRES: [(&str, (&str, &str)); 8] = [
    ("com", ("https://accounts.zoho.com", "https://www.zohoapis.com")),
    ("eu", ("https://accounts.zoho.eu", "https://www.zohoapis.eu")),
    ("in", ("https://accounts.zoho.in", "https://www.zohoapis.in")),
    ("com.au", ("https://accounts.zoho.com.au", "https://www.zohoapis.com.au")),
    ("jp", ("https://accounts.zoho.jp", "https://www.zohoapis.jp")),
    ("ca", ("https://accounts.zohocloud.ca", "https://www.zohoapis.ca")),
    ("sa", ("https://accounts.zoho.sa", "https://www.zohoapis.sa")),
    ("com.cn", ("https://accounts.zoho.com.cn", "https://www.zohoapis.com.cn")),
];

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let centre = given.choice("data_centre", &DATA_CENTRES);
    let (accounts, api) = centre.unwrap_or(("https://accounts.zoho.com", "https://www.zohoapis.com"));
    let accounts = given.url_or("accounts_url", accounts);
    let url = given.url_or("url", api);
    let version = given.path_part("version", Some("v8"));
    let module = given.path_part("module", Some("Leads"));
    let client = given.table.required("client_id");
    let secret = given.hidden("client_secret");
    let refresh = given.hidden("refresh_token");
    let fields = given.fields(DEFAULTS);
    let texts = |key| given.table.texts(key).map(|list| list.into_iter().map(|text| text.value).collect::<Vec<String>>());
    let duplicate_check_fields = texts("duplicate_check_fields").unwrap_or_else(|| vec!["Email".to_owned()]);
    let trigger = texts("trigger");
    if duplicate_check_fields.is_empty() {
        given.table.fault_of("duplicate_check_fields", "is empty, so every event would make a lead of its own");
        return None;
    }
    let (url, accounts) = (url?, accounts?);
    let form = vec![
        ("grant_type", Hidden("refresh_token".to_owned())),
        ("client_id", Hidden(client?.value)),
        ("client_secret", Hidden(secret?.value)),
        ("refresh_token", Hidden(refresh?.value)),
    ];
    let oauth = OAuth { url: under(&accounts, "oauth/v2/token", &[]), form, lifetime: Duration::from_secs(3600) };
    let wire = Wire::Http { tls: url.scheme() == "https" };
    if url.scheme() != accounts.scheme() {
        given.table.fault_of("accounts_url", "must begin like url: both with https, or both with http");
        return None;
    }
    let path = format!("crm/{}/{}/upsert", version?, module?);
    let connector = Zoho { url, path, oauth, fields: fields?, duplicate_check_fields, trigger };
    centre?;
    Some(Made { connector: Box::new(connector), wire })
}
