//! What is particular to each type of destination: its keys in, its connector out. One file a type.
//!
//! A reader must note every fault and go on, so that all of them are reported together.

#[cfg(feature = "email")]
mod email;
mod hubspot;
mod mailchimp;
mod pipedrive;
mod salesforce;
mod webhook;
mod zoho;

use super::read::{At, Report, Table};
use super::secrets;
use crate::delivery::{Wire, is_local};
use crate::destination::Connector;
use crate::destination::crm::Fields;
use crate::event::{Context, Draft, Kind};
use crate::mapping::{Event, Expr, MappingError, Shape, Template};
use crate::secret::Hidden;
use crate::time::Wall;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use toml::de::DeValue;
use url::{Host, Url};

/// What a reader is given.
pub struct Given<'g, 'r, 't, 'v> {
    /// The destination's table.
    pub table: &'g Table<'r, 't, 'v>,
    /// Events to try expressions on.
    pub samples: &'g Samples,
    /// `allow_http`
    pub allow_http: bool,
    /// Where the daemon listens.
    pub own: &'g [SocketAddr],
    /// What is not wrong but should be known.
    pub warnings: &'g mut Vec<String>,
}

/// What it makes.
pub struct Made {
    /// What is said and heard.
    pub connector: Box<dyn Connector>,
    /// How it travels.
    pub wire: Wire,
}

type Reader = fn(&mut Given<'_, '_, '_, '_>) -> Option<Made>;

/// Every type there is, by the word for it.
const TYPES: &[(&str, Reader)] = &[
    ("webhook", webhook::read),
    ("hubspot", hubspot::read),
    ("salesforce", salesforce::read),
    ("pipedrive", pipedrive::read),
    ("zoho", zoho::read),
    ("mailchimp", mailchimp::read),
    #[cfg(feature = "email")]
    ("email", email::read),
    #[cfg(not(feature = "email"))]
    ("email", left_out),
];

/// Which events a destination takes when it does not say: a CRM has no use for a reply, and some can only create.
pub fn default_events(table: &Table<'_, '_, '_>) -> &'static [&'static str] {
    let value = |key| table.text(key).map(|text| text.value);
    match value("type").as_deref() {
        Some("hubspot" | "zoho") => &["lead.created", "lead.updated", "lead.status_changed"],
        Some("salesforce") if value("mode").as_deref() == Some("rest") => &["lead.created", "lead.updated", "lead.status_changed"],
        Some("salesforce" | "pipedrive") => &["lead.created"],
        Some("mailchimp") => &["lead.created", "lead.updated"],
        _ => &["lead.*"],
    }
}

/// For a type that this program was built without.
#[cfg(not(feature = "email"))]
fn left_out(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    given.table.fault_of("type", "is known, but this leadsbotd was built without it; take a build that has it");
    given.table.take_all();
    None
}

/// The type that a destination names, read. `None` when something is wrong with it, which has been said then.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let Some(kind) = given.table.required("type") else {
        // What most destinations are; its other faults are told too.
        webhook::read(given);
        return None;
    };
    if let Some((_, reader)) = TYPES.iter().find(|(name, _)| *name == kind.value) {
        return reader(given);
    }
    let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    given.table.fault_at(&kind, format!("there is no such type; known: {}", known.join(", ")));
    match TYPES.iter().find(|(name, _)| strsim::damerau_levenshtein(name, &kind.value) <= 2) {
        Some((_, meant)) => drop(meant(given)),
        // Nobody knows which keys it may have.
        None => given.table.take_all(),
    }
    None
}

#[allow(dead_code, reason = "for the types that follow")]
impl Given<'_, '_, '_, '_> {
    /// A text or, for what nobody should read in the file, a table with `secret_file`, `secret_env` or `secret_credential`. A fault when it
    /// is missing.
    pub fn hidden(&mut self, key: &'static str) -> Option<At<String>> {
        if !self.table.has(key) {
            self.table.fault_of(key, "is missing");
            return None;
        }
        self.hidden_if_given(key)
    }

    /// The same, for what may be left out.
    pub fn hidden_if_given(&mut self, key: &'static str) -> Option<At<String>> {
        if !self.table.has(key) {
            return None;
        }
        if self.table.is_table(key) {
            let inner = self.table.table(key);
            if !secrets::given(&inner) {
                inner.fault(format!("holds no value; {}", secrets::NEEDED));
            }
            let text = secrets::hidden(&inner, self.warnings);
            inner.finish();
            return text;
        }
        let text = self.table.name(key)?;
        self.warnings.push(secrets::INLINE.to_owned());
        Some(text)
    }

