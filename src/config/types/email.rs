//! `type = "email"`.

use super::super::read::{At, Table};
use super::super::secrets;
use super::{Given, Made};
use crate::delivery::{MailSecurity, MailServer, Wire, is_local};
use crate::destination::email::{DIGEST_SUBJECT, Digest, Email, HTML, Mailbox, ReplyTo, SUBJECT, TEXT, mailbox};
use crate::mapping::Template;
use crate::secret::Hidden;
use std::net::IpAddr;
use std::time::Duration;
use url::Host;

/// Recipients of a mail; RFC 5321 section 4.5.3.1.8 has every server take a hundred.
const RECIPIENTS_MAX: usize = 100;

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let security = security(given.table);
    let host = host(given, security);
    let standard = match security {
        MailSecurity::StartTls => 587,
        MailSecurity::Tls => 465,
        MailSecurity::None => 25,
    };
    let port = u16::try_from(given.table.number("port", 1..=65_535, standard)).unwrap_or(587);
    let meant = match (security, port) {
        (MailSecurity::StartTls, 465) => Some("tls"),
        (MailSecurity::Tls, 587) => Some("starttls"),
        _ => None,
    };
    if let Some(meant) = meant {
        given.warnings.push(format!("port {port} of a mail server nearly always wants security = \"{meant}\""));
    }
    let login = login(given);
    let helo = given.table.name("helo").and_then(|helo| {
        let usable = !helo.value.contains(|c: char| c.is_control() || c.is_whitespace() || !c.is_ascii());
        usable.then(|| helo.value.clone()).or_else(|| {
            given.table.fault_at(&helo, "must be this device's name in the network, as in kiosk.example.com");
            None
        })
    });
    let from = given.table.required("from").and_then(|text| address(given.table, &text));
    let to = recipients(given.table, "to");
    let cc = if given.table.has("cc") { recipients(given.table, "cc") } else { Some(Vec::new()) };
    if to.iter().chain(&cc).map(Vec::len).sum::<usize>() > RECIPIENTS_MAX {
        given.table.fault_of("to", format!("and cc together hold more than {RECIPIENTS_MAX} recipients; use a list of the mail server"));
    }
    let reply_to = reply_to(given.table);
    let subject = given.template_or("subject", SUBJECT);
    let text = given.template_or("text", TEXT);
    let html = match (given.table.has("html"), given.table.has("text")) {
        // Readers show the HTML where there is one: ours would hide the text that was asked for.
        (false, true) => Some(None),
        (given_html, _) => if given_html { given.html_template("html") } else { Template::html("html", HTML).ok() }.map(Some),
    };
    let digest = digest(given);
    let host = host?;
    let shown = format!("smtp://{host}:{port}");
    let email = Email { shown, from: from?, to: to?, cc: cc?, reply_to, subject: subject?, text: text?, html: html?, digest: digest? };
    let wire = Wire::Smtp(MailServer { host, port, security, login, helo });
    Some(Made { connector: Box::new(email), wire })
}

fn security(table: &Table<'_, '_, '_>) -> MailSecurity {
    match table.name("security").as_ref().map(|s| s.value.as_str()) {
        None | Some("starttls") => MailSecurity::StartTls,
        Some("tls") => MailSecurity::Tls,
        Some("none") => MailSecurity::None,
        Some(_) => {
            table.fault_of("security", "must be starttls, tls or none");
            MailSecurity::StartTls
        }
    }
}

fn host(given: &Given<'_, '_, '_, '_>, security: MailSecurity) -> Option<String> {
    let text = given.table.required("server")?;
    let ip = text.value.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    // The parser of URLs takes `example.com:25` apart only with a scheme; here a colon is none of a name.
    if ip.is_none() && (text.value.contains([':', '/', '@']) || Host::parse(&text.value).is_err()) {
        given.table.fault_at(&text, "must be the name of a mail server and nothing else, as in mail.example.com; its port goes into port");
        return None;
    }
    if security == MailSecurity::None && !given.allow_http && ip.is_some_and(|ip| !is_local(ip)) {
        given.table.fault_of(
            "security",
            "is none at a public address, where anybody on the way can read the leads; use starttls or tls, or set allow_http = true",
        );
    }
    Some(ip.map_or(text.value, |ip| ip.to_string()))
}

fn login(given: &mut Given<'_, '_, '_, '_>) -> Option<(String, Hidden)> {
    let user = given.table.name("user");
    if user.is_none() {
        if !given.table.has("user") && secrets::given(given.table) {
            given.table.fault("has a password but no user; set user, which is often the sender's address");
            secrets::hidden(given.table, given.warnings);
        }
        return None;
    }
    let password = given.token("password for user")?;
    user.map(|user| (user.value, password))
}

fn address(table: &Table<'_, '_, '_>, text: &At<String>) -> Option<Mailbox> {
    let found = mailbox(&text.value);
    if found.is_none() {
        table.fault_at(
            text,
            "must be an e-mail address, as in jane@example.com or Jane Smith <jane@example.com>; its domain in ASCII (xn--…)",
        );
    }
    found
}

fn recipients(table: &Table<'_, '_, '_>, key: &'static str) -> Option<Vec<Mailbox>> {
    if !table.has(key) {
        table.fault_of(key, "is missing");
        return None;
    }
    let list = table.texts(key)?;
    if table.has_empty_list(key) {
        table.fault_of(key, "is empty; name somebody who gets the mails");
    }
    let found: Vec<Mailbox> = list.iter().filter_map(|text| address(table, text)).collect();
    (found.len() == list.len() && !found.is_empty()).then_some(found)
}

fn reply_to(table: &Table<'_, '_, '_>) -> ReplyTo {
    let Some(text) = table.name("reply_to") else { return ReplyTo::Lead };
    match text.value.as_str() {
        "lead" => ReplyTo::Lead,
        "from" => ReplyTo::Sender,
        other => match mailbox(other) {
            Some(fixed) => ReplyTo::Fixed(fixed),
            None => {
                table.fault_at(&text, "must be lead, from, or an e-mail address");
                ReplyTo::Lead
            }
        },
    }
}

/// The outer `None`: something is wrong with it.
fn digest(given: &mut Given<'_, '_, '_, '_>) -> Option<Option<Digest>> {
    let minutes = given.table.number("digest_minutes", 0..=1440, 0);
    let events_max = usize::try_from(given.table.number("digest_max", 2..=200, 50)).unwrap_or(50);
    let subject = given.template_or("digest_subject", DIGEST_SUBJECT);
    if minutes == 0 {
        for key in ["digest_max", "digest_subject"] {
            if given.table.has(key) {
                given.table.fault_of(key, "means nothing without digest_minutes");
            }
        }
        return Some(None);
    }
    Some(Some(Digest { linger: Duration::from_secs(minutes * 60), events_max, subject: subject? }))
}
