//! `backup`, `restore`, `repair`, and what other commands say about damage.

use super::output::{complain, hint, plain, say, say_json};
use super::{Cli, Failure};
use crate::config::Config;
use crate::daemon;
use crate::store::{self, Options, Salvaged};
use crate::time::{Clock, SystemClock};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct Backup {
    /// Where to; there must be no such file yet.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// A file that `backup` has made.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Repair {
    /// Also when nothing is wrong with the database.
    #[arg(long)]
    force: bool,
}

pub fn backup(cli: &Cli, options: &Backup) -> Result<(), Failure> {
    let path = Config::storage_path(&cli.config)?;
    let bytes = store::backup(&path, &options.file)?;
    if cli.json {
        say_json(&json!({ "file": options.file, "bytes": bytes }));
    } else {
        say(&format!("{} holds everything that was kept when it was begun ({bytes} bytes, checked)", options.file.display()));
        hint("It holds people's details and may be read by its owner only. Take it back with: leadsbotd restore FILE");
    }
    Ok(())
}

pub fn restore(cli: &Cli, options: &Restore) -> Result<(), Failure> {
    let path = Config::storage_path(&cli.config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let done = store::restore(&Options::new(&path), &clock, &options.file)?;
    if cli.json {
        say_json(&json!({
            "file": path, "former": done.aside, "same_lineage": done.merged.is_some(), "former_was_whole": done.whole,
            "carried_over": done.merged.as_ref().map(counts),
        }));
        return Ok(());
    }
    say(&format!("{} is now what {} holds", path.display(), options.file.display()));
    match (&done.aside, &done.merged) {
        (Some(aside), Some(report)) => {
            say(&format!("the former database lies beside it as {aside}; from it: {report}"));
            if !done.whole {
                say("the former database is damaged: where it no longer says that a delivery was made, it is made again under the same id");
            }
        }
        (Some(aside), None) => say(&format!(
            "the former database lies beside it as {aside}; it is another one, so nothing was taken from it: what was delivered after the backup may be sent again under the same ids"
        )),
        (None, _) => say("there was no database: what was delivered after the backup may be sent again under the same ids"),
    }
    Ok(())
}

pub fn repair(cli: &Cli, options: &Repair) -> Result<(), Failure> {
    let config = Config::check(&cli.config)?;
    if !config.storage.path.exists() {
        return Err(Failure::new(format!("{} is not there; the first start of the daemon makes it", config.storage.path.display())));
    }
    let Some(damage) = daemon::repair(&config, Arc::new(SystemClock), options.force)? else {
        if cli.json {
            say_json(&json!({ "repaired": false }));
        } else {
            say(&format!("nothing is wrong with {}", config.storage.path.display()));
        }
        return Ok(());
    };
    if damage.files.iter().any(|f| !f.done) {
        return Err(Failure::new("not everything could be carried over; the log says why, and the next start of the daemon goes on"));
    }
    if cli.json {
        say_json(&json!({ "repaired": true, "storage": told(&damage) }));
    } else {
        damage.lines().iter().for_each(|line| say(&plain(line)));
    }
    Ok(())
}

/// Says on standard error what is known of damage.
pub fn warn(cli: &Cli) -> Result<(), Failure> {
    let damage = store::damage(&Config::storage_path(&cli.config)?);
    damage.lines().iter().for_each(|line| complain(&plain(line)));
    Ok(())
}

/// What is known of damage, for scripts.
pub fn known(cli: &Cli) -> Result<Value, Failure> {
    Ok(told(&store::damage(&Config::storage_path(&cli.config)?)))
}

fn told(damage: &store::Damage) -> Value {
    let files: Vec<Value> = damage
        .files
        .iter()
        .map(|f| json!({ "file": f.file, "found": f.found, "done": f.done, "carried_over": counts(&f.report) }))
        .collect();
    json!({ "state": damage.state, "damage": damage.found, "put_aside": files })
}

fn counts(r: &Salvaged) -> Value {
    json!({ "leads": r.leads, "events": r.events, "pending": r.pending, "requeued": r.requeued, "dead": r.dead, "history": r.history,
        "rows_lost": r.lost, "pages_unreadable": r.pages })
}
