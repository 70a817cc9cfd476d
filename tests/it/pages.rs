//! The form page as a person without JavaScript meets it, and as a browser's rules see it.

use crate::support::http::{Answer, Client};
use crate::support::{Daemon, Home, Receiver, eventually};
use serde_json::{Value, json};

const INBOUND: &str = "/api/inbound/w/abcdef123456/leads";
const NASTY: &str = "\"><script>alert('1')</script>&amp;</textarea>";
const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
const PROGRAM: (&str, &str) = ("accept", "application/json");

/// A form with every kind of field.
const FORMS: &str = r#"
[[source]]
id = "website"
token = "abcdef123456"
allowed_origins = ["https://www.example.com"]
[[source]]
id = "anywhere"
token = "000000000000"
allowed_origins = ["*"]
[[form]]
id = "fair"
title = "Win a <weekend>"
text = "Tom & Anna's draw"
source = "hall-3"
submit = "Count me in"
thanks = "Good luck"
language = "de"
[form.consent]
text = "You may write to me & call me."
version = "3"
[[form.field]]
name = "name"
label = "Full name"
required = true
[[form.field]]
name = "email"
label = "E-mail"
type = "email"
required = true
[[form.field]]
name = "tel"
label = "Phone"
type = "tel"
[[form.field]]
name = "site"
label = "Website"
type = "url"
[[form.field]]
name = "guests"
label = "Guests"
type = "number"
[[form.field]]
name = "day"
label = "Day"
type = "date"
[[form.field]]
name = "zip"
label = "Postcode"
pattern = "[0-9]{5}"
[[form.field]]
name = "message"
label = "Message"
type = "textarea"
[[form.field]]
name = "country"
label = "Country"
type = "select"
options = ["Austria", "Côte d'Ivoire"]
[[form.field]]
name = "size"
label = "Size"
type = "radio"
required = true
options = ["S", "L"]
[[form.field]]
name = "topics"
label = "Topics"
type = "checkbox"
options = ["Courses", "Gear"]
[[form.field]]
name = "news"
label = "Newsletter"
type = "checkbox"
[[form.field]]
name = "booth"
type = "hidden"
[[form]]
id = "short"
[form.consent]
text = "You may call me."
required = false
[[form.field]]
name = "mobile"
label = "Mobile"
type = "tel"
"#;

fn start(more: &str) -> (Home, Daemon, Client) {
    let home = Home::new(&format!("{FORMS}{more}"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    (home, daemon, client)
}

fn visit(client: &Client, path: &str) -> Answer {
    client.send("GET", path, &[PAGE], b"").expect("an answer")
}

/// The start tag in which all of these stand.
#[track_caller]
fn tag<'a>(page: &'a str, parts: &[&str]) -> &'a str {
    page.split('<')
        .map(|t| t.split_once('>').map_or(t, |(t, _)| t))
        .find(|t| parts.iter().all(|p| t.contains(p)))
        .unwrap_or_else(|| panic!("no tag with {parts:?} in\n{page}"))
}

/// The value of an attribute, as a browser would read it.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(text(rest.split_once('"')?.0))
}

/// What a browser makes of escaped text.
fn text(html: &str) -> String {
    let mut out = html.to_owned();
    for (escaped, plain) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#x27;", "'"), ("&#x2f;", "/"), ("&amp;", "&")] {
        out = out.replace(escaped, plain);
    }
    out
}

/// A submission with nothing wrong.
fn good() -> Vec<(&'static str, &'static str)> {
    vec![("name", "Jane Smith"), ("email", "jane@example.com"), ("size", "L"), ("_consent", "yes")]
}

/// The same with other values for some names.
fn but<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = good().into_iter().filter(|(n, _)| !changes.iter().any(|(c, _)| c == n));
    kept.chain(changes.iter().copied()).filter(|(_, v)| !v.is_empty()).collect()
}

fn leads(client: &Client) -> Vec<Value> {
    client.get("/api/v1/leads").json()["leads"].as_array().unwrap().clone()
}

