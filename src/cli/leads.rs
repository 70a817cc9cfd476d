//! `leads list|show|export`. These print people's details: they are for the operator's own eyes and files.

use super::output::{Out, plain, say, say_json, table};
use super::{Cli, Failure, Format, desk, when};
use crate::id::IdKey;
use crate::lead::{Lead, check_status};
use crate::store::{Desk, Record};
use crate::time::Wall;
use clap::Subcommand;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The newest leads.
    List {
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only those with this status.
        #[arg(long, value_parser = status)]
        status: Option<String>,
        /// Only those from this source.
        #[arg(long)]
        source: Option<String>,
        /// Only those captured at or after this time (RFC 3339 or YYYY-MM-DD).
        #[arg(long, value_parser = when)]
        since: Option<Wall>,
    },
    /// One lead, its events, and where each of them got to.
    Show {
        /// lead_…
        id: String,
    },
    /// All leads, oldest last, to standard output or a file.
    Export {
        /// How.
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
        /// Where to; must not exist yet. Readable by you alone.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Leave cells that a spreadsheet would run as a formula as they are.
        #[arg(long)]
        raw: bool,
    },
}

/// Leads read in one go, so that no reading holds up the daemon.
const STEP: i64 = 500;

fn status(text: &str) -> Result<String, String> {
    check_status(text).map(|()| text.to_owned()).map_err(|fault| fault.message)
}

pub fn run(cli: &Cli, command: &Command) -> Result<(), Failure> {
    let (mut desk, _) = desk(cli)?;
    match command {
        Command::List { limit, status, source, since } => {
            let wanted = |r: &Record| {
                status.as_ref().is_none_or(|s| *s == r.lead.status)
                    && source.as_ref().is_none_or(|s| *s == r.lead.source)
                    && since.is_none_or(|t| r.created >= t)
            };
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            let mut found = Vec::new();
            each(&mut desk, |ids, record| {
                if wanted(&record) {
                    found.push(full(ids, &record));
                }
                Ok(found.len() < limit)
            })?;
            if cli.json {
                for lead in &found {
                    say_json(lead);
                }
                return Ok(());
            }
            let text = |lead: &Value, key: &str| plain(lead.get(key).and_then(Value::as_str).unwrap_or("-"));
            let rows: Vec<Vec<String>> =
                found.iter().map(|l| ["id", "created_at", "status", "source", "name", "email"].map(|k| text(l, k)).to_vec()).collect();
            if rows.is_empty() {
                say("no lead");
            } else {
                table(&["ID", "CAPTURED", "STATUS", "SOURCE", "NAME", "E-MAIL"], &rows);
            }
            Ok(())
        }
        Command::Show { id } => show(cli, &mut desk, id),
        Command::Export { format, output, raw } => {
            let format = if cli.json { Format::Json } else { *format };
            export(&mut desk, format, output.as_ref(), *raw)
        }
    }
}

/// Every lead, newest first, until `f` says false.
fn each(desk: &mut Desk, mut f: impl FnMut(&IdKey, Record) -> Result<bool, Failure>) -> Result<(), Failure> {
    let ids = desk.ids().clone();
    let mut before = i64::MAX;
    loop {
        let page = desk.read(|view| view.leads(before, STEP))?;
        if page.is_empty() {
            return Ok(());
        }
        for record in page {
            before = record.number;
            if !f(&ids, record)? {
                return Ok(());
            }
        }
    }
}

fn full(ids: &IdKey, record: &Record) -> Value {
    let lead = Lead { id: ids.lead(record.random).id(record.number), ..record.lead.clone() };
    let mut value = serde_json::to_value(&lead).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("created_at".to_owned(), record.created.rfc3339().into());
        object.insert("updated_at".to_owned(), record.changed.unwrap_or(record.created).rfc3339().into());
    }
    value
}

