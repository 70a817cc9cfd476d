//! Whatever comes in over the wire, the daemon answers it clearly or hangs up, keeps nothing of it, and takes the next good lead.

use crate::support::http::{Answer, Client, exchange, parse};
use crate::support::{Daemon, Home, TOKEN, eventually};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

const SOURCE: &str = "[[source]]\nid = \"website\"\ntoken = \"abcdef123456\"\nallowed_origins = [\"https://www.example.com\"]\n";
const INBOUND: &str = "/api/inbound/w/abcdef123456/leads";
const JSON: (&str, &str) = ("content-type", "application/json");
const URLENCODED: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const MULTIPART: (&str, &str) = ("content-type", "multipart/form-data; boundary=x");
const AS_JSON: (&str, &str) = ("accept", "application/json");
/// Stands for a connection that is closed without an answer.
const CLOSED: u16 = 0;

/// One bad request and what must come of it.
struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    half_close: bool,
    status: u16,
    code: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    /// A lead is kept all the same.
    kept: bool,
}

impl Row {
    fn half_close(self) -> Self {
        Self { half_close: true, ..self }
    }

    fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

fn row(name: &'static str, bytes: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Row {
    Row { name, bytes: bytes.into(), half_close: false, status, code, headers: Vec::new(), kept: false }
}

/// A request with a head in order. The connection is to be closed after it, so that reading to the end is reading the answer.
fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: kiosk.local\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let framed = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !framed("content-length") && !framed("transfer-encoding") {
        head += &format!("content-length: {}\r\n", body.len());
    }
    [format!("{head}\r\n").as_bytes(), body].concat()
}

/// The same with the API token.
fn api(method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let token = format!("Bearer {TOKEN}");
    request(method, path, &[&[("authorization", token.as_str())], headers].concat(), body)
}

/// JSON for the API's create call.
fn create(body: impl AsRef<[u8]>) -> Vec<u8> {
    api("POST", "/api/v1/leads", &[JSON], body)
}

fn get(path: &str) -> Vec<u8> {
    api("GET", path, &[], "")
}

/// A form post by a program.
fn form(kind: (&str, &str), body: impl AsRef<[u8]>) -> Vec<u8> {
    request("POST", "/f/contact", &[kind, AS_JSON], body)
}

