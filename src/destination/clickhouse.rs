//! The `clickhouse` type: a row for each event in a table of ClickHouse, over its HTTP interface. Pure.
//!
//! One insert a batch. It must never take status 200 for success alone: an exception may be told in the answer's body.

use super::row::{EVENT_ID, Own, Row, unreadable};
use super::{Answer, Batch, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Response, Verdict};
use super::{judge, place, printable};
use crate::mapping::MappingError;
use crate::secret::Hidden;
use http::Method;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use url::Url;

/// The columns where nothing is mapped; `data`, last, is all the event says, as JSON text.
pub const OWN: &[Own] = &[
    (EVENT_ID, "/id"),
    ("event", "/event"),
    ("created_at", "/created_at"),
    ("lead_id", "/data/id"),
    ("name", "/data/name"),
    ("email", "/data/email"),
    ("phone", "/data/phone"),
    ("company", "/data/company"),
    ("score", "/data/score"),
    ("source", "/data/source"),
    ("status", "/data/status"),
    (DATA, "/data"),
];
const DATA: &str = "data";
/// What a row has of its event beside what is mapped.
pub const ID_ONLY: &[Own] = &[(EVENT_ID, "/id")];

/// Where an exception's number is told, from version 20 on; older ones only write it into the body.
const EXCEPTION: &str = "x-clickhouse-exception-code";

/// A table of ClickHouse.
#[derive(Debug)]
pub struct ClickHouse {
    /// The HTTP interface, without a query.
    pub url: Url,
    /// `X-ClickHouse-User`.
    pub user: String,
    /// `X-ClickHouse-Key`.
    pub password: Option<Hidden>,
    /// The table's database, if it is named, and its name.
    pub table: Vec<String>,
    /// Its columns.
    pub row: Row,
    /// Settings of each insert, such as `async_insert`.
    pub settings: Vec<(String, String)>,
    /// Whether each insert says which it is, for tables that remember the last ones.
    pub dedup_token: bool,
    /// How much one insert carries.
    pub batch: Batch,
}

impl Connector for ClickHouse {
    fn kind(&self) -> &'static str {
        "clickhouse"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let mut row = self.row.render(incoming)?;
        if self.row.map.is_none()
            && let Some(data) = row.get_mut(DATA)
        {
            *data = Value::String(data.to_string());
        }
        // What is left out gets the column's default in every version; null is an error in a column that cannot hold it.
        row.retain(|_, value| !value.is_null());
        serde_json::to_vec(&row).map(Some).map_err(|e| unreadable(&e))
    }

    fn batch(&self) -> Batch {
        self.batch
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        Ok(match said.last() {
            None => self.request(records).send(),
            Some(answer) => {
                let verdict = judge(&self.url, answer, moment);
                match answer {
                    Answer::Response(response) => refined(verdict, response).into(),
                    _ => verdict.into(),
                }
            }
        })
    }
}

impl ClickHouse {
    fn request(&self, records: &[Record<'_>]) -> HttpRequest {
        let mut url = self.url.clone();
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("query", &self.statement());
            query.extend_pairs(&self.settings);
            if self.dedup_token {
                query.append_pair("insert_deduplication_token", &token(records));
            }
        }
        let mut body = Vec::with_capacity(records.iter().map(|record| record.body.len() + 1).sum());
        for record in records {
            body.extend_from_slice(record.body);
            body.push(b'\n');
        }
        let mut request = HttpRequest::new(Method::POST, url.clone()).body("application/x-ndjson", body);
        // Nothing in it is secret: user and password are headers.
        url.as_str().clone_into(&mut request.shown);
        request.wanted = &[EXCEPTION];
        let request = request.secret_header("X-ClickHouse-User", self.user.as_str());
        match &self.password {
            Some(Hidden(password)) => request.secret_header("X-ClickHouse-Key", password.as_str()),
            None => request,
        }
    }

    fn statement(&self) -> String {
        let quoted = |name: &str| format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"));
        let table = self.table.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".");
        let columns = self.row.columns().into_iter().map(quoted).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO {table} ({columns}) FORMAT JSONEachRow")
    }
}

