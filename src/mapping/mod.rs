//! The expression language of `when` and `map`: minijinja expressions over the event's JSON. Pure.
//!
//! Expressions are compiled, and tried on a sample of every kind of event, when the configuration is read; what still fails at run
//! time is an error of that one delivery.

mod filters;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Expression, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};
use std::fmt;
use std::sync::LazyLock;

/// One expression may take this many steps, so that no template can stop a lane.
const FUEL: u64 = 50_000;

// The set of filters, the same for every expression, so one for the process; compiled expressions borrow from it.
static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    env.set_fuel(Some(FUEL));
    // What has to be escaped, and how, the receiving service says: there are filters for it.
    env.set_auto_escape_callback(|name| if name.ends_with(HTML) { AutoEscape::Html } else { AutoEscape::None });
    filters::add(&mut env);
    env
});

/// The end of the names of templates that escape what they insert.
const HTML: &str = ".html";

/// Why an expression cannot be compiled or gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingError {
    /// Which key of `map`, or `when`.
    pub at: String,
    /// What is wrong. Holds the expression, never the event's values.
    pub message: String,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

impl std::error::Error for MappingError {}

impl MappingError {
    /// A fault of this program: there was no record to speak of.
    pub fn nothing() -> Self {
        Self { at: "exchange".to_owned(), message: "there is nothing to send".to_owned() }
    }
}

/// A compiled expression.
pub struct Expr {
    at: String,
    source: String,
    compiled: Expression<'static, 'static>,
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({:?})", self.source)
    }
}

impl Expr {
    /// Compiles `source`; `at` names it in errors.
    pub fn new(at: &str, source: &str) -> Result<Self, MappingError> {
        let compiled = LANGUAGE.compile_expression_owned(source.to_owned()).map_err(|e| error(at, source, &e))?;
        Ok(Self { at: at.to_owned(), source: source.to_owned(), compiled })
    }

    fn eval(&self, event: &Value) -> Result<Value, MappingError> {
        self.compiled.eval(event.clone()).map_err(|e| error(&self.at, &self.source, &e))
    }

    /// Whether the expression holds for the event, by the usual rules of truth (empty, zero and missing are false).
    pub fn holds(&self, event: &Event) -> Result<bool, MappingError> {
        self.eval(&event.0).map(|v| v.is_true())
    }

    /// The expression's value as JSON, types kept; what is missing is null.
    pub fn value(&self, event: &Event) -> Result<Json, MappingError> {
        let value = self.eval(&event.0)?;
        if value.is_undefined() {
            return Ok(Json::Null);
        }
        serde_json::to_value(&value).map_err(|e| MappingError { at: self.at.clone(), message: format!("gives no JSON: {e}") })
    }
}

/// A text with `{{ … }}` in it.
pub struct Template {
    at: String,
    name: String,
    env: Environment<'static>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.at)
    }
}

impl Template {
    /// Compiles `source`; `at` names it in errors. What it inserts is inserted as it is.
    pub fn new(at: &str, source: &str) -> Result<Self, MappingError> {
        Self::named(at, at.to_owned(), source)
    }

    /// The same; what it inserts is escaped for HTML.
    pub fn html(at: &str, source: &str) -> Result<Self, MappingError> {
        Self::named(at, format!("{at}{HTML}"), source)
    }

    fn named(at: &str, name: String, source: &str) -> Result<Self, MappingError> {
        let mut env = LANGUAGE.clone();
        env.add_template_owned(name.clone(), source.to_owned()).map_err(|e| template_error(at, &e))?;
        Ok(Self { at: at.to_owned(), name, env })
    }

    /// The text for an event; what is missing is empty.
    pub fn render(&self, event: &Event) -> Result<String, MappingError> {
        self.env.get_template(&self.name).and_then(|t| t.render(&event.0)).map_err(|e| template_error(&self.at, &e))
    }
}

fn template_error(at: &str, e: &minijinja::Error) -> MappingError {
    let line = e.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    MappingError { at: at.to_owned(), message: format!("{}{}{line}", e.kind(), detail(e)) }
}

// minijinja's own text for an error can quote the value it stumbled over, and that may be a person's; only its kind and place are kept.
fn error(at: &str, source: &str, e: &minijinja::Error) -> MappingError {
    MappingError { at: at.to_owned(), message: format!("{}{} in `{source}`", e.kind(), detail(e)) }
}