fn show(cli: &Cli, desk: &mut Desk, id: &str) -> Result<(), Failure> {
    let ids = desk.ids().clone();
    let found = desk.read(|view| {
        let Some(record) = view.lead(&ids, id)? else { return Ok(None) };
        let names = view.destinations()?;
        let mut events = Vec::new();
        for event in view.events_of(&ids, record.number)? {
            let deliveries = view.deliveries_of(event.seq)?;
            let deliveries: Vec<(String, crate::store::Entry)> = deliveries
                .into_iter()
                .map(|d| (names.iter().find(|n| n.dest == d.dest).map_or_else(|| "?".to_owned(), |n| n.name.clone()), d))
                .collect();
            events.push((event, deliveries));
        }
        Ok(Some((record, events)))
    })?;
    let Some((record, events)) = found else {
        return Err(Failure::new(format!("there is no lead {}", plain(id))));
    };
    let mut lead = full(&ids, &record);
    if cli.json {
        let events: Vec<Value> = events
            .iter()
            .map(|(e, deliveries)| {
                let deliveries: Vec<Value> = deliveries
                    .iter()
                    .map(|(name, d)| json!({ "destination": name, "state": d.state, "attempts": d.attempts, "reason": d.reason, "status": d.status }))
                    .collect();
                json!({ "id": e.id, "event": e.kind, "created_at": e.at.rfc3339(), "deliveries": deliveries })
            })
            .collect();
        if let Some(object) = lead.as_object_mut() {
            object.insert("events".to_owned(), events.into());
        }
        say_json(&lead);
        return Ok(());
    }
    // JSON escapes only some of the characters that move a terminal's cursor.
    for line in serde_json::to_string_pretty(&lead).unwrap_or_default().lines() {
        say(&plain(line));
    }
    for (event, deliveries) in &events {
        say(&format!("{} {} {}", event.at.rfc3339(), event.kind, event.id));
        if deliveries.is_empty() {
            say("  goes to no destination");
        }
        for (name, d) in deliveries {
            let reason = d.reason.as_ref().map_or_else(String::new, |r| format!(": {}", plain(r)));
            let attempts = if d.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", d.attempts) };
            say(&format!("  {name}: {}, {attempts}{reason}", d.state));
        }
    }
    Ok(())
}

fn export(desk: &mut Desk, format: Format, output: Option<&PathBuf>, raw: bool) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut out: Box<dyn std::io::Write> = match output {
        None => Box::new(std::io::BufWriter::new(Out::new())),
        Some(path) => {
            let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
            Box::new(std::io::BufWriter::new(file.map_err(|e| Failure::new(format!("{} cannot be made: {e}", path.display())))?))
        }
    };
    let written = match format {
        Format::Json => each(desk, |ids, record| {
            serde_json::to_writer(&mut out, &full(ids, &record)).map_err(|e| Failure::new(e.to_string()))?;
            out.write_all(b"\n")?;
            Ok(true)
        }),
        Format::Csv => csv(desk, &mut out, raw),
    };
    let written = written.and_then(|()| Ok(out.flush()?));
    if let (Err(_), Some(path)) = (&written, output) {
        // Half an export would pass for a whole one.
        let _ = std::fs::remove_file(path);
    }
    written
}

const COLUMNS: [&str; 11] = ["id", "created_at", "updated_at", "status", "score", "source", "name", "email", "phone", "company", "message"];

fn csv(desk: &mut Desk, out: &mut dyn std::io::Write, raw: bool) -> Result<(), Failure> {
    // Twice over the leads: a table needs all its columns before its first row. What is captured in between is left for the next export.
    let mut extra = BTreeSet::new();
    let mut newest = 0;
    each(desk, |_, record| {
        newest = newest.max(record.number);
        extra.extend(record.lead.fields.keys().cloned());
        Ok(true)
    })?;
    let failed = |e: csv::Error| Failure::new(format!("the export could not be written: {e}"));
    let mut writer = csv::Writer::from_writer(out);
    let head = COLUMNS.iter().map(|c| (*c).to_owned()).chain(["consent_text", "consent_version", "consent_at"].map(str::to_owned));
    writer.write_record(head.chain(extra.iter().map(|k| format!("fields.{k}")))).map_err(failed)?;
    each(desk, |ids, record| {
        if record.number > newest {
            return Ok(true);
        }
        let lead = full(ids, &record);
        let cell = |value: Option<&Value>| match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let mut row: Vec<String> = COLUMNS.iter().map(|c| cell(lead.get(c))).collect();
        row.extend(["/consent/text", "/consent/version", "/consent/at"].map(|p| cell(lead.pointer(p))));
        row.extend(extra.iter().map(|k| cell(record.lead.fields.get(k))));
        if !raw {
            row.iter_mut().for_each(defuse);
        }
        writer.write_record(&row).map_err(failed)?;
        Ok(true)
    })?;
    writer.flush()?;
    Ok(())
}

/// A cell that begins like a formula is run by spreadsheets; a quote before it makes it text. Numbers, telephone numbers among them,
/// stay as they are.
fn defuse(cell: &mut String) {
    let number = |c: char| c.is_ascii_digit() || " +-./()".contains(c);
    let formula = match cell.chars().next() {
        Some('=' | '@' | '\t' | '\r') => true,
        Some('+' | '-') => !cell.chars().all(number),
        _ => false,
    };
    if formula {
        cell.insert(0, '\'');
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_exported_cell_cannot_be_a_formula() {
        for (cell, expected) in [
            ("=IMPORTXML(1)", "'=IMPORTXML(1)"),
            ("@SUM(1)", "'@SUM(1)"),
            ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
            ("+49 30 123456", "+49 30 123456"),
            ("-5", "-5"),
            ("Jane", "Jane"),
            ("", ""),
        ] {
            let mut text = cell.to_owned();
            super::defuse(&mut text);
            assert_eq!(text, expected);
        }
    }
}
