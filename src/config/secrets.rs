//! Secrets, given in the file, in a file of their own, in the environment, or as a systemd credential. Never in a message.

use super::read::{At, Item, Table};
use crate::secret::Secret;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Stands in the warnings while it is not yet known whether others can read the file.
pub const INLINE: &str = "inline secret";
/// Begins what stands for a credential that was not looked at.
const UNSEEN: &str = "credential not looked at: ";
/// More is no secret but the wrong file.
const FILE_BYTES_MAX: u64 = 4096;

/// The ways to give a secret, of which a table takes one.
const KEYS: [&str; 4] = ["secret", "secret_file", "secret_env", "secret_credential"];
/// What a table without any of them needs.
pub const NEEDED: &str = "give secret, secret_file, secret_env or secret_credential";

/// Whether a table says anything about a secret of its own.
pub fn given(table: &Table<'_, '_, '_>) -> bool {
    KEYS.into_iter().any(|k| table.has(k))
}

/// Whether this text stands for a credential that was not looked at: it says nothing of what the credential holds.
pub fn is_unseen(text: &str) -> bool {
    text.starts_with(UNSEEN)
}

/// The secret of a table: exactly one of [`KEYS`]; `None` when it has none or a bad one.
pub fn one(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Option<Secret> {
    let text = hidden(table, warnings)?;
    check(table, text)
}

/// `secrets = ["current", "next"]`, each a text or a table as in [`one`]; or the single form. One of the two must be there.
pub fn several(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Vec<Secret> {
    if !given(table) && !table.has("secrets") {
        table.fault(format!("has no secret to sign with; {NEEDED} (make one with: leadsbotd secret new)"));
        return Vec::new();
    }
    let single = one(table, warnings);
    let Some(items) = table.items("secrets", "a text or a table") else { return single.into_iter().collect() };
    if given(table) {
        table.fault_of("secrets", "is given beside a single secret; give one of the two");
    }
    match items.len() {
        0 => table.fault_of("secrets", "is empty; name the current secret, and the next one while it is being changed"),
        1 | 2 => {}
        _ => table.fault_of("secrets", "holds more than two; keep the current one and the next"),
    }
    let out: Vec<Secret> = items.into_iter().filter_map(|item| listed(table, item, warnings)).collect();
    if let [current, next] = out.as_slice()
        && current == next
    {
        table.fault_of("secrets", "holds the same secret twice");
    }
    out
}

fn listed(table: &Table<'_, '_, '_>, item: Item<'_, '_, '_>, warnings: &mut Vec<String>) -> Option<Secret> {
    match item {
        Item::Text(text) => {
            warnings.push(INLINE.to_owned());
            check(table, text)
        }
        Item::Table(inner) => {
            if !given(&inner) {
                inner.fault(format!("holds no secret; {NEEDED}"));
            }
            let secret = one(&inner, warnings);
            inner.finish();
            secret
        }
    }
}

fn check(table: &Table<'_, '_, '_>, text: At<String>) -> Option<Secret> {
    match Secret::new(&text.value) {
        Ok(secret) => Some(secret),
        Err(e) => {
            table.fault_at(&text, e.to_string());
            None
        }
    }
}

/// A hidden text by any of [`KEYS`]; of any length, unlike a secret that signs. Faults never repeat what stands under those keys:
/// somebody may have put the secret itself where its file or variable should be named. The line says enough.
pub fn hidden(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Option<At<String>> {
    let given: Vec<&'static str> = KEYS.into_iter().filter(|k| table.has(k)).collect();
    let key = match given.as_slice() {
        [] => return None,
        [key] => *key,
        several => {
            table.fault(format!("has {}; give one of them", several.join(" and ")));
            return None;
        }
    };
    let at = table.name(key)?;
    let read = match key {
        "secret_file" => from_file(Path::new(&at.value)).inspect(|_| warn_of_readers(Path::new(&at.value), warnings)),
        "secret_env" => std::env::var(&at.value).map_err(|_| "the environment has no such variable (or it is not UTF-8)".to_owned()),
        "secret_credential" => from_credential(table, &at, warnings),
        _ => {
            warnings.push(INLINE.to_owned());
            return Some(at);
        }
    };
    match read {
        Ok(value) => Some(At { value, ..at }),
        Err(message) => {
            table.fault_at(&at, message);
            None
        }
    }
}

fn from_credential(table: &Table<'_, '_, '_>, name: &At<String>, warnings: &mut Vec<String>) -> Result<String, String> {
    if name.value.contains('/') || name.value.starts_with('.') {
        return Err("must be the plain name of a credential, as in LoadCredential=NAME:/path".to_owned());
    }
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(folder) => from_file(&PathBuf::from(folder).join(&name.value)),
        None if table.report().trust_credentials => {
            warnings.push(format!("{} is a credential that only systemd can give; it was not looked at", name.key));
            // Differs by name, so that two credentials are not taken for the same secret twice.
            Ok(format!("{UNSEEN}{}", name.value))
        }
        None => Err("systemd gave this process no credentials; start it with LoadCredential= or systemd-run -p".to_owned()),
    }
}

/// That it could be read says that it is a file's name, which may stand in a message.
fn warn_of_readers(path: &Path, warnings: &mut Vec<String>) {
    let open = std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o004 != 0);
    let warning = format!("{} holds a secret and every user may read it; chmod 640 it", path.display());
    if open && !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

fn from_file(path: &Path) -> Result<String, String> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::InvalidData => "the file is not UTF-8; a secret is text".to_owned(),
        _ => format!("the file cannot be read: {e}"),
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err("is a folder or a device; name a file that holds the secret and nothing else".to_owned());
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(format!(
            "the file has {} bytes, at most {FILE_BYTES_MAX} are read; it should hold the secret and nothing else",
            meta.len()
        ));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    // An editor's line end is not part of the secret.
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() { Err("the file is empty; put the secret into it".to_owned()) } else { Ok(text.to_owned()) }
}
