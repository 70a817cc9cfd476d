//! The configuration file: TOML in, checked options out. No other part knows TOML, and nothing here survives start-up but the options.
//!
//! A file is taken whole or not at all. All its faults are reported together, each with its line and key.

mod destination;
mod form;
mod read;
mod secrets;
mod types;

pub use read::Fault;

use crate::alarm;
use crate::capture::{ApiToken, Form, Options as Capture, Source};
use crate::delivery::Link;
use crate::destination::Spec;
use crate::event::Device;
use crate::lead::Limits;
use crate::retry::Policy;
use crate::secret::Hidden;
use crate::store;
use read::{At, Report, Table};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use toml::de::DeTable;

/// Where the file is looked for.
pub const DEFAULT_PATH: &str = "/etc/leadsbotd/config.toml";

/// A smaller quota than this would be full before it is of use.
const MAX_BYTES_LEAST: u64 = 1 << 20;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Who this machine is.
    pub device: Device,
    /// The HTTP edge.
    pub capture: Capture,
    /// The operator vouches for the wall clock.
    pub clock_trusted: bool,
    /// The database.
    pub storage: Storage,
    /// The receivers.
    pub destinations: Vec<Destination>,
    /// What is told of destinations in trouble.
    pub alarms: alarm::Options,
    /// How much is logged.
    pub log_level: log::LevelFilter,
    /// What is not wrong but should be known.
    pub warnings: Vec<String>,
}

/// Where leads are kept, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// The database file.
    pub path: PathBuf,
    /// How large and how old things may grow.
    pub limits: store::Limits,
}

/// A receiver and how to reach it.
#[derive(Debug, Clone)]
pub struct Destination {
    /// What to send.
    pub spec: Arc<Spec>,
    /// When to try again.
    pub policy: Policy,
    /// How it is reached.
    pub link: Link,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// All that is wrong, in the order of the file.
    pub faults: Vec<Fault>,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.faults.len();
        write!(f, "{} has {n} fault{}:", self.path.display(), if n == 1 { "" } else { "s" })?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks the file at `path`, and the secret files it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::read_file(path, false)
    }

    /// The same, from a shell: credentials that only systemd can give are taken on trust, with a warning.
    pub fn check(path: &Path) -> Result<Self, ConfigError> {
        Self::read_file(path, std::env::var_os("CREDENTIALS_DIRECTORY").is_none())
    }

    /// Only where the database is, whatever else may be wrong with the file: commands must work when its secrets cannot be read.
    pub fn storage_path(path: &Path) -> Result<PathBuf, ConfigError> {
        let text = read_text(path)?;
        let report = Report::new(&text, true);
        let (root, errors) = DeTable::parse_recoverable(&text);
        report_syntax(&report, &errors);
        let storage = storage(&Table::root(&report, root.get_ref()).table("storage")).path;
        let faults = report.into_faults();
        if faults.is_empty() { Ok(storage) } else { Err(ConfigError { path: path.to_owned(), faults }) }
    }

    fn read_file(path: &Path, trust_credentials: bool) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let mut config = Self::read_checked(&text, trust_credentials).map_err(|faults| ConfigError { path: path.to_owned(), faults })?;
        config.warn_of_readers(path);
        Ok(config)
    }

    /// Checks the text of a file.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let mut config = Self::read_checked(text, false)?;
        config.warnings.retain(|w| w != secrets::INLINE);
        Ok(config)
    }

    fn read_checked(text: &str, trust_credentials: bool) -> Result<Self, Vec<Fault>> {
        let report = Report::new(text, trust_credentials);
        let (root, errors) = DeTable::parse_recoverable(text);
        report_syntax(&report, &errors);
        if !errors.is_empty() {
            return Err(report.into_faults());
        }
        let config = read(&report, root.get_ref());
        let faults = report.into_faults();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    fn warn_of_readers(&mut self, path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o004 != 0);
        let inline = self.warnings.iter().any(|w| w == secrets::INLINE);
        self.warnings.retain(|w| w != secrets::INLINE);
        if open && inline {
            self.warnings.push(format!("{} holds secrets and every user may read it; chmod 640 it, or use secret_file", path.display()));
        }
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let whole = |message: String| ConfigError { path: path.to_owned(), faults: vec![Fault { line: 0, key: String::new(), message }] };
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            whole("there is no such file; copy config.example.toml there, or name another one with --config".to_owned())
        }
        _ => whole(format!("cannot be read: {e}")),
    })?;
    String::from_utf8(bytes).map_err(|e| whole(format!("is not UTF-8 (byte {}); save it again as UTF-8", e.utf8_error().valid_up_to())))
}

