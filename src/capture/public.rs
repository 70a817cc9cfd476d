//! What anybody may use: the form pages and the capture URLs of sources.

use super::answer::{Answer, Refusal, empty, json_answer};
use super::body::{self, Kind};
use super::form::{CONSENT, Complaints, Form, Typed};
use super::pages::Shown;
use super::{Edge, Live, Source};
use crate::event::{self, Context};
use crate::lead::{Fault, Submission, Trust};
use crate::store::{Captured, Done, Error};
use crate::{id, intake};
use http::header::{ACCEPT, HeaderName, HeaderValue, LOCATION, ORIGIN, USER_AGENT, VARY};
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A command the writer has not begun by then is taken back and refused.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of a browser's self-description this much is kept.
const USER_AGENT_CHARS_MAX: usize = 200;
const SUBMISSION_KEY_BYTES_MAX: usize = 255;
/// Pairs of a page's address that travel with its form.
const CARRIED_MAX: usize = 16;

/// Whose request it is, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    pub ip: IpAddr,
}

impl Edge {
    /// The context of an event that this request causes.
    pub(super) fn context(&self, channel: &'static str, visitor: Visitor, headers: &HeaderMap) -> Context {
        let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
        Context {
            channel,
            ip: Some(visitor.ip.to_canonical().to_string()),
            user_agent: agent.map(|a| a.chars().take(USER_AGENT_CHARS_MAX).collect()),
            clock: if self.store.timeline().trusted() { event::TRUSTED } else { event::UNTRUSTED },
            ..Context::default()
        }
    }

    /// Keeps a submission; returns only once it is on the disk.
    pub(super) async fn keep(
        &self,
        live: &Live,
        mut submission: Submission,
        source: &str,
        mut context: Context,
        headers: &HeaderMap,
    ) -> Result<Captured, Refusal> {
        let ids = self.store.ids();
        let key = submission_key(headers, &mut submission)?.map(|key| id::submission_key(ids, source, &key));
        context.page_url = submission.page_url.take();
        context.referrer = submission.referrer.take();
        context.utm = std::mem::take(&mut submission.utm);
        context.suspicion = submission.honeypot.then_some("honeypot");
        let internal = |e: intake::IntakeError| {
            log::error!("a lead could not be taken: {e}");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the device has a fault; nothing was kept, tell the staff")
        };
        let event = live.router.created(ids, submission, source, context, self.store.timeline().wall()).map_err(internal)?;
        let (tx, rx) = tokio::sync::oneshot::channel();
        let ticket = self.store.capture(event, key, move |done| drop(tx.send(done)))?;
        match wait(ticket, rx).await? {
            Done::Captured(captured) => {
                let again = if captured.repeated { ", which had been kept before" } else { "" };
                log::debug!("lead {} of {source} is kept with event {}{again}", captured.lead_id, captured.event_id);
                Ok(captured)
            }
            _ => Err(Error::Busy.into()),
        }
    }

