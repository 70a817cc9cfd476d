//! The `mailchimp` type: members of an audience, with their consent. Pure.
//!
//! <https://mailchimp.com/developer/marketing/api/list-members/add-or-update-list-member/>: a member is put where the digest of the address
//! says, so that twice is once. Somebody who has not consented must never get there, nor may one who left be brought back.

use super::crm::{Fields, bytes, kept, nothing_to_send, shown_with_path, under, word};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, judge, place};
use crate::mapping::{Event, Expr, MappingError};
use crate::secret::Hidden;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::fmt::Write;
use url::Url;

/// Merge fields that every audience has from the beginning.
pub const DEFAULTS: &[(&str, &str)] = &[("FNAME", "data.name | first_word"), ("LNAME", "data.name | last_words")];

/// An audience.
#[derive(Debug)]
pub struct Mailchimp {
    /// Scheme and host; the data centre is in its name.
    pub url: Url,
    /// `3.0`
    pub version: String,
    /// The API key.
    pub key: Hidden,
    /// The audience's id.
    pub list: String,
    /// `pending`: they confirm by e-mail first; or `subscribed`.
    pub status_if_new: String,
    /// The address.
    pub email: Expr,
    /// What says that the person has consented; `None`: nobody asks.
    pub consent: Option<Expr>,
    /// The merge fields.
    pub fields: Fields,
    /// Whether an address goes in without the fields that the audience requires.
    pub skip_merge_validation: bool,
}

impl Connector for Mailchimp {
    fn kind(&self) -> &'static str {
        "mailchimp"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let event = Event::parse(incoming.bytes)?;
        let email = self.email.value(&event)?;
        let email = email.as_str().map(str::trim).filter(|email| !email.is_empty());
        let consents = match &self.consent {
            Some(consent) => consent.holds(&event)?,
            None => true,
        };
        // Not even kept on this device for longer than the lead itself is.
        let body = match email {
            _ if !consents => json!({ "skip": "the person has not consented (consent, require_consent)" }),
            None => json!({ "skip": "the lead has no e-mail address" }),
            Some(email) => {
                json!({ "email_address": email, "status_if_new": self.status_if_new, "merge_fields": self.fields.record(&event)? })
            }
        };
        bytes(&body).map(Some)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        let kept = kept(record)?;
        if let Some(reason) = kept.get("skip").and_then(Value::as_str) {
            return Ok(nothing_to_send(reason).into());
        }
        Ok(match said.last() {
            None => self.request(record, kept.get("email_address").and_then(Value::as_str).unwrap_or_default()).send(),
            Some(answer) => self.judge(answer, moment).into(),
        })
    }
}