#[test]
fn the_page_asks_what_the_configuration_says_and_every_control_has_a_label() {
    let (_home, _daemon, client) = start("");
    let answer = visit(&client, "/f/fair");
    assert_eq!(answer.status, 200);
    let page = &answer.body;
    for words in ["<html lang=\"de\">", "<h1>Win a &lt;weekend&gt;</h1>", "Tom &amp; Anna&#x27;s draw", ">Count me in</button>"] {
        assert!(page.contains(words), "{words} is not in\n{page}");
    }
    for (name, kind, label, autocomplete, required) in [
        ("name", "text", "Full name", Some("name"), true),
        ("email", "email", "E-mail", Some("email"), true),
        ("tel", "tel", "Phone", Some("tel"), false),
        ("site", "url", "Website", None, false),
        ("guests", "number", "Guests", None, false),
        ("day", "date", "Day", None, false),
        ("zip", "text", "Postcode", Some("postal-code"), false),
    ] {
        let input = tag(page, &["input ", &format!(" name=\"{name}\"")]);
        assert_eq!(attribute(input, "type").as_deref(), Some(kind), "{name}");
        assert_eq!(attribute(input, "autocomplete").as_deref(), autocomplete, "{name}");
        assert_eq!(input.contains(" required"), required, "{name}");
        assert_eq!(attribute(input, "id"), Some(format!("f-{name}")));
        assert!(page.contains(&format!("<label for=\"f-{name}\">{label}")), "{name} has no label");
    }
    assert_eq!(attribute(tag(page, &["name=\"zip\""]), "pattern").as_deref(), Some("[0-9]{5}"));
    assert!(page.contains("<label for=\"f-message\">Message") && page.contains("<label for=\"f-country\">Country"));
    assert!(tag(page, &["textarea", "name=\"message\""]).contains("id=\"f-message\""));
    assert!(tag(page, &["select", "name=\"country\""]).contains("id=\"f-country\""));
    assert_eq!(attribute(tag(page, &["option", "Ivoire"]), "value").as_deref(), Some("Côte d'Ivoire"));
    // Every box and every circle stands inside its own label; a group of them has a legend.
    for (kind, name, value) in [
        ("radio", "size", "S"),
        ("radio", "size", "L"),
        ("checkbox", "topics", "Gear"),
        ("checkbox", "news", "yes"),
        ("checkbox", "_consent", "yes"),
    ] {
        let (at, _) = page
            .match_indices("<input ")
            .find(|(at, _)| {
                let tag = &page[*at..*at + page[*at..].find('>').unwrap()];
                tag.contains(&format!("type=\"{kind}\"")) && tag.contains(&format!("name=\"{name}\" value=\"{value}\""))
            })
            .unwrap_or_else(|| panic!("no {kind} {name} {value}"));
        let before = &page[..at];
        assert!(before.rfind("<label").unwrap() > before.rfind("</label>").unwrap(), "{name} {value} is outside of its label");
        assert_eq!(page[at..at + page[at..].find('>').unwrap()].contains(" required"), matches!(name, "size" | "_consent"), "{name}");
    }
    assert!(page.contains("<legend>Size") && page.contains("<legend>Topics</legend>"));
    assert!(page.contains("You may write to me &amp; call me."));
    assert_eq!(attribute(tag(page, &["type=\"hidden\"", "name=\"booth\""]), "value").as_deref(), Some(""));
    assert!(!tag(&visit(&client, "/f/short").body, &["name=\"_consent\""]).contains(" required"));
    // The first form is the one at the door.
    assert!(visit(&client, "/").body.contains("Win a &lt;weekend&gt;"));
    assert_eq!(tag(page, &["form method=\"post\""]), "form method=\"post\" action=\"/f/fair\"");
}