    pub(super) fn form_page(&self, live: &Live, form: &Form, query: Option<&str>) -> Answer {
        let mut shown = Shown { submission_id: fresh_id(), ..Shown::default() };
        let limits = &live.options.lead;
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            // What would be refused with the form is left out of it: the visitor could not take it away again.
            if name.len() > limits.name_bytes_max || value.len() > limits.value_bytes_max {
                continue;
            }
            if name == "_next" {
                shown.next = Some(value.into_owned());
            } else if name.starts_with("utm_") && shown.carried.len() < CARRIED_MAX {
                shown.carried.push((name.into_owned(), value.into_owned()));
            } else if form.fields.iter().any(|f| f.name == name) {
                shown.values.push((name.into_owned(), vec![value.into_owned()]));
            }
        }
        self.pages.form(live, StatusCode::OK, form, &shown)
    }

    /// `POST /f/{form}`.
    pub(super) async fn form_post(&self, live: &Live, form: &Form, visitor: Visitor, request: Request<Incoming>) -> Answer {
        let (Parts { headers, .. }, body) = request.into_parts();
        let person = !wants_json(&headers);
        let refuse = |refusal: Refusal| if person { self.not_taken(live, &refusal) } else { refusal.json() };
        if let Err(refusal) = self.rate(live, visitor) {
            return refuse(refusal);
        }
        let kind = match Kind::of(&headers) {
            Ok(Kind::Json) => {
                return refuse(Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "unsupported_media_type",
                    "a form takes application/x-www-form-urlencoded or multipart/form-data; JSON goes to /api/v1/leads",
                ));
            }
            Ok(kind) => kind,
            Err(refusal) => return refuse(refusal),
        };
        let bytes = match body::read(&headers, body, &live.options).await {
            Ok(bytes) => bytes,
            Err(refusal) => return refuse(refusal),
        };
        let limits = &live.options.lead;
        let pairs = match body::pairs(kind, bytes, limits).await {
            Ok(pairs) => pairs,
            Err(refusal) => return refuse(refusal),
        };
        let typed = collect(&pairs, limits.fields_max);
        let agreed = typed.iter().any(|(n, v)| n == CONSENT && v.iter().any(|v| !v.is_empty()));
        let mut complaints = form.check(&typed, agreed);
        let (mut taken, mut trouble) = (None, None);
        match Submission::from_pairs(pairs, limits, Trust::Public) {
            Ok(submission) => taken = Some(submission),
            // A fault of one field of this form is shown beside it, unless the form itself has found one there.
            Err(Fault { field: Some(known), message, .. }) if form.field_of(&known).is_some() => {
                let name = form.field_of(&known).map_or(known, |f| f.name.clone());
                complaints.entry(name).or_insert_with(|| sentence(&message));
            }
            // Any other is of the whole. A program is told just that; a person must not have to type everything again.
            Err(fault) if !person => return Refusal::from(fault).json(),
            Err(Fault { code: "empty_lead", .. }) => trouble = Some("Please fill in at least one field.".to_owned()),
            Err(fault) => trouble = Some(sentence(&fault.message)),
        }
        let Some(mut submission) = taken.filter(|_| complaints.is_empty()) else {
            let trouble = trouble.filter(|_| complaints.is_empty());
            return self.form_again(live, form, person, typed, agreed, complaints, trouble.as_deref(), StatusCode::UNPROCESSABLE_ENTITY);
        };
        submission.fields.shift_remove(CONSENT);
        if agreed {
            submission.consent = form.consent.as_ref().map(|c| (c.text.clone(), c.version.clone()));
        }
        let next = submission.next.take().and_then(|next| allowed_next(live, &headers, &next));
        let context = Context { form: Some(form.id.clone()), ..self.context("form", visitor, &headers) };
        match self.keep(live, submission, &form.source, context, &headers).await {
            Ok(_) if person => see_other(&next.unwrap_or_else(|| format!("/f/{}/thanks", form.id))),
            Ok(captured) => created(&captured),
            Err(refusal) if person => {
                let trouble = sentence(&refusal.message);
                let mut answer = self.form_again(live, form, true, typed, agreed, complaints, Some(&trouble), refusal.status);
                refusal.decorate(&mut answer);
                answer
            }
            Err(refusal) => refusal.json(),
        }
    }

    /// A refusal as a page, where there is no form to show it in.
    fn not_taken(&self, live: &Live, refusal: &Refusal) -> Answer {
        let mut answer = self.pages.message(live, refusal.status, "Your details were not taken", &sentence(&refusal.message));
        refusal.decorate(&mut answer);
        answer
    }

    #[expect(clippy::too_many_arguments, reason = "all that the page shows; it has this one caller")]
    fn form_again(
        &self,
        live: &Live,
        form: &Form,
        person: bool,
        typed: Typed,
        agreed: bool,
        complaints: Complaints,
        trouble: Option<&str>,
        status: StatusCode,
    ) -> Answer {
        if !person {
            let field = form.complained(&complaints).next().map(str::to_owned);
            let message = field.as_ref().and_then(|name| complaints.get(name)).cloned().unwrap_or_default();
            return Refusal { field, ..Refusal::new(status, "invalid_field", message) }.json();
        }
        let first = |name: &str| typed.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.first().cloned());
        let shown = Shown {
            submission_id: first("_submission_id").unwrap_or_else(fresh_id),
            next: first("_next"),
            carried: typed.iter().filter(|(n, _)| n.starts_with("utm_")).take(CARRIED_MAX).map(|(n, v)| (n.clone(), v.join(","))).collect(),
            values: typed,
            complaints,
            trouble,
            agreed,
        };
        self.pages.form(live, status, form, &shown)
    }

    /// `POST /api/inbound/w/{webhookId}/leads`.
    pub(super) async fn inbound(&self, live: &Live, source: &Source, visitor: Visitor, request: Request<Incoming>) -> Answer {
        let (Parts { headers, .. }, body) = request.into_parts();
        let outcome = async {
            self.rate(live, visitor)?;
            let kind = Kind::of(&headers)?;
            let form = kind != Kind::Json;
            let bytes = body::read(&headers, body, &live.options).await?;
            let mut submission = body::submission(kind, bytes, &live.options.lead, Trust::Public).await?;
            let next = submission.next.take().and_then(|next| allowed_next(live, &headers, &next));
            let captured = self.keep(live, submission, &source.id, self.context("inbound", visitor, &headers), &headers).await?;
            Ok::<_, Refusal>((captured, form, next))
        };
        let mut answer = match outcome.await {
            // A browser that was sent here by a plain HTML form expects to end on a page.
            Ok((_, true, Some(next))) if !wants_json(&headers) => see_other(&next),
            Ok((_, true, None)) if wants_html(&headers) => {
                self.pages.message(live, StatusCode::CREATED, "Thank you", "We have your details.")
            }
            Ok((captured, ..)) => created(&captured),
            Err(refusal) if wants_html(&headers) => self.not_taken(live, &refusal),
            Err(refusal) => refusal.json(),
        };
        cross_origin(&mut answer, source, &headers);
        answer
    }

    /// The answer to a browser that asks whether a page may post to a source.
    pub(super) fn preflight(source: &Source, headers: &HeaderMap) -> Answer {
        let mut answer = empty(StatusCode::NO_CONTENT);
        cross_origin(&mut answer, source, headers);
        let allowed = [
            ("access-control-allow-methods", "POST"),
            ("access-control-allow-headers", "content-type, idempotency-key"),
            ("access-control-max-age", "600"),
        ];
        for (name, value) in allowed {
            answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        answer
    }

    pub(super) fn rate(&self, live: &Live, visitor: Visitor) -> Result<(), Refusal> {
        self.rates.take(visitor.ip, live.options.requests_per_minute, Instant::now()).map_err(|seconds| Refusal {
            retry_after: Some(seconds),
            ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "too many requests from this address; try again in a moment")
        })
    }
}

