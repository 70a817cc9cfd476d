//! The `google_sheets` type: a row of a sheet for each event, over the API or through an Apps Script of the sheet's owner. Pure.
//!
//! A lead's text must stay text: values are sent RAW, so that no cell is ever a formula.
//! <https://developers.google.com/workspace/sheets/api/reference/rest/v4/spreadsheets.values/append>

use super::columns::{Columns, capped, listed};
use super::{
    Answer, Batch, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Response, Token, Verdict, judge, place, printable,
};
use crate::mapping::MappingError;
use crate::secret::Hidden;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;
use url::Url;

/// Rows that one request may hold. The service has no limit but recommends 2 MB a request:
/// <https://developers.google.com/workspace/sheets/api/limits>.
const ROWS_MAX: usize = 100;
/// Characters of a cell.
const CELL_CHARS_MAX: usize = 50_000;
/// Quotas are refilled every minute, says the same page.
const QUOTA_WAIT: Duration = Duration::from_secs(60);
/// The longest life an assertion may ask for: <https://developers.google.com/identity/protocols/oauth2/service-account>.
const ASSERTION_SECONDS: i64 = 3600;
/// A token is given up so long before it ends.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
/// What the token may be used for, by the same page's list of scopes.
const SCOPE: &str = "https://www.googleapis.com/auth/spreadsheets";

/// A sheet of Google's.
#[derive(Debug)]
pub struct GoogleSheets {
    /// What stands in a row; the first cell holds the event's id.
    pub columns: Columns,
    /// The way in.
    pub way: Way,
}

/// The way into a spreadsheet.
#[derive(Debug)]
pub enum Way {
    /// The API, as a service account.
    Api(Box<Api>),
    /// A web app that the sheet's owner has deployed.
    Script {
        /// Its address, which is its secret.
        url: Url,
        /// Where the answer is fetched from: this host or one below it.
        answers: String,
    },
}

/// What the API needs.
#[derive(Debug)]
pub struct Api {
    /// Where rows are appended, whole.
    pub url: Url,
    /// Where access tokens are given.
    pub token_url: Url,
    /// The service account's e-mail address.
    pub account: String,
    /// Its key; `None` where only the form of a configuration is checked.
    pub key: Option<Key>,
}

/// A service account's private key.
pub struct Key {
    pair: RsaKeyPair,
    id: Option<String>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// From the text under `private_key` in the file that Google gives; `id` is its `private_key_id`. Fails with a sentence that holds
    /// nothing of it.
    pub fn new(pem: &str, id: Option<String>) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "its private_key is no PEM".to_owned())?;
        let pair = match &der {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(PrivatePkcs8KeyDer::secret_pkcs8_der(key)),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err("its private_key is no RSA key".to_owned()),
        };
        Ok(Self { pair: pair.map_err(|_| "its private_key is no RSA key of 2048 bits or more".to_owned())?, id })
    }

    /// RFC 7515 with RS256.
    fn sign(&self, claims: &Value) -> Option<String> {
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        if let (Some(id), Some(header)) = (&self.id, header.as_object_mut()) {
            header.insert("kid".to_owned(), Value::from(id.as_str()));
        }
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.pair.public().modulus_len()];
        // Chance only hides the key from who measures times; the signature does not depend on it.
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature).ok()?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }
}

impl Connector for GoogleSheets {
    fn kind(&self) -> &'static str {
        "google_sheets"
    }

    fn place(&self) -> String {
        match &self.way {
            Way::Api(api) => place(&api.url),
            Way::Script { url, .. } => place(url),
        }
    }

    /// A row as a list.
    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let cells = self.columns.row(incoming)?.into_iter().map(|(_, value)| match value {
            // Null would leave what the cell of an inserted row is given by its neighbours.
            Value::Null => Value::from(""),
            Value::String(text) => Value::String(capped(text, CELL_CHARS_MAX)),
            other => other,
        });
        Ok(Some(Value::Array(cells.collect()).to_string().into_bytes()))
    }

    fn batch(&self) -> Batch {
        Batch::of(ROWS_MAX)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, memory: &mut Memory) -> Result<Next, MappingError> {
        Ok(match &self.way {
            Way::Api(api) => api.next(records, said, moment, memory),
            Way::Script { url, answers } => self.script((url, answers), records, said, moment),
        })
    }
}

