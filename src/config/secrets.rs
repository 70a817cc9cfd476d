//! Secrets, given in the file, in a file of their own, in the environment, or as a systemd credential. Never in a message.

use super::read::{At, Item, Table};
use crate::secret::Secret;
use std::path::{Path, PathBuf};

/// Stands in the warnings while it is not yet known whether others can read the file.
pub const INLINE: &str = "inline secret";
/// More is no secret but the wrong file.
const FILE_BYTES_MAX: u64 = 4096;

/// The secret of a table: exactly one of `secret`, `secret_file`, `secret_env`, `secret_credential`; `None` when it has none or a bad one.
pub fn one(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Option<Secret> {
    let text = raw(table, "secret", "secret_file", "secret_env", "secret_credential", warnings)?;
    check(table, text)
}

/// `secrets = ["current", "next"]`, each a text or a table as in [`one`]; or the single form.
pub fn several(table: &Table<'_, '_, '_>, warnings: &mut Vec<String>) -> Vec<Secret> {
    let mut out: Vec<Secret> = one(table, warnings).into_iter().collect();
    let items = table.items("secrets");
    if !out.is_empty() && !items.is_empty() {
        table.fault("has both secret and secrets; give one of them");
    }
    for item in items {
        match item {
            Item::Text(text) => {
                warnings.push(INLINE.to_owned());
                out.extend(check(table, text));
            }
            Item::Table(inner) => {
                out.extend(one(&inner, warnings));
                inner.finish();
            }
        }
    }
    if out.len() > 2 {
        table.fault("has more than two secrets; keep the current one and the next");
    }
    if let [a, b, ..] = out.as_slice()
        && a == b
    {
        table.fault("has the same secret twice");
    }
    out
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

/// A hidden text by any of four keys.
pub fn raw(
    table: &Table<'_, '_, '_>,
    inline: &'static str,
    file: &'static str,
    env: &'static str,
    credential: &'static str,
    warnings: &mut Vec<String>,
) -> Option<At<String>> {
    let given: Vec<&'static str> = [inline, file, env, credential].into_iter().filter(|k| table.has(k)).collect();
    match given.as_slice() {
        [] => None,
        [key] => {
            let at = table.name(key)?;
            let read = if *key == inline {
                warnings.push(INLINE.to_owned());
                return Some(at);
            } else if *key == file {
                from_file(Path::new(&at.value))
            } else if *key == env {
                std::env::var(&at.value).map_err(|_| format!("the environment has no {} (or it is not UTF-8)", at.value))
            } else {
                match std::env::var_os("CREDENTIALS_DIRECTORY") {
                    Some(folder) if !at.value.contains('/') => from_file(&PathBuf::from(folder).join(&at.value)),
                    None if table.report().trust_credentials => {
                        warnings.push(format!("{} is a credential that only systemd can give; it was not looked at", at.key));
                        Ok("not-looked-at-by-check".to_owned())
                    }
                    Some(_) => Err("must be the plain name of a credential".to_owned()),
                    None => Err("systemd gave this process no credentials; start it with LoadCredential= or systemd-run -p".to_owned()),
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
        several => {
            table.fault(format!("has {}; give one of them", several.join(" and ")));
            None
        }
    }
}

fn from_file(path: &Path) -> Result<String, String> {
    let meta = std::fs::metadata(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(format!("{} is no file of at most {FILE_BYTES_MAX} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    // An editor's line end is not part of the secret.
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text.to_owned()) }
}
