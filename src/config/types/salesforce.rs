//! `type = "salesforce"`.

use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::Connector;
use crate::destination::crm::under;
use crate::destination::oauth::OAuth;
use crate::destination::salesforce::{FORM_DEFAULTS, IdOf, REST_DEFAULTS, Rest, WebToLead};
use crate::secret::Hidden;
use std::time::Duration;

/// Salesforce does not say how long its tokens last; sessions end after two hours where nobody has chosen otherwise.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy)]
enum Mode {
    Form,
    Rest,
}

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    match given.choice("mode", &[("web_to_lead", Mode::Form), ("rest", Mode::Rest)]) {
        Some(Mode::Form) => form(given),
        Some(Mode::Rest) => rest(given),
        None => {
            // Nobody knows which keys it may have.
            given.table.take_all();
            None
        }
    }
}

fn form(given: &Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url_or("url", "https://webto.salesforce.com/servlet/servlet.WebToLead?encoding=UTF-8");
    let oid = given.path_part("oid", None);
    let fields = given.fields(FORM_DEFAULTS);
    let url = url?;
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let connector: Box<dyn Connector> = Box::new(WebToLead { url, oid: oid?, fields: fields? });
    Some(Made { connector, wire })
}

fn rest(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let url = given.url("url");
    let version = given.path_part("version", Some("v62.0"));
    let object = given.path_part("object", Some("Lead"));
    let external_id_field = given.path_part("external_id_field", None);
    let id_of = given.choice("external_id", &[("lead", IdOf::Lead), ("event", IdOf::Event)]);
    let client = given.table.required("client_id");
    let secret = given.hidden("client_secret");
    let refreshes = given.table.has("refresh_token");
    let refresh = given.hidden_if_given("refresh_token");
    let fields = given.fields(REST_DEFAULTS);
    let url = url?;
    let grant = if refreshes { "refresh_token" } else { "client_credentials" };
    let mut form =
        vec![("grant_type", Hidden(grant.to_owned())), ("client_id", Hidden(client?.value)), ("client_secret", Hidden(secret?.value))];
    if refreshes {
        form.push(("refresh_token", Hidden(refresh?.value)));
    }
    let oauth = OAuth { url: under(&url, "services/oauth2/token", &[]), form, lifetime: TOKEN_LIFETIME };
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let (version, object, external_id_field) = (version?, object?, external_id_field?);
    let connector: Box<dyn Connector> = Box::new(Rest { url, version, object, external_id_field, id_of: id_of?, oauth, fields: fields? });
    Some(Made { connector, wire })
}