/// Sends every row to one daemon; after each, the same daemon must take a good lead. In the end nothing but the good ones is kept.
#[track_caller]
fn promise(more: &str, rows: Vec<Row>) {
    let home = Home::new(more);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut faults = Vec::new();
    let mut kept = 0;
    for row in &rows {
        let (bytes, in_order) = exchange(daemon.address, &row.bytes, row.half_close);
        let answer = parse(&bytes).map(|(a, _)| a);
        let status = answer.as_ref().map_or(CLOSED, |a| a.status);
        let code = answer.as_ref().map(Answer::code).unwrap_or_default();
        if (status, code.as_str()) != (row.status, row.code) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            faults.push(format!("{}: expected {} {:?}, got {status} {code:?}: {text}", row.name, row.status, row.code));
        }
        if !in_order {
            faults.push(format!("{}: the connection was reset, so the answer may get lost", row.name));
        }
        for (name, value) in &row.headers {
            let got = answer.as_ref().and_then(|a| a.header(name));
            if got != Some(value) {
                faults.push(format!("{}: expected {name}: {value}, got {got:?}", row.name));
            }
        }
        let good = client.json("POST", "/api/v1/leads", &json!({ "name": "Good" }));
        if good.status != 201 {
            faults.push(format!("{}: a good lead after it got {}: {}", row.name, good.status, good.body));
        }
        kept += 1 + usize::from(row.kept);
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
    assert_eq!(
        client.get("/api/v1/leads?limit=500").json()["leads"].as_array().unwrap().len(),
        kept,
        "a refused request left a lead behind"
    );
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// `count` header lines.
fn header_lines(count: usize) -> String {
    (0..count).map(|n| format!("x-{n}: 1\r\n")).collect()
}

/// A part of a multipart body with the boundary `x`.
fn part(disposition: &str, value: &str) -> String {
    format!("--x\r\nContent-Disposition: {disposition}\r\n\r\n{value}\r\n")
}

#[test]
fn a_request_that_is_not_http_does_not_stop_the_next_lead() {
    let whole = create(r#"{"name":"Bad"}"#);
    let hello = [b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03".as_slice(), &[7; 190]].concat();
    let garbage: Vec<u8> = (0..4096_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let line = |text: &str| format!("{text}\r\nhost: kiosk.local\r\nconnection: close\r\n\r\n");
    promise(
        SOURCE,
        vec![
            row("nothing at all", "", CLOSED, "").half_close(),
            row("half a request line", "POST /api/v1/le", CLOSED, "").half_close(),
            row("half a head", "POST /api/v1/leads HTTP/1.1\r\nhost: kiosk", CLOSED, "").half_close(),
            row("line ends without a request", "\r\n\r\n\r\n", CLOSED, "").half_close(),
            row("HTTP/0.9", "GET /\r\n\r\n", 400, ""),
            row("HTTP/3.7", line("GET / HTTP/3.7"), 400, ""),
            row("the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", CLOSED, ""),
            row("a TLS hello", hello, 400, ""),
            row("random bytes", garbage, 400, ""),
            row("ten thousand zero bytes", vec![0; 10_000], 400, ""),
            row("NUL in the path", line("GET /f/con\0tact HTTP/1.1"), 400, ""),
            row("a space in the path", line("GET /f/con tact HTTP/1.1"), 400, ""),
            row("NUL in a header", "GET / HTTP/1.1\r\nhost: kiosk\0local\r\n\r\n", 400, ""),
            row("a header without a colon", "GET / HTTP/1.1\r\nhost kiosk.local\r\n\r\n", 400, ""),
            row("a header name with a space", "GET / HTTP/1.1\r\nho st: kiosk.local\r\n\r\n", 400, ""),
            row("a folded header", "GET / HTTP/1.1\r\nhost: kiosk.local\r\nx: a\r\n b\r\n\r\n", 400, ""),
            row("101 headers", format!("GET / HTTP/1.1\r\n{}\r\n", header_lines(101)), 431, ""),
            row("a head of 20 KB", request("GET", "/", &[("x-long", &"a".repeat(20_000))], ""), 431, ""),
            row("a URI of 20 KB", request("GET", &format!("/{}", "a".repeat(20_000)), &[], ""), 431, ""),
            row("a URI of 12 KB", request("GET", &format!("/{}", "a".repeat(12_000)), &[], ""), 404, "not_found"),
            row("a method in small letters", request("post", "/f/contact", &[URLENCODED], "name=Bad"), 405, "method_not_allowed"),
            row("a method nobody knows", request("BREW", "/f/contact", &[], ""), 405, "method_not_allowed"),
            row("CONNECT", request("CONNECT", "evil.example:443", &[], ""), 404, "not_found"),
            row("OPTIONS *", request("OPTIONS", "*", &[], ""), 404, "not_found"),
            row(
                "two lengths",
                api("POST", "/api/v1/leads", &[JSON, ("content-length", "14"), ("content-length", "13")], r#"{"name":"Bad"}"#),
                400,
                "",
            ),
            row("a length below zero", api("POST", "/api/v1/leads", &[JSON, ("content-length", "-1")], ""), 400, ""),
            row("a length in words", api("POST", "/api/v1/leads", &[JSON, ("content-length", "many")], ""), 400, ""),
            row("a length beyond 64 bits", api("POST", "/api/v1/leads", &[JSON, ("content-length", "99999999999999999999")], ""), 400, ""),
            // The standard lets a server go by the chunks, which is what hyper does.
            row(
                "a length and chunks",
                api(
                    "POST",
                    "/api/v1/leads",
                    &[JSON, ("content-length", "3"), ("transfer-encoding", "chunked")],
                    "e\r\n{\"name\":\"Bad\"}\r\n0\r\n\r\n",
                ),
                201,
                "",
            )
            .kept(),
            row(
                "an encoding nobody knows",
                api("POST", "/api/v1/leads", &[JSON, ("transfer-encoding", "brotli")], "e\r\n{\"name\":\"Bad\"}\r\n0\r\n\r\n"),
                400,
                "",
            ),
            // Hyper takes a request without Host, which the standard would refuse: nothing here trusts Host.
            row(
                "no Host",
                format!(
                    "POST /api/v1/leads HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\
                     content-type: application/json\r\ncontent-length: 14\r\n\r\n{{\"name\":\"Bad\"}}"
                ),
                201,
                "",
            )
            .kept(),
            row("a whole request cut in its body", &whole[..whole.len() - 3], 400, "body_incomplete").half_close(),
        ],
    );
}

#[test]
fn a_body_that_is_broken_or_too_large_does_not_stop_the_next_lead() {
    let chunked = |body: &str| api("POST", "/api/v1/leads", &[JSON, ("transfer-encoding", "chunked")], body);
    let huge_chunks = format!("{}0\r\n\r\n", format!("4000\r\n{}\r\n", "a".repeat(0x4000)).repeat(60));
    promise(
        SOURCE,
        vec![
            row("no body", create(""), 400, "empty_body"),
            row(
                "no body and no length",
                api("POST", "/api/v1/leads", &[JSON, ("transfer-encoding", "chunked")], "0\r\n\r\n"),
                400,
                "empty_body",
            ),
            row("less than announced", api("POST", "/api/v1/leads", &[JSON, ("content-length", "500")], "{"), 400, "body_incomplete")
                .half_close(),
            row(
                "less than announced, a form",
                request("POST", "/f/contact", &[URLENCODED, AS_JSON, ("content-length", "500")], "name=Bad"),
                400,
                "body_incomplete",
            )
            .half_close(),
            row("one byte too many, announced", create(vec![b' '; (64 << 10) + 1]), 413, "body_too_large").with("connection", "close"),
            // More than the sockets' buffers hold: only who is read out to the end gets to see the answer.
            row("sixteen megabytes, announced", create(vec![b' '; 16 << 20]), 413, "body_too_large").with("connection", "close"),
            row("a megabyte, announced", create(vec![b' '; 1 << 20]), 413, "body_too_large").with("connection", "close"),
            row("a megabyte in chunks", chunked(&huge_chunks), 413, "body_too_large").with("connection", "close"),
            row("too large a form", form(URLENCODED, format!("name={}", "a".repeat(70_000))), 413, "body_too_large"),
            row(
                "too large, and asks first",
                api("POST", "/api/v1/leads", &[JSON, ("expect", "100-continue"), ("content-length", "1000000")], ""),
                413,
                "body_too_large",
            ),
            row("a chunk size that is no number", chunked("zz\r\n{}\r\n0\r\n\r\n"), 400, "body_incomplete"),
            row("a chunk size beyond 64 bits", chunked("fffffffffffffffff\r\n{}\r\n0\r\n\r\n"), 400, "body_incomplete"),
            row("a chunk longer than it says", chunked("2\r\n{\"name\":\"Bad\"}\r\n0\r\n\r\n"), 400, "body_incomplete"),
            row("no last chunk", chunked("e\r\n{\"name\":\"Bad\"}\r\n"), 400, "body_incomplete").half_close(),
            row("a body on a GET", api("GET", "/api/v1/leads/lead_x", &[JSON], r#"{"name":"Bad"}"#), 404, "not_found"),
        ],
    );
}

#[test]
fn the_wrong_path_method_type_or_token_does_not_stop_the_next_lead() {
    let typed = |value: &'static str| api("POST", "/api/v1/leads", &[("content-type", value)], r#"{"name":"Bad"}"#);
    let token = |value: &str| request("POST", "/api/v1/leads", &[JSON, ("authorization", value)], r#"{"name":"Bad"}"#);
    let unsupported = "unsupported_media_type";
    let wrong =
        |name, method: &str, path: &str, allow| row(name, api(method, path, &[], ""), 405, "method_not_allowed").with("allow", allow);
    let denied = |name, bytes| row(name, bytes, 401, "unauthorized").with("www-authenticate", "Bearer realm=\"leadsbotd\"");
    promise(
        SOURCE,
        vec![
            wrong("POST /", "POST", "/", "GET"),
            wrong("DELETE a form", "DELETE", "/f/contact", "GET, POST"),
            wrong("POST the thanks", "POST", "/f/contact/thanks", "GET"),
            wrong("PUT the list", "PUT", "/api/v1/leads", "GET, POST"),
            wrong("POST a lead", "POST", "/api/v1/leads/lead_x", "GET, PATCH"),
            wrong("GET the replies", "GET", "/api/v1/leads/lead_x/replies", "POST"),
            wrong("GET a source", "GET", INBOUND, "POST, OPTIONS"),
            wrong("POST the health", "POST", "/healthz", "GET"),
            wrong("POST the readiness", "POST", "/readyz", "GET"),
            wrong("POST the style sheet", "POST", "/assets/page.css", "GET"),
            row("no such path", get("/wp-login.php"), 404, "not_found"),
            row("no such path of the API", get("/api/v1/people"), 404, "not_found"),
            row("out of the tree", get("/assets/../../etc/passwd"), 404, "not_found"),
            row("out of the tree, escaped", get("/assets/%2e%2e%2fetc%2fpasswd"), 404, "not_found"),
            row("NUL in the path, escaped", get("/f/contact%00"), 404, "not_found"),
            row("no such form, for a program", get("/f/nobody"), 404, "not_found"),
            row("no such form, for a person", request("GET", "/f/nobody", &[("accept", "text/html")], ""), 404, "")
                .with("content-type", "text/html; charset=utf-8"),
            row("no such form to post to", request("POST", "/f/nobody", &[URLENCODED], "name=Bad"), 404, "not_found"),
            row("no such source", request("POST", "/api/inbound/w/000000000000/leads", &[JSON], r#"{"name":"Bad"}"#), 404, "not_found"),
            row("a source without its id", request("POST", "/api/inbound/w//leads", &[JSON], r#"{"name":"Bad"}"#), 404, "not_found"),
            row("no Content-Type", api("POST", "/api/v1/leads", &[], r#"{"name":"Bad"}"#), 415, unsupported),
            row("JSON that says it is a form", api("POST", "/api/v1/leads", &[URLENCODED], r#" {"name":"Bad"}"#), 415, unsupported),
            row("two Content-Types", api("POST", "/api/v1/leads", &[JSON, URLENCODED], r#"{"name":"Bad"}"#), 415, unsupported),
            row("plain text", typed("text/plain"), 415, unsupported),
            row("XML", typed("application/xml"), 415, unsupported),
            row("no type at all", typed("json"), 415, unsupported),
            row("an empty type", typed(""), 415, unsupported),
            row("a type in Latin-1", typed("application/jsön"), 415, unsupported),
            row("an unknown charset", typed("application/json; charset=klingon"), 415, "unsupported_charset"),
            row("UTF-16", typed("application/json; charset=utf-16"), 415, "unsupported_charset"),
            row(
                "a form in Latin-1",
                form(("content-type", "application/x-www-form-urlencoded; charset=iso-8859-1"), "name=Bad"),
                415,
                "unsupported_charset",
            ),
            // Both are written by programs in use and mean what they seem to mean.
            row("utf8 without its dash", typed("application/json; charset=utf8"), 201, "").kept(),
            row("a semicolon too many", typed("application/json;"), 201, "").kept(),
            row("JSON to a form", form(JSON, r#"{"name":"Bad"}"#), 415, unsupported),
            row("JSON to a form, by a person", request("POST", "/f/contact", &[JSON], r#"{"name":"Bad"}"#), 415, "")
                .with("content-type", "text/html; charset=utf-8"),
            row("a form said to be JSON", create("name=Bad"), 400, "invalid_json"),
            row("JSON said to be multipart", form(MULTIPART, r#"{"name":"Bad"}"#), 400, "invalid_multipart"),
            row("a change as a form", api("PATCH", "/api/v1/leads/lead_x", &[URLENCODED], "score=1"), 415, unsupported),
            denied("no token", request("POST", "/api/v1/leads", &[JSON], r#"{"name":"Bad"}"#)),
            denied("the wrong token", token("Bearer wrong-token-0123456789")),
            denied("an empty token", token("Bearer ")),
            denied("the wrong scheme", token(&format!("Basic {TOKEN}"))),
            denied("the token and nothing else", token(TOKEN)),
            denied("half the token", token(&format!("Bearer {}", &TOKEN[..10]))),
            denied("a token in UTF-8", token("Bearer tökén")),
            denied("a list without a token", request("GET", "/api/v1/leads", &[], "")),
            // The name of a scheme is written in any case.
            row("the scheme in small letters", token(&format!("bearer {TOKEN}")), 201, "").kept(),
        ],
    );
}

#[test]
fn json_that_cannot_be_a_lead_does_not_stop_the_next_lead() {
    let fields = |count: usize| json!({ "fields": (0..count).map(|n| (format!("f{n}"), n)).collect::<std::collections::BTreeMap<_, _>>() });
    let nested = |open: &str, close: &str| format!("{{\"a\":{}1{}}}", open.repeat(200), close.repeat(200));
    let inbound = |body: &str| request("POST", INBOUND, &[JSON], body);
    promise(
        SOURCE,
        vec![
            row("bytes that are no UTF-8", create(b"{\"name\":\"\xff\xfe\"}"), 400, "invalid_utf8"),
            row("UTF-8 cut in a letter", create(b"{\"name\":\"J\xc3"), 400, "invalid_utf8"),
            row("a surrogate as UTF-8", create(b"{\"name\":\"\xed\xa0\x80\"}"), 400, "invalid_utf8"),
            row("blanks only", create(" \r\n\t "), 400, "empty_body"),
            row("cut in a text", create(r#"{"name":"Ba"#), 400, "invalid_json"),
            row("cut after a key", create(r#"{"name":"#), 400, "invalid_json"),
            row("something after it", create(r#"{"name":"Bad"} {"name":"Worse"}"#), 400, "invalid_json"),
            row("a comma too many", create(r#"{"name":"Bad",}"#), 400, "invalid_json"),
            row("a comment", create(r#"{"name":"Bad"/* */}"#), 400, "invalid_json"),
            row("single quotes", create("{'name':'Bad'}"), 400, "invalid_json"),
            row("a bare key", create(r#"{name:"Bad"}"#), 400, "invalid_json"),
            row("NaN", create(r#"{"x":NaN}"#), 400, "invalid_json"),
            row("Infinity", create(r#"{"x":-Infinity}"#), 400, "invalid_json"),
            row("a number beyond all", create(r#"{"x":1e999}"#), 400, "invalid_json"),
            row("a number that begins with 0", create(r#"{"x":007}"#), 400, "invalid_json"),
            row("a lone surrogate", create(r#"{"name":"\ud800"}"#), 400, "invalid_json"),
            row("surrogates the wrong way round", create(r#"{"name":"\udc00\ud800"}"#), 400, "invalid_json"),
            row("a bare line end in a text", create("{\"name\":\"B\nad\"}"), 400, "invalid_json"),
            row("a byte-order mark", create(b"\xef\xbb\xbf{\"name\":\"Bad\"}"), 400, "invalid_json"),
            row("200 lists deep", create(nested("[", "]")), 400, "invalid_json"),
            row("200 objects deep", create(nested("{\"a\":", "}")), 400, "invalid_json"),
            row("a control character in a key", create(r#"{"na\u0000me":"Bad"}"#), 400, "invalid_json"),
            row("a list", create(r#"[{"name":"Bad"}]"#), 400, "not_an_object"),
            row("a text", create(r#""Bad""#), 400, "not_an_object"),
            row("null", create("null"), 400, "not_an_object"),
            row("a key twice", create(r#"{"name":"Bad","name":"Worse"}"#), 400, "duplicate_key"),
            row("a key twice, once escaped", create(r#"{"name":"Bad","n\u0061me":"Worse"}"#), 400, "duplicate_key"),
            row("a key twice below", create(r#"{"name":"Bad","x":[{"a":1,"a":2}]}"#), 400, "duplicate_key"),
            row("a field above and in fields", create(r#"{"name":"Bad","fields":{"name":"Worse"}}"#), 400, "duplicate_key"),
            row("utm twice", create(r#"{"name":"Bad","utm_source":"a","utm":{"source":"b"}}"#), 400, "duplicate_key"),
            row("name as a list", create(r#"{"name":["Bad"]}"#), 422, "wrong_type"),
            row("name as an object", create(r#"{"name":{"first":"Bad"}}"#), 422, "wrong_type"),
            row("e-mail as yes", create(r#"{"email":true}"#), 422, "wrong_type"),
            row("message as a list", create(r#"{"message":[1]}"#), 422, "wrong_type"),
            row("status as yes", create(r#"{"name":"Bad","status":true}"#), 422, "wrong_type"),
            row("consent to nothing", create(r#"{"name":"Bad","consent":{"version":"3"}}"#), 422, "missing_field"),
            row("101 fields", create(fields(101).to_string()), 422, "too_many_fields"),
            row("5000 fields", create(fields(5000).to_string()), 422, "too_many_fields"),
            row("a field name of 65 bytes", create(format!(r#"{{"{}":1}}"#, "n".repeat(65))), 422, "invalid_field_name"),
            row("a field without a name", create(r#"{"name":"Bad","":1}"#), 422, "invalid_field_name"),
            row("a value of 8 KB and 1", create(format!(r#"{{"name":"{}"}}"#, "v".repeat(8193))), 422, "field_too_long"),
            row("a list of 9 KB", create(format!(r#"{{"x":["{}"]}}"#, "v".repeat(9000))), 422, "field_too_long"),
            row("an e-mail without @", create(r#"{"email":"nobody"}"#), 422, "invalid_email"),
            row("an e-mail with a line end", create(r#"{"email":"a@b.example\r\nBcc: c@d.example"}"#), 422, "invalid_email"),
            row("two e-mails in one", create(r#"{"email":"a@b.example,c@d.example"}"#), 422, "invalid_email"),
            row("a telephone without digits", create(r#"{"phone":"call me"}"#), 422, "invalid_phone"),
            row("a status nobody knows", create(r#"{"name":"Bad","status":"sold"}"#), 422, "invalid_status"),
            row("a score of 101", create(r#"{"name":"Bad","score":101}"#), 422, "invalid_score"),
            row("a score below 0", create(r#"{"name":"Bad","score":-1}"#), 422, "invalid_score"),
            row("half a score", create(r#"{"name":"Bad","score":1.5}"#), 422, "invalid_score"),
            row("a score in words", create(r#"{"name":"Bad","score":"high"}"#), 422, "invalid_score"),
            row("an empty object", create("{}"), 422, "empty_lead"),
            row("nothing but empty texts", create(r#"{"name":"  ","email":"","x":null}"#), 422, "empty_lead"),
            row("nothing but a source", create(r#"{"source":"booth"}"#), 422, "empty_lead"),
            row("an empty object at a source", inbound("{}"), 422, "empty_lead"),
            row("a bad e-mail at a source", inbound(r#"{"email":"nobody"}"#), 422, "invalid_email"),
            row("bad JSON at a source", inbound("{"), 400, "invalid_json"),
        ],
    );
}

#[test]
fn a_form_that_cannot_be_read_does_not_stop_the_next_lead() {
    let name = part("form-data; name=\"name\"", "Bad");
    let multipart = |body: &str| form(MULTIPART, body);
    let many: String = (0..101).map(|n| format!("f{n}=1&")).collect();
    let parts: String = (0..101).map(|n| part(&format!("form-data; name=\"f{n}\""), "1")).collect();
    let invalid = "invalid_multipart";
    promise(
        SOURCE,
        vec![
            row("an empty form", form(URLENCODED, ""), 422, "empty_lead"),
            row("only separators", form(URLENCODED, "&&&"), 422, "empty_lead"),
            row("only empty fields", form(URLENCODED, "name=&email=+&message="), 422, "empty_lead"),
            row("a byte that is no UTF-8", form(URLENCODED, "name=%ff"), 400, "invalid_utf8"),
            row("a raw byte that is no UTF-8", form(URLENCODED, b"name=\xff"), 400, "invalid_utf8"),
            row("a name that is no UTF-8", form(URLENCODED, "n%c3=Bad"), 400, "invalid_utf8"),
            row("a required field left out", form(URLENCODED, "name=Bad"), 422, "invalid_field"),
            row("a bad e-mail", form(URLENCODED, "name=Bad&email=nobody"), 422, "invalid_field"),
            row("a name given twice", form(URLENCODED, "name=Bad&name=Worse&email=a@b.example"), 422, "invalid_field"),
            row("101 fields", form(URLENCODED, many), 422, "too_many_fields"),
            row("a field without a name", form(URLENCODED, "=Bad"), 422, "invalid_field_name"),
            row("a field name of 65 bytes", form(URLENCODED, format!("{}=1", "n".repeat(65))), 422, "invalid_field_name"),
            row("a control character in a name", form(URLENCODED, "na%00me=Bad"), 422, "invalid_field_name"),
            row(
                "a value of 8 KB and 1",
                form(URLENCODED, format!("name=Bad&email=a@b.example&x={}", "v".repeat(8193))),
                422,
                "field_too_long",
            ),
            row("no boundary", form(("content-type", "multipart/form-data"), name.as_str()), 400, invalid),
            row("an empty boundary", form(("content-type", "multipart/form-data; boundary="), name.as_str()), 400, invalid),
            row("another boundary", form(("content-type", "multipart/form-data; boundary=y"), format!("{name}--x--\r\n")), 400, invalid),
            row("an empty multipart body", multipart(""), 400, invalid),
            row("no last boundary", multipart(&name), 400, invalid),
            row("cut in a part's head", multipart("--x\r\nContent-Dispo"), 400, invalid),
            row("cut in a value", multipart("--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nBa"), 400, invalid),
            row("a part without a name", multipart(&format!("{}--x--\r\n", part("form-data", "Bad"))), 400, invalid),
            row("a part without a head", multipart("--x\r\n\r\nBad\r\n--x--\r\n"), 400, invalid),
            row("not one part", multipart("--x--\r\n"), 422, "empty_lead"),
            row("101 parts", multipart(&format!("{parts}--x--\r\n")), 422, "too_many_fields"),
            row(
                "a file",
                multipart(&format!("{name}{}--x--\r\n", part("form-data; name=\"cv\"; filename=\"cv.pdf\"", "%PDF"))),
                422,
                "uploads_not_taken",
            ),
            row(
                "a value that is no UTF-8",
                form(MULTIPART, b"--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\n\xff\xfe\r\n--x--\r\n"),
                400,
                "invalid_utf8",
            ),
            row("a bad form at a source", request("POST", INBOUND, &[URLENCODED], "email=nobody"), 422, "invalid_email"),
        ],
    );
}

#[test]
fn a_bad_question_about_leads_does_not_stop_the_next_lead() {
    let keyed = |key: &str| api("POST", "/api/v1/leads", &[JSON, ("idempotency-key", key)], r#"{"name":"Bad"}"#);
    let patch = |body: &str| api("PATCH", "/api/v1/leads/lead_x", &[JSON], body);
    let reply = |body: &str| api("POST", "/api/v1/leads/lead_x/replies", &[JSON], body);
    let list = |query: &str| get(&format!("/api/v1/leads?{query}"));
    promise(
        SOURCE,
        vec![
            row("an id in words", get("/api/v1/leads/jane"), 404, "not_found"),
            row("an id of somebody else", get("/api/v1/leads/lead_00000000000000000000000000"), 404, "not_found"),
            row("an id too long", get(&format!("/api/v1/leads/lead_{}", "a".repeat(500))), 404, "not_found"),
            row("an event's id", get("/api/v1/leads/evt_00000000000000000000000000"), 404, "not_found"),
            row("an id with SQL in it", get("/api/v1/leads/lead_'%20OR%201=1--"), 404, "not_found"),
            row("an id with escapes", get("/api/v1/leads/%ff%00"), 404, "not_found"),
            row("no id", get("/api/v1/leads/"), 404, "not_found"),
            row("a parameter nobody knows", list("page=2"), 400, "invalid_parameter"),
            row("a status nobody knows", list("status=sold"), 400, "invalid_parameter"),
            row("a time in words", list("since=yesterday"), 400, "invalid_parameter"),
            row("a day that is none", list("until=2026-02-30"), 400, "invalid_parameter"),
            row("limit 0", list("limit=0"), 400, "invalid_parameter"),
            row("limit 501", list("limit=501"), 400, "invalid_parameter"),
            row("limit below 0", list("limit=-1"), 400, "invalid_parameter"),
            row("limit in words", list("limit=all"), 400, "invalid_parameter"),
            row("limit beyond 64 bits", list("limit=99999999999999999999"), 400, "invalid_parameter"),
            row("a bad cursor", list("cursor=next"), 400, "invalid_parameter"),
            row("an empty cursor", list("cursor="), 400, "invalid_parameter"),
            row("an empty key", keyed(""), 400, "invalid_idempotency_key"),
            row("a key of 256 bytes", keyed(&"k".repeat(256)), 400, "invalid_idempotency_key"),
            row("a key in UTF-8", keyed("schlüssel"), 400, "invalid_idempotency_key"),
            row("an unknown field in a change", patch(r#"{"budget":1}"#), 422, "unknown_field"),
            row("fields that are none", patch(r#"{"fields":[1]}"#), 422, "wrong_type"),
            row("a bad status in a change", patch(r#"{"status":"sold"}"#), 422, "invalid_status"),
            row("a bad score in a change", patch(r#"{"score":null}"#), 422, "invalid_score"),
            row("a bad e-mail in a change", patch(r#"{"email":"nobody"}"#), 422, "invalid_email"),
            row("a key twice in a change", patch(r#"{"score":1,"score":2}"#), 400, "duplicate_key"),
            row("a change of nobody", patch(r#"{"score":1}"#), 404, "not_found"),
            row("a change without a body", patch(""), 400, "empty_body"),
            row("a reply without text", reply("{}"), 422, "missing_field"),
            row("a reply in no direction", reply(r#"{"text":"Hello","direction":"up"}"#), 422, "invalid_direction"),
            row("an unknown field in a reply", reply(r#"{"text":"Hello","mood":"good"}"#), 422, "unknown_field"),
            row("a reply to nobody", reply(r#"{"text":"Hello"}"#), 404, "not_found"),
        ],
    );
}

/// A home whose `[server.limits]` are these.
fn limited(limits: &str) -> Home {
    let home = Home::new(SOURCE);
    let text = std::fs::read_to_string(home.config()).unwrap();
    assert!(text.contains("requests_per_minute = 0"), "the limits of every test's home have changed");
    std::fs::write(home.config(), text.replace("requests_per_minute = 0", limits)).unwrap();
    home
}

#[track_caller]
fn still_takes_a_lead(daemon: &Daemon) {
    Client::new(daemon.address).lead(&json!({ "name": "Good" }));
}

#[test]
fn a_sender_that_is_too_slow_is_told_so_and_does_not_stop_the_next_lead() {
    let home = limited("requests_per_minute = 0\nheader_timeout_seconds = 1\nbody_timeout_seconds = 1");
    let daemon = Daemon::start(&home);
    let at = daemon.address;
    let late = |name: &str, bytes: &[u8], code: &str| {
        let (answer, _) = exchange(at, bytes, false);
        let (answer, rest) = parse(&answer).unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!((answer.status, answer.code().as_str(), answer.header("connection")), (408, code, Some("close")), "{name}");
        assert!(rest.is_empty(), "{name}");
        still_takes_a_lead(&daemon);
    };
    late("half a request line", b"POST /api/v1/le", "header_timeout");
    late("half a head", b"POST /f/contact HTTP/1.1\r\nhost: kiosk.local\r\n", "header_timeout");
    let announced = [JSON, ("content-length", "14")];
    late("a body that does not come", &api("POST", "/api/v1/leads", &announced, ""), "body_timeout");
    late("half a body", &api("POST", "/api/v1/leads", &announced, "{\"name\""), "body_timeout");
    late("a form that does not come", &request("POST", "/f/contact", &[URLENCODED, AS_JSON, announced[1]], "name="), "body_timeout");
    let chunks = [JSON, ("transfer-encoding", "chunked")];
    late("chunks that stop coming", &api("POST", "/api/v1/leads", &chunks, "2\r\n{\"\r\n"), "body_timeout");
    // Nothing was asked, so nothing is answered.
    assert!(exchange(at, b"", false).0.is_empty());
    still_takes_a_lead(&daemon);
    // A byte now and then does not buy more time: the deadline is for the whole.
    for (name, head) in [("head", String::new()), ("body", String::from_utf8(api("POST", "/api/v1/leads", &chunks, "")).unwrap())] {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut sent = 0;
        let drops = if head.is_empty() { "x" } else { "1\r\n \r\n" };
        while stream.write_all(drops.as_bytes()).is_ok() {
            sent += 1;
            assert!(sent < 300, "{name}: half a minute, and still listening");
            std::thread::sleep(Duration::from_millis(100));
        }
        still_takes_a_lead(&daemon);
    }
}

#[test]
fn who_posts_too_often_is_told_when_to_come_back_and_does_not_stop_the_next_lead() {
    let home = limited("requests_per_minute = 2");
    let daemon = Daemon::start(&home);
    let body = "name=Often&email=a@b.example";
    let inbound = || request("POST", INBOUND, &[URLENCODED], body);
    let guess = || request("GET", "/api/v1/leads", &[("authorization", "Bearer wrong-token-0123456789")], "");
    let ask = |bytes: Vec<u8>| parse(&exchange(daemon.address, &bytes, false).0).expect("an answer").0;
    for bytes in [form(URLENCODED, body), inbound()] {
        assert_eq!(ask(bytes).status, 201);
    }
    for (name, bytes) in [("a form", form(URLENCODED, body)), ("a source", inbound()), ("a token", guess())] {
        let answer = ask(bytes);
        assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_requests"), "{name}");
        let seconds: u32 = answer.header("retry-after").expect(name).parse().unwrap();
        assert!((1..=60).contains(&seconds), "{name}: {seconds}");
        // Who has a token is not held up by who has none.
        still_takes_a_lead(&daemon);
    }
    let page = ask(request("POST", "/f/contact", &[URLENCODED, ("accept", "text/html")], body));
    assert_eq!((page.status, page.header("content-type")), (429, Some("text/html; charset=utf-8")));
    assert!(page.header("retry-after").is_some());
    assert_eq!(ask(request("GET", "/f/contact", &[], "")).status, 200, "looking is free");
}

#[test]
fn a_connection_too_many_is_told_so_and_does_not_stop_the_next_lead() {
    for limits in ["connections_max = 2", "connections_per_address_max = 2"] {
        let home = limited(&format!("requests_per_minute = 0\n{limits}"));
        let daemon = Daemon::start(&home);
        let held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(daemon.address).unwrap()).collect();
        for _ in 0..3 {
            let (bytes, _) = exchange(daemon.address, &create(r#"{"name":"Bad"}"#), false);
            let (answer, rest) = parse(&bytes).expect("an answer");
            assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{limits}");
            assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), Some("close")));
            assert!(rest.is_empty());
        }
        drop(held);
        eventually("there is room again", || {
            let (bytes, _) = exchange(daemon.address, &create(r#"{"name":"Good"}"#), false);
            parse(&bytes).is_some_and(|(a, _)| a.status == 201)
        });
    }
}

#[test]
fn a_bad_request_between_good_ones_on_one_connection_is_answered_in_its_turn() {
    let home = Home::new(SOURCE);
    let daemon = Daemon::start(&home);
    let keep_alive = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace("connection: close\r\n", "").into_bytes();
    let good = |name: &str| create(format!(r#"{{"name":"{name}"}}"#));
    let pipeline = [
        keep_alive(good("First")),
        keep_alive(create("{")),
        keep_alive(get("/nowhere")),
        keep_alive(request("POST", "/api/v1/leads", &[JSON], r#"{"name":"No token"}"#)),
        keep_alive(api("DELETE", "/api/v1/leads", &[], "")),
        good("Last"),
    ]
    .concat();
    let (bytes, in_order) = exchange(daemon.address, &pipeline, false);
    assert!(in_order);
    let (mut rest, mut seen) = (bytes.as_slice(), Vec::new());
    while let Some((answer, after)) = parse(rest) {
        seen.push((answer.status, answer.code()));
        rest = after;
    }
    let wanted = [(201, ""), (400, "invalid_json"), (404, "not_found"), (401, "unauthorized"), (405, "method_not_allowed"), (201, "")];
    assert_eq!(seen, wanted.map(|(s, c)| (s, c.to_owned())));
    // What cannot be read ends the connection: nobody knows where the next request would begin.
    let broken = [keep_alive(good("Before")), b"\0\0\0\r\n\r\n".to_vec(), good("Never")].concat();
    let (bytes, _) = exchange(daemon.address, &broken, false);
    let (first, rest) = parse(&bytes).unwrap();
    let (second, rest) = parse(rest).unwrap();
    assert_eq!((first.status, second.status, rest), (201, 400, b"".as_slice()));
    still_takes_a_lead(&daemon);
    let leads = Client::new(daemon.address).get("/api/v1/leads").json();
    let names: Vec<&str> = leads["leads"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Good", "Before", "Last", "First"]);
}

#[test]
fn a_client_that_hangs_up_after_its_body_has_still_handed_in_its_lead() {
    const EACH: usize = 20;
    let home = Home::new(SOURCE);
    let daemon = Daemon::start(&home);
    let mut wanted = std::collections::BTreeSet::new();
    for n in 0..EACH {
        for (way, bytes) in [
            ("api", create(format!(r#"{{"name":"api {n}"}}"#))),
            ("source", request("POST", INBOUND, &[JSON], format!(r#"{{"name":"source {n}"}}"#))),
            ("form", request("POST", "/f/contact", &[URLENCODED], format!("name=form {n}&email=a@b.example"))),
        ] {
            let mut stream = TcpStream::connect(daemon.address).unwrap();
            stream.write_all(&bytes).unwrap();
            wanted.insert(format!("{way} {n}"));
            // Not a word of the answer is waited for.
            drop(stream);
        }
    }
    let client = Client::new(daemon.address);
    let kept = || -> std::collections::BTreeSet<String> {
        let leads = client.get("/api/v1/leads?limit=500").json();
        leads["leads"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap().to_owned()).collect()
    };
    eventually("every lead is there", || kept() == wanted);
    still_takes_a_lead(&daemon);
}

#[test]
fn no_next_leads_to_a_host_that_is_not_allowed() {
    let home = Home::new(SOURCE);
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let host = daemon.address.to_string();
    let at_host = format!("http://{host}@evil.example/");
    let below_host = format!("http://{host}.evil.example/");
    let evil = [
        "https://evil.example",
        "http://evil.example:80/",
        "//evil.example",
        "///evil.example",
        "////evil.example/a/..",
        "/\\evil.example",
        "\\\\evil.example",
        "\\/evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "\u{1}//evil.example",
        " //evil.example",
        "/.//evil.example",
        "/x/..//evil.example",
        "/%2e//evil.example",
        "https:evil.example",
        "https:/evil.example",
        "https:\\evil.example",
        "http:/\\evil.example",
        "HTTPS://EVIL.EXAMPLE",
        "https://www.example.com.evil.example/",
        "https://www.example.com@evil.example/",
        "https://evil.example/https://www.example.com",
        "https://evil.example#https://www.example.com",
        "http://www.example.com/",
        "https://www.example.com:8443/",
        "https://example.com/",
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "blob:https://www.example.com/x",
        "file:///etc/passwd",
        "ftp://www.example.com/",
        "mailto:a@evil.example",
        "http://[::1",
        "http://",
        "https://evil。example/",
        at_host.as_str(),
        below_host.as_str(),
    ];
    for next in evil {
        let answer = client.form("/f/contact", &[("name", "Jane"), ("email", "j@example.com"), ("_next", next)], &[]);
        assert_eq!((answer.status, answer.header("location")), (303, Some("/f/contact/thanks")), "{next:?}");
        let answer = client.form(INBOUND, &[("name", "Jane"), ("_next", next)], &[]);
        assert_eq!((answer.status, answer.header("location")), (201, None), "{next:?}");
    }
    // These look worse than they are: each is a path of this host.
    for (next, location) in [
        ("/%5cevil.example", "/%5cevil.example"),
        ("/%2f%2fevil.example", "/%2f%2fevil.example"),
        ("evil.example", "/evil.example"),
        ("?to=//evil.example", "/?to=//evil.example"),
        ("/a\r\nset-cookie: a=b", "/aset-cookie:%20a=b"),
        ("/grüße", "/gr%C3%BC%C3%9Fe"),
        ("/f/contact/thanks#top", "/f/contact/thanks#top"),
        ("https://www.example.com/thanks?a=b#c", "https://www.example.com/thanks?a=b#c"),
    ] {
        let answer = client.form("/f/contact", &[("name", "Jane"), ("email", "j@example.com"), ("_next", next)], &[]);
        assert_eq!((answer.status, answer.header("location")), (303, Some(location)), "{next:?}");
    }
    // Whoever writes the Host header does not choose the place either.
    for forged in ["evil.example", "evil.example@x", "evil.example/x?", "a b", "[::1"] {
        let body = "name=Jane&email=j%40example.com&_next=%2Fthere";
        let bytes = String::from_utf8(request("POST", "/f/contact", &[URLENCODED], body)).unwrap().replace("kiosk.local", forged);
        let (answer, _) = exchange(daemon.address, bytes.as_bytes(), false);
        let (answer, _) = parse(&answer).expect("an answer");
        let location = answer.header("location").unwrap_or_default();
        assert!(answer.status == 303 && location.starts_with('/') && !location.starts_with("//"), "{forged:?}: {answer:?}");
    }
    still_takes_a_lead(&daemon);
}
