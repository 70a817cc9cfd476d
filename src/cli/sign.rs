//! `sign` and `verify`.

use super::output::{say, say_json};
use super::{Cli, Failure, SecretSource};
use crate::signature;
use clap::Args;
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct SignOptions {
    #[command(flatten)]
    secret: SecretSource,
    /// The raw body; standard input when left out.
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct VerifyOptions {
    #[command(flatten)]
    secret: SecretSource,
    /// What the header X-LeadsBot-Signature said.
    #[arg(long, value_name = "HEX")]
    signature: String,
    /// The raw body; standard input when left out.
    file: Option<PathBuf>,
}

fn body(file: Option<&PathBuf>) -> Result<Vec<u8>, Failure> {
    match file {
        Some(path) => std::fs::read(path).map_err(|e| Failure::new(format!("{} cannot be read: {e}", path.display()))),
        None => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body)?;
            Ok(body)
        }
    }
}

pub fn sign(cli: &Cli, options: &SignOptions) -> Result<(), Failure> {
    let secrets = options.secret.read(&cli.config)?;
    let body = body(options.file.as_ref())?;
    let signature = secrets.first().map(|s| signature::leadsbot(s, &body)).unwrap_or_default();
    if cli.json {
        say_json(&json!({ "header": signature::HEADER, "signature": signature, "bytes": body.len() }));
    } else {
        say(&signature);
    }
    Ok(())
}

pub fn verify(cli: &Cli, options: &VerifyOptions) -> Result<(), Failure> {
    let secrets = options.secret.read(&cli.config)?;
    let body = body(options.file.as_ref())?;
    let mut outcome = Err(signature::Invalid::Mismatch);
    for secret in &secrets {
        outcome = signature::verify_leadsbot(secret, &body, Some(options.signature.trim()));
        if outcome.is_ok() {
            break;
        }
    }
    let bytes = body.len();
    match outcome {
        Ok(()) if cli.json => say_json(&json!({ "valid": true, "bytes": bytes })),
        Ok(()) => say(&format!("valid: {bytes} bytes")),
        Err(e) => {
            if cli.json {
                say_json(&json!({ "valid": false, "reason": e.to_string(), "bytes": bytes }));
            }
            return Err(Failure::new(format!("not valid: {e} ({bytes} bytes were read)")).told_in_json());
        }
    }
    Ok(())
}