#[test]
fn a_page_is_small_needs_no_script_and_asks_no_other_host() {
    let (_home, _daemon, client) = start("");
    let style = visit(&client, "/assets/page.css").body;
    let wrong = client.form("/f/fair", &[("name", "Jane")], &[PAGE]).body;
    for (name, page) in [
        ("the form", visit(&client, "/f/fair").body),
        ("the form with what is wrong", wrong),
        ("the thanks", visit(&client, "/f/fair/thanks").body),
        ("no such page", visit(&client, "/f/nobody").body),
    ] {
        assert!(page.len() + style.len() < 30 << 10, "{name} has {} bytes", page.len() + style.len());
        for foreign in
            ["://", "src=\"//", "href=\"//", "url(//", "@import", "<script", " style=", "<style", "javascript:", " onclick", " onload"]
        {
            assert!(!page.contains(foreign) && !style.contains(foreign), "{name} holds {foreign}");
        }
        assert!(
            page.starts_with("<!doctype html>") && page.contains("name=\"viewport\" content=\"width=device-width, initial-scale=1\""),
            "{name}"
        );
        assert_eq!(page.matches("<h1").count(), 1, "{name}");
        assert_eq!(page.matches("<main").count(), 1, "{name}");
    }
}

#[test]
fn a_page_is_kept_by_no_cache_and_runs_nothing_that_is_not_its_own() {
    let (_home, _daemon, client) = start("");
    for answer in [
        visit(&client, "/f/fair"),
        client.form("/f/fair", &[("name", "Jane")], &[PAGE]),
        visit(&client, "/f/fair/thanks"),
        visit(&client, "/f/nobody"),
    ] {
        let header = |name: &str| answer.header(name).unwrap_or_else(|| panic!("no {name}")).to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self';") && !policy.contains("unsafe"), "{policy}");
        for rule in ["base-uri 'none'", "frame-ancestors 'self'", "form-action 'self' https://www.example.com"] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains('*'), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("x-frame-options"), "SAMEORIGIN");
        assert_eq!(header("referrer-policy"), "same-origin");
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
    }
    let json = client.form("/f/fair", &[("name", "Jane")], &[PROGRAM]);
    assert_eq!((json.header("cache-control"), json.header("x-content-type-options")), (Some("no-store"), Some("nosniff")));
}

#[test]
fn the_style_sheet_is_sent_once_and_head_tells_the_length_only() {
    let (_home, daemon, client) = start("");
    let first = visit(&client, "/assets/page.css");
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!((first.status, first.header("content-type")), (200, Some("text/css; charset=utf-8")));
    let again = |known: &str| client.send("GET", "/assets/page.css", &[("if-none-match", known)], b"").unwrap();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let answer = again(&known);
        assert_eq!((answer.status, answer.body.as_str(), answer.header("etag")), (304, "", Some(tag.as_str())), "{known}");
    }
    assert_eq!(again("\"other\"").status, 200);
    for path in ["/f/fair", "/f/fair/thanks", "/assets/page.css", "/healthz"] {
        let get = visit(&client, path);
        let head = client.send("HEAD", path, &[PAGE], b"").unwrap();
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()), "{path}");
    }
    // And nothing of the body follows on the wire.
    let request = b"HEAD /f/fair HTTP/1.1\r\nhost: kiosk.local\r\nconnection: close\r\n\r\n";
    let (bytes, _) = crate::support::http::exchange(daemon.address, request, false);
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && bytes.ends_with(b"\r\n\r\n"));
}