fn report_syntax(report: &Report<'_>, errors: &[toml::de::Error]) {
    for e in errors {
        // The reader's own words name the character it met or wanted, never more of the text.
        let message = e.message().replace('\n', ", ");
        let message = message.trim_end_matches(", expected nothing");
        report.add(e.span().map_or(0, |s| s.start), "", format!("not TOML: {message}"));
    }
}

fn storage(table: &Table<'_, '_, '_>) -> Storage {
    let path = table.name("path").map_or_else(|| PathBuf::from("/var/lib/leadsbotd/leads.db"), |p| PathBuf::from(p.value));
    let d = store::Limits::default();
    let max_bytes = table.number("max_bytes", 0..=(1 << 44), d.max_bytes.unwrap_or(0));
    if (1..MAX_BYTES_LEAST).contains(&max_bytes) {
        table.fault_of("max_bytes", format!("must be at least {MAX_BYTES_LEAST}, or 0 for no limit"));
    }
    let reserve_bytes = table.number("reserve_bytes", 0..=(1 << 30), d.reserve_bytes);
    let write_budget = table.number("write_budget_per_day", 0..=(1 << 50), d.write_budget.unwrap_or(0));
    let card_endurance = table.number("card_endurance_bytes", 0..=(1 << 60), d.card_endurance.unwrap_or(0));
    let retention = table.table("retention");
    let days = |key, default: u32| u32::try_from(retention.number(key, 0..=36_500, u64::from(default))).unwrap_or(default);
    let keep = store::Retention {
        history_days: days("history_days", d.keep.history_days),
        delivered_days: days("delivered_days", d.keep.delivered_days),
        leads_days: days("leads_days", d.keep.leads_days),
    };
    if keep.history_days > 0 && keep.delivered_days > keep.history_days {
        retention.fault_of(
            "delivered_days",
            format!("must not be longer than history_days ({}): after that nobody knows what was delivered", keep.history_days),
        );
    }
    retention.finish();
    table.finish();
    let limits = store::Limits {
        max_bytes: (max_bytes > 0).then_some(max_bytes),
        reserve_bytes,
        keep,
        write_budget: (write_budget > 0).then_some(write_budget),
        card_endurance: (card_endurance > 0).then_some(card_endurance),
    };
    Storage { path, limits }
}

fn read(report: &Report<'_>, root: &DeTable<'_>) -> Config {
    let root = Table::root(report, root);
    let mut warnings = Vec::new();
    let (device, clock_trusted, heartbeat) = device(&root.table("device"));
    let mut capture = server(&root.table("server"), &mut warnings);
    capture.forms = form::forms(&root);
    capture.sources = sources(&root);
    let storage = storage(&root.table("storage"));
    let log = root.table("log");
    let log_level = log.text("level").map_or(log::LevelFilter::Info, |level| match level.value.as_str() {
        "error" => log::LevelFilter::Error,
        "warn" => log::LevelFilter::Warn,
        "info" => log::LevelFilter::Info,
        "debug" => log::LevelFilter::Debug,
        _ => {
            log.fault_at(&level, "must be error, warn, info or debug");
            log::LevelFilter::Info
        }
    });
    log.finish();
    let (destinations, mut alarms) = destination::destinations(&root, &capture.listen, &mut warnings);
    alarms.heartbeat = heartbeat;
    root.finish();
    Config { device, clock_trusted, capture, storage, destinations, alarms, log_level, warnings }
}

fn device(table: &Table<'_, '_, '_>) -> (Device, bool, Option<Duration>) {
    let clock_trusted = table.text("clock").is_some_and(|clock| match clock.value.as_str() {
        "auto" => false,
        "trusted" => true,
        _ => {
            table.fault_at(&clock, "must be auto or trusted");
            false
        }
    });
    let labels = table.table("labels");
    let mut device = Device {
        id: table.name("id").map_or_else(|| "kiosk".to_owned(), |v| v.value),
        name: table.name("name").map(|v| v.value),
        site: table.name("site").map(|v| v.value),
        labels: serde_json::Map::new(),
    };
    for (key, value) in labels.entries() {
        match value.get_ref().as_str() {
            Some(text) => drop(device.labels.insert(key.value, text.into())),
            None => labels.fault_at(&key, format!("must be a text, not {}", read::article(value.get_ref().type_str()))),
        }
    }
    let heartbeat = table.number("heartbeat_minutes", 0..=10_080, 0);
    table.finish();
    (device, clock_trusted, (heartbeat > 0).then(|| Duration::from_secs(heartbeat * 60)))
}

