//! Access tokens by OAuth 2 (RFC 6749), within an exchange: asked for when there is none, and once more when one is not taken. Pure.
//!
//! What is said here is confidential: neither the request nor its answer may be shown to anybody.

use super::crm::word;
use super::{Answer, Class, HttpRequest, Memory, Moment, Response, Token, Verdict, judge};
use crate::secret::Hidden;
use http::Method;
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// A token is not used in its last seconds: a request takes its time.
const MARGIN: Duration = Duration::from_secs(60);
/// How long to wait when tokens were asked for too often.
const TOO_OFTEN: Duration = Duration::from_secs(300);
/// Access tokens may be long; those of Salesforce as JWT are.
const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// Where and how a token is asked for.
#[derive(Debug)]
pub struct OAuth {
    /// The token endpoint.
    pub url: Url,
    /// Names and values of the form.
    pub form: Vec<(&'static str, Hidden)>,
    /// How long a token is used when its answer does not say.
    pub lifetime: Duration,
}

/// What is to be done now.
#[derive(Debug)]
pub enum Access<'a> {
    /// This is asked first.
    Ask(HttpRequest),
    /// This token is used; and the answers that are not about tokens.
    Granted(Hidden, Vec<&'a Answer>),
    /// There is no token to be had.
    Denied(Verdict),
}

impl OAuth {
    /// The next step of an exchange with these answers. `refused` tells whether an answer means that the token is not taken.
    pub fn access<'a>(&self, said: &'a [Answer], moment: &Moment, memory: &mut Memory, refused: impl Fn(&Response) -> bool) -> Access<'a> {
        let renewed = said.iter().any(|answer| granted(answer).is_some());
        match (said.last(), &memory.token) {
            (None, Some(token)) if token.until > moment.tick => {}
            (None, _) => return self.ask(memory),
            // Only while its request is under way nothing is remembered.
            (Some(answer), None) => match self.remember(answer, moment, memory) {
                Ok(()) => {}
                Err(verdict) => return Access::Denied(verdict),
            },
            (Some(Answer::Response(response)), Some(_)) if !renewed && refused(response) => return self.ask(memory),
            (Some(_), Some(_)) => {}
        }
        let value = memory.token.as_ref().map_or_else(|| Hidden(String::new()), |token| token.value.clone());
        let last = said.len().saturating_sub(1);
        let about_records = |(at, answer): (usize, &'a Answer)| {
            let again = at < last && matches!(answer, Answer::Response(response) if refused(response));
            (granted(answer).is_none() && !again).then_some(answer)
        };
        Access::Granted(value, said.iter().enumerate().filter_map(about_records).collect())
    }

    fn ask<'a>(&self, memory: &mut Memory) -> Access<'a> {
        memory.token = None;
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (name, Hidden(value)) in &self.form {
            form.append_pair(name, value);
        }
        let mut request =
            HttpRequest::new(Method::POST, self.url.clone()).body("application/x-www-form-urlencoded", form.finish().into_bytes());
        request.confidential = true;
        request.answer_bytes_max = TOKEN_BYTES_MAX;
        Access::Ask(request.header("Accept", "application/json"))
    }

    fn remember(&self, answer: &Answer, moment: &Moment, memory: &mut Memory) -> Result<(), Verdict> {
        let Some(grant) = granted(answer) else { return Err(self.denied(answer, moment)) };
        let lifetime = grant.get("expires_in").and_then(Value::as_u64).map_or(self.lifetime, Duration::from_secs);
        let until = moment.tick.after(lifetime.saturating_sub(MARGIN));
        let value = Hidden(grant.get("access_token").and_then(Value::as_str).unwrap_or_default().to_owned());
        memory.token = Some(Token { value, until });
        memory.moved_to = grant.get("instance_url").and_then(Value::as_str).map(str::to_owned);
        Ok(())
    }

    fn denied(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = judge(&self.url, answer, moment);
        // It may repeat what was asked with.
        verdict.answer.clear();
        let Answer::Response(response) = answer else { return verdict };
        let said = response.json().unwrap_or_default();
        let why = word(said.get("error"));
        let often = said.get("error_description").and_then(Value::as_str).is_some_and(|text| text.contains("too many requests"));
        match (response.status, verdict.class) {
            (_, Class::Clock) => {}
            (200..=499, _) if often => {
                (verdict.class, verdict.code) = (Class::Throttled, "throttled");
                "access tokens were asked for too often; waiting".clone_into(&mut verdict.reason);
                verdict.wait = verdict.wait.or(Some(TOO_OFTEN));
            }
            (400..=499, Class::Rejected | Class::Refused) | (200..=299, Class::Delivered) => {
                (verdict.class, verdict.code) = (Class::Refused, "receiver_4xx");
                verdict.reason = format!(
                    "HTTP {}: no access token ({why}); check the client id, its secret and the refresh token, and that the app is still allowed",
                    response.status
                );
            }
            _ => verdict.reason = format!("no access token: {}", verdict.reason),
        }
        verdict
    }
}

/// The answer that holds an access token, if it does.
fn granted(answer: &Answer) -> Option<Value> {
    let Answer::Response(response) = answer else { return None };
    if response.status != 200 {
        return None;
    }
    response.json().filter(|said| said.get("access_token").is_some_and(|token| token.as_str().is_some_and(|t| !t.is_empty())))
}
