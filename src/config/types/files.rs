//! `type = "csv"`, `"excel"` and `"jsonl"`.

use super::super::read::At;
use super::{Given, Made, columns};
use crate::delivery::Wire;
use crate::destination::files::{Files, Format};
use crate::mapping::Template;
use std::path::{Component, Path, PathBuf};

/// A file put aside under a number should hold more than its beginning.
const ROTATE_BYTES_MIN: u64 = 10_000;
/// More than any file system of a kiosk takes.
const ROTATE_BYTES_MAX: u64 = 1 << 40;

/// Its keys.
pub fn csv(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let columns = columns::read(given, "id_column", "event_id", "columns");
    let separator = given.table.name("separator");
    let separator = match separator.as_ref().map(|at| at.value.as_str()) {
        None | Some(",") => b',',
        Some(";") => b';',
        Some("|") => b'|',
        // A tab is no name: `name` takes blanks for nothing.
        Some("tab") => b'\t',
        Some(_) => {
            given.table.fault_of("separator", "must be \",\", \";\", \"|\" or \"tab\"");
            b','
        }
    };
    let escape_formulas = given.table.flag("escape_formulas", true);
    made(given, "csv", Format::Csv { columns, separator, escape_formulas })
}

/// Its keys.
pub fn excel(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let columns = columns::read(given, "id_column", "event_id", "columns");
    made(given, "excel", Format::Excel { columns })
}

/// Its keys.
pub fn jsonl(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let columns = if given.table.has("columns") || given.table.has("id_column") {
        Some(columns::read(given, "id_column", "event_id", "columns"))
    } else {
        None
    };
    made(given, "jsonl", Format::Jsonl { columns })
}

fn made(given: &Given<'_, '_, '_, '_>, kind: &'static str, format: Format) -> Option<Made> {
    let rotate_bytes = given.table.has("rotate_bytes").then(|| given.table.number("rotate_bytes", ROTATE_BYTES_MIN..=ROTATE_BYTES_MAX, 0));
    let mount = given.table.name("mount");
    let path = given.table.required("path").and_then(|path| parted(given, &path));
    if let Some(mount) = &mount {
        if !is_plain(&mount.value) {
            given.table.fault_at(mount, ABSOLUTE);
        } else if path.as_ref().is_some_and(|(folder, _)| !folder.starts_with(&mount.value)) {
            given.table.fault_at(mount, "must be a folder that path begins with");
        }
    }
    let (folder, parts) = path?;
    let wire = Wire::File { folder: folder.clone(), mount: mount.map(|at| PathBuf::from(at.value)) };
    Some(Made { connector: Box::new(Files { kind, folder, parts, rotate_bytes, format }), wire })
}

const ABSOLUTE: &str = "must begin with / and go only down, as in /media/usb";

fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains('\0')
        && Path::new(path).components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

/// The folder, which is everything before the first part with something to fill in, and the parts below it.
fn parted(given: &Given<'_, '_, '_, '_>, path: &At<String>) -> Option<(PathBuf, Vec<Template>)> {
    let pieces = pieces(&path.value);
    let fixed = pieces.iter().take_while(|piece| !has_template(piece)).count().min(pieces.len().saturating_sub(1));
    let (folder, below) = pieces.split_at_checked(fixed)?;
    let folder = format!("{}/", folder.join("/"));
    let below_is_named = below.iter().all(|piece| !matches!(piece.trim(), "" | "." | ".."));
    if !path.value.starts_with('/') || !is_plain(&folder) || !below_is_named {
        given.table.fault_at(path, "must be a file's whole path, as in /var/lib/leadsbotd/leads.csv, without .. in it");
        return None;
    }
    let whole = given.samples.template(given.table.report(), "path", path);
    let parts: Vec<Template> = below.iter().filter_map(|piece| Template::new("path", piece).ok()).collect();
    whole?;
    if parts.len() != below.len() {
        given.table.fault_at(path, "has a {{ or {% that does not end before the next /");
        return None;
    }
    Some((PathBuf::from(folder), parts))
}

fn has_template(piece: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|open| piece.contains(open))
}

/// The path at its slashes, those inside of `{{ … }}` aside.
fn pieces(path: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut closing) = (0, None);
    for (at, c) in path.char_indices() {
        let two = path.get(at..at + 2);
        match (closing, two) {
            (None, Some("{{")) => closing = Some("}}"),
            (None, Some("{%")) => closing = Some("%}"),
            (None, Some("{#")) => closing = Some("#}"),
            (Some(end), found) if found == Some(end) => closing = None,
            (None, _) if c == '/' => {
                out.extend(path.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    out.extend(path.get(start..));
    out
}
