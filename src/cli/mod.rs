//! The commands. People get text, scripts get `--json`; errors go to standard error and into the exit code.
//!
//! Exit codes: 0 done; 1 could not; 2 wrong usage; 78 (EX_CONFIG) the configuration has faults.

mod demo;
mod leads;
mod listen;
mod output;
mod queue;
mod receiver;
mod rotate;
mod sign;
mod storage;
mod trigger;

use crate::config::{Config, ConfigError, DEFAULT_PATH};
use crate::secret::Secret;
use crate::store::{Desk, daemon_runs};
use crate::time::{SystemClock, Wall};
use crate::{daemon, logging};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use output::{say, say_json};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// sysexits.h: something was found in a misconfigured state.
const EX_CONFIG: u8 = 78;

/// Keeps every lead and forwards it, signed, to the systems the business already uses.
#[derive(Debug, Parser)]
#[command(
    name = "leadsbotd",
    version,
    max_term_width = 100,
    after_help = "\
Try it:           leadsbotd demo
First steps:      leadsbotd secret new; copy config.example.toml; leadsbotd check; leadsbotd serve
What is waiting:  leadsbotd queue status
Exit codes:       0 done, 1 could not, 2 wrong usage, 78 the configuration has faults"
)]
struct Cli {
    /// The configuration file.
    #[arg(long, short, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Answer in JSON, for scripts.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: take leads, deliver them, until SIGTERM. SIGHUP reads the configuration again.
    Serve,
    /// Find every fault of the configuration file, and of the database: damage, and rows that do not fit together.
    Check,
    /// See the whole job on this machine: a form, a lead, a signed delivery, a receiver that verifies it.
    Demo(demo::Options),
    /// A receiver to develop against: verifies, prints, drops duplicates, and misbehaves when told to.
    Listen(listen::Options),
    /// Show the request that an event makes for a destination. Nothing is sent.
    Preview(trigger::Options),
    /// Send one event, an invented one unless you give a file, to a destination now and explain the answer. Nothing is kept.
    Trigger(trigger::Options),
    /// Print the X-LeadsBot-Signature of a file or of standard input.
    Sign(sign::SignOptions),
    /// Check the X-LeadsBot-Signature of a file or of standard input.
    Verify(sign::VerifyOptions),
    /// Look at the leads that are kept, or export them.
    #[command(subcommand)]
    Leads(leads::Command),
    /// Look at what still has to be delivered, and steer it.
    #[command(subcommand)]
    Queue(queue::Command),
    /// Copy the database as it is now into a file; the daemon may run meanwhile.
    Backup(storage::Backup),
    /// Put a backup in the database's place. Nothing that was delivered since is sent again. The daemon must not run.
    Restore(storage::Restore),
    /// Save what can be read of a damaged database into a new one, as the daemon does when it starts. It must not run.
    Repair(storage::Repair),
    /// Make secrets.
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Print the completions of a shell, for example: leadsbotd completions bash > /etc/bash_completion.d/leadsbotd
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Print a new secret. Put it into the configuration and into the receiver.
    New,
    /// Say how to change the secret of a destination without losing an event: what is to be done next, by what the configuration says now.
    Rotate(rotate::Options),
}

/// Where a secret comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SecretSource {
    /// The secret itself (other users of this machine can see it in the process list).
    #[arg(long, value_name = "TEXT")]
    secret: Option<String>,
    /// A file that holds the secret.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// An environment variable that holds the secret.
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
    /// The secret of this destination of the configuration.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
}

impl SecretSource {
    fn read(&self, config: &std::path::Path) -> Result<Vec<Secret>, Failure> {
        if let Some(name) = &self.destination {
            let config = Config::load(config)?;
            return Ok(find(&config, name)?.spec.connector.secrets().to_vec());
        }
        let text = match (&self.secret, &self.secret_file, &self.secret_env) {
            (Some(text), _, _) => text.clone(),
            (_, Some(file), _) => std::fs::read_to_string(file)
                .map_err(|e| Failure::new(format!("{} cannot be read: {e}", file.display())))?
                .trim_end_matches(['\n', '\r'])
                .to_owned(),
            (_, _, Some(name)) => {
                std::env::var(name).map_err(|_| Failure::new(format!("the environment has no {name} (or it is not UTF-8)")))?
            }
            _ => String::new(),
        };
        Ok(vec![Secret::new(&text).map_err(|e| Failure::new(e.to_string()))?])
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON object a line.
    Json,
    /// A table for spreadsheets, UTF-8.
    Csv,
}

/// Why a command could not do its work.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
    /// The command's own JSON has said it: scripts get one line, not a second one about the same.
    in_json: bool,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, in_json: false }
    }

    fn told_in_json(self) -> Self {
        Self { in_json: true, ..self }
    }
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self { message: e.to_string(), code: EX_CONFIG, in_json: false }
    }
}

impl From<crate::store::Error> for Failure {
    fn from(e: crate::store::Error) -> Self {
        Self::new(e.to_string())
    }
}