#[test]
fn what_was_typed_survives_a_fault_and_the_fault_is_told_at_its_field() {
    let (_home, _daemon, client) = start("");
    let sent = [
        ("name", NASTY),
        ("email", "jane.example.com"),
        ("tel", NASTY),
        ("site", NASTY),
        ("guests", NASTY),
        ("day", NASTY),
        ("zip", NASTY),
        ("message", NASTY),
        ("country", "Côte d'Ivoire"),
        ("topics", "Gear"),
        ("news", "yes"),
        ("booth", NASTY),
        ("utm_source", NASTY),
        ("_next", NASTY),
        ("_submission_id", "page-1"),
    ];
    let answer = client.form("/f/fair", &sent, &[PAGE]);
    assert_eq!(answer.status, 422);
    let page = &answer.body;
    assert!(!page.contains("<script"), "it can be made to run a script:\n{page}");
    for (name, value) in sent {
        match name {
            "message" => {
                let (_, rest) = page.split_once("<textarea").unwrap();
                let (shown, _) = rest.split_once('>').unwrap().1.split_once("</textarea>").unwrap();
                assert_eq!(text(shown.trim_start_matches('\n')), value);
            }
            "country" => assert!(tag(page, &["option", "Ivoire"]).contains(" selected")),
            "topics" => assert!(tag(page, &["value=\"Gear\""]).contains(" checked")),
            "news" => assert!(tag(page, &["name=\"news\""]).contains(" checked")),
            _ => assert_eq!(attribute(tag(page, &[&format!(" name=\"{name}\"")]), "value").as_deref(), Some(value), "{name}"),
        }
    }
    assert!(!tag(page, &["value=\"Courses\""]).contains(" checked") && !tag(page, &["name=\"_consent\""]).contains(" checked"));
    // Each is told apart, at the field, tied to it, and in a list at the top that leads there.
    assert!(page.contains("<title>Please check: Win a &lt;weekend&gt;</title>"));
    assert!(page.contains("role=\"alert\"") && page.contains("8 answers need another look"));
    for (name, words) in [
        ("email", "Please enter an e-mail address"),
        ("tel", "Please enter a telephone number"),
        ("site", "Please enter an address that begins with https:"),
        ("guests", "Please enter a number."),
        ("day", "Please enter a date"),
        ("zip", "This does not have the form we expect."),
        ("size", "Please choose one."),
        ("_consent", "Please tick the box if you agree"),
    ] {
        let (_, complaint) = page.split_once(&format!("id=\"e-{name}\">")).unwrap_or_else(|| panic!("nothing said about {name}"));
        assert!(text(complaint).starts_with(words), "{name}");
        assert!(page.contains(&format!("aria-invalid=\"true\" aria-describedby=\"e-{name}\"")), "{name}");
        assert!(page.contains(&format!("<a href=\"#f-{name}\">")) && page.contains(&format!("id=\"f-{name}\"")), "{name}");
    }
    assert_eq!(page.matches("class=\"complaint\"").count(), 8);
    assert!(!page.contains("id=\"e-name\"") && !page.contains("id=\"e-message\""));
    assert_eq!(leads(&client).len(), 0);
    // Sent again with all in order, the same page is taken.
    assert_eq!(client.form("/f/fair", &but(&[("_submission_id", "page-1")]), &[PAGE]).status, 303);
    assert_eq!(leads(&client).len(), 1);
}

#[test]
fn a_fault_of_the_whole_submission_keeps_what_was_typed_too() {
    let (_home, _daemon, client) = start("");
    let many: Vec<(String, String)> = (0..100).map(|n| (format!("x{n}"), "1".to_owned())).collect();
    let mut pairs = good();
    pairs.extend(many.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let answer = client.form("/f/fair", &pairs, &[PAGE]);
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("More than 100 fields."), "{}", answer.body);
    assert_eq!(attribute(tag(&answer.body, &["name=\"name\""]), "value").as_deref(), Some("Jane Smith"));
    let long = "v".repeat(8193);
    let answer = client.form("/f/fair", &but(&[("message", &long)]), &[PAGE]);
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("id=\"e-message\"") && answer.body.contains(&long));
    let empty = client.form("/f/short", &[("mobile", " ")], &[PAGE]);
    assert_eq!(empty.status, 422);
    assert!(empty.body.contains("Please fill in at least one field."), "{}", empty.body);
}