    /// The destination's own secret (a token, a password) by `secret`, `secret_file`, `secret_env` or `secret_credential`. `what` it is, for
    /// the fault when there is none.
    pub fn token(&mut self, what: &str) -> Option<Hidden> {
        if !secrets::given(self.table) {
            self.table.fault(format!("has no {what}; {}", secrets::NEEDED));
            return None;
        }
        secrets::hidden(self.table, self.warnings).map(|text| Hidden(text.value))
    }

    /// A text as an address, if it is one that may be used.
    pub fn checked(&self, text: &At<String>) -> Option<Url> {
        let url = check_url(self.table, text, self.allow_http)?;
        if self.own.iter().any(|own| leads_to(&url, *own)) {
            self.table.fault_at(text, "leads to leadsbotd itself, where every event would make another one");
        }
        Some(url)
    }

    /// An address that must be given.
    pub fn url(&self, key: &'static str) -> Option<Url> {
        let text = self.table.required(key)?;
        self.checked(&text)
    }

    /// An address with a default, which must be a whole URL.
    pub fn url_or(&self, key: &'static str, default: &str) -> Option<Url> {
        match self.table.name(key) {
            Some(text) => self.checked(&text),
            None => Url::parse(default).ok(),
        }
    }

    /// An address that is itself a secret: a text, or a table as in [`Given::hidden`].
    pub fn secret_url(&mut self, key: &'static str) -> Option<Url> {
        let text = self.hidden(key)?;
        self.checked(&text)
    }

    /// An expression.
    pub fn expr(&self, key: &'static str) -> Option<Expr> {
        let text = self.table.name(key)?;
        self.samples.compile(self.table.report(), key, &text)
    }

    /// A text with `{{ … }}` in it.
    pub fn template(&self, key: &'static str) -> Option<Template> {
        let text = self.table.name(key)?;
        self.samples.template(self.table.report(), key, &text)
    }

    /// A text with `{{ … }}` in it, with a default that is known to be right.
    pub fn template_or(&self, key: &'static str, default: &str) -> Option<Template> {
        if self.table.has(key) { self.template(key) } else { Template::new(key, default).ok() }
    }

    /// A text with a default.
    pub fn text_or(&self, key: &'static str, default: &str) -> String {
        self.table.name(key).map_or_else(|| default.to_owned(), |text| text.value)
    }

    /// One of several words, the first of which is the default.
    pub fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let (_, default) = words.first()?;
        let Some(text) = self.table.name(key) else { return Some(*default) };
        let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let (last, others) = words.split_last()?;
            let others: Vec<&str> = others.iter().map(|(word, _)| *word).collect();
            self.table.fault_at(&text, format!("must be {} or {}", others.join(", "), last.0));
        }
        found
    }

    /// `map` over the properties that a CRM gets anyway. These are known to be right.
    pub fn fields(&self, defaults: &[(&str, &str)]) -> Option<Fields> {
        let own = self.map("map");
        Fields::new(defaults, own).ok()
    }

    /// A name that becomes a part of a path: letters, digits, `_`, `-` and `.`.
    pub fn path_part(&self, key: &'static str, default: Option<&str>) -> Option<String> {
        let text = match default {
            Some(default) if !self.table.has(key) => return Some(default.to_owned()),
            Some(_) => self.table.name(key)?,
            None => self.table.required(key)?,
        };
        if text.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) && !text.value.starts_with('.') {
            return Some(text.value);
        }
        self.table.fault_at(&text, "must have letters, digits, _, - and . only");
        None
    }

    /// The same for a page: what is inserted is escaped for HTML.
    pub fn html_template(&self, key: &'static str) -> Option<Template> {
        let text = self.table.name(key)?;
        self.samples.html_template(self.table.report(), key, &text)
    }

    /// A table of expressions, in the order of the file; `None` when it is absent.
    pub fn map(&self, key: &'static str) -> Option<Shape> {
        let map = self.table.table_if_given(key)?;
        if map.entries().is_empty() {
            map.fault("is empty, so nothing would be sent");
        }
        Some(shape(&map, self.samples))
    }
}

