//! A JSON object from outside, read without doubt: UTF-8, no key twice, at any depth.

use super::{Fault, has_control};
use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;

/// Up to so many names are compared one by one, which is quicker than hashing them; what comes from outside may have thousands.
const COMPARED_MAX: usize = 32;

/// Named values in the order in which they came, no name twice.
#[derive(Debug, Default)]
pub struct Members {
    list: Vec<(String, Value)>,
    // Of all of them, once there are more than `COMPARED_MAX`.
    names: HashSet<String>,
}

impl Members {
    /// Adds one at the end; gives the name back when it is there already.
    pub fn insert(&mut self, name: String, value: Value) -> Result<(), String> {
        let there = if self.names.is_empty() && self.list.len() < COMPARED_MAX {
            self.list.iter().any(|(n, _)| *n == name)
        } else {
            if self.names.is_empty() {
                self.names.extend(self.list.iter().map(|(n, _)| n.clone()));
            }
            !self.names.insert(name.clone())
        };
        if there {
            return Err(name);
        }
        self.list.push((name, value));
        Ok(())
    }

    /// The value under this name.
    pub fn value_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.list.iter_mut().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Takes one out; the others keep their order.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.list.iter().position(|(n, _)| n == name)?;
        if !self.names.is_empty() {
            self.names.remove(name);
        }
        Some(self.list.remove(at).1)
    }

    /// The value under this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &Value)> {
        self.list.iter().map(|(n, v)| (n, v))
    }
}

impl IntoIterator for Members {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

/// Parses a JSON object, refusing duplicate keys at any depth.
pub fn json_object(bytes: &[u8]) -> Result<Members, Fault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Fault::unreadable("invalid_utf8", format!("the body is not UTF-8 (byte {})", e.valid_up_to())))?;
    if text.trim().is_empty() {
        return Err(Fault::unreadable("empty_body", "the body is empty; send a JSON object"));
    }
    let mut de = serde_json::Deserializer::from_str(text);
    let whole =
        if text.trim_start().starts_with('{') { de.deserialize_map(Whole).map(Some) } else { Strict(0).deserialize(&mut de).map(|_| None) };
    let members = whole.and_then(|m| de.end().map(|()| m)).map_err(|e| {
        let text = e.to_string();
        let code = if text.starts_with("duplicate key") { "duplicate_key" } else { "invalid_json" };
        // serde_json quotes the offending text only for type errors, which `Strict` cannot raise.
        Fault::unreadable(code, format!("the body is not acceptable JSON: {text}"))
    })?;
    members.ok_or_else(|| Fault::unreadable("not_an_object", "the body must be a JSON object, as in {\"name\":\"Jane Smith\"}"))
}

/// Lists and objects in each other. What is kept nests a few levels deeper and must be readable by every parser, our own (128) included.
const DEPTH_MAX: u8 = 32;

/// The outermost object.
struct Whole;

impl<'de> Visitor<'de> for Whole {
    type Value = Members;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some((key, value)) = member(&mut access, 1)? {
            members.insert(key, value).map_err(|_| de::Error::custom("duplicate key"))?;
        }
        Ok(members)
    }
}

/// The next member of an object whose values are so deep.
fn member<'de, A: MapAccess<'de>>(access: &mut A, depth: u8) -> Result<Option<(String, Value)>, A::Error> {
    let Some(key) = access.next_key::<String>()? else { return Ok(None) };
    let value = access.next_value_seed(Strict(depth))?;
    if has_control(&key) {
        return Err(de::Error::custom("a key holds a control character"));
    }
    Ok(Some((key, value)))
}

/// Builds a [`Value`] and refuses an object that names a key twice.
struct Strict(u8);

impl Strict {
    fn deeper<E: de::Error>(&self) -> Result<(), E> {
        if self.0 < DEPTH_MAX { Ok(()) } else { Err(E::custom(format!("lists and objects nest deeper than {DEPTH_MAX}"))) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        self.deeper::<A::Error>()?;
        while let Some(value) = seq.next_element_seed(Strict(self.0 + 1))? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.deeper::<A::Error>()?;
        let mut map = Map::new();
        while let Some((key, value)) = member(&mut access, self.0 + 1)? {
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(map))
    }
}