#[test]
fn a_program_is_told_the_field_in_json() {
    let (_home, _daemon, client) = start("");
    for (changes, field) in [
        (vec![("name", "")], "name"),
        (vec![("name", "  ")], "name"),
        (vec![("email", "jane")], "email"),
        (vec![("tel", "call me")], "tel"),
        (vec![("site", "javascript:alert(1)")], "site"),
        (vec![("guests", "NaN")], "guests"),
        (vec![("day", "2026-02-30")], "day"),
        (vec![("zip", "1234x")], "zip"),
        (vec![("zip", "123456")], "zip"),
        (vec![("country", "Atlantis")], "country"),
        (vec![("size", "XXL")], "size"),
        (vec![("size", "")], "size"),
        (vec![("topics", "Everything")], "topics"),
        (vec![("_consent", "")], "_consent"),
        // The first one on the page, however many there are.
        (vec![("_consent", ""), ("zip", "x"), ("email", "")], "email"),
    ] {
        let answer = client.form("/f/fair", &but(&changes), &[PROGRAM]);
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"], &error["field"]), (422, &json!("invalid_field"), &json!(field)), "{changes:?}");
        assert!(error["message"].as_str().is_some_and(|m| m.ends_with('.')));
    }
    assert_eq!(leads(&client).len(), 0);
    let all = but(&[
        ("tel", "+49 30 123456"),
        ("site", "https://example.com"),
        ("guests", "2"),
        ("day", "2026-12-24"),
        ("zip", "10115"),
        ("country", "Austria"),
        ("topics", "Gear"),
        ("topics", "Courses"),
        ("news", "yes"),
        ("booth", "7"),
    ]);
    assert_eq!(client.form("/f/fair", &all, &[PROGRAM]).status, 201);
    let lead = &leads(&client)[0];
    assert_eq!((&lead["phone"], &lead["source"]), (&json!("+49 30 123456"), &json!("hall-3")));
    assert_eq!(lead["fields"]["topics"], json!(["Gear", "Courses"]));
}

#[test]
fn a_field_with_another_accepted_name_can_be_filled_in_and_required() {
    let names = [
        ("full_name", "text", "Jane"),
        ("e_mail", "email", "j@example.com"),
        ("mobile", "tel", "0301234"),
        ("notes", "textarea", "Hi"),
        ("organisation", "text", "ACME"),
    ];
    let fields: String =
        names.iter().map(|(n, kind, _)| format!("[[form.field]]\nname = \"{n}\"\ntype = \"{kind}\"\nrequired = true\n")).collect();
    let home = Home::new(&format!("[[form]]\nid = \"alias\"\n{fields}"));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let pairs = names.map(|(n, _, v)| (n, v));
    let answer = client.form("/f/alias", &pairs, &[PROGRAM]);
    assert_eq!(answer.status, 201, "{}", answer.body);
    let lead = &leads(&client)[0];
    for (field, value) in [("name", "Jane"), ("email", "j@example.com"), ("phone", "0301234"), ("message", "Hi"), ("company", "ACME")] {
        assert_eq!(lead[field], value);
    }
    // A fault found under the lead's own name is told at the form's.
    let pairs = names.map(|(n, _, v)| (n, if n == "e_mail" { "nobody" } else { v }));
    assert_eq!(client.form("/f/alias", &pairs, &[PROGRAM]).json()["error"]["field"], "e_mail");
    let page = client.form("/f/alias", &[&pairs[..], &[("e_mail", "twice")]].concat(), &[PAGE]).body;
    assert!(page.contains("id=\"e-e_mail\"") && page.contains("value=\"ACME\""));
}

#[test]
fn consent_is_asked_for_and_travels_with_its_words_and_time() {
    let receiver = Receiver::well();
    let (_home, _daemon, client) = start(&Home::webhook("crm", &receiver.url(), ""));
    assert_eq!(client.form("/f/fair", &but(&[("_consent", "")]), &[PAGE]).status, 422);
    for (path, name, consent) in [("/f/fair", "Given", true), ("/f/short", "Not given", false), ("/f/short", "Given freely", true)] {
        let agreed = if consent { "yes" } else { "" };
        let answer = client.form(path, &but(&[("name", name), ("_consent", agreed)]), &[PAGE]);
        assert_eq!(answer.status, 303, "{name}");
    }
    eventually("three deliveries", || receiver.taken().len() == 3);
    for delivery in receiver.taken() {
        let event = delivery.json();
        let (consent, name) = (&event["data"]["consent"], event["data"]["name"].as_str().unwrap());
        match name {
            "Given" => assert_eq!((&consent["text"], &consent["version"]), (&json!("You may write to me & call me."), &json!("3"))),
            "Given freely" => assert_eq!((&consent["text"], &consent["version"]), (&json!("You may call me."), &Value::Null)),
            _ => assert_eq!(consent, &Value::Null),
        }
        if !consent.is_null() {
            assert_eq!(consent["at"], event["created_at"], "{name}");
        }
        assert_eq!(event["data"]["fields"].get("_consent"), None, "{name}");
    }
}

