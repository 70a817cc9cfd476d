//! A JSON object from outside, read without doubt: UTF-8, no key twice, at any depth.

use super::Fault;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Parses a JSON object, refusing duplicate keys at any depth.
pub fn json_object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Fault::unreadable("invalid_utf8", format!("the body is not UTF-8 (byte {})", e.valid_up_to())))?;
    if text.trim().is_empty() {
        return Err(Fault::unreadable("empty_body", "the body is empty; send a JSON object"));
    }
    let mut de = serde_json::Deserializer::from_str(text);
    let value = Strict(0).deserialize(&mut de).and_then(|v| de.end().map(|()| v)).map_err(|e| {
        let text = e.to_string();
        let code = if text.starts_with("duplicate key") { "duplicate_key" } else { "invalid_json" };
        // serde_json quotes the offending text only for type errors, which `Strict` cannot raise.
        Fault::unreadable(code, format!("the body is not acceptable JSON: {text}"))
    })?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Fault::unreadable("not_an_object", "the body must be a JSON object, as in {\"name\":\"Jane Smith\"}")),
    }
}

/// Lists and objects in each other. What is kept nests a few levels deeper and must be readable by every parser, our own (128) included.
const DEPTH_MAX: u8 = 32;

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
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Strict(self.0 + 1))?;
            if key.chars().any(char::is_control) {
                return Err(de::Error::custom("a key holds a control character"));
            }
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(map))
    }
}
