//! Two small files beside the database. `NAME.identity`: what ids and destinations' numbers depend on, for the day the database cannot
//! say it. `NAME.damage`: what was found, which files were put aside, and how far their rows have been carried over.
//!
//! Both are replaced whole or not at all. Neither holds a person's details.

use crate::store::{Error, beside};
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A destination's number and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its number.
    pub dest: i64,
    /// Its name.
    pub name: String,
    /// An operator paused it.
    #[serde(default)]
    pub paused: bool,
}

/// What must survive the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The key that masks ids, in hexadecimal.
    pub id_key: Option<String>,
    /// Every destination ever configured.
    #[serde(default)]
    pub destinations: Vec<Named>,
    /// Events made since the database was begun anew have numbers from here on.
    #[serde(default)]
    pub first_number: i64,
}

impl Identity {
    /// The one kept beside the database at `path`; empty when there is none that can be read.
    pub fn load(path: &Path) -> Self {
        read(&beside(path, ".identity")).unwrap_or_default()
    }

    /// Keeps it, if it differs from what is kept.
    pub fn keep(&self, path: &Path) -> Result<(), Error> {
        if Self::load(path) == *self { Ok(()) } else { write(&beside(path, ".identity"), self) }
    }

    /// The key's bytes.
    pub fn key(&self) -> Option<[u8; 32]> {
        let text = self.id_key.as_ref().filter(|t| t.len() == 64)?;
        let bytes: Option<Vec<u8>> = (0..32).map(|n| text.get(2 * n..2 * n + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok())).collect();
        bytes?.try_into().ok()
    }

    /// Hexadecimal of a key.
    pub fn hex(key: &[u8]) -> String {
        key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// How much came over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Leads.
    pub leads: u64,
    /// Events, those that made the leads included.
    pub events: u64,
    /// Deliveries that still have to be made.
    pub pending: u64,
    /// Deliveries queued again because the file no longer says whether they were made.
    pub requeued: u64,
    /// Dead letters.
    pub dead: u64,
    /// Records of finished deliveries.
    pub history: u64,
    /// Rows that are known to be lost.
    pub lost: u64,
    /// Pages that could not be read.
    pub pages: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} leads, {} events, {} pending deliveries ({} more queued again), {} dead letters and {} records of deliveries were carried over; {} rows lost, {} pages unreadable",
            self.leads, self.events, self.pending, self.requeued, self.dead, self.history, self.lost, self.pages
        )
    }
}

/// A file that was put aside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Its name, in the database's folder.
    pub file: String,
    /// What was wrong with it.
    pub found: String,
    /// When, by the clock as it was, ms.
    pub at: i64,
    /// What the next database has to go on with.
    pub identity: Identity,
    /// The last boot's number there.
    pub boot: i64,
    /// The latest time there that was believed, ms.
    pub seen: Option<i64>,
    /// Everything that could be carried over has been.
    pub done: bool,
    /// How much that was.
    pub report: Report,
    /// A backup took its place, in which case the file that was put aside is the newer one.
    pub restored: Option<Restored>,
}

/// How a backup takes the place of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restored {
    /// The copy of the backup beside the database, until it is in its place.
    pub copy: String,
    /// The file that was put aside is of the same lineage: what it knows is added.
    pub merge: bool,
    /// The file that was put aside is whole: what it does not know of has been finished and forgotten, up to this number.
    pub known_to: Option<i64>,
}

/// Everything about damage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// The database in use is known to be damaged; the next start puts it aside.
    pub damaged: Option<String>,
    /// Files that were put aside, oldest first.
    pub files: Vec<Entry>,
}

impl Note {
    /// The note beside the database at `path`. If it cannot be read, all that was put aside counts as not carried over: twice is once.
    pub fn load(path: &Path) -> Self {
        let file = beside(path, ".damage");
        if !file.exists() {
            return Self::default();
        }
        read(&file).unwrap_or_else(|| Self { damaged: None, files: found_aside(path) })
    }

    /// Keeps it. An empty one is taken away.
    pub fn keep(&self, path: &Path) -> Result<(), Error> {
        let file = beside(path, ".damage");
        if *self == Self::default() {
            return match std::fs::remove_file(file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::Disk(e.to_string())),
                _ => Ok(()),
            };
        }
        write(&file, self)
    }
}

fn found_aside(path: &Path) -> Vec<Entry> {
    let start = format!("{}.damaged-", path.file_name().unwrap_or_default().to_string_lossy());
    let names = std::fs::read_dir(folder(path)).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|n| n.starts_with(&start) && !n.ends_with("-wal") && !n.ends_with("-shm")).collect();
    names.sort();
    let found = "what was noted about it is lost".to_owned();
    let identity = Identity::load(path);
    names.into_iter().map(|file| Entry { file, found: found.clone(), identity: identity.clone(), ..Entry::default() }).collect()
}

/// What people are told about damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// `ok`, `damaged`, `salvaging`, `salvaged`.
    pub state: &'static str,
    /// What is wrong with the database in use.
    pub found: Option<String>,
    /// Files that were put aside and still lie there.
    pub files: Vec<Entry>,
}

impl Damage {
    /// As the note beside the database at `path` has it.
    pub fn of(path: &Path, note: &Note) -> Self {
        let folder = folder(path);
        let there = |e: &&Entry| folder.join(&e.file).exists() && (e.restored.is_none() || !e.done);
        let files: Vec<Entry> = note.files.iter().filter(there).cloned().collect();
        let state = match (&note.damaged, files.iter().all(|f| f.done)) {
            (Some(_), _) => "damaged",
            (None, false) => "salvaging",
            (None, true) if files.is_empty() => "ok",
            (None, true) => "salvaged",
        };
        Self { state, found: note.damaged.clone(), files }
    }

    /// A line for each thing that is to be known.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(found) = &self.found {
            lines.push(format!("the database is damaged: {found}; the next start of the daemon puts it aside and saves what can be read"));
        }
        for f in &self.files {
            let when = Wall(f.at).rfc3339();
            lines.push(match (f.done, &f.restored) {
                (true, _) => format!(
                    "a damaged database was put aside as {} at {when} ({}): {}; remove that file once you have looked at it",
                    f.file, f.found, f.report
                ),
                (false, Some(_)) => {
                    format!("a backup was put in place and what {} knows is not carried over yet; start the daemon", f.file)
                }
                (false, None) => format!(
                    "a damaged database was put aside as {} at {when} ({}); what can be read is being carried over",
                    f.file, f.found
                ),
            });
        }
        lines
    }
}

/// The folder a database lies in.
pub fn folder(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Makes names in this folder durable.
pub fn sync_folder(path: &Path) -> Result<(), Error> {
    File::open(folder(path))
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::Disk(format!("the folder of {} cannot be synced: {e}", path.display())))
}

fn read<T: for<'d> Deserialize<'d>>(path: &Path) -> Option<T> {
    let bytes = std::fs::read(path).ok()?;
    let read = serde_json::from_slice(&bytes);
    if let Err(e) = &read {
        log::error!("{} is not readable: {e}", path.display());
    }
    read.ok()
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::Full,
        _ => Error::Disk(format!("{} cannot be written: {e}", path.display())),
    };
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::Sql(e.to_string()))?;
    let part = beside(path, ".part");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&part).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)?;
    sync_folder(path)
}