#[test]
fn what_fills_in_the_trap_is_marked_and_kept_all_the_same() {
    let receiver = Receiver::well();
    let (_home, _daemon, client) = start(&Home::webhook("crm", &receiver.url(), ""));
    let page = visit(&client, "/f/fair").body;
    let trap = tag(&page, &["name=\"_gotcha\""]);
    assert!(trap.contains("tabindex=\"-1\"") && trap.contains("autocomplete=\"off\""));
    assert!(page.contains("class=\"trap\" aria-hidden=\"true\""));
    for (name, trap) in [("Person", " "), ("Program", "http")] {
        let pairs = [("name", name), ("email", "a@example.com"), ("size", "L"), ("_consent", "yes"), ("_gotcha", trap)];
        assert_eq!(client.form("/f/fair", &pairs, &[PAGE]).status, 303);
    }
    eventually("two deliveries", || receiver.taken().len() == 2);
    for delivery in receiver.taken() {
        let event = delivery.json();
        let suspicion = event["context"].get("suspicion").and_then(Value::as_str);
        assert_eq!(suspicion, (event["data"]["name"] == "Program").then_some("honeypot"));
        assert_eq!(event["data"]["fields"].get("_gotcha"), None);
    }
}

#[test]
fn the_way_on_and_the_campaign_are_carried_through_the_page() {
    let receiver = Receiver::well();
    let (_home, _daemon, client) = start(&Home::webhook("crm", &receiver.url(), ""));
    let long = "u".repeat(9000);
    let page =
        visit(&client, &format!("/f/fair?utm_source=poster%22%3E&utm_medium=print&_next=%2Fq%2F7&name=Jane&utm_long={long}&other=1")).body;
    let value = |name: &str| attribute(tag(&page, &[&format!(" name=\"{name}\"")]), "value");
    for (name, wanted) in [("utm_source", "poster\">"), ("utm_medium", "print"), ("_next", "/q/7"), ("name", "Jane")] {
        assert_eq!(value(name).as_deref(), Some(wanted), "{name}");
    }
    // What could not be taken back with the form does not get into it.
    assert!(!page.contains("utm_long") && !page.contains("name=\"other\""));
    let id = value("_submission_id").unwrap();
    assert!(!id.is_empty() && !visit(&client, "/f/fair").body.contains(&id), "two pages have the same id");
    let pairs = but(&[("utm_source", "poster\">"), ("utm_medium", "print"), ("_next", "/q/7"), ("_submission_id", &id)]);
    let answer = client.form("/f/fair", &pairs, &[PAGE]);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/q/7")));
    let allowed = "https://www.example.com/thanks?a=b";
    let answer = client.form("/f/fair", &but(&[("_next", allowed), ("name", "Else")]), &[PAGE]);
    assert_eq!((answer.status, answer.header("location")), (303, Some(allowed)));
    eventually("two deliveries", || receiver.taken().len() == 2);
    let event = receiver.taken().iter().map(|d| d.json()).find(|e| e["data"]["name"] == "Jane Smith").unwrap();
    assert_eq!(event["context"]["utm"], json!({"source":"poster\">","medium":"print"}));
    assert_eq!((&event["context"]["form"], &event["context"]["channel"]), (&json!("fair"), &json!("form")));
}

