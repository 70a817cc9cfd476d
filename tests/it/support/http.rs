//! Requests: ordinary ones through ureq, any bytes at all through a socket.

use super::TOKEN;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("not JSON: {e}: {}", self.body))
    }

    /// `error.code` of a refusal.
    pub fn code(&self) -> String {
        serde_json::from_str::<Value>(&self.body).ok().and_then(|v| v["error"]["code"].as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// A client that keeps its connection.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    at: SocketAddr,
}

impl Client {
    pub fn new(at: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build();
        Self { agent: config.into(), at }
    }

    /// Sends a request; `None` when no answer came.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.at));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = self.agent.run(request.body(body).ok()?).ok()?;
        let headers = answer.headers().iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
        Some(Answer { status: answer.status().as_u16(), headers, body: answer.body_mut().read_to_string().ok()? })
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        let auth = format!("Bearer {TOKEN}");
        self.send("GET", path, &[("authorization", &auth)], b"").expect("an answer")
    }

    #[track_caller]
    pub fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.try_json(method, path, body).expect("an answer")
    }

    pub fn try_json(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let auth = format!("Bearer {TOKEN}");
        self.send(method, path, &[("authorization", &auth), ("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Creates a lead through the API; gives `(lead id, event id)`.
    #[track_caller]
    pub fn lead(&self, body: &Value) -> (String, String) {
        let answer = self.json("POST", "/api/v1/leads", body);
        assert_eq!(answer.status, 201, "{}", answer.body);
        let ids = answer.json();
        (ids["id"].as_str().unwrap().to_owned(), ids["event_id"].as_str().unwrap().to_owned())
    }

    #[track_caller]
    pub fn form(&self, path: &str, pairs: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
        all.extend_from_slice(headers);
        self.send("POST", path, &all, body.as_bytes()).expect("an answer")
    }
}

/// Sends these bytes, shuts the sending side down if asked to, and gives what came back until the other side closed, and whether it
/// closed in order: a reset can destroy an answer on its way.
pub fn exchange(at: SocketAddr, bytes: &[u8], half_close: bool) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let sent = stream.write_all(bytes);
    if half_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    if let Err(e) = &end {
        assert!(!matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "neither answered nor closed");
    }
    (answer, sent.is_ok() && end.is_ok())
}

/// The first answer in these bytes, and what follows it.
pub fn parse(bytes: &[u8]) -> Option<(Answer, &[u8])> {
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..at]).expect("a head in ASCII");
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().expect("a status");
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let length: usize = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("content-length")).map_or(0, |(_, v)| v.parse().unwrap());
    let body = &bytes[at + 4..];
    assert!(body.len() >= length, "the answer was cut off");
    Some((Answer { status, headers, body: String::from_utf8_lossy(&body[..length]).into_owned() }, &body[length..]))
}

/// What [`exchange`] read, as text.
pub fn raw(at: SocketAddr, bytes: &[u8], half_close: bool) -> String {
    String::from_utf8_lossy(&exchange(at, bytes, half_close).0).into_owned()
}

/// The status codes of the answers in what [`raw`] read.
pub fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ").filter_map(|(at, found)| text.get(at + found.len()..)?.get(..3)?.parse().ok()).collect()
}
