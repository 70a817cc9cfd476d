//! The `postgres` type: a row for each event in a table of a PostgreSQL database. Pure.
//!
//! The event's id is the table's key and a row that is already there stays as it is, so that an insert whose answer was lost can be made
//! again. Identifiers are quoted; what a lead says is only ever a parameter, never part of a statement.

use super::row::{EVENT_ID, Own, Row, unreadable};
use super::{Answer, Batch, Class, Connector, Failure, Incoming, Insert, Memory, Moment, Next, Record, Reply, Request, Verdict};
use super::{failure, printable};
use crate::mapping::MappingError;
use serde_json::{Map, Value};

/// What every row has of its event in a table that leadsbotd makes.
pub const OWN: &[Own] = &[(EVENT_ID, "/id"), ("event", "/event"), ("created_at", "/created_at"), ("lead_id", "/data/id")];
/// The same, and all the event says, where nothing is mapped.
pub const OWN_AND_DATA: &[Own] =
    &[(EVENT_ID, "/id"), ("event", "/event"), ("created_at", "/created_at"), ("lead_id", "/data/id"), ("data", "/data")];
/// What a row has of its event where the columns are somebody else's choice.
pub const ID_ONLY: &[Own] = &[(EVENT_ID, "/id")];

/// Code of an answer that all went well (https://www.postgresql.org/docs/current/errcodes-appendix.html).
pub const SUCCESS: &str = "00000";
/// What [`Answer::Failure`] says when the server offers no TLS.
pub const NO_TLS: &str = "the server does not offer TLS";

/// A table of a PostgreSQL database.
#[derive(Debug)]
pub struct Postgres {
    /// Host and port, for people.
    pub place: String,
    /// The table's schema, if it is named, and its name.
    pub table: Vec<String>,
    /// Its columns.
    pub row: Row,
    /// The types of the columns that `map` adds, for the statement that makes the table; `None`: it is never made.
    pub create: Option<Vec<&'static str>>,
    /// How much one insert carries.
    pub batch: Batch,
}

impl Connector for Postgres {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let mut row = Value::Object(self.row.render(incoming)?);
        without_nul(&mut row);
        serde_json::to_vec(&row).map(Some).map_err(|e| unreadable(&e))
    }

    fn batch(&self) -> Batch {
        self.batch
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        Ok(match said.last() {
            None => Next::Send(Request::Insert(Box::new(self.insert(records)?))),
            Some(Answer::Failure { kind: Failure::Tls, detail }) if detail == NO_TLS => Verdict::new(
                Class::Refused,
                "tls_error",
                "the server does not offer TLS; turn it on there (ssl = on), or set sslmode = \"disable\" inside your own network",
            )
            .into(),
            Some(Answer::Failure { kind: Failure::Protocol, .. }) => {
                Verdict::new(Class::Temporary, "protocol_error", "what answers there does not speak PostgreSQL's protocol").into()
            }
            Some(Answer::Failure { kind, detail }) => failure(*kind, detail, moment.clock_trusted).into(),
            Some(Answer::Replies(replies)) => replies.first().map_or_else(|| Verdict::internal("no answer in the answer"), judged).into(),
            Some(Answer::Response(_)) => Verdict::internal("an answer over HTTP to an insert").into(),
        })
    }
}

impl Postgres {
    fn insert(&self, records: &[Record<'_>]) -> Result<Insert, MappingError> {
        let columns = self.row.columns();
        let mut rows = Vec::with_capacity(records.len());
        for record in records {
            let mut row: Map<String, Value> = serde_json::from_slice(record.body).map_err(|e| unreadable(&e))?;
            rows.push(columns.iter().map(|name| row.remove(*name).unwrap_or(Value::Null)).collect());
        }
        Ok(Insert { place: self.place.clone(), statement: self.statement(&columns, records.len()), create: self.creation(), rows })
    }

    fn table(&self) -> String {
        self.table.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".")
    }

    fn statement(&self, columns: &[&str], rows: usize) -> String {
        let names = columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let row = |row: usize| {
            let from = row * columns.len();
            let parameters: Vec<String> = (from + 1..=from + columns.len()).map(|n| format!("${n}")).collect();
            format!("({})", parameters.join(", "))
        };
        let values = (0..rows).map(row).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO {} ({names}) VALUES {values} ON CONFLICT ({}) DO NOTHING", self.table(), quoted(EVENT_ID))
    }