#[test]
fn a_second_click_is_one_lead_and_a_page_typed_over_is_another() {
    let (_home, _daemon, client) = start("");
    let send = |name: &str| {
        let answer = client.form("/f/fair", &but(&[("name", name), ("_submission_id", "page-1")]), &[PROGRAM]);
        (answer.status, answer.json()["id"].clone())
    };
    let first = send("Jane");
    assert_eq!((first.0, send("Jane")), (201, (200, first.1.clone())));
    // The next person went back to the filled-in page and typed over it.
    let second = send("John");
    assert_eq!(second.0, 201);
    assert_ne!(first.1, second.1);
    assert_eq!(send("Jane"), (200, first.1));
    assert_eq!(leads(&client).len(), 2);
}

#[test]
fn a_site_may_post_only_where_it_is_allowed_to() {
    let (_home, _daemon, client) = start("");
    let anywhere = "/api/inbound/w/000000000000/leads";
    let ours = "https://www.example.com";
    let asked = [("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
    for (path, origin, allowed) in [
        (INBOUND, ours, true),
        (INBOUND, "https://evil.example", false),
        (INBOUND, "http://www.example.com", false),
        (INBOUND, "https://www.example.com.evil.example", false),
        (INBOUND, "https://www.example.com:444", false),
        (INBOUND, "null", false),
        (anywhere, "https://evil.example", true),
        (anywhere, "null", true),
    ] {
        let grant = allowed.then_some(origin);
        let preflight = client.send("OPTIONS", path, &[&[("origin", origin)][..], &asked].concat(), b"").unwrap();
        assert_eq!((preflight.status, preflight.body.as_str()), (204, ""));
        assert_eq!(preflight.header("access-control-allow-origin"), grant, "{origin} asks {path}");
        assert_eq!(preflight.header("access-control-allow-methods"), Some("POST"));
        assert!(
            preflight.header("access-control-allow-headers").is_some_and(|h| h.contains("content-type") && h.contains("idempotency-key"))
        );
        for (body, status) in [(r#"{"name":"Site"}"#, 201), ("{", 400)] {
            let headers = [("origin", origin), ("content-type", "application/json")];
            let answer = client.send("POST", path, &headers, body.as_bytes()).unwrap();
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("access-control-allow-origin"), grant, "{origin} posts to {path}: {status}");
            assert_eq!(answer.header("vary"), Some("origin"));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
        }
    }
    // No origin: no browser, nothing to grant.
    let answer = client.send("POST", INBOUND, &[("content-type", "application/json")], br#"{"name":"App"}"#).unwrap();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (201, None));
    // The API and the pages grant nothing to any site.
    for path in ["/api/v1/leads", "/f/fair", "/healthz"] {
        let answer = client.send("GET", path, &[("origin", ours)], b"").unwrap();
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
}

#[test]
fn a_plain_html_form_on_a_site_ends_on_a_page() {
    let (_home, _daemon, client) = start("");
    let thanked = client.form(INBOUND, &[("name", "Jane")], &[PAGE]);
    assert_eq!((thanked.status, thanked.header("content-type")), (201, Some("text/html; charset=utf-8")));
    assert!(thanked.body.contains("We have your details."));
    let back = client.form(INBOUND, &[("name", "Jane"), ("_next", "https://www.example.com/thanks")], &[PAGE]);
    assert_eq!((back.status, back.header("location")), (303, Some("https://www.example.com/thanks")));
    let refused = client.form(INBOUND, &[("email", "nobody")], &[PAGE]);
    assert_eq!((refused.status, refused.header("content-type")), (422, Some("text/html; charset=utf-8")));
    assert!(refused.body.contains("This is no e-mail address"));
    let program = client.form(INBOUND, &[("name", "Jane")], &[]);
    assert_eq!((program.status, program.header("content-type")), (201, Some("application/json")));
}

#[test]
fn a_slash_at_the_end_of_a_pages_address_does_no_harm() {
    let (_home, _daemon, client) = start("");
    for path in ["/f/fair/", "/f/fair/thanks/", "/healthz/"] {
        assert_eq!(visit(&client, path).status, 200, "{path}");
    }
    assert_eq!(visit(&client, "/f/fair//").status, 404, "one, not two");
}
