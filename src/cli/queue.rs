//! `queue status|list|retry|drop|pause|resume`.

use super::output::{hint, plain, say, say_json, table};
use super::{Cli, Failure, desk, names, storage, when};
use crate::config::Config;
use crate::id::IdKey;
use crate::store::{Day, Desk, Destination, Entry, Worn, life};
use crate::time::{Clock, SystemClock, Wall, human};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A line a destination: how it is and what waits for it.
    Status,
    /// Deliveries that are not finished, and dead letters.
    List {
        /// Only of this destination.
        destination: Option<String>,
        /// Only those that are ready, retrying, held, or dead.
        #[arg(long, value_parser = ["ready", "retrying", "held", "dead"])]
        state: Option<String>,
        /// How many of each destination.
        #[arg(long, default_value_t = 50)]
        limit: i64,
    },
    /// Try deliveries again now; dead letters come back to life.
    Retry(Which),
    /// Send again what was delivered before, with the same ids; for a receiver that has lost something.
    Replay {
        /// The destination's name.
        destination: String,
        /// evt_… ids; see leads show.
        #[arg(required_unless_present = "since", conflicts_with_all = ["since", "until"])]
        events: Vec<String>,
        #[command(flatten)]
        range: Range,
    },
    /// Drop deliveries for good. The leads stay; they just do not go there.
    Drop {
        #[command(flatten)]
        which: Which,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Send nothing to a destination until resume; its queue is kept and grows.
    Pause {
        /// Its name.
        destination: String,
    },
    /// Send to a destination again.
    Resume {
        /// Its name.
        destination: String,
    },
}

#[derive(Debug, Args)]
pub struct Which {
    /// The destination's name.
    destination: String,
    /// evt_… ids; see queue list.
    #[arg(required_unless_present_any = ["all", "dead"], conflicts_with_all = ["all", "dead"])]
    events: Vec<String>,
    /// Everything that is not finished, dead letters included.
    #[arg(long)]
    all: bool,
    /// All dead letters.
    #[arg(long, conflicts_with = "all")]
    dead: bool,
    #[command(flatten)]
    range: Range,
}

/// Of the events, those made in this time.
#[derive(Debug, Args)]
pub struct Range {
    /// Only events made at or after this time: RFC 3339, or a date.
    #[arg(long, value_parser = when, value_name = "TIME", conflicts_with = "events")]
    since: Option<Wall>,
    /// Only events made before this time.
    #[arg(long, value_parser = when, value_name = "TIME", conflicts_with = "events")]
    until: Option<Wall>,
}

impl Range {
    fn holds(&self, at: Wall) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}

pub fn run(cli: &Cli, command: &Command) -> Result<(), Failure> {
    let (mut desk, running) = desk(cli)?;
    match command {
        Command::Status => status(cli, &mut desk, running),
        Command::List { destination, state, limit } => list(cli, &mut desk, destination.as_deref(), state.as_deref(), *limit),
        Command::Retry(which) => {
            let (dest, events) = select(&mut desk, which)?;
            let count = desk.retry(dest.dest, &events)?;
            done(cli, running, &format!("{count} of {} are due now", dest.name), count);
            Ok(())
        }
        Command::Replay { destination, events, range } => {
            let dest = named(&mut desk, destination)?;
            let mut chosen = numbers(&mut desk, events)?;
            if let Some(since) = range.since {
                chosen.extend(desk.read(|v| v.finished(dest.dest, since, range.until.unwrap_or(Wall(i64::MAX))))?);
            }
            let count = desk.replay(dest.dest, &chosen)?;
            done(cli, running, &format!("{count} deliveries are sent to {} again", dest.name), count);
            Ok(())
        }
        Command::Drop { which, yes } => {
            let (dest, events) = select(&mut desk, which)?;
            if !yes && !confirmed(&format!("Drop {} deliveries to {} for good?", events.len(), dest.name))? {
                return Err(Failure::new("nothing was dropped; add --yes to drop without being asked"));
            }
            let count = desk.drop_deliveries(dest.dest, &events, SystemClock.wall())?;
            done(cli, running, &format!("{count} deliveries to {} were dropped; the leads are still here", dest.name), count);
            Ok(())
        }
        Command::Pause { destination } => {
            let dest = named(&mut desk, destination)?;
            desk.set_paused(dest.dest, true)?;
            done(cli, running, &format!("{} is paused; what comes for it is kept", dest.name), 1);
            Ok(())
        }
        Command::Resume { destination } => {
            let dest = named(&mut desk, destination)?;
            desk.set_paused(dest.dest, false)?;
            done(cli, running, &format!("{} is resumed", dest.name), 1);
            Ok(())
        }
    }
}