    fn creation(&self) -> Option<String> {
        let mapped = self.create.as_ref()?;
        let own = self.row.own.iter().map(|(name, _)| {
            let kind = match *name {
                EVENT_ID => "text PRIMARY KEY",
                "event" => "text NOT NULL",
                "created_at" => "timestamptz NOT NULL",
                "data" => "jsonb",
                _ => "text",
            };
            format!("{} {kind}", quoted(name))
        });
        let names = self.row.columns().into_iter().skip(self.row.own.len());
        let mapped = names.zip(mapped).map(|(name, kind)| format!("{} {kind}", quoted(name)));
        let columns = own.chain(mapped).collect::<Vec<_>>().join(", ");
        Some(format!("CREATE TABLE IF NOT EXISTS {} ({columns})", self.table()))
    }
}

/// An identifier as SQL wants it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// PostgreSQL has no place for U+0000, neither in text nor in jsonb; a lead is not lost because of one.
fn without_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(list) => list.iter_mut().for_each(without_nul),
        Value::Object(map) => map.values_mut().for_each(without_nul),
        _ => {}
    }
}

/// What the server's code means. Its own words are only passed on where they can hold nothing but names of the configuration.
fn judged(reply: &Reply) -> Verdict {
    let (code, said) = (reply.code.as_str(), printable(reply.text.as_bytes()));
    let refused = |what: String| (Class::Refused, "receiver_4xx", what);
    let temporary = |what: String| (Class::Temporary, "receiver_5xx", what);
    let (class, word, reason) = match (code, code.get(..2).unwrap_or_default()) {
        (SUCCESS, _) => (Class::Delivered, "delivered", "inserted, or already there".to_owned()),
        (_, "28") => {
            refused(format!("PostgreSQL {code}: the server does not let this user in; compare user, password and pg_hba.conf: {said}"))
        }
        (_, "3D") => refused(format!("PostgreSQL {code}: there is no such database; put its name into url: {said}")),
        ("42501", _) => refused(format!("PostgreSQL {code}: this user may not do that; GRANT INSERT, SELECT on the table to it: {said}")),
        ("42P01" | "3F000", _) => {
            refused(format!("PostgreSQL {code}: there is no such table; make it, or set create_table = true: {said}"))
        }
        ("42703", _) => refused(format!("PostgreSQL {code}: the table lacks a column; add it, or take it out of map: {said}")),
        ("42P10", _) => refused(format!("PostgreSQL {code}: event_id of that table is not unique; make it the primary key")),
        (_, "42" | "0A") => refused(format!("PostgreSQL {code}: the table does not suit: {said}")),
        ("57P03", _) => temporary("PostgreSQL 57P03: the server is starting up or shutting down".to_owned()),
        ("57014", _) => temporary("PostgreSQL 57014: the insert took longer than timeout_seconds".to_owned()),
        ("53300", _) => temporary("PostgreSQL 53300: the server has no connection to spare".to_owned()),
        ("25006", _) => temporary("PostgreSQL 25006: the server only lets itself be read; is it a standby?".to_owned()),
        (_, "22") => {
            (Class::Rejected, "rejected_body", format!("PostgreSQL {code}: a value does not fit the type of its column (see the answer)"))
        }
        (_, "23") => (Class::Rejected, "rejected_body", format!("PostgreSQL {code}: the row breaks a rule of the table (see the answer)")),
        (_, "54") => (Class::Rejected, "rejected_body", format!("PostgreSQL {code}: the row is too large for the server")),
        _ => temporary(format!("PostgreSQL {code}: the server is not well, see its log")),
    };
    let answer = if class == Class::Delivered { String::new() } else { said };
    Verdict { answer, ..Verdict::new(class, word, reason) }
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{EVENT, ID, incoming, shape};
    use super::super::{Identity, Judgement};
    use super::*;
    use crate::time::{Tick, Wall};

    fn moment() -> Moment {
        Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: true, vouched: false }
    }

    fn connector(own: &'static [Own], map: &[(&str, &str)], create: Option<Vec<&'static str>>) -> Postgres {
        let map = (!map.is_empty()).then(|| shape(map));
        let table = vec!["crm".to_owned(), "le\"ads".to_owned()];
        Postgres { place: "postgres://db.example:5432".to_owned(), table, row: Row { own, map }, create, batch: Batch::of(100) }
    }

    fn record(body: &[u8]) -> Record<'_> {
        Record { identity: Identity { event_id: ID, kind: "lead.created", destination: "warehouse" }, body, event: Some(EVENT), attempt: 1 }
    }

    fn insert(connector: &Postgres, bodies: &[&[u8]]) -> Insert {
        let records: Vec<Record<'_>> = bodies.iter().map(|body| record(body)).collect();
        match connector.next(&records, &[], &moment(), &mut Memory::default()).unwrap() {
            Next::Send(Request::Insert(insert)) => *insert,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_statement_has_quoted_names_and_a_parameter_for_every_value() {
        let made = connector(OWN, &[("full \"name\"", "data.name"), ("score", "data.score")], Some(vec!["text", "numeric"]));
        let body = made.render(&incoming()).unwrap().unwrap();
        let insert = insert(&made, &[&body, &body]);
        assert_eq!(
            insert.statement,
            r#"INSERT INTO "crm"."le""ads" ("event_id", "event", "created_at", "lead_id", "full ""name""", "score") VALUES ($1, $2, $3, $4, $5, $6), ($7, $8, $9, $10, $11, $12) ON CONFLICT ("event_id") DO NOTHING"#
        );
        assert_eq!(
            insert.create.as_deref(),
            Some(
                r#"CREATE TABLE IF NOT EXISTS "crm"."le""ads" ("event_id" text PRIMARY KEY, "event" text NOT NULL, "created_at" timestamptz NOT NULL, "lead_id" text, "full ""name""" text, "score" numeric)"#
            )
        );
        let row =
            serde_json::json!([ID, "lead.created", "2026-11-23T12:00:00.000Z", "lead_00000000000000000000000001", "Jane \"J\" Smith", 88]);
        assert_eq!(serde_json::json!(insert.rows), serde_json::json!([row, row]));
    }

    #[test]
    fn a_row_kept_under_another_map_gives_what_it_has() {
        let made = connector(ID_ONLY, &[("a", "data.name"), ("b", "data.score")], None);
        let insert = insert(&made, &[br#"{"event_id":"evt_1","b":2,"gone":3}"#]);
        assert_eq!(serde_json::json!(insert.rows), serde_json::json!([["evt_1", null, 2]]));
        assert_eq!(insert.create, None);
    }

    #[test]
    fn without_a_map_the_whole_data_is_kept_and_a_nul_does_not_lose_it() {
        let made = connector(OWN_AND_DATA, &[], Some(Vec::new()));
        let event = br#"{"id":"evt_1","event":"lead.created","created_at":"2026-11-23T12:00:00.000Z","data":{"id":"lead_1","name":"a\u0000b","fields":{"x":["\u0000"]}}}"#;
        let body = made.render(&Incoming { bytes: event, ..incoming() }).unwrap().unwrap();
        let data = serde_json::from_slice::<Value>(&body).unwrap()["data"].clone();
        assert_eq!(data, serde_json::json!({"id":"lead_1","name":"a\u{fffd}b","fields":{"x":["\u{fffd}"]}}));
    }

    #[test]
    fn every_code_has_its_class() {
        use Class::*;
        for (code, class) in [
            ("00000", Delivered),
            ("08006", Temporary),
            ("53100", Temporary),
            ("53300", Temporary),
            ("57P01", Temporary),
            ("57P03", Temporary),
            ("57014", Temporary),
            ("40001", Temporary),
            ("40P01", Temporary),
            ("55P03", Temporary),
            ("25006", Temporary),
            ("58030", Temporary),
            ("XX000", Temporary),
            ("28P01", Refused),
            ("28000", Refused),
            ("3D000", Refused),
            ("42501", Refused),
            ("42P01", Refused),
            ("42703", Refused),
            ("42P10", Refused),
            ("3F000", Refused),
            ("22P02", Rejected),
            ("22001", Rejected),
            ("23502", Rejected),
            ("23514", Rejected),
            ("54000", Rejected),
            ("", Temporary),
        ] {
            let verdict = judged(&Reply { code: code.to_owned(), text: "invalid input: \"Jane\"".to_owned() });
            assert_eq!(verdict.class, class, "{code}");
            if matches!(class, Temporary | Rejected) {
                assert!(!verdict.reason.contains("Jane"), "{code}");
            }
        }
    }

    #[test]
    fn no_answer_is_judged_as_everywhere_and_a_server_without_tls_is_named() {
        let made = connector(OWN_AND_DATA, &[], None);
        for (kind, detail, class, code) in [
            (Failure::Refused, "", Class::Offline, "connection_refused"),
            (Failure::Reset, "", Class::Temporary, "connection_reset"),
            (Failure::Timeout, "", Class::Temporary, "timeout"),
            (Failure::Tls, "invalid peer certificate: UnknownIssuer", Class::Refused, "tls_error"),
            (Failure::Tls, NO_TLS, Class::Refused, "tls_error"),
        ] {
            let answer = Answer::Failure { kind, detail: detail.to_owned() };
            let Next::Judged(Judgement::All(verdict)) = made.next(&[record(b"{}")], &[answer], &moment(), &mut Memory::default()).unwrap()
            else {
                panic!("not judged")
            };
            assert_eq!((verdict.class, verdict.code), (class, code), "{}", verdict.reason);
            assert_eq!(verdict.reason.contains("sslmode"), detail == NO_TLS);
        }
    }
}
