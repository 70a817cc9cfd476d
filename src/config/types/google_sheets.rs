//! `type = "google_sheets"`.

use super::super::read::At;
use super::{Given, Made, check_url, columns};
use crate::delivery::Wire;
use crate::destination::google_sheets::{Api, GoogleSheets, Key, Way};
use serde_json::Value;
use url::Url;

const BASE_URL: &str = "https://sheets.googleapis.com";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
/// Where the answers of an Apps Script are fetched.
const REDIRECT_HOST: &str = "googleusercontent.com";
/// What only one of the two ways needs.
const API_KEYS: [&str; 5] = ["credentials", "spreadsheet", "sheet", "base_url", "token_url"];

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let columns = columns::read(given, "id_column", "event_id", "columns");
    let way = if given.table.has("apps_script_url") { script(given) } else { api(given) };
    let way = way?;
    let tls = match &way {
        Way::Api(api) => api.url.scheme() == "https" && api.token_url.scheme() == "https",
        Way::Script { url, .. } => url.scheme() == "https",
    };
    Some(Made { connector: Box::new(GoogleSheets { columns, way }), wire: Wire::Http { tls } })
}

fn script(given: &mut Given<'_, '_, '_, '_>) -> Option<Way> {
    for key in API_KEYS {
        if given.table.has(key) {
            given.table.fault_of(key, "is given beside apps_script_url; give one of the two ways");
        }
    }
    let answers = given.table.name("redirect_host").map_or_else(|| REDIRECT_HOST.to_owned(), |at| at.value);
    let url = given.secret_url("apps_script_url")?;
    Some(Way::Script { url, answers })
}

fn api(given: &mut Given<'_, '_, '_, '_>) -> Option<Way> {
    // Named here so that it is known where the API's keys are.
    if given.table.has("redirect_host") {
        given.table.fault_of("redirect_host", "belongs to apps_script_url, which is not given");
    }
    let spreadsheet = given.table.required("spreadsheet");
    if let Some(id) = spreadsheet.as_ref().filter(|id| !id.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))) {
        given.table.fault_at(id, "must be the spreadsheet's id alone: what stands between /d/ and /edit in its page's address");
    }
    let sheet = given.table.name("sheet");
    let base = given.url_or("base_url", BASE_URL);
    let token_url = given.url_or("token_url", TOKEN_URL).filter(|_| given.table.has("token_url"));
    let account = given.hidden("credentials").and_then(|text| account(given, &text));
    let (account, mut url) = (account?, base?);
    // A quote in a tab's name is doubled, as in a formula.
    let range = sheet.map_or_else(|| "A1".to_owned(), |name| format!("'{}'!A1", name.value.replace('\'', "''")));
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v4", "spreadsheets", &spreadsheet?.value, "values", &format!("{range}:append")]);
    }
    url.query_pairs_mut().append_pair("valueInputOption", "RAW").append_pair("insertDataOption", "INSERT_ROWS");
    let token_url = token_url.unwrap_or(account.token_url);
    Some(Way::Api(Box::new(Api { url, token_url, account: account.email, key: account.key })))
}

struct Account {
    email: String,
    token_url: Url,
    key: Option<Key>,
}

/// What Google gives as `….json` for a service account. A fault never repeats anything of it.
fn account(given: &Given<'_, '_, '_, '_>, text: &At<String>) -> Option<Account> {
    let default = Url::parse(TOKEN_URL).ok()?;
    let json: Option<Value> = serde_json::from_str(&text.value).ok();
    // What only systemd can give was not looked at.
    if json.is_none() && given.table.report().trust_credentials && text.value.starts_with("credential not looked at") {
        return Some(Account { email: String::new(), token_url: default, key: None });
    }
    let fault = |what: &str| {
        given.table.fault_at(text, format!("{what}; it must be the JSON file that Google gives for a key of a service account"));
        None
    };
    let json = json.unwrap_or_default();
    let part = |key: &str| json.get(key).and_then(Value::as_str);
    let (Some("service_account"), Some(email), Some(pem)) = (part("type"), part("client_email"), part("private_key")) else {
        return fault("is no key of a service account");
    };
    let key = match Key::new(pem, part("private_key_id").map(str::to_owned)) {
        Ok(key) => key,
        Err(why) => return fault(&why),
    };
    let token_url = match part("token_uri") {
        Some(url) => check_url(given.table, &At { value: url.to_owned(), ..text.clone() }, given.allow_http)?,
        None => default,
    };
    Some(Account { email: email.to_owned(), token_url, key: Some(key) })
}