fn done(cli: &Cli, running: bool, message: &str, count: usize) {
    if cli.json {
        say_json(&json!({ "done": count, "daemon_running": running }));
    } else {
        say(message);
        if !running {
            hint("The daemon is not running with this database; it takes effect when it starts.");
        }
    }
}

fn named(desk: &mut Desk, name: &str) -> Result<Destination, Failure> {
    let all = desk.read(|v| v.destinations())?;
    match all.iter().find(|d| d.name == name) {
        Some(found) => Ok(found.clone()),
        None => Err(Failure::new(format!(
            "the database knows no destination {}; it knows: {}",
            plain(name),
            names(all.iter().map(|d| d.name.as_str()))
        ))),
    }
}

fn select(desk: &mut Desk, which: &Which) -> Result<(Destination, Vec<i64>), Failure> {
    let dest = named(desk, &which.destination)?;
    let mut events = Vec::new();
    if which.all || which.dead {
        let state = which.dead.then_some("dead");
        let mut after = 0;
        loop {
            let page = desk.read(|v| v.deliveries(dest.dest, state, after, 500))?;
            let Some(last) = page.last() else { break };
            after = last.event;
            events.extend(page.iter().filter(|e| which.range.holds(e.at)).map(|e| e.event));
        }
    }
    events.extend(numbers(desk, &which.events)?);
    Ok((dest, events))
}

fn numbers(desk: &mut Desk, events: &[String]) -> Result<Vec<i64>, Failure> {
    let ids = desk.ids().clone();
    let number = |id: &String| match desk.read(|v| v.event_number(&ids, id))? {
        Some(number) => Ok(number),
        None => Err(Failure::new(format!("there is no event {}", plain(id)))),
    };
    let mut numbers = events.iter().map(number).collect::<Result<Vec<i64>, Failure>>()?;
    // Whatever order they were named in, those of one lead go into the queue in theirs.
    numbers.sort_unstable();
    Ok(numbers)
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    use std::io::{IsTerminal, Write};
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn status(cli: &Cli, desk: &mut Desk, running: bool) -> Result<(), Failure> {
    let (rows, worn) = desk.read(|v| {
        let mut rows = Vec::new();
        for d in v.destinations()? {
            rows.push((v.counts(d.dest)?, v.oldest(d.dest)?, d));
        }
        Ok((rows, v.worn()?))
    })?;
    // Only to say which queues nobody serves; a configuration that cannot be read here (its secrets, say) is no reason to fail.
    let config = Config::check(&cli.config).ok();
    let configured: Option<Vec<String>> = config.as_ref().map(|c| c.destinations.iter().map(|d| d.spec.name.clone()).collect());
    let endurance = config.and_then(|c| c.storage.limits.card_endurance);
    let worn = worn.filter(Worn::is_measured);
    let now = SystemClock.wall();
    let age = |at: Wall| human(Duration::from_millis(u64::try_from(now.0.saturating_sub(at.0)).unwrap_or(0)));
    let state = |d: &Destination| match (&configured, d.paused) {
        (Some(names), _) if !names.contains(&d.name) => "unconfigured".to_owned(),
        (_, true) => "paused".to_owned(),
        _ => d.state.clone(),
    };
    if cli.json {
        let destinations: Vec<_> = rows
            .iter()
            .map(|(c, oldest, d)| {
                json!({ "name": d.name, "state": state(d), "since": d.since.map(Wall::rfc3339), "reason": d.reason, "waiting": c.waiting(),
                    "ready": c.ready, "retrying": c.retrying, "held": c.held, "dead": c.dead, "oldest": oldest.map(Wall::rfc3339) })
            })
            .collect();
        say_json(&json!({ "daemon_running": running, "destinations": destinations, "storage": storage::known(cli)?,
            "wear": worn.map(|w| wear_json(&w, endurance)) }));
        return Ok(());
    }
    storage::warn(cli)?;
    say(if running { "the daemon is running" } else { "the daemon is not running with this database; states are as it last told" });
    if let Some(worn) = &worn {
        say(&wear_line(worn, endurance));
    }
    if rows.is_empty() {
        say("no destination was ever configured");
        return Ok(());
    }
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|(c, oldest, d)| {
            vec![
                d.name.clone(),
                state(d),
                c.waiting().to_string(),
                c.retrying.to_string(),
                c.held.to_string(),
                c.dead.to_string(),
                oldest.map_or_else(|| "-".to_owned(), age),
            ]
        })
        .collect();
    table(&["DESTINATION", "STATE", "WAITING", "RETRYING", "HELD", "DEAD", "OLDEST"], &lines);
    for (c, _, d) in &rows {
        if d.state != "open" && !d.paused {
            let since = d.since.map_or_else(String::new, |s| format!(" since {}", s.rfc3339()));
            let waiting = c.waiting();
            say(&format!(
                "{}: {}{since}, {waiting} waiting: {}",
                d.name,
                d.state,
                plain(d.reason.as_deref().unwrap_or("no reason was noted"))
            ));
        }
    }
    Ok(())
}

