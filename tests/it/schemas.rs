//! Requests held against what the services publish themselves: the models of their official clients, and descriptions of their APIs. Others are
//! held against the real thing: see `chat`, `warehouse`, `brokers` and `mail`.

use super::config::{Machine, in_repository, toml_blocks};
use crate::support::peers::{missing, peer, peer_at};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The request that this destination of the manual makes of an event of the golden files, as JSON.
fn preview(name: &str, event: &str) -> Vec<u8> {
    let blocks = toml_blocks(&in_repository("docs/destinations.md"));
    let block = blocks.iter().find(|b| b.contains(&format!("name = \"{name}\"\n"))).expect("a destination of the manual");
    let event = in_repository("tests/it/golden").join(event);
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

const PACKAGES: &str = "python3 -m venv DIR; DIR/bin/pip install slack_sdk hubspot-api-client google-api-python-client mailchimp-marketing pagerduty \
                        zohocrmsdk8-0; and name DIR/bin/python in it";

/// Python with the services' clients.
fn python(package: &str) -> Option<PathBuf> {
    let python = peer_at("LEADSBOT_PYTHON", PACKAGES)?;
    let there = Command::new(&python).args(["-c", &format!("import {package}")]).output().is_ok_and(|o| o.status.success());
    if !there {
        missing(package, PACKAGES);
    }
    there.then_some(python)
}

/// Node, and the folder of its packages, if this one is there.
fn node(package: &str) -> Option<(PathBuf, PathBuf)> {
    let how = format!("npm install {package}, and name the node_modules folder in it");
    let (node, modules) = (peer("node", "apt-get install nodejs")?, peer_at("LEADSBOT_NODE_MODULES", &how)?);
    let there = modules.join(package).is_dir();
    if !there {
        missing(package, &how);
    }
    there.then_some((node, modules))
}

#[test]
fn what_services_publish_of_their_apis_agrees_with_the_requests() {
    let script = in_repository("tests/it/support/schemas.py");
    for (kind, name, package, event) in [
        ("hubspot", "hubspot", "hubspot", "lead.json"),
        ("slack", "slack-sales", "slack_sdk", "lead.json"),
        ("google_sheets", "sheet", "googleapiclient", "lead.json"),
        ("mailchimp", "newsletter", "mailchimp_marketing", "lead.json"),
        ("pagerduty", "pager", "pagerduty", "failing.json"),
        ("zoho", "zoho", "zohocrmsdk", "lead.json"),
    ] {
        let Some(python) = python(package) else { continue };
        accepted(Command::new(&python).arg(&script).arg(kind), &preview(name, event));
    }
}

#[test]
fn a_request_that_does_not_fit_is_noticed() {
    let Some(python) = python("hubspot") else { return };
    let spoilt = String::from_utf8(preview("hubspot", "lead.json")).unwrap().replace("idProperty", "idproperty");
    let mut child = Command::new(python);
    child.arg(in_repository("tests/it/support/schemas.py")).arg("hubspot").stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(spoilt.as_bytes()).unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn microsofts_own_library_reads_all_of_the_card() {
    let Some((node, modules)) = node("adaptivecards") else { return };
    let script = in_repository("tests/it/support/adaptive_card.mjs");
    accepted(Command::new(node).arg(script).arg(modules), &preview("teams-sales", "lead.json"));
}

#[test]
fn pipedrives_own_client_asks_for_a_person_in_the_same_way() {
    let Some((node, modules)) = node("pipedrive") else { return };
    let script = in_repository("tests/it/support/pipedrive.mjs");
    accepted(Command::new(node).arg(script).arg(modules), &preview("pipedrive", "lead.json"));
}