fn check_url(table: &Table<'_, '_, '_>, text: &At<String>, allow_http: bool) -> Option<Url> {
    let url = match Url::parse(&text.value) {
        Ok(url) => url,
        Err(e) => {
            table.fault_at(text, format!("is no URL ({e}); write it whole, as in https://example.com/hooks/leads"));
            return None;
        }
    };
    let fault = match url.scheme() {
        "http" | "https" if url.host().is_none() => Some("has no host"),
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            Some("must not hold a user name or password; put them into an Authorization header under headers")
        }
        "http" | "https" if url.fragment().is_some() => Some("must not have a # part; it would never be sent"),
        "http" if !allow_http && host_is_public(&url) => {
            Some("is plain http to a public address, where anybody on the way can read the leads; use https, or set allow_http = true")
        }
        "http" | "https" => None,
        _ => Some("must begin with https:// (or http:// inside your own network)"),
    };
    match fault {
        Some(message) => {
            table.fault_at(text, message);
            None
        }
        None => Some(url),
    }
}

/// Whether this is where the daemon listens, as far as that can be known without looking a name up; the resolver checks the rest.
fn leads_to(url: &Url, own: SocketAddr) -> bool {
    let ip: IpAddr = match url.host() {
        Some(Host::Ipv4(ip)) => ip.into(),
        Some(Host::Ipv6(ip)) => ip.into(),
        Some(Host::Domain("localhost")) => Ipv4Addr::LOCALHOST.into(),
        _ => return false,
    };
    url.port_or_known_default() == Some(own.port())
        && (ip == own.ip() || ip.is_unspecified() || (own.ip().is_unspecified() && ip.is_loopback()))
}

/// Only what can be known without looking the name up; the resolver checks the rest when it connects.
fn host_is_public(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => !is_local(ip.into()),
        Some(Host::Ipv6(ip)) => !is_local(ip.into()),
        _ => false,
    }
}

pub fn shape(table: &Table<'_, '_, '_>, samples: &Samples) -> Shape {
    let mut entries = Vec::new();
    for (key, value) in table.entries() {
        if let Some(inner) = table.entry_table(&key, value) {
            entries.push((key.value, shape(&inner, samples)));
        } else if let DeValue::String(source) = value.get_ref() {
            let text = At { value: source.to_string(), at: value.span().start, key: key.key };
            entries.extend(samples.compile(table.report(), &text.key, &text).map(|expr| (key.value, Shape::Leaf(expr))));
        } else {
            table.report().add(
                value.span().start,
                key.key,
                "must be an expression in quotes, as in \"data.name\"; a constant is one too: \"'text'\" or \"5\"",
            );
        }
    }
    Shape::Object(entries)
}

/// An invented event of every kind a destination takes. Expressions are tried on them, so that a fault is found now and not by the first
/// lead.
pub struct Samples(Vec<(Kind, Event)>);

impl Samples {
    pub fn new(patterns: &[String]) -> Self {
        let taken = Kind::ALL.into_iter().filter(|kind| crate::event::matches(patterns, kind.name()));
        let sample = |kind: Kind| {
            let draft = Draft::sample(kind, Wall(0), &Context::default()).ok()?;
            Some((kind, Event::parse(draft.bytes()).ok()?))
        };
        Self(taken.filter_map(sample).collect())
    }

    /// The template, likewise.
    pub fn template(&self, report: &Report<'_>, name: &str, text: &At<String>) -> Option<Template> {
        self.tried(report, text, Template::new(name, &text.value), |template, event| template.render(event).map(drop))
    }

    /// The same, escaping for HTML what it inserts.
    pub fn html_template(&self, report: &Report<'_>, name: &str, text: &At<String>) -> Option<Template> {
        self.tried(report, text, Template::html(name, &text.value), |template, event| template.render(event).map(drop))
    }

    /// The expression, which calls itself `name` in later errors, if it can be compiled and holds on every sample.
    pub fn compile(&self, report: &Report<'_>, name: &str, text: &At<String>) -> Option<Expr> {
        self.tried(report, text, Expr::new(name, &text.value), |expr, event| expr.value(event).map(drop))
    }

    fn tried<T>(
        &self,
        report: &Report<'_>,
        text: &At<String>,
        compiled: Result<T, MappingError>,
        attempt: impl Fn(&T, &Event) -> Result<(), MappingError>,
    ) -> Option<T> {
        let tried = compiled.map_err(|e| e.message).and_then(|compiled| {
            for (kind, event) in &self.0 {
                attempt(&compiled, event).map_err(|e| format!("fails on a sample of {}: {}", kind.name(), e.message))?;
            }
            Ok(compiled)
        });
        tried.map_err(|message| report.add(text.at, text.key.clone(), message)).ok()
    }
}
