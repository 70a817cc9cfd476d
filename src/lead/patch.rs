//! Changes to a lead, and replies.

use super::json::json_object;
use super::{Fault, Lead, Limits, check_email, check_phone, check_sizes, check_status, score, single_line, text};
use serde::Serialize;
use serde_json::{Map, Value};

/// A change somebody with an API token asks for. What is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    status: Option<String>,
    score: Option<u8>,
    texts: Vec<(&'static str, Option<String>)>,
    fields: Map<String, Value>,
}

impl Patch {
    /// Reads `{"status":…,"score":…,"name":…,…,"fields":{…}}`. A `null` clears a known field and removes one of `fields`.
    pub fn from_json(bytes: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let mut object = json_object(bytes)?;
        // An object of fields, each of which is measured by itself.
        let fields = object.take("fields");
        check_sizes(object.iter(), limits)?;
        let mut patch = Patch::default();
        if let Some(status) = text(object.take("status"), "status")? {
            check_status(&status)?;
            patch.status = Some(status);
        }
        if let Some(value) = object.take("score") {
            patch.score = Some(score(&value)?);
        }
        for name in ["name", "email", "phone", "company", "message"] {
            if let Some(value) = object.take(name) {
                let text = text(Some(value), name)?;
                patch.texts.push((name, if name == "message" { text } else { text.and_then(single_line) }));
            }
        }
        for (name, text) in &patch.texts {
            match *name {
                "email" => check_email(text.as_deref())?,
                "phone" => check_phone(text.as_deref())?,
                _ => {}
            }
        }
        match fields {
            None => {}
            Some(Value::Object(fields)) => {
                check_sizes(fields.iter(), limits)?;
                patch.fields = fields;
            }
            Some(_) => return Err(Fault::invalid("wrong_type", "fields", "fields must be an object")),
        }
        if let Some((key, _)) = object.iter().next() {
            return Err(Fault::invalid(
                "unknown_field",
                key,
                "a change may hold status, score, name, email, phone, company, message and fields; put anything else into fields",
            ));
        }
        Ok(patch)
    }

    /// The lead after the change, the names of what changed besides the status, and the status move if there is one.
    pub fn apply(&self, lead: &Lead, limits: &Limits) -> Result<Changed, Fault> {
        let mut after = lead.clone();
        if let Some(score) = self.score {
            after.score = score;
        }
        for (name, text) in &self.texts {
            let slot = match *name {
                "name" => &mut after.name,
                "email" => &mut after.email,
                "phone" => &mut after.phone,
                "company" => &mut after.company,
                _ => &mut after.message,
            };
            slot.clone_from(text);
        }
        for (key, value) in &self.fields {
            if value.is_null() {
                after.fields.shift_remove(key);
            } else {
                after.fields.insert(key.clone(), value.clone());
            }
        }
        check_sizes(after.fields.iter(), limits)?;
        let mut names = Vec::new();
        let mut differs = |name: &str, yes: bool| {
            if yes {
                names.push(name.to_owned());
            }
        };
        differs("name", after.name != lead.name);
        differs("email", after.email != lead.email);
        differs("phone", after.phone != lead.phone);
        differs("company", after.company != lead.company);
        differs("message", after.message != lead.message);
        differs("score", after.score != lead.score);
        differs("fields", after.fields != lead.fields);
        let status = match &self.status {
            Some(to) if *to != lead.status => {
                after.status.clone_from(to);
                Some((lead.status.clone(), to.clone()))
            }
            _ => None,
        };
        Ok(Changed { lead: after, names, status })
    }
}

/// What a [`Patch`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The lead as it is now.
    pub lead: Lead,
    /// Fields that differ, the status aside.
    pub names: Vec<String>,
    /// `(from, to)` when the status moved.
    pub status: Option<(String, String)>,
}

/// An answer to a lead, or from one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reply {
    /// What was said.
    pub text: String,
    /// `email`, `phone`, `chat`, …: free text.
    pub channel: Option<String>,
    /// `inbound` (from the person) or `outbound` (to the person).
    pub direction: String,
    /// Who said it.
    pub author: Option<String>,
}

impl Reply {
    /// Reads `{"text":…,"channel"?,"direction"?,"author"?}`.
    pub fn from_json(bytes: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let mut object = json_object(bytes)?;
        check_sizes(object.iter(), limits)?;
        let said = text(object.take("text"), "text")?.ok_or_else(|| Fault::invalid("missing_field", "text", "a reply needs its text"))?;
        let direction = text(object.take("direction"), "direction")?.unwrap_or_else(|| "outbound".to_owned());
        if !matches!(direction.as_str(), "inbound" | "outbound") {
            return Err(Fault::invalid("invalid_direction", "direction", "direction is inbound or outbound"));
        }
        let reply = Reply {
            text: said,
            direction,
            channel: text(object.take("channel"), "channel")?,
            author: text(object.take("author"), "author")?,
        };
        match object.iter().next() {
            Some((key, _)) => Err(Fault::invalid("unknown_field", key, "a reply may hold text, channel, direction and author")),
            None => Ok(reply),
        }
    }
}