impl Mailchimp {
    fn request(&self, record: &Record<'_>, email: &str) -> HttpRequest {
        let digest = Md5::digest(email.to_lowercase()).iter().fold(String::new(), |mut out, byte| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        });
        let path = format!("{}/lists/{}/members/{digest}", self.version, self.list);
        let query: &[(&str, &str)] = if self.skip_merge_validation { &[("skip_merge_validation", "true")] } else { &[] };
        let request = HttpRequest::new(Method::PUT, under(&self.url, &path, query))
            .body("application/json", record.body.to_vec())
            .secret_header("Authorization", format!("Basic {}", STANDARD.encode(format!("leadsbotd:{}", self.key.0))));
        shown_with_path(request)
    }

    /// <https://mailchimp.com/developer/marketing/docs/errors/>
    fn judge(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = judge(&self.url, answer, moment);
        let Answer::Response(response) = answer else { return verdict };
        let said = response.json().unwrap_or_default();
        let title = said.get("title").and_then(Value::as_str).unwrap_or_default();
        let status = response.status;
        match (status, title) {
            (200..=299, _) if verdict.class == Class::Delivered && !said.get("id").is_some_and(Value::is_string) => {
                return super::crm::unclear(status, "Mailchimp");
            }
            (400, "Member In Compliance State" | "Forgotten Email Not Subscribed") if verdict.class == Class::Rejected => {
                verdict.reason = format!(
                    "HTTP {status}: this person has left the audience, bounced or was deleted for good; only they themselves can come back"
                );
            }
            (400, _) if verdict.class == Class::Rejected => {
                verdict.reason = format!("HTTP {status}: Mailchimp does not take this address or one of its fields; see the answer");
            }
            (401, _) if verdict.class == Class::Refused => {
                verdict.reason = format!("HTTP {status}: Mailchimp does not know the API key, or it is of another data centre");
            }
            // At its busiest it answers so, without a word.
            (403, "") if verdict.class == Class::Refused && said.is_null() => {
                (verdict.class, verdict.code) = (Class::Throttled, "throttled");
                verdict.reason = format!("HTTP {status} without a reason: Mailchimp asks to slow down");
            }
            (403, _) if verdict.class == Class::Refused => {
                verdict.reason = format!("HTTP {status}: the account or the key is disabled ({})", word(said.get("title")));
            }
            (404, _) if verdict.class == Class::Refused => {
                verdict.reason = format!("HTTP {status}: there is no such audience; check list");
            }
            (429, _) => verdict.reason = format!("HTTP {status}: more than ten connections at once"),
            _ => {}
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::super::crm::trying::{self, EVENT, reply};
    use super::*;

    fn mailchimp(consent: Option<&str>) -> Mailchimp {
        Mailchimp {
            url: Url::parse("https://us21.api.mailchimp.com").unwrap(),
            version: "3.0".to_owned(),
            key: Hidden("key-us21".to_owned()),
            list: "a1b2".to_owned(),
            status_if_new: "pending".to_owned(),
            email: Expr::new("email", "data.email").unwrap(),
            consent: consent.map(|source| Expr::new("consent", source).unwrap()),
            fields: Fields::new(DEFAULTS, None).unwrap(),
            skip_merge_validation: true,
        }
    }

    #[test]
    fn a_member_is_put_where_the_digest_of_the_address_says() {
        let request = trying::first(&mailchimp(None), EVENT);
        assert_eq!(request.method, Method::PUT);
        assert_eq!(
            request.url.as_str(),
            "https://us21.api.mailchimp.com/3.0/lists/a1b2/members/9e26471d35a78862c17e467d87cddedf?skip_merge_validation=true"
        );
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"email_address":"Jane@Example.com","status_if_new":"pending","merge_fields":{"FNAME":"Jane","LNAME":"van Dyke"}}"#
        );
    }

    #[test]
    fn without_consent_or_address_nothing_is_said_at_all() {
        for (consent, event) in [(Some("data.consent"), EVENT), (None, r#"{"id":"evt_1","event":"lead.created","data":{"name":"Jane"}}"#)] {
            let connector = mailchimp(consent);
            let body = trying::render(&connector, event);
            assert!(!String::from_utf8_lossy(&body).contains("Jane"));
            let verdict = trying::judged(&connector, event, &[]);
            assert_eq!((verdict.class, verdict.status), (Class::Delivered, None));
            assert!(verdict.reason.starts_with("nothing was sent: "), "{}", verdict.reason);
        }
    }

    #[test]
    fn every_answer_has_its_meaning() {
        for (status, body, class, code) in [
            (200, r#"{"id":"9e26","status":"pending"}"#, Class::Delivered, "delivered"),
            (200, "<p>", Class::Temporary, "protocol_error"),
            (400, r#"{"title":"Member In Compliance State","detail":"jane@example.com"}"#, Class::Rejected, "rejected_body"),
            (400, r#"{"title":"Invalid Resource","detail":"jane@example.com looks fake or invalid"}"#, Class::Rejected, "rejected_body"),
            (401, r#"{"title":"API Key Invalid"}"#, Class::Refused, "receiver_4xx"),
            (403, r#"{"title":"User Disabled"}"#, Class::Refused, "receiver_4xx"),
            (403, "", Class::Throttled, "throttled"),
            (404, r#"{"title":"Resource Not Found"}"#, Class::Refused, "receiver_4xx"),
            (429, r#"{"title":"Too Many Requests"}"#, Class::Throttled, "throttled"),
            (500, "", Class::Temporary, "receiver_5xx"),
        ] {
            let verdict = trying::judged(&mailchimp(None), EVENT, &[reply(status, body)]);
            assert_eq!((verdict.class, verdict.code), (class, code), "{status} {body}");
            assert!(!verdict.reason.contains("jane"), "{}", verdict.reason);
        }
    }
}