/// What was written, as the daemon noted it along with one of its latest writes.
fn wear_line(worn: &Worn, endurance: Option<u64>) -> String {
    let life = endurance.map_or_else(String::new, |endurance| format!("; {}", life(worn.card_days(endurance), endurance)));
    format!("written to the card on {} (as of {}): {}{life}", worn.today.date(), worn.at().rfc3339(), worn.today.told())
}

fn wear_json(worn: &Worn, endurance: Option<u64>) -> Value {
    let day = |d: &Day| json!({ "day": d.date(), "written_bytes": d.bytes, "leads": d.leads, "deliveries": d.deliveries });
    json!({ "noted_at": worn.at().rfc3339(), "today": day(&worn.today), "finished": worn.finished.iter().map(day).collect::<Vec<_>>(),
        "bytes_a_day": worn.pace(), "card_life_days": endurance.map(|endurance| worn.card_days(endurance)) })
}

fn list(cli: &Cli, desk: &mut Desk, name: Option<&str>, state: Option<&str>, limit: i64) -> Result<(), Failure> {
    let wanted = match name {
        Some(name) => vec![named(desk, name)?],
        None => desk.read(|v| v.destinations())?,
    };
    let ids = desk.ids().clone();
    let mut entries = Vec::new();
    for dest in &wanted {
        for mut entry in desk.read(|v| v.deliveries(dest.dest, state, 0, limit.max(1)))? {
            entry.reason = entry.reason.or_else(|| why_it_waits(dest, &entry.state));
            entries.push((dest.name.clone(), entry));
        }
    }
    if cli.json {
        for (dest, e) in &entries {
            say_json(
                &json!({ "destination": dest, "event_id": event_id(&ids, e), "event": e.kind, "created_at": e.at.rfc3339(), "state": e.state,
                "attempts": e.attempts, "code": e.code, "status": e.status, "reason": e.reason, "answer": e.answer }),
            );
        }
        return Ok(());
    }
    if entries.is_empty() {
        say("nothing is waiting");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|(dest, e)| {
            let why = match (&e.reason, &e.answer) {
                (Some(reason), Some(answer)) if !answer.is_empty() => format!("{}; it said: {}", plain(reason), plain(answer)),
                (Some(reason), _) => plain(reason),
                _ => "-".to_owned(),
            };
            vec![dest.clone(), event_id(&ids, e), e.kind.clone(), e.at.rfc3339(), e.state.clone(), e.attempts.to_string(), why]
        })
        .collect();
    table(&["DESTINATION", "EVENT", "KIND", "SINCE", "STATE", "ATTEMPTS", "WHY"], &rows);
    Ok(())
}

/// What keeps a delivery that has no trouble of its own.
fn why_it_waits(dest: &Destination, state: &str) -> Option<String> {
    match state {
        "held" => Some("waits for an earlier event of the same lead".to_owned()),
        "ready" if dest.paused => Some("the destination is paused".to_owned()),
        "ready" if dest.state != "open" => {
            Some(format!("the destination is {}: {}", dest.state, dest.reason.as_deref().unwrap_or("no reason was noted")))
        }
        _ => None,
    }
}

fn event_id(ids: &IdKey, e: &Entry) -> String {
    ids.event(e.random).id(e.event)
}
