//! `type = "mailchimp"`.

use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::mailchimp::{DEFAULTS, Mailchimp};
use crate::mapping::Expr;
use crate::secret::Hidden;
use url::Url;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let key = given.token("API key");
    let url = match (given.table.has("url"), &key) {
        (false, Some(key)) => of_key(given, key),
        _ => given.url_or("url", "https://api.mailchimp.com"),
    };
    let version = given.path_part("version", Some("3.0"));
    let list = given.path_part("list", None);
    let status = given.choice("status_if_new", &[("pending", "pending"), ("subscribed", "subscribed")]);
    let email = expr_or(given, "email", "data.email");
    let consent = expr_or(given, "consent", "data.consent");
    let require_consent = given.table.flag("require_consent", true);
    let fields = given.fields(DEFAULTS);
    let skip_merge_validation = given.table.flag("skip_merge_validation", true);
    let url = url?;
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let connector = Mailchimp {
        url,
        version: version?,
        key: key?,
        list: list?,
        status_if_new: status?.to_owned(),
        email: email?,
        consent: Some(consent?).filter(|_| require_consent),
        fields: fields?,
        skip_merge_validation,
    };
    Some(Made { connector: Box::new(connector), wire })
}

fn expr_or(given: &Given<'_, '_, '_, '_>, key: &'static str, default: &str) -> Option<Expr> {
    if given.table.has(key) { given.expr(key) } else { Expr::new(key, default).ok() }
}

/// The data centre is written at the end of the key, behind a hyphen: `us21`.
fn of_key(given: &Given<'_, '_, '_, '_>, Hidden(key): &Hidden) -> Option<Url> {
    let centre = key.rsplit_once('-').map(|(_, centre)| centre).filter(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_alphanumeric()));
    let Some(centre) = centre else {
        given.table.fault("has an API key without a data centre at its end, as in …-us21; copy the whole key, or give url");
        return None;
    };
    Url::parse(&format!("https://{centre}.api.mailchimp.com")).ok()
}
