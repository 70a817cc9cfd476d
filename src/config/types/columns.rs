//! The columns of a type that takes rows.

use super::Given;
use crate::destination::columns::{Columns, DEFAULT};
use crate::mapping::{Expr, Shape};

/// Characters of the name of the column with the event's id, so that a line's beginning is always found.
const ID_CHARS_MAX: usize = 60;

/// Reads `id_key` and `key`. `id` is what the first column is called unless the file says otherwise.
pub fn read(given: &Given<'_, '_, '_, '_>, id_key: &'static str, id: &str, key: &'static str) -> Columns {
    let named = given.table.name(id_key);
    if let Some(name) = &named
        && (name.value.chars().count() > ID_CHARS_MAX || name.value.chars().any(char::is_control))
    {
        given.table.fault_at(name, format!("must be one line of at most {ID_CHARS_MAX} characters"));
    }
    let id = named.map_or_else(|| id.to_owned(), |name| name.value);
    let Some(map) = given.table.table_if_given(key) else { return Columns { id, others: default() } };
    if map.entries().is_empty() {
        map.fault("is empty, so nothing but the event's id would be written");
    }
    for (name, value) in map.entries() {
        if name.value == id {
            map.fault_at(
                &name,
                format!("is the name of the first column, which holds the event's id; give one of the two another ({id_key})"),
            );
        } else if value.get_ref().is_table() {
            map.fault_at(&name, "must be an expression in quotes, as in \"data.name\"; a column holds one value");
        }
    }
    let Shape::Object(entries) = super::shape(&map, given.samples) else { return Columns { id, others: Vec::new() } };
    let others = entries.into_iter().filter_map(|(name, shape)| match shape {
        Shape::Leaf(expr) => Some((name, expr)),
        Shape::Object(_) => None,
    });
    Columns { id, others: others.collect() }
}

fn default() -> Vec<(String, Expr)> {
    DEFAULT.iter().filter_map(|(name, source)| Some(((*name).to_owned(), Expr::new(name, source).ok()?))).collect()
}