/// Waits for the writer. One that does not begin in time is told not to; one that has begun is waited for.
pub async fn wait(ticket: crate::store::Ticket, mut rx: tokio::sync::oneshot::Receiver<Result<Done, Error>>) -> Result<Done, Refusal> {
    let answer = match tokio::time::timeout(PATIENCE, &mut rx).await {
        Ok(answer) => answer,
        Err(_) if ticket.abandon() => return Err(Error::Busy.into()),
        Err(_) => rx.await,
    };
    answer.map_err(|_| Refusal::from(Error::Busy))?.map_err(Refusal::from)
}

#[derive(Serialize)]
struct Ids<'a> {
    id: &'a str,
    event_id: &'a str,
}

/// 201 with the ids; 200 when they had been given before.
pub fn created(captured: &Captured) -> Answer {
    let status = if captured.repeated { StatusCode::OK } else { StatusCode::CREATED };
    json_answer(status, &Ids { id: &captured.lead_id, event_id: &captured.event_id })
}

fn see_other(to: &str) -> Answer {
    let mut answer = empty(StatusCode::SEE_OTHER);
    if let Ok(value) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, value);
    }
    answer
}

/// `Idempotency-Key`, or the hidden field `_submission_id` together with everything else that was typed.
///
/// A browser that goes back to a filled-in page brings the hidden field back too. On a kiosk the next person may type over it:
/// going by the hidden field alone would thank them and keep nothing.
fn submission_key(headers: &HeaderMap, submission: &mut Submission) -> Result<Option<String>, Refusal> {
    let bad = || Refusal {
        field: Some("Idempotency-Key".to_owned()),
        ..Refusal::new(
            StatusCode::BAD_REQUEST,
            "invalid_idempotency_key",
            format!("an idempotency key has 1 to {SUBMISSION_KEY_BYTES_MAX} printable ASCII characters"),
        )
    };
    let fits = |key: &str| (1..=SUBMISSION_KEY_BYTES_MAX).contains(&key.len());
    if let Some(value) = headers.get("idempotency-key") {
        let key = value.to_str().ok().filter(|key| fits(key)).ok_or_else(bad)?;
        return Ok(Some(key.to_owned()));
    }
    let Some(key) = submission.submission_id.take() else { return Ok(None) };
    if !fits(&key) {
        return Err(bad());
    }
    // All of it is text and lists of text; that it could not be written down cannot happen, and would only cost the distinction.
    let content = serde_json::to_string(submission).unwrap_or_default();
    Ok(Some(format!("{key}\0{content}")))
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("application/json"))
}

