//! The table and the JSON: for every row what was measured in each run, and how that stands to its target.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a row is to be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// For information.
    None,
}

/// What is judged: the product's figure itself, or its share of the limit.
#[derive(Debug, Default)]
struct Row {
    key: &'static str,
    what: String,
    against: &'static str,
    target: Option<Target>,
    product: Vec<f64>,
    limit: Vec<f64>,
}

/// All rows, in the order in which they were announced.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// Announces a row. `against` names the limit it is divided by; empty: the figure stands for itself.
    pub fn row(&mut self, key: &'static str, what: impl Into<String>, against: &'static str, target: Target) {
        self.0.push(Row { key, what: what.into(), against, target: Some(target), ..Row::default() });
    }

    /// Adds a run to a row.
    pub fn add(&mut self, key: &str, product: f64, limit: Option<f64>) {
        if let Some(row) = self.0.iter_mut().find(|r| r.key == key) {
            row.product.push(product);
            row.limit.extend(limit);
        }
    }

    /// For people. Rows that were not measured are left out.
    pub fn text(&self) -> String {
        let cells = ["", "product", "limit", "min", "median", "max", "target", "met"].map(str::to_owned);
        let mut lines = vec![cells];
        for row in self.0.iter().filter(|r| !r.product.is_empty()) {
            let what = if row.against.is_empty() { row.what.clone() } else { format!("{} / {}", row.what, row.against) };
            let limit = if row.limit.is_empty() { String::new() } else { figure(middle(&row.limit)) };
            let judged = sorted(&row.judged());
            let ends = |v: Option<&f64>| v.map_or(String::new(), |v| figure(*v));
            let target = match row.target {
                Some(Target::AtLeast(t)) => format!(">= {}", figure(t)),
                Some(Target::AtMost(t)) => format!("<= {}", figure(t)),
                _ => String::new(),
            };
            let met = row.met().map_or("", |met| if met { "yes" } else { "NO" });
            let product = if row.limit.is_empty() { String::new() } else { figure(middle(&row.product)) };
            lines.push([what, product, limit, ends(judged.first()), figure(middle(&judged)), ends(judged.last()), target, met.to_owned()]);
        }
        let mut widths = [0; 8];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for line in &lines {
            for (column, (width, cell)) in widths.into_iter().zip(line).enumerate() {
                // Writing to a String cannot fail.
                let _ = if column == 0 { write!(text, "{cell:width$}") } else { write!(text, "  {cell:>width$}") };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// How many targets were met, and how many there are.
    pub fn score(&self) -> (usize, usize) {
        let judged: Vec<bool> = self.0.iter().filter_map(Row::met).collect();
        (judged.iter().filter(|met| **met).count(), judged.len())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows = self.0.iter().filter(|r| !r.product.is_empty()).map(|row| {
            let judged = sorted(&row.judged());
            let target = match row.target {
                Some(Target::AtLeast(t)) => json!({ "at_least": t }),
                Some(Target::AtMost(t)) => json!({ "at_most": t }),
                _ => Value::Null,
            };
            json!({
                "key": row.key, "what": row.what, "against": row.against, "product": row.product, "limit": row.limit,
                "min": judged.first(), "median": middle(&judged), "max": judged.last(), "target": target, "met": row.met(),
            })
        });
        rows.collect()
    }
}

impl Row {
    /// The product's share of the limit in each run, or its own figures when there is no limit.
    fn judged(&self) -> Vec<f64> {
        if self.limit.is_empty() {
            return self.product.clone();
        }
        self.product.iter().zip(&self.limit).map(|(product, limit)| product / limit).collect()
    }

    fn met(&self) -> Option<bool> {
        let judged = sorted(&self.judged());
        judged.first()?;
        match self.target? {
            Target::AtLeast(t) => Some(middle(&judged) >= t),
            Target::AtMost(t) => Some(middle(&judged) <= t),
            Target::None => None,
        }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The median; of an even number the upper of the two.
fn middle(values: &[f64]) -> f64 {
    sorted(values).get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three digits of a small figure, all of a large one with its thousands apart.
fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
