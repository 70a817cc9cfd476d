//! `secret rotate`: guides the change of a destination's secret, one step at a time, by what the configuration says now. Changes nothing.

use super::output::{say, say_json};
use super::{Cli, Failure, find};
use crate::config::Config;
use crate::secret::Secret;
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub struct Options {
    /// The destination whose secret is to be changed.
    destination: String,
}

pub fn run(cli: &Cli, options: &Options) -> Result<(), Failure> {
    let config = Config::load(&cli.config)?;
    let destination = find(&config, &options.destination)?;
    let name = &destination.spec.name;
    match destination.spec.connector.secrets() {
        [] => Err(Failure::new(format!(
            "destination {name} signs with no secret; a token for somebody else's service is changed at that service, and then in the configuration"
        ))),
        [_] => begin(cli, name),
        _ => finish(cli, name),
    }
}

fn begin(cli: &Cli, name: &str) -> Result<(), Failure> {
    let next = Secret::generate().map_err(|e| Failure::new(format!("the operating system gives no random numbers: {e}")))?;
    let next = next.expose();
    if cli.json {
        say_json(&json!({ "destination": name, "step": "begin", "next": next }));
        return Ok(());
    }
    say(&format!("Destination {name} signs with one secret. A new one for it:"));
    say("");
    say(&format!("  {next}"));
    say("");
    say("1. Put it beside the present one, which stays the first, in the destination's table:");
    say("");
    say(&format!("     secrets = [{{ … the present one, as it is given now … }}, \"{next}\"]"));
    say("");
    say("   or, better, into a file: secrets = [{ secret_file = \"PRESENT\" }, { secret_file = \"NEXT\" }]");
    say("2. leadsbotd check && sudo systemctl reload leadsbotd");
    say(
        "   From then on every request is signed with both: X-LeadsBot-Signature with the present one, X-LeadsBot-Signature-Next with the new",
    );
    say("   one, webhook-signature with both.");
    say("3. Give the new one to the receiver in place of the present one. It has to take a match in either header.");
    say(&format!("4. leadsbotd secret rotate {name}"));
    say("   says how it ends.");
    Ok(())
}

fn finish(cli: &Cli, name: &str) -> Result<(), Failure> {
    if cli.json {
        say_json(&json!({ "destination": name, "step": "finish" }));
        return Ok(());
    }
    say(&format!("Destination {name} signs with two secrets: its secret is being changed."));
    say("");
    say("1. Does the receiver know the new one, the second of secrets, by now? An invented lead tells:");
    say(&format!("     leadsbotd trigger {name}"));
    say("2. Then take the old one out, so that the new one is alone:");
    say("");
    say("     secrets = [{ … the new one … }]");
    say("");
    say("3. leadsbotd check && sudo systemctl reload leadsbotd");
    say(&format!("4. leadsbotd queue status {name}"));
    say(
        "   shows whether the receiver takes it. If it refuses, everything is held, nothing is lost, and the reason says that the refusals began with",
    );
    say("   the change: put the old one back as the second, or the new one into the receiver.");
    Ok(())
}