fn server(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Capture {
    let mut options = Capture::default();
    if let Some(listen) = table.texts("listen") {
        if table.has_empty_list("listen") {
            table.fault_of("listen", "must name at least one address, as in 0.0.0.0:8080");
        }
        options.listen.clear();
        for text in listen {
            match text.value.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 && options.listen.contains(&address) => table.fault_at(&text, "is named twice"),
                Ok(address) => options.listen.push(address),
                Err(_) => table.fault_at(&text, "must be an address and a port, as in 0.0.0.0:8080 or [::]:8080"),
            }
        }
    }
    for text in table.texts("trusted_proxies").unwrap_or_default() {
        match text.value.parse::<IpAddr>() {
            Ok(ip) => options.trusted_proxies.push(ip),
            Err(_) => table.fault_at(&text, "must be an IP address, as in 127.0.0.1"),
        }
    }
    options.api_tokens = api_tokens(table, warnings);
    let limits = table.table("limits");
    let usize_of = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    options.connections_max = usize_of(limits.number("connections_max", 1..=10_000, 256));
    options.body_bytes_max = usize_of(limits.number("body_bytes_max", 1024..=(16 << 20), 64 << 10));
    options.header_bytes_max = usize_of(limits.number("header_bytes_max", 8192..=(1 << 20), 16 << 10));
    options.header_timeout = Duration::from_secs(limits.number("header_timeout_seconds", 1..=300, 10));
    options.body_timeout = Duration::from_secs(limits.number("body_timeout_seconds", 1..=600, 20));
    options.connections_per_address_max = usize_of(limits.number("connections_per_address_max", 1..=10_000, 100));
    options.requests_per_minute = u32::try_from(limits.number("requests_per_minute", 0..=1_000_000, 600)).unwrap_or(0);
    options.lead = Limits {
        fields_max: usize_of(limits.number("fields_max", 1..=1000, 100)),
        name_bytes_max: usize_of(limits.number("field_name_bytes_max", 1..=1024, 64)),
        value_bytes_max: usize_of(limits.number("field_value_bytes_max", 1..=(1 << 20), 8 << 10)),
    };
    limits.finish();
    table.finish();
    options
}

fn api_tokens(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Vec<ApiToken> {
    let mut names = BTreeSet::new();
    let mut out: Vec<ApiToken> = Vec::new();
    for token in table.tables("api_tokens") {
        let name = token.required("name");
        if let Some(name) = &name
            && !names.insert(name.value.clone())
        {
            token.fault_at(name, "another token has the same name");
        }
        if !secrets::given(&token) {
            token.fault(format!("holds no token; {}", secrets::NEEDED));
        }
        if let Some(secret) = secrets::one(&token, warnings) {
            if out.iter().any(|t| t.secret == secret) {
                token.fault("has the secret of another token; each needs its own, or it could not be taken back alone");
            }
            out.push(ApiToken { name: name.map_or_else(String::new, |n| n.value), secret });
        }
        token.finish();
    }
    out
}

fn sources(root: &Table<'_, '_, '_>) -> Vec<Source> {
    let (mut ids, mut tokens) = (BTreeSet::new(), BTreeSet::new());
    let mut out = Vec::new();
    for table in root.tables("source") {
        let id = table.required("id");
        if let Some(id) = &id {
            if !is_slug(&id.value) {
                table.fault_at(id, SLUG);
            }
            if !ids.insert(id.value.clone()) {
                table.fault_at(id, "another source has the same id");
            }
        }
        let token = table.required("token");
        if let Some(token) = &token {
            if token.value.len() < 12 || !token.value.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
                table.fault_at(
                    token,
                    "must have at least 12 characters, each a letter, a digit, - or _: it is the secret part of the capture URL",
                );
            }
            if !tokens.insert(token.value.clone()) {
                table.fault_at(token, "another source has the same token");
            }
        }
        let allowed_origins = table.texts("allowed_origins").unwrap_or_default().into_iter().filter_map(|o| origin(&table, o)).collect();
        if let (Some(id), Some(token)) = (id, token) {
            out.push(Source { id: id.value, token: Hidden(token.value), allowed_origins });
        }
        table.finish();
    }
    out
}

/// An origin exactly as browsers send it, or `*`.
fn origin(table: &Table<'_, '_, '_>, text: At<String>) -> Option<String> {
    if text.value == "*" {
        return Some(text.value);
    }
    let right = url::Url::parse(&text.value).ok().map(|u| u.origin()).filter(url::Origin::is_tuple).map(|o| o.ascii_serialization());
    match right {
        Some(right) if right == text.value => return Some(right),
        Some(right) => table.fault_at(&text, format!("must be an origin as browsers send it: {right}")),
        None => table.fault_at(&text, "must be an origin, as in https://www.example.com, or *"),
    }
    None
}

const SLUG: &str = "must have 1 to 64 characters, each a small letter, a digit, - or _";

fn is_slug(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

impl Default for Config {
    /// What an empty file means.
    fn default() -> Self {
        let report = Report::new("", false);
        read(&report, &DeTable::new())
    }
}

impl Form {
    /// The form of a configuration that names none.
    pub fn builtin() -> Self {
        form::builtin()
    }
}
