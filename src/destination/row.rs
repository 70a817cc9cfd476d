//! Rows for tables: what every row of a warehouse has of its event, and what `map` adds. Pure.

use super::Incoming;
use crate::mapping::{Event, MappingError, Shape};
use serde_json::{Map, Value};

/// The column that says which event a row is. Every row has it; nobody may map it.
pub const EVENT_ID: &str = "event_id";

/// A column and where in the event its value stands, as a JSON pointer (RFC 6901).
pub type Own = (&'static str, &'static str);

/// The columns of a table.
#[derive(Debug)]
pub struct Row {
    /// Those that come from the event itself; [`EVENT_ID`] is the first.
    pub own: &'static [Own],
    /// Those that `map` adds.
    pub map: Option<Shape>,
}

impl Row {
    /// The names of all columns, in order.
    pub fn columns(&self) -> Vec<&str> {
        let mapped = match &self.map {
            Some(Shape::Object(entries)) => entries.iter().map(|(name, _)| name.as_str()).collect(),
            _ => Vec::new(),
        };
        self.own.iter().map(|(name, _)| *name).chain(mapped).collect()
    }

    /// The row of an event.
    pub fn render(&self, incoming: &Incoming<'_>) -> Result<Map<String, Value>, MappingError> {
        let event: Value = serde_json::from_slice(incoming.bytes).map_err(|e| unreadable(&e))?;
        let mut row = Map::new();
        for (name, pointer) in self.own {
            row.insert((*name).to_owned(), event.pointer(pointer).cloned().unwrap_or(Value::Null));
        }
        if let Some(map) = &self.map
            && let Value::Object(mapped) = map.render(&Event::parse(incoming.bytes)?)?
        {
            row.extend(mapped);
        }
        Ok(row)
    }
}

/// An event, or a row, that is no JSON.
pub fn unreadable(e: &serde_json::Error) -> MappingError {
    MappingError { at: "event".to_owned(), message: format!("what is kept of it is no JSON: {e}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Identity;
    use super::*;
    use crate::mapping::Expr;

    pub const ID: &str = "evt_00000000000000000000000001";
    pub const EVENT: &[u8] = br#"{"id":"evt_00000000000000000000000001","event":"lead.created","created_at":"2026-11-23T12:00:00.000Z","data":{"id":"lead_00000000000000000000000001","name":"Jane \"J\" Smith","email":null,"score":88,"fields":{"vip":true}}}"#;

    pub fn incoming() -> Incoming<'static> {
        Incoming { identity: Identity { event_id: ID, kind: "lead.created", destination: "warehouse" }, bytes: EVENT }
    }

    pub fn shape(entries: &[(&str, &str)]) -> Shape {
        Shape::Object(entries.iter().map(|(name, source)| ((*name).to_owned(), Shape::Leaf(Expr::new(name, source).unwrap()))).collect())
    }

    #[test]
    fn a_row_has_its_own_columns_first_and_what_is_missing_is_null() {
        let row =
            Row { own: &[(EVENT_ID, "/id"), ("lead_id", "/data/id"), ("nothing", "/no/such")], map: Some(shape(&[("n", "data.score")])) };
        assert_eq!(row.columns(), ["event_id", "lead_id", "nothing", "n"]);
        let made = Value::Object(row.render(&incoming()).unwrap());
        assert_eq!(made, serde_json::json!({"event_id": ID, "lead_id": "lead_00000000000000000000000001", "nothing": null, "n": 88}));
    }
}