impl From<daemon::DaemonError> for Failure {
    fn from(e: daemon::DaemonError) -> Self {
        Self::new(e.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::new(e.to_string())
    }
}

/// Runs the command line and gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match (cli.json, failure.in_json) {
                (true, true) => {}
                (true, false) => say_json(&json!({ "error": failure.message })),
                (false, _) => output::complain(&failure.message),
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Serve => {
            logging::start(log::LevelFilter::Info);
            let config = Config::load(&cli.config)?;
            logging::start(config.log_level);
            for warning in &config.warnings {
                log::warn!("{warning}");
            }
            Ok(daemon::run(&config, &cli.config, Arc::new(SystemClock))?)
        }
        Command::Check => check(cli),
        Command::Demo(options) => demo::run(options),
        Command::Listen(options) => listen::run(cli, options),
        Command::Preview(options) => trigger::preview(cli, options),
        Command::Trigger(options) => trigger::run(cli, options),
        Command::Sign(options) => sign::sign(cli, options),
        Command::Verify(options) => sign::verify(cli, options),
        Command::Leads(command) => leads::run(cli, command),
        Command::Queue(command) => queue::run(cli, command),
        Command::Backup(options) => storage::backup(cli, options),
        Command::Restore(options) => storage::restore(cli, options),
        Command::Repair(options) => {
            logging::start(log::LevelFilter::Warn);
            storage::repair(cli, options)
        }
        Command::Secret(SecretCommand::New) => new_secret(cli),
        Command::Secret(SecretCommand::Rotate(options)) => rotate::run(cli, options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "leadsbotd", &mut script);
            say(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

fn check(cli: &Cli) -> Result<(), Failure> {
    let config = match Config::check(&cli.config) {
        Ok(config) => config,
        Err(e) if cli.json => {
            let faults: Vec<_> = e.faults.iter().map(|f| json!({ "line": f.line, "key": f.key, "message": f.message })).collect();
            say_json(&json!({ "ok": false, "file": e.path, "faults": faults }));
            return Err(Failure::from(e).told_in_json());
        }
        Err(e) => return Err(e.into()),
    };
    let database = if config.storage.path.exists() {
        let faults = Desk::open(&config.storage.path)?.check()?;
        if !faults.is_empty() {
            if cli.json {
                say_json(&json!({ "ok": false, "file": cli.config, "database_faults": faults, "storage": storage::known(cli)? }));
            }
            storage::warn(cli)?;
            let message = format!(
                "the database {} has {} faults; stop the daemon and run leadsbotd repair:\n  {}",
                config.storage.path.display(),
                faults.len(),
                faults.join("\n  ")
            );
            let failure = Failure::new(message);
            return Err(if cli.json { failure.told_in_json() } else { failure });
        }
        "whole"
    } else if config.storage.path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
        "not there yet; the first start makes it"
    } else {
        "its folder is not there: make it, or let the systemd unit's StateDirectory do so"
    };
    if cli.json {
        say_json(
            &json!({ "ok": true, "file": cli.config, "warnings": config.warnings, "database": database, "storage": storage::known(cli)? }),
        );
        return Ok(());
    }
    for warning in &config.warnings {
        say(&format!("warning: {warning}"));
    }
    say(&format!("{}: no fault", cli.config.display()));
    say(&format!("  listens at    {}", config.capture.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    say(&format!("  forms         {}", config.capture.forms.iter().map(|f| format!("/f/{}", f.id)).collect::<Vec<_>>().join(", ")));
    say(&format!("  sources       {}", names(config.capture.sources.iter().map(|s| s.id.as_str()))));
    say(&format!("  destinations  {}", names(config.destinations.iter().map(|d| d.spec.name.as_str()))));
    say(&format!("  database      {}: {database}", config.storage.path.display()));
    storage::warn(cli)?;
    Ok(())
}

fn when(text: &str) -> Result<Wall, String> {
    Wall::parse(text).ok_or_else(|| "must be RFC 3339, as in 2026-11-23T12:00:00Z, or a date".to_owned())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let list: Vec<&str> = names.collect();
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

fn new_secret(cli: &Cli) -> Result<(), Failure> {
    let secret = Secret::generate().map_err(|e| Failure::new(format!("the system gives no random numbers: {e}")))?;
    if cli.json {
        say_json(&json!({ "secret": secret.expose() }));
    } else {
        say(secret.expose());
        output::hint(
            "Put the whole text, whsec_ included, into the configuration (secret = \"…\") and into the receiver.\n\
             X-LeadsBot-Signature: the key is the text as it stands. Standard Webhooks libraries: new Webhook(\"whsec_…\").",
        );
    }
    Ok(())
}

fn find<'c>(config: &'c Config, name: &str) -> Result<&'c crate::config::Destination, Failure> {
    config.destinations.iter().find(|d| d.spec.name == name).ok_or_else(|| {
        Failure::new(format!(
            "there is no destination {name} in the configuration; there {}",
            if config.destinations.is_empty() {
                "is none".to_owned()
            } else {
                format!("are {}", names(config.destinations.iter().map(|d| d.spec.name.as_str())))
            }
        ))
    })
}

/// The database, from a command's side, and whether a daemon is running with it.
fn desk(cli: &Cli) -> Result<(Desk, bool), Failure> {
    let path = Config::storage_path(&cli.config)?;
    let desk = Desk::open(&path)?;
    Ok((desk, daemon_runs(&path)))
}