/// The same for the same events, so that a table that remembers its last inserts takes a repeated one once.
fn token(records: &[Record<'_>]) -> String {
    let mut digest = Sha256::new();
    for record in records {
        digest.update(record.identity.event_id);
        digest.update(b"\n");
    }
    digest.finalize().iter().take(16).fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The number of the exception that an answer tells of.
fn exception(response: &Response) -> Option<u32> {
    if let Some(code) = response.header(EXCEPTION).and_then(|code| code.trim().parse().ok()) {
        return Some(code);
    }
    // An insert that went well is answered by nothing at all.
    let body = String::from_utf8_lossy(&response.body);
    let (_, after) = body.split_once("Code: ").filter(|_| body.contains("DB::Exception"))?;
    after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Numbers of exceptions: src/Common/ErrorCodes.cpp of ClickHouse; they never change their meaning.
fn refined(verdict: Verdict, response: &Response) -> Verdict {
    let Some(code) = exception(response) else { return verdict };
    let refused = |what: &str| (Class::Refused, "receiver_4xx", format!("ClickHouse {code}: {what}"));
    let temporary = |what: &str| (Class::Temporary, "receiver_5xx", format!("ClickHouse {code}: {what}"));
    let (class, word, reason) = match code {
        192..=194 | 516 => refused("the server does not let this user in; compare user and password"),
        195 => refused("the server does not let this user in from this address; see its networks there"),
        497 => refused("this user may not do that; GRANT INSERT on the table to it"),
        60 => refused("there is no such table; make it (docs/destinations.md has the statement)"),
        81 => refused("there is no such database; put its name before the table's, as in \"crm.leads\""),
        16 | 47 | 8 => refused("the table lacks a column; add it, or take it out of map"),
        115 => refused("this version does not know a setting; see async_insert, dedup_token and settings"),
        62 | 73 | 164 | 344 | 48 => refused("the insert is not possible there (see the answer)"),
        252 => (
            Class::Throttled,
            "throttled",
            "ClickHouse 252: too many parts; it asks for fewer and larger inserts, see linger_seconds".to_owned(),
        ),
        201 | 202 => (Class::Throttled, "throttled", format!("ClickHouse {code}: the user's quota or the server's queries are used up")),
        241 => temporary("the server has no memory for it now"),
        243 => temporary("the server's disk is full"),
        159 | 209 => temporary("the insert took too long there"),
        6 | 25..=27 | 32 | 33 | 36 | 38 | 41 | 43 | 53 | 69 | 70 | 72 | 117 | 130 | 131 | 321 | 349 | 376 | 441 | 469 | 691 => {
            (Class::Rejected, "rejected_body", format!("ClickHouse {code}: a value does not fit its column (see the answer)"))
        }
        _ => temporary("the server could not do it (see the answer)"),
    };
    Verdict { class, code: word, reason, answer: printable(&response.body), ..verdict }
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{EVENT, ID, incoming, shape};
    use super::super::{Identity, Judgement, Request};
    use super::*;
    use crate::time::{Tick, Wall};
    use std::time::Duration;

    fn connector(map: Option<crate::mapping::Shape>) -> ClickHouse {
        let own = if map.is_some() { ID_ONLY } else { OWN };
        ClickHouse {
            url: Url::parse("https://ch.example:8443/").unwrap(),
            user: "leads".to_owned(),
            password: Some(Hidden("never shown".to_owned())),
            table: vec!["crm".to_owned(), "le`ads".to_owned()],
            row: Row { own, map },
            settings: vec![("wait_for_async_insert".to_owned(), "1".to_owned())],
            dedup_token: true,
            batch: Batch::of(200),
        }
    }

    fn moment() -> Moment {
        Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: true, vouched: false }
    }

    fn record<'a>(id: &'a str, body: &'a [u8]) -> Record<'a> {
        Record { identity: Identity { event_id: id, kind: "lead.created", destination: "ch" }, body, event: Some(EVENT), attempt: 1 }
    }

    fn request(connector: &ClickHouse, records: &[Record<'_>]) -> HttpRequest {
        match connector.next(records, &[], &moment(), &mut Memory::default()).unwrap() {
            Next::Send(Request::Http(request)) => *request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_insert_is_one_request_that_names_its_columns_and_hides_who_asks() {
        let made = connector(Some(shape(&[("who", "data.name"), ("mail", "data.email"), ("tags", "['a']")])));
        let body = made.render(&incoming()).unwrap().unwrap();
        assert_eq!(String::from_utf8(body.clone()).unwrap(), format!(r#"{{"event_id":"{ID}","who":"Jane \"J\" Smith","tags":["a"]}}"#));
        let records = [record(ID, &body), record("evt_2", b"{}")];
        let asked = request(&made, &records);
        assert_eq!(asked.body, [&body[..], b"\n{}\n"].concat());
        let query: Vec<(String, String)> = asked.url.query_pairs().into_owned().collect();
        assert_eq!(
            query[0],
            ("query".to_owned(), r"INSERT INTO `crm`.`le\`ads` (`event_id`, `who`, `mail`, `tags`) FORMAT JSONEachRow".to_owned())
        );
        assert_eq!(query[1], ("wait_for_async_insert".to_owned(), "1".to_owned()));
        assert_eq!((query[2].0.as_str(), query[2].1.len()), ("insert_deduplication_token", 32));
        assert_eq!(query[2].1, token(&records), "the same events have the same token");
        assert_ne!(query[2].1, token(&records[..1]));
        let shown = format!("{asked:?}{:?}", Request::Http(Box::new(asked.clone())).shown());
        assert!(!shown.contains("never shown") && !shown.contains("\"leads\""), "{shown}");
    }

    #[test]
    fn without_a_map_the_usual_columns_are_there_and_data_is_text() {
        let body = connector(None).render(&incoming()).unwrap().unwrap();
        let row: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&row["name"], &row["score"], &row["created_at"]),
            (&"Jane \"J\" Smith".into(), &88.into(), &"2026-11-23T12:00:00.000Z".into())
        );
        assert!(row.get("email").is_none(), "null is left to the column's default");
        assert_eq!(serde_json::from_str::<Value>(row["data"].as_str().unwrap()).unwrap()["fields"]["vip"], true);
    }

    #[test]
    fn the_number_of_the_exception_decides_and_not_the_status() {
        use Class::*;
        let old = |code: u32| format!("Code: {code}, e.displayText() = DB::Exception: words, e.what() = DB::Exception");
        let new = |code: u32| format!("Code: {code}. DB::Exception: words. (NAME) (version 25.3.2.39 (official build))");
        for (status, code, class, word) in [
            (403, 516, Refused, "receiver_4xx"),
            (500, 192, Refused, "receiver_4xx"),
            (401, 193, Refused, "receiver_4xx"),
            (403, 497, Refused, "receiver_4xx"),
            (404, 60, Refused, "receiver_4xx"),
            (404, 81, Refused, "receiver_4xx"),
            (500, 16, Refused, "receiver_4xx"),
            (404, 115, Refused, "receiver_4xx"),
            (500, 252, Throttled, "throttled"),
            (500, 202, Throttled, "throttled"),
            (500, 241, Temporary, "receiver_5xx"),
            (500, 159, Temporary, "receiver_5xx"),
            (500, 999, Temporary, "receiver_5xx"),
            (400, 999, Temporary, "receiver_5xx"),
            (500, 27, Rejected, "rejected_body"),
            (400, 41, Rejected, "rejected_body"),
            (400, 117, Rejected, "rejected_body"),
            (200, 241, Temporary, "receiver_5xx"),
        ] {
            let header = Response { status, headers: vec![(EXCEPTION.to_owned(), code.to_string())], ..Response::default() };
            for response in [
                header,
                Response { status, body: old(code).into_bytes(), ..Response::default() },
                Response { status, body: new(code).into_bytes(), ..Response::default() },
            ] {
                let made = connector(None);
                let answer = Answer::Response(response);
                let Next::Judged(Judgement::All(verdict)) =
                    made.next(&[record(ID, b"{}")], &[answer], &moment(), &mut Memory::default()).unwrap()
                else {
                    panic!("not judged")
                };
                assert_eq!((verdict.class, verdict.code, verdict.status), (class, word, Some(status)), "{code}");
                assert!(!verdict.reason.contains("words"), "{}", verdict.reason);
            }
        }
        let plain = |status: u16, retry_after: Option<&str>| {
            let response = Response { status, retry_after: retry_after.map(str::to_owned), ..Response::default() };
            let verdict = judge(&Url::parse("https://ch.example").unwrap(), &Answer::Response(response.clone()), &moment());
            refined(verdict, &response)
        };
        assert_eq!(plain(200, None).class, Delivered);
        assert_eq!(plain(502, None).class, Temporary);
        assert_eq!((plain(503, Some("7")).class, plain(503, Some("7")).wait), (Throttled, Some(Duration::from_secs(7))));
    }
}