fn detail(e: &minijinja::Error) -> String {
    match e.kind() {
        minijinja::ErrorKind::SyntaxError | minijinja::ErrorKind::UnknownFilter | minijinja::ErrorKind::UnknownFunction => {
            e.detail().map(|d| format!(" ({d})")).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// An event, read once for any number of expressions.
#[derive(Debug)]
pub struct Event(Value);

impl Event {
    /// For expressions over something else than an event.
    pub fn from_json(json: Json) -> Self {
        Event(value(json))
    }

    /// Reads an event's bytes.
    pub fn parse(body: &[u8]) -> Result<Self, MappingError> {
        serde_json::from_slice::<Json>(body)
            .map(|json| Event(value(json)))
            .map_err(|e| MappingError { at: "event".to_owned(), message: format!("the stored event is no JSON: {e}") })
    }
}

/// The JSON as the language's own values. `null` becomes undefined, which filters take for empty text; a null of their own they would
/// write as the word "none".
fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::UNDEFINED,
        Json::Bool(b) => Value::from(b),
        Json::String(text) => Value::from(text),
        Json::Array(list) => list.into_iter().map(value).collect(),
        Json::Object(map) => Value::from_pairs(map.into_iter().map(|(key, json)| (key, value(json)))),
        number @ Json::Number(_) => Value::from(Serde(number)),
    }
}

/// A `map` table: what to send, key by key; tables nest.
#[derive(Debug)]
pub enum Shape {
    /// A leaf: an expression.
    Leaf(Expr),
    /// An object.
    Object(Vec<(String, Shape)>),
}

impl Shape {
    /// The JSON this shape gives for an event.
    pub fn render(&self, event: &Event) -> Result<Json, MappingError> {
        match self {
            Shape::Leaf(expr) => expr.value(event),
            Shape::Object(entries) => {
                let mut out = Map::new();
                for (key, shape) in entries {
                    out.insert(key.clone(), shape.render(event)?);
                }
                Ok(Json::Object(out))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::parse(br#"{"event":"lead.created","data":{"name":"Jane van Dyke","phone":null,"score":88,"fields":{"vip":true}}}"#).unwrap()
    }

    fn value(source: &str) -> Result<Json, MappingError> {
        Expr::new("map.x", source)?.value(&event())
    }

    #[test]
    fn json_types_are_kept_and_missing_is_null() {
        assert_eq!(value("data.score").unwrap(), 88);
        assert_eq!(value("data.score >= 50").unwrap(), true);
        assert_eq!(value("data.fields.vip").unwrap(), true);
        assert_eq!(value("data.fields").unwrap(), serde_json::json!({"vip":true}));
        assert_eq!(value("data.no.such.thing").unwrap(), Json::Null);
        assert_eq!(value("data.phone | first_word").unwrap(), Json::Null);
        assert_eq!(value("data.phone | upper").unwrap(), "");
        assert_eq!(value("data.phone | default('-')").unwrap(), "-");
        assert_eq!(value("data").unwrap()["phone"], Json::Null);
        assert_eq!(value("data.name | first_word").unwrap(), "Jane");
        assert_eq!(value("data.name | last_words").unwrap(), "van Dyke");
        assert_eq!(value("'Ms ' ~ data.name").unwrap(), "Ms Jane van Dyke");
    }

    #[test]
    fn a_bad_expression_is_named_without_the_events_values() {
        let e = value("data.name |").unwrap_err();
        assert!(e.to_string().starts_with("map.x: syntax error"), "{e}");
        let e = value("data.name | no_such").unwrap_err();
        assert!(e.to_string().contains("unknown filter"), "{e}");
        let e = value("data.name + 1").unwrap_err();
        assert!(!e.to_string().contains("Jane"), "{e}");
    }

    #[test]
    fn an_endless_expression_runs_out_of_fuel() {
        assert!(value("range(100000) | map('upper') | list | length").is_err());
    }

    #[test]
    fn filters_hold_or_not() {
        assert!(Expr::new("when", "data.score >= 50 and data.fields.vip").unwrap().holds(&event()).unwrap());
        assert!(!Expr::new("when", "data.company").unwrap().holds(&event()).unwrap());
    }
}
