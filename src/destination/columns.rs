//! Rows for sheets and files: the event's id, then what the columns say. Pure.
//!
//! The id must come first and must never be left out: it is how a row that is there already is recognised.

use super::{Incoming, Record};
use crate::mapping::{Event, Expr, MappingError};
use serde_json::{Map, Value};

/// The columns of a destination that takes rows.
#[derive(Debug)]
pub struct Columns {
    /// What the column with the event's id is called.
    pub id: String,
    /// The others: name and what stands in it.
    pub others: Vec<(String, Expr)>,
}

/// What stands in a row when the configuration does not say: name and expression.
pub const DEFAULT: [(&str, &str); 13] = [
    ("created_at", "created_at"),
    ("event", "event"),
    ("lead_id", "data.id"),
    ("name", "data.name"),
    ("email", "data.email"),
    ("phone", "data.phone"),
    ("company", "data.company"),
    ("message", "data.message"),
    ("score", "data.score"),
    ("source", "data.source"),
    ("status", "data.status"),
    ("fields", "data.fields"),
    ("site", "context.device.site"),
];

impl Columns {
    /// The names of all columns, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.others.iter().map(|(name, _)| name.as_str()))
    }

    /// What an event puts into them: names and values, in order. What is missing is null; lists and tables are their JSON as a text.
    pub fn row(&self, incoming: &Incoming<'_>) -> Result<Vec<(&str, Value)>, MappingError> {
        let event = Event::parse(incoming.bytes)?;
        let mut row = vec![(self.id.as_str(), Value::String(incoming.identity.event_id.to_owned()))];
        for (name, expr) in &self.others {
            row.push((name.as_str(), flat(expr.value(&event)?)));
        }
        Ok(row)
    }

    /// The same as an object without what is missing.
    pub fn object(&self, incoming: &Incoming<'_>) -> Result<Map<String, Value>, MappingError> {
        Ok(self.row(incoming)?.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// A cell holds one value; of several it holds the JSON. None of them at all is nothing.
fn flat(value: Value) -> Value {
    match value {
        Value::Array(list) if list.is_empty() => Value::Null,
        Value::Object(map) if map.is_empty() => Value::Null,
        Value::Array(_) | Value::Object(_) => Value::String(value.to_string()),
        other => other,
    }
}

/// The bodies of several records, each JSON of its own, as the items of a list.
pub fn listed(records: &[Record<'_>]) -> Vec<u8> {
    let bodies: Vec<&[u8]> = records.iter().map(|record| record.body).collect();
    [b"[".as_slice(), &bodies.join(&b','), b"]"].concat()
}

/// A text of at most `max` UTF-16 units, which is how the services count characters.
pub fn capped(text: String, max: usize) -> String {
    let mut units = 0;
    match text.char_indices().find(|(_, c)| {
        units += c.len_utf16();
        units > max
    }) {
        Some((at, _)) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}

#[cfg(test)]
pub mod tests {
    //! With an event for the types that take rows.

    use super::*;
    use crate::destination::Identity;

    /// An event as it is stored.
    pub const EVENT: &str = r#"{"id":"evt_aaaaaaaaaaaaaaaaaaaaaaaaaa","event":"lead.created","created_at":"2026-11-23T12:00:00.123Z","data":{"id":"lead_bbbbbbbbbbbbbbbbbbbbbbbbbb","name":"Zoë \"Z\" Smith, Ltd","email":"zoe@example.com","phone":"+43 664 1234567","company":null,"message":"=1+1\r\ntwo\nlines","score":88,"source":"booth-a","status":"new","fields":{"vip":true}},"context":{"device":{"id":"kiosk-12","site":"Hall 3"}}}"#;

    /// It, on its way.
    pub fn incoming() -> Incoming<'static> {
        let identity = Identity { event_id: "evt_aaaaaaaaaaaaaaaaaaaaaaaaaa", kind: "lead.created", destination: "sheet" };
        Incoming { identity, bytes: EVENT.as_bytes() }
    }

    /// The default columns.
    pub fn columns(id: &str) -> Columns {
        Columns {
            id: id.to_owned(),
            others: DEFAULT.iter().map(|(name, source)| ((*name).to_owned(), Expr::new(name, source).unwrap())).collect(),
        }
    }

    #[test]
    fn a_row_begins_with_the_event_and_holds_one_value_a_cell() {
        let columns = columns("Event ID");
        let row = columns.row(&incoming()).unwrap();
        assert_eq!(row[0], ("Event ID", Value::from("evt_aaaaaaaaaaaaaaaaaaaaaaaaaa")));
        assert_eq!(row[9], ("score", Value::from(88)));
        assert_eq!(row[12], ("fields", Value::from(r#"{"vip":true}"#)));
        assert_eq!(row.iter().map(|(name, _)| *name).collect::<Vec<_>>(), columns.names().collect::<Vec<_>>());
        assert!(!columns.object(&incoming()).unwrap().contains_key("company"), "what is missing is left out");
    }

    #[test]
    fn characters_are_counted_as_the_services_count_them() {
        assert_eq!(capped("aé\u{1f600}b".to_owned(), 4), "aé\u{1f600}");
        assert_eq!(capped("aé\u{1f600}b".to_owned(), 3), "aé");
        assert_eq!(capped("abc".to_owned(), 3), "abc");
    }
}