/// An object of these two, the second of which is JSON already.
fn with_rows((name, value): (&str, Value), rows: &str, records: &[Record<'_>]) -> Vec<u8> {
    let before = format!(r#"{{"{name}":{value},"{rows}":"#);
    [before.as_bytes(), &listed(records), b"}"].concat()
}

impl Api {
    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, memory: &mut Memory) -> Next {
        let Some(answer) = said.last() else {
            memory.token = memory.token.take().filter(|token| moment.tick < token.until);
            return match &memory.token {
                Some(token) => self.append(records, token).send(),
                None => self.ask_for_token(moment),
            };
        };
        // Rows are only sent with a token in hand, so without one the answer is to the question for one.
        if memory.token.is_none() {
            return match self.token(answer, moment) {
                Ok(token) => {
                    let request = self.append(records, &token);
                    memory.token = Some(token);
                    request.send()
                }
                Err(verdict) => verdict.into(),
            };
        }
        if matches!(answer, Answer::Response(Response { status: 401, .. })) {
            memory.token = None;
            if said.len() == 1 {
                return self.ask_for_token(moment);
            }
        }
        self.judge(answer, moment).into()
    }

    fn append(&self, records: &[Record<'_>], token: &Token) -> HttpRequest {
        let body = with_rows(("majorDimension", Value::from("ROWS")), "values", records);
        let mut request = HttpRequest::new(Method::POST, self.url.clone())
            .body("application/json", body)
            .secret_header("Authorization", format!("Bearer {}", token.value.0));
        // The id of a spreadsheet opens nothing by itself.
        request.shown = self.url.to_string();
        request
    }

    fn ask_for_token(&self, moment: &Moment) -> Next {
        let now = moment.wall.seconds();
        let claims = json!({
            "iss": self.account, "scope": SCOPE, "aud": self.token_url.as_str(), "iat": now, "exp": now.saturating_add(ASSERTION_SECONDS),
        });
        let Some(assertion) = self.key.as_ref().and_then(|key| key.sign(&claims)) else {
            return Verdict::internal("the service account's key was not read, or cannot sign").into();
        };
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
            .append_pair("assertion", &assertion)
            .finish();
        let mut request =
            HttpRequest::new(Method::POST, self.token_url.clone()).body("application/x-www-form-urlencoded", form.into_bytes());
        request.confidential = true;
        request.send()
    }

    fn token(&self, answer: &Answer, moment: &Moment) -> Result<Token, Verdict> {
        let verdict = judge(&self.token_url, answer, moment);
        let Answer::Response(response) = answer else { return Err(verdict) };
        let body = response.json().unwrap_or_default();
        let text = |key: &str| body.get(key).and_then(Value::as_str);
        if verdict.class == Class::Delivered {
            let Some(token) = text("access_token").filter(|token| http::HeaderValue::from_str(token).is_ok()) else {
                let reason = "the answer to the question for an access token holds none; check token_url";
                return Err(Verdict { status: Some(response.status), ..Verdict::new(Class::Temporary, "protocol_error", reason) });
            };
            let life = Duration::from_secs(body.get("expires_in").and_then(Value::as_u64).unwrap_or(3600)).saturating_sub(TOKEN_MARGIN);
            return Ok(Token { value: Hidden(token.to_owned()), until: moment.tick.after(life) });
        }
        let told = |class, code, reason: String| Verdict { class, code, reason, ..verdict.clone() };
        let about = text("error_description").unwrap_or_default();
        Err(match text("error") {
            Some("invalid_grant") if about.contains("reasonable timeframe") || about.contains("iat and exp") => told(
                Class::Clock,
                "clock",
                format!("Google says that it is not the time this device takes it to be{}", off_by(response, moment)),
            ),
            Some(error @ ("invalid_grant" | "invalid_client" | "unauthorized_client" | "access_denied" | "invalid_request")) => told(
                Class::Refused,
                "receiver_4xx",
                format!(
                    "Google gives no access ({error}): the service account or its key was deleted or disabled, or credentials holds another's; make a new key"
                ),
            ),
            _ => verdict,
        })
    }

    fn judge(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let verdict = judge(&self.url, answer, moment);
        let Answer::Response(response) = answer else { return verdict };
        let body = response.json().unwrap_or_default();
        let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
        let about = body.get("error").map(Value::to_string).unwrap_or_default();
        let told =
            |class, code, reason: &str| Verdict { class, code, reason: format!("HTTP {}: {reason}", response.status), ..verdict.clone() };
        let refused = |reason: &str| told(Class::Refused, "receiver_4xx", reason);
        match response.status {
            200..=299 if body.get("updates").is_some() => Verdict { answer: String::new(), ..verdict },
            200..=299 if verdict.class == Class::Delivered => told(
                Class::Temporary,
                "protocol_error",
                "the answer does not name the rows that were added, so it is not Google's; check base_url",
            ),
            429 => Verdict { wait: verdict.wait.or(Some(QUOTA_WAIT)), ..verdict },
            403 if about.contains("RATE_LIMIT_EXCEEDED") || about.contains("rateLimitExceeded") => {
                Verdict { wait: verdict.wait.or(Some(QUOTA_WAIT)), ..told(Class::Throttled, "throttled", "Google asks to slow down") }
            }
            503 => told(Class::Throttled, "throttled", "Google asks to come back later"),
            400 if message.contains("grid limits") || message.contains("number of cells in the workbook") => {
                refused("the spreadsheet is full (ten million cells); begin a new one and put its id into spreadsheet")
            }
            400 if message.contains("Unable to parse range") => refused("the spreadsheet has no tab of the name given as sheet"),
            400 if message.contains("not supported for this document") => {
                refused("the document is no Google spreadsheet; save an uploaded Excel file as one")
            }
            403 if about.contains("SERVICE_DISABLED") || message.contains("has not been used in project") => {
                refused("the Google Sheets API is not enabled in the service account's project; enable it there")
            }
            401 => refused("Google does not take the access token that it has just given; see whether the service account is disabled"),
            403 => refused(&format!("share the spreadsheet with {}, as an editor", self.account)),
            404 => refused("there is no such spreadsheet; compare spreadsheet with the address of its page"),
            _ => verdict,
        }
    }
}

/// How far the device is from the receiver's own clock.
fn off_by(response: &Response, moment: &Moment) -> String {
    let theirs = response.date.as_deref().and_then(|date| httpdate::parse_http_date(date).ok());
    let theirs = theirs.and_then(|at| at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
    let Some(theirs) = theirs.and_then(|since| i64::try_from(since.as_secs()).ok()) else { return String::new() };
    let seconds = moment.wall.seconds().saturating_sub(theirs);
    let word = if seconds < 0 { "behind" } else { "ahead of" };
    format!(": its clock is {} s {word} Google's", seconds.unsigned_abs())
}

impl GoogleSheets {
    /// A script's answer is fetched from another host: <https://developers.google.com/apps-script/guides/content>.
    fn script(&self, (url, answers): (&Url, &str), records: &[Record<'_>], said: &[Answer], moment: &Moment) -> Next {
        let Some(answer) = said.last() else {
            let body = with_rows(("columns", self.columns.names().collect()), "rows", records);
            return HttpRequest::new(Method::POST, url.clone()).body("application/json", body).send();
        };
        if let Answer::Response(Response { status: 302 | 303, location: Some(to), .. }) = answer
            && said.len() == 1
            && let Ok(to) = url.join(to)
            && to.scheme() == url.scheme()
            && to.host_str().is_some_and(|host| host == answers || host.strip_suffix(answers).is_some_and(|rest| rest.ends_with('.')))
        {
            return HttpRequest::new(Method::GET, to).header("User-Agent", super::USER_AGENT).send();
        }
        script_verdict(url, answer, moment).into()
    }
}

fn script_verdict(url: &Url, answer: &Answer, moment: &Moment) -> Verdict {
    let verdict = judge(url, answer, moment);
    let Answer::Response(response) = answer else { return verdict };
    let told = |class, code, reason: &str| Verdict {
        class,
        code,
        status: Some(response.status),
        wait: verdict.wait,
        reason: format!("HTTP {}: {reason}", response.status),
        answer: printable(&response.body),
    };
    match (response.status, response.json().as_ref().and_then(|body| body.get("ok")).and_then(Value::as_bool)) {
        (200, Some(true)) => Verdict { answer: String::new(), ..verdict },
        (200, Some(false)) => {
            told(Class::Temporary, "receiver_5xx", "the script says that it failed; its executions show why (script.google.com)")
        }
        (200, None) if verdict.class == Class::Delivered => told(
            Class::Refused,
            "receiver_4xx",
            "a page instead of the script's {\"ok\":true}: a login (deploy it with access for anyone), an error of the script, or its daily quota",
        ),
        (300..=399, _) if verdict.class == Class::Refused => told(
            Class::Refused,
            "redirect",
            "the script's address leads to a login; deploy it as a web app with access for anyone, and use the address that ends in /exec",
        ),
        (401 | 403 | 404, _) => told(
            Class::Refused,
            "receiver_4xx",
            "there is no script at this address that anyone may call; deploy it as a web app with access for anyone",
        ),
        _ => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::tests::{columns, incoming};
    use super::*;
    use crate::destination::{Judgement, Request};
    use crate::time::{Tick, Wall};

    fn api() -> Api {
        Api {
            url: Url::parse("https://sheets.googleapis.com/v4/spreadsheets/1abc/values/'Leads'!A1:append?valueInputOption=RAW&insertDataOption=INSERT_ROWS")
                .unwrap(),
            token_url: Url::parse("https://oauth2.googleapis.com/token").unwrap(),
            account: "bot@example.iam.gserviceaccount.com".to_owned(),
            key: None,
        }
    }

    const MOMENT: Moment = Moment { wall: Wall(1_795_476_600_000), tick: Tick::ZERO, clock_trusted: true, vouched: false };

    fn response(status: u16, body: &str) -> Answer {
        Answer::Response(Response {
            status,
            date: Some("Mon, 23 Nov 2026 23:30:00 GMT".to_owned()),
            body: body.as_bytes().to_vec(),
            ..Response::default()
        })
    }

    fn known() -> Memory {
        Memory { token: Some(Token { value: Hidden("ya29.SECRET".to_owned()), until: Tick::HELD }), moved_to: None }
    }

    fn asked(sheets: &GoogleSheets, said: &[Answer], memory: &mut Memory) -> Result<HttpRequest, Verdict> {
        let incoming = incoming();
        let body = sheets.render(&incoming).unwrap().unwrap();
        let record = Record { identity: incoming.identity, body: &body, event: None, attempt: 1 };
        match sheets.next(&[record], said, &MOMENT, memory).unwrap() {
            Next::Send(Request::Http(request)) => Ok(*request),
            Next::Judged(Judgement::All(verdict)) => Err(verdict),
            other => panic!("{other:?}"),
        }
    }

    fn sheets() -> GoogleSheets {
        GoogleSheets { columns: columns("event_id"), way: Way::Api(Box::new(api())) }
    }

    const ROWS: &str = r#"[["evt_aaaaaaaaaaaaaaaaaaaaaaaaaa","2026-11-23T12:00:00.123Z","lead.created","lead_bbbbbbbbbbbbbbbbbbbbbbbbbb","Zoë \"Z\" Smith, Ltd","zoe@example.com","+43 664 1234567","","=1+1\r\ntwo\nlines",88,"booth-a","new","{\"vip\":true}","Hall 3"]]"#;

    #[test]
    fn rows_are_appended_as_they_are() {
        let request = asked(&sheets(), &[], &mut known()).unwrap();
        assert_eq!(String::from_utf8(request.body.clone()).unwrap(), format!(r#"{{"majorDimension":"ROWS","values":{ROWS}}}"#));
        assert_eq!(request.hidden, [("Authorization".to_owned(), Hidden("Bearer ya29.SECRET".to_owned()))]);
        assert!(!format!("{request:?}").contains("SECRET"));
    }

    #[test]
    fn every_answer_of_the_api_has_its_class() {
        use Class::*;
        let error = |message: &str| format!(r#"{{"error":{{"code":400,"message":"{message}","status":"X"}}}}"#);
        for (status, body, class, code, wait) in [
            (200, r#"{"spreadsheetId":"1abc","updates":{"updatedRows":1}}"#.to_owned(), Delivered, "delivered", None),
            (200, "{}".to_owned(), Temporary, "protocol_error", None),
            (400, error("Range (Leads!A1:N1) exceeds grid limits. Max rows: 1000, max columns: 26"), Refused, "receiver_4xx", None),
            (
                400,
                error("This action would increase the number of cells in the workbook above the limit of 10000000 cells."),
                Refused,
                "receiver_4xx",
                None,
            ),
            (400, error("Unable to parse range: Leads!A1"), Refused, "receiver_4xx", None),
            (400, error("Invalid value at 'data.values'"), Rejected, "rejected_body", None),
            (403, error("The caller does not have permission"), Refused, "receiver_4xx", None),
            (403, error("Quota exceeded; reason RATE_LIMIT_EXCEEDED"), Throttled, "throttled", Some(60)),
            (404, error("Requested entity was not found."), Refused, "receiver_4xx", None),
            (429, error("Quota exceeded for quota metric 'Write requests'"), Throttled, "throttled", Some(60)),
            (500, String::new(), Temporary, "receiver_5xx", None),
            (503, error("The service is currently unavailable."), Throttled, "throttled", None),
        ] {
            let verdict = asked(&sheets(), &[response(status, &body)], &mut known()).unwrap_err();
            assert_eq!((verdict.class, verdict.code), (class, code), "{status} {body}");
            assert_eq!(verdict.wait, wait.map(Duration::from_secs), "{status} {body}");
        }
        let verdict = asked(&sheets(), &[response(403, "{}")], &mut known()).unwrap_err();
        assert!(verdict.reason.contains("share the spreadsheet with bot@example"), "{}", verdict.reason);
    }

    #[test]
    fn every_answer_about_a_token_has_its_class() {
        use Class::*;
        let error = |error: &str, about: &str| format!(r#"{{"error":"{error}","error_description":"{about}"}}"#);
        let time = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";
        for (status, body, class, code) in [
            (400, error("invalid_grant", time), Clock, "clock"),
            (400, error("invalid_grant", "Invalid JWT Signature."), Refused, "receiver_4xx"),
            (400, error("invalid_grant", "Invalid grant: account not found"), Refused, "receiver_4xx"),
            (401, error("invalid_client", "The OAuth client was not found."), Refused, "receiver_4xx"),
            (200, "{}".to_owned(), Temporary, "protocol_error"),
            (429, String::new(), Throttled, "throttled"),
            (500, String::new(), Temporary, "receiver_5xx"),
        ] {
            let verdict = asked(&sheets(), &[response(status, &body)], &mut Memory::default()).unwrap_err();
            assert_eq!((verdict.class, verdict.code), (class, code), "{status} {body}");
        }
        let (answer, early) = (response(400, &error("invalid_grant", time)), Moment { wall: Wall(1_795_476_600_000 - 90_000), ..MOMENT });
        let reason = api().token(&answer, &early).unwrap_err().reason;
        assert!(reason.ends_with("its clock is 90 s behind Google's"), "{reason}");
    }

    #[test]
    fn a_token_that_is_not_taken_any_more_is_asked_for_anew_once() {
        let mut memory = known();
        let no = || response(401, r#"{"error":{"message":"Request had invalid authentication credentials."}}"#);
        // Without a key in hand the question itself cannot be made; that it is tried is what counts.
        let verdict = asked(&sheets(), &[no()], &mut memory).unwrap_err();
        assert_eq!(verdict.class, Class::Internal);
        assert!(memory.token.is_none(), "it is forgotten");
        let token = response(200, r#"{"access_token":"ya29.new","expires_in":3599,"token_type":"Bearer"}"#);
        let request = asked(&sheets(), &[no(), token.clone()], &mut memory).unwrap();
        assert_eq!(request.hidden, [("Authorization".to_owned(), Hidden("Bearer ya29.new".to_owned()))]);
        let verdict = asked(&sheets(), &[no(), token, no()], &mut memory).unwrap_err();
        assert_eq!(verdict.class, Class::Refused);
        assert!(memory.token.is_none(), "the next exchange begins without one");
    }

    fn script() -> GoogleSheets {
        let url = Url::parse("https://script.google.com/macros/s/SECRET/exec").unwrap();
        GoogleSheets { columns: columns("event_id"), way: Way::Script { url, answers: "googleusercontent.com".to_owned() } }
    }

    fn redirect(to: &str) -> Answer {
        Answer::Response(Response { status: 302, location: Some(to.to_owned()), ..Response::default() })
    }

    #[test]
    fn a_scripts_answer_is_fetched_from_googles_other_host_and_no_other() {
        let request = asked(&script(), &[], &mut Memory::default()).unwrap();
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!((&body["columns"][0], &body["rows"][0][0]), (&json!("event_id"), &json!("evt_aaaaaaaaaaaaaaaaaaaaaaaaaa")));
        assert_eq!(request.shown, "https://script.google.com");
        let there = redirect("https://script.googleusercontent.com/macros/echo?user_content_key=x");
        let request = asked(&script(), std::slice::from_ref(&there), &mut Memory::default()).unwrap();
        assert_eq!((request.method.as_str(), request.body.len()), ("GET", 0));
        for elsewhere in [
            "https://accounts.google.com/ServiceLogin",
            "https://googleusercontent.com.evil.example/x",
            "https://evilgoogleusercontent.com/x",
            "http://script.googleusercontent.com/x",
        ] {
            let verdict = asked(&script(), &[redirect(elsewhere)], &mut Memory::default()).unwrap_err();
            assert_eq!((verdict.class, verdict.code), (Class::Refused, "redirect"), "{elsewhere}");
        }
        for (status, body, class) in [
            (200, r#"{"ok":true}"#, Class::Delivered),
            (200, r#"{"ok":false,"error":"busy"}"#, Class::Temporary),
            (200, "<!DOCTYPE html><title>Error</title>", Class::Refused),
            (404, "", Class::Refused),
            (500, "", Class::Temporary),
        ] {
            let said = [there.clone(), response(status, body)];
            assert_eq!(asked(&script(), &said, &mut Memory::default()).unwrap_err().class, class, "{status} {body}");
        }
        let twice = [there.clone(), there];
        assert_eq!(asked(&script(), &twice, &mut Memory::default()).unwrap_err().class, Class::Refused);
    }
}