pub fn wants_html(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"))
}

/// A path on this server, or a page of an origin that a source allows. Anything else would make us a hop for phishers.
fn allowed_next(live: &Live, headers: &HeaderMap, next: &str) -> Option<String> {
    let host = headers.get(http::header::HOST).and_then(|v| v.to_str().ok()).unwrap_or("localhost");
    let base = url::Url::parse(&format!("http://{host}/")).ok()?;
    let target = base.join(next).ok()?;
    if target.origin() == base.origin() {
        let path = target[url::Position::BeforePath..].to_owned();
        // A path that begins with two slashes would be read as another host.
        return (!path.starts_with("//")).then_some(path);
    }
    let origin = target.origin().ascii_serialization();
    let allowed = live.options.sources.iter().any(|s| s.allowed_origins.contains(&origin));
    (allowed && matches!(target.scheme(), "http" | "https")).then(|| target.into())
}

/// Lets a page of an allowed origin read the answer.
fn cross_origin(answer: &mut Answer, source: &Source, headers: &HeaderMap) {
    answer.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    let Some(origin) = headers.get(ORIGIN) else { return };
    let listed = |o: &String| o == "*" || origin.as_bytes() == o.as_bytes();
    if source.allowed_origins.iter().any(listed) {
        answer.headers_mut().insert(HeaderName::from_static("access-control-allow-origin"), origin.clone());
    }
}

/// What was typed, by name. More names than a lead may have are not looked at: they are refused, and each costs a search.
fn collect(pairs: &[(String, String)], names_max: usize) -> Typed {
    let mut out = Typed::new();
    for (name, value) in pairs {
        let room = out.len() < names_max;
        match out.iter_mut().find(|(n, _)| n == name) {
            Some((_, list)) => list.push(value.clone()),
            None if !room => {}
            None => out.push((name.clone(), vec![value.clone()])),
        }
    }
    out
}

fn fresh_id() -> String {
    intake::random().map(|r| format!("{r:016x}")).unwrap_or_default()
}

fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    let rest = chars.as_str();
    let stop = if message.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{rest}{stop}")
}
