//! Requests held against what the services publish themselves: the models of their official clients, and descriptions of their APIs. Others are
//! held against the real thing: see `chat`, `warehouse`, `brokers` and `mail`.

use super::config::{Machine, in_repository, toml_blocks};
use crate::support::peers::{missing, peer, peer_at};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The request that this destination of the manual makes of the event of the golden files, as JSON.
fn preview(name: &str) -> Vec<u8> {
    let blocks = toml_blocks(&in_repository("docs/destinations.md"));
    let block = blocks.iter().find(|b| b.contains(&format!("name = \"{name}\"\n"))).expect("a destination of the manual");
    let event = in_repository("tests/it/golden/lead.json");
    let output = Machine::new(block).run(&["--json", "preview", name, "--event", event.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[track_caller]
fn accepted(command: &mut Command, request: &[u8]) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the check starts");
    child.stdin.take().unwrap().write_all(request).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Python with the services' clients.
fn python(package: &str) -> Option<std::path::PathBuf> {
    let how =
        "python3 -m venv DIR; DIR/bin/pip install slack_sdk hubspot-api-client google-api-python-client; and name DIR/bin/python in it";
    let python = peer_at("LEADSBOT_PYTHON", how)?;
    let there = Command::new(&python).args(["-c", &format!("import {package}")]).output().is_ok_and(|o| o.status.success());
    if !there {
        missing(package, how);
    }
    there.then_some(python)
}

#[test]
fn what_services_publish_of_their_apis_agrees_with_the_requests() {
    let script = in_repository("tests/it/support/schemas.py");
    for (kind, name, package) in
        [("hubspot", "hubspot", "hubspot"), ("slack", "slack-sales", "slack_sdk"), ("google_sheets", "sheet", "googleapiclient")]
    {
        let Some(python) = python(package) else { continue };
        accepted(Command::new(&python).arg(&script).arg(kind), &preview(name));
    }
}

#[test]
fn a_request_that_does_not_fit_is_noticed() {
    let Some(python) = python("hubspot") else { return };
    let spoilt = String::from_utf8(preview("hubspot")).unwrap().replace("idProperty", "idproperty");
    let mut child = Command::new(python);
    child.arg(in_repository("tests/it/support/schemas.py")).arg("hubspot").stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(spoilt.as_bytes()).unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn microsofts_own_library_reads_all_of_the_card() {
    let Some(node) = peer("node", "apt-get install nodejs") else { return };
    let how = "npm install adaptivecards, and name the node_modules folder in it";
    let Some(modules) = peer_at("LEADSBOT_NODE_MODULES", how) else { return };
    if !Path::new(&modules).join("adaptivecards").is_dir() {
        return missing("adaptivecards", how);
    }
    let script = in_repository("tests/it/support/adaptive_card.mjs");
    accepted(Command::new(node).arg(script).arg(modules), &preview("teams-sales"));
}
