//! `[[destination]]`, what all types have in common, and `[delivery]`. What is particular to a type is read in `types`.

use super::read::{At, Table};
use super::types::{self, Given, Made, Samples};
use super::{Destination, SLUG, is_slug};
use crate::alarm;
use crate::delivery::{Link, Network, certificates, proxy_is_usable};
use crate::destination::{Spec, Timeouts};
use crate::event::Kind;
use crate::retry::Policy;
use crate::secret::Hidden;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

struct Shared {
    connect: Duration,
    total: Duration,
    policy: Policy,
    network: Network,
    alarms: alarm::Options,
    own: Vec<SocketAddr>,
}

pub fn destinations(root: &Table<'_, '_, '_>, listen: &[SocketAddr], warnings: &mut Vec<String>) -> (Vec<Destination>, alarm::Options) {
    // A port that is chosen at the start is nobody's yet.
    let own = listen.iter().copied().filter(|address| address.port() != 0).collect();
    let shared = delivery(&root.table("delivery"), own);
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
    (out, shared.alarms)
}

fn delivery(table: &Table<'_, '_, '_>, own: Vec<SocketAddr>) -> Shared {
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
    let d = alarm::Options::default();
    let hours = |key, most, default: Option<Duration>| {
        let hours = table.number(key, 0..=most, default.map_or(0, |d| d.as_secs() / 3600));
        (hours > 0).then(|| Duration::from_secs(hours * 3600))
    };
    let alarms =
        alarm::Options { held: hours("alarm_held_hours", 720, d.held), age: hours("alarm_age_hours", 8760, d.age), heartbeat: None };
    table.finish();
    Shared { connect, total, policy, network, alarms, own }
}

/// A wait that grows must not begin beyond its end. One of the two may be a default, so both are named with their values.
fn in_order(table: &Table<'_, '_, '_>, (first, shorter): (&'static str, Duration), (max, longer): (&'static str, Duration)) {
    if shorter > longer && (table.has(first) || table.has(max)) {
        let at = if table.has(first) { first } else { max };
        table.fault_of(at, format!("{first} ({} s) must not be longer than {max} ({} s)", shorter.as_secs(), longer.as_secs()));
    }
}

fn destination(table: &Table<'_, '_, '_>, name: Option<At<String>>, shared: &Shared, warnings: &mut Vec<String>) -> Option<Destination> {
    let allow_http = table.flag("allow_http", false);
    let events = events(table);
    let samples = Samples::new(&events);
    let when = table.name("when").and_then(|text| samples.compile(table.report(), "when", &text));
    let deny_private = table.flag("deny_private", false);
    let made = types::read(&mut Given { table, samples: &samples, allow_http, own: &shared.own, warnings });
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
    let Made { connector, wire } = made?;
    let (network, own) = (shared.network.clone(), shared.own.clone());
    let link = Link { wire, timeouts, network, allow_http, deny_private, own };
    let spec = Spec { name: name?.value, events, when, connector, workers };
    Some(Destination { spec: Arc::new(spec), policy, link })
}

fn events(table: &Table<'_, '_, '_>) -> Vec<String> {
    let Some(list) = table.texts("events") else { return types::default_events(table).iter().map(|kind| (*kind).to_owned()).collect() };
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
