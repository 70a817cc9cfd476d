//! What the types for message brokers have in common: the server's address, and secrets to sign with that are not the password.

use super::super::read::{At, Table};
use super::super::secrets;
use super::Given;
use crate::delivery::is_local;
use crate::mapping::{MappingError, Template};
use crate::secret::Secret;
use std::net::IpAddr;
use url::Url;

/// Where a broker is.
pub struct Server {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// For people.
    pub place: String,
}

/// A way to a broker: a scheme, whether it is encrypted, its usual port.
type Scheme = (&'static str, bool, u16);

/// `url`, which begins with one of `schemes`: the plain one first, then the encrypted one.
pub fn server(given: &Given<'_, '_, '_, '_>, schemes: [Scheme; 2]) -> Option<Server> {
    let table = given.table;
    let text = table.required("url")?;
    let [(plain, ..), (encrypted, ..)] = schemes;
    let fault = |message: String| {
        table.fault_at(&text, message);
        None
    };
    let url = match Url::parse(&text.value) {
        Ok(url) => url,
        Err(e) => return fault(format!("is no URL ({e}); write it as in {encrypted}://broker.example.com")),
    };
    let Some((scheme, tls, port)) = schemes.into_iter().find(|(scheme, ..)| *scheme == url.scheme()) else {
        return fault(format!("must begin with {encrypted}:// (or {plain}:// inside your own network)"));
    };
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return fault("has no host".to_owned()) };
    if !url.username().is_empty() || url.password().is_some() {
        return fault("must not hold a user name or password; put them into user and secret_file".to_owned());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return fault("must end after the host and its port".to_owned());
    }
    let bare = host.trim_matches(['[', ']']);
    if !tls && !given.allow_http && bare.parse::<IpAddr>().is_ok_and(|ip| !is_local(ip)) {
        return fault(format!(
            "is unencrypted to a public address, where anybody on the way can read the leads; use {encrypted}://, or set allow_http = true"
        ));
    }
    let port = url.port().unwrap_or(port);
    Some(Server { host: host.to_owned(), port, tls, place: format!("{scheme}://{host}:{port}") })
}

/// `[destination.signing]`: none, or what a webhook has.
pub fn signing(given: &mut Given<'_, '_, '_, '_>) -> Vec<Secret> {
    let Some(table) = given.table.table_if_given("signing") else { return Vec::new() };
    let secrets = secrets::several(&table, given.warnings);
    table.finish();
    secrets
}

/// The template of an address: tried on the samples, and what it makes of each must be `fit`.
pub fn address(
    given: &Given<'_, '_, '_, '_>,
    key: &'static str,
    default: &str,
    parts: fn(char) -> bool,
    fit: fn(&str) -> Result<(), &'static str>,
) -> Option<Template> {
    let table: &Table<'_, '_, '_> = given.table;
    let text = match table.name(key) {
        Some(text) => text,
        None if table.has(key) => return None,
        None => At { value: default.to_owned(), at: table.at, key: table.path(key) },
    };
    let compiled = Template::address(key, &text.value, parts);
    given.samples.tried(table.report(), &text, compiled, |template, event| {
        fit(&template.render(event)?).map_err(|message| MappingError { at: key.to_owned(), message: message.to_owned() })
    })
}
