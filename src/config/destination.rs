//! `[[destination]]` and `[delivery]`.

use super::read::{At, Report, Table};
use super::{Destination, SLUG, is_slug, secrets};
use crate::delivery::{Link, Network, certificates, is_local, proxy_is_usable};
use crate::destination::webhook::{Body, Webhook};
use crate::destination::{Spec, Timeouts};
use crate::event::{Context, Draft, Kind};
use crate::mapping::{Event, Expr, Shape};
use crate::retry::Policy;
use crate::secret::Hidden;
use crate::time::Wall;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;
use url::{Host, Url};

struct Shared {
    connect: Duration,
    total: Duration,
    policy: Policy,
    network: Network,
}

pub fn destinations(root: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Vec<Destination> {
    let shared = delivery(&root.table("delivery"));
    let mut names = BTreeSet::new();
    let mut out: Vec<Destination> = Vec::new();
    for table in root.tables("destination") {
        let name = table.required("name");
        if let Some(name) = &name {
            if !is_slug(&name.value) {
                table.fault_at(name, SLUG);
            }
            if !names.insert(name.value.clone()) {
                table.fault_at(name, "another destination has the same name");
            }
        }
        out.extend(destination(&table, name, &shared, warnings));
        table.finish();
    }
    out
}

fn delivery(table: &Table<'_, '_, '_>) -> Shared {
    let d = Policy::default();
    let seconds = |key, range, default: Duration| Duration::from_secs(table.number(key, range, default.as_secs()));
    let count = |key, range, default: u32| u32::try_from(table.number(key, range, u64::from(default))).unwrap_or(default);
    let some = |n: u32| (n > 0).then_some(n);
    let policy = Policy {
        retry_first: seconds("retry_first_seconds", 1..=3600, d.retry_first),
        retry_max: seconds("retry_max_seconds", 1..=604_800, d.retry_max),
        rejected_attempts: count("rejected_attempts", 1..=1000, d.rejected_attempts),
        breaker_after: count("breaker_after", 1..=1000, d.breaker_after),
        probe_first: seconds("probe_first_seconds", 1..=3600, d.probe_first),
        probe_max: seconds("probe_max_seconds", 1..=86_400, d.probe_max),
        blocked_first: seconds("blocked_probe_first_seconds", 1..=3600, d.blocked_first),
        blocked_max: seconds("blocked_probe_max_seconds", 1..=86_400, d.blocked_max),
        wait_max: seconds("retry_after_max_seconds", 1..=604_800, d.wait_max),
        give_up_attempts: some(count("give_up_attempts", 0..=1_000_000, 0)),
        give_up_after: some(count("give_up_days", 0..=36_500, 0)).map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        rate_per_minute: some(count("rate_per_minute", 0..=1_000_000, 0)),
        ramp: seconds("ramp_seconds", 0..=3600, d.ramp),
    };
    let connect = seconds("connect_timeout_seconds", 1..=300, Duration::from_secs(10));
    let total = seconds("timeout_seconds", 1..=600, Duration::from_secs(30));
    in_order(table, ("connect_timeout_seconds", connect), ("timeout_seconds", total));
    in_order(table, ("retry_first_seconds", policy.retry_first), ("retry_max_seconds", policy.retry_max));
    in_order(table, ("probe_first_seconds", policy.probe_first), ("probe_max_seconds", policy.probe_max));
    in_order(table, ("blocked_probe_first_seconds", policy.blocked_first), ("blocked_probe_max_seconds", policy.blocked_max));
    let mut network = Network::default();
    if let Some(proxy) = table.name("proxy") {
        let usable = Url::parse(&proxy.value).is_ok_and(|url| url.scheme() == "http" && matches!(url.path(), "" | "/"));
        if usable && proxy_is_usable(&proxy.value) {
            network.proxy = Some(Hidden(proxy.value));
        } else {
            table.fault_at(&proxy, "must be the address of an http proxy, as in http://192.168.1.2:3128");
        }
    }
    if let Some(file) = table.name("ca_file") {
        let read = std::fs::read(&file.value).map_err(|e| format!("{} cannot be read: {e}", file.value));
        match read.and_then(|pem| certificates(&pem).map(|_| pem)) {
            Ok(pem) => network.roots = Some(Arc::new(pem)),
            Err(message) => table.fault_at(&file, message),
        }
    }
    table.finish();
    Shared { connect, total, policy, network }
}

/// A wait that grows must not begin beyond its end. One of the two may be a default, so both are named with their values.
fn in_order(table: &Table<'_, '_, '_>, (first, shorter): (&'static str, Duration), (max, longer): (&'static str, Duration)) {
    if shorter > longer && (table.has(first) || table.has(max)) {
        let at = if table.has(first) { first } else { max };
        table.fault_of(at, format!("{first} ({} s) must not be longer than {max} ({} s)", shorter.as_secs(), longer.as_secs()));
    }
}

fn destination(table: &Table<'_, '_, '_>, name: Option<At<String>>, shared: &Shared, warnings: &mut Vec<String>) -> Option<Destination> {
    if let Some(kind) = table.required("type")
        && kind.value != "webhook"
    {
        table.fault_at(&kind, "there is no such type; known: webhook");
    }
    let allow_http = table.flag("allow_http", false);
    let url = table.required("url").and_then(|text| check_url(table, &text, allow_http));
    let secrets = secrets::several(table, warnings);
    let events = events(table);
    let samples = Samples::new(&events);
    let when = table.name("when").and_then(|text| samples.compile(table.report(), "when", &text));
    let body = body(table, &samples);
    let headers = headers(&table.table("headers"), warnings);
    let workers = usize::try_from(table.number("workers", 1..=16, 1)).unwrap_or(1);
    let timeouts = Timeouts {
        connect: Duration::from_secs(table.number("connect_timeout_seconds", 1..=300, shared.connect.as_secs())),
        total: Duration::from_secs(table.number("timeout_seconds", 1..=600, shared.total.as_secs())),
    };
    in_order(table, ("connect_timeout_seconds", timeouts.connect), ("timeout_seconds", timeouts.total));
    let mut policy = shared.policy.clone();
    let rate = table.number("rate_per_minute", 0..=1_000_000, u64::from(policy.rate_per_minute.unwrap_or(0)));
    policy.rate_per_minute = u32::try_from(rate).ok().filter(|n| *n > 0);
    policy.ramp = Duration::from_secs(table.number("ramp_seconds", 0..=3600, policy.ramp.as_secs()));
    let url = url?;
    let link = Link { timeouts, network: shared.network.clone(), tls: url.scheme() == "https", allow_http };
    let connector = Box::new(Webhook { url, secrets, body, headers });
    let spec = Spec { name: name?.value, events, when, connector, workers };
    Some(Destination { spec: Arc::new(spec), policy, link })
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

/// Only what can be known without looking the name up; the resolver checks the rest when it connects.
fn host_is_public(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => !is_local(ip.into()),
        Some(Host::Ipv6(ip)) => !is_local(ip.into()),
        _ => false,
    }
}

fn events(table: &Table<'_, '_, '_>) -> Vec<String> {
    let Some(list) = table.texts("events") else { return vec!["lead.*".to_owned()] };
    if table.has_empty_list("events") {
        table.fault_of("events", "is empty, so nothing would ever be sent; leave it out for all lead events");
    }
    for pattern in &list {
        let known = Kind::ALL.iter().any(|k| crate::event::matches(std::slice::from_ref(&pattern.value), k.name()));
        if !known {
            let names: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
            table.fault_at(pattern, format!("matches no event; there are {}, and patterns such as lead.*", names.join(", ")));
        }
    }
    list.into_iter().map(|p| p.value).collect()
}

fn body(table: &Table<'_, '_, '_>, samples: &Samples) -> Body {
    let named = table.name("body");
    if table.has("map") {
        if let Some(named) = named {
            table.fault_at(&named, "is given beside map; give one of them");
        }
        return table.table_if_given("map").map_or(Body::Full, |map| {
            if map.entries().is_empty() {
                map.fault("is empty, so nothing would be sent");
            }
            Body::Map(shape(&map, samples))
        });
    }
    match named.as_ref().map(|n| n.value.as_str()) {
        None | Some("full") => Body::Full,
        Some("leadsbot") => Body::Leadsbot,
        Some(_) => {
            table.fault_of("body", "must be full or leadsbot");
            Body::Full
        }
    }
}

fn shape(table: &Table<'_, '_, '_>, samples: &Samples) -> Shape {
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
struct Samples(Vec<(Kind, Event)>);

impl Samples {
    fn new(patterns: &[String]) -> Self {
        let taken = Kind::ALL.into_iter().filter(|kind| crate::event::matches(patterns, kind.name()));
        let sample = |kind: Kind| {
            let draft = Draft::sample(kind, Wall(0), &Context::default()).ok()?;
            Some((kind, Event::parse(draft.bytes()).ok()?))
        };
        Self(taken.filter_map(sample).collect())
    }

    /// The expression, which calls itself `name` in later errors, if it can be compiled and holds on every sample.
    fn compile(&self, report: &Report<'_>, name: &str, text: &At<String>) -> Option<Expr> {
        let expr = Expr::new(name, &text.value).map_err(|e| e.message);
        let tried = expr.and_then(|expr| {
            for (kind, event) in &self.0 {
                expr.value(event).map_err(|e| format!("fails on a sample of {}: {}", kind.name(), e.message))?;
            }
            Ok(expr)
        });
        tried.map_err(|message| report.add(text.at, text.key.clone(), message)).ok()
    }
}

const RESERVED: [&str; 8] =
    ["content-type", "content-length", "user-agent", "host", "connection", "transfer-encoding", "expect", "upgrade"];

fn headers(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Vec<(String, Hidden)> {
    let mut out = Vec::new();
    let mut names = BTreeSet::new();
    for (key, value) in table.entries() {
        let lower = key.value.to_ascii_lowercase();
        if !names.insert(lower.clone()) {
            table.fault_at(&key, "is given twice; capitals do not matter in a header's name");
        }
        if http::HeaderName::from_bytes(key.value.as_bytes()).is_err() {
            table.fault_at(&key, "is no header name; it may have letters, digits and -, but no blank");
        } else if RESERVED.contains(&lower.as_str()) || lower.starts_with("x-leadsbot-") || lower.starts_with("webhook-") {
            table.fault_at(&key, "is set by leadsbotd itself; take it out");
        }
        if let Some(text) = header_value(table, &key, value, warnings) {
            if http::HeaderValue::from_str(&text).is_err() {
                table.fault_at(&key, "has a value that cannot be sent in a header; it must be one line of text");
            }
            out.push((key.value.clone(), Hidden(text)));
        }
    }
    out
}

fn header_value<'t, 'v>(
    table: &Table<'_, 't, 'v>,
    key: &At<String>,
    value: &'v Spanned<DeValue<'t>>,
    warnings: &mut Vec<String>,
) -> Option<String> {
    if let DeValue::String(text) = value.get_ref() {
        warnings.push(secrets::INLINE.to_owned());
        return Some(text.to_string());
    }
    let Some(inner) = table.entry_table(key, value) else {
        table.fault_at(key, "must be a text, or a table with secret_file, secret_env or secret_credential");
        return None;
    };
    if !secrets::given(&inner) {
        inner.fault(format!("holds no value; {}", secrets::NEEDED));
    }
    let text = secrets::hidden(&inner, warnings);
    inner.finish();
    text.map(|t| t.value)
}
