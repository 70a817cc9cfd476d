//! The JSON API for holders of a token, and what a supervisor asks: `/healthz` and `/readyz`.

use super::answer::{Answer, Refusal, json_answer};
use super::body::{self, Kind};
use super::public::{Visitor, created, wait};
use super::{Edge, Live};
use crate::event;
use crate::id::IdKey;
use crate::intake::{IntakeError, Router};
use crate::lead::{Patch, Reply, Trust, check_status};
use crate::store::{ChangeFn, Day, Done, Error, Level, NewEvent, PutAside, Record, Room, View};
use crate::time::Wall;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 500;
/// Leads looked at for one page; a filter that matches few of them gets a shorter page and a cursor.
const SCAN_MAX: i64 = 20_000;
const SCAN_STEP: i64 = 500;

impl Edge {
    /// Whether the request carries an API token, and whose.
    pub(super) fn authorised(live: &Live, headers: &HeaderMap) -> Result<String, Refusal> {
        let refused = |message: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message));
        if live.options.api_tokens.is_empty() {
            return refused("the configuration has no server.api_tokens, so nobody may use the API");
        }
        let given = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.split_once(' '));
        let Some((_, given)) = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
            return refused("send the API token as Authorization: Bearer TOKEN");
        };
        match live.options.api_tokens.iter().find(|t| t.secret.matches(given.trim())) {
            Some(token) => Ok(token.name.clone()),
            None => refused("the API token is not known here"),
        }
    }

    /// `POST /api/v1/leads`.
    pub(super) async fn create(&self, live: &Live, visitor: Visitor, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let (Parts { headers, .. }, body) = request.into_parts();
        let kind = Kind::of(&headers)?;
        let bytes = body::read(&headers, body, &live.options).await?;
        let submission = body::submission(kind, bytes, &live.options.lead, Trust::Api).await?;
        let captured = self.keep(live, submission, "api", self.context("api", visitor, &headers), &headers).await?;
        Ok(created(&captured))
    }

    /// `GET /api/v1/leads`.
    pub(super) async fn list(self: &Arc<Self>, query: Option<&str>) -> Result<Answer, Refusal> {
        let filter = Filter::parse(query)?;
        let edge = Arc::clone(self);
        let page = blocking(move || edge.store.read(|view| filter.page(view, &edge))).await??;
        Ok(json_answer(StatusCode::OK, &page?))
    }

    /// `GET /api/v1/leads/{id}`.
    pub(super) async fn show(self: &Arc<Self>, id: &str) -> Result<Answer, Refusal> {
        let (edge, id) = (Arc::clone(self), id.to_owned());
        let found = blocking(move || {
            edge.store.read(|view| {
                let ids = edge.store.ids();
                let Some(record) = view.lead(ids, &id)? else { return Ok(None) };
                let mut shown = lead_json(&edge, &record);
                let names = view.destinations()?;
                let mut events = Vec::new();
                for event in view.events_of(ids, record.number)? {
                    let mut deliveries = Vec::new();
                    for entry in view.deliveries_of(event.seq)? {
                        let name = names.iter().find(|d| d.dest == entry.dest).map_or("?", |d| d.name.as_str());
                        deliveries.push(json!({
                            "destination": name, "state": entry.state, "attempts": entry.attempts, "reason": entry.reason,
                            "status": entry.status, "finished_at": entry.finished.map(Wall::rfc3339),
                        }));
                    }
                    events.push(json!({ "id": event.id, "event": event.kind, "created_at": event.at.rfc3339(), "deliveries": deliveries }));
                }
                if let Some(object) = shown.as_object_mut() {
                    object.insert("events".to_owned(), events.into());
                }
                Ok(Some(shown))
            })
        })
        .await??;
        found.map(|v| json_answer(StatusCode::OK, &v)).ok_or_else(Refusal::not_found)
    }

    /// `PATCH /api/v1/leads/{id}`.
    pub(super) async fn patch(
        self: &Arc<Self>,
        live: &Arc<Live>,
        id: &str,
        visitor: Visitor,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let (Parts { headers, .. }, body) = request.into_parts();
        json_only(&headers)?;
        let bytes = body::read(&headers, body, &live.options).await?;
        let patch = Patch::from_json(&bytes, &live.options.lead)?;
        let (edge, live, context) = (Arc::clone(self), Arc::clone(live), self.context("api", visitor, &headers));
        let now = self.store.timeline().wall();
        let change: ChangeFn = Box::new(move |record| live.router.patched(edge.store.ids(), record, &patch, &context, now));
        let (record, events) = self.change(id, change).await?;
        let mut shown = lead_json(self, &record);
        if let Some(object) = shown.as_object_mut() {
            object.insert("event_ids".to_owned(), events.into());
        }
        Ok(json_answer(StatusCode::OK, &shown))
    }

    /// `POST /api/v1/leads/{id}/replies`.
    pub(super) async fn reply(
        self: &Arc<Self>,
        live: &Arc<Live>,
        id: &str,
        visitor: Visitor,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let (Parts { headers, .. }, body) = request.into_parts();
        json_only(&headers)?;
        let bytes = body::read(&headers, body, &live.options).await?;
        let reply = Reply::from_json(&bytes, &live.options.lead)?;
        let (edge, live, context) = (Arc::clone(self), Arc::clone(live), self.context("api", visitor, &headers));
        let now = self.store.timeline().wall();
        let change: ChangeFn = Box::new(move |record| live.router.replied(edge.store.ids(), record, &reply, &context, now));
        let (record, events) = self.change(id, change).await?;
        Ok(json_answer(StatusCode::CREATED, &json!({ "id": record.lead.id, "event_id": events.first() })))
    }

    async fn change(&self, id: &str, change: ChangeFn) -> Result<(Record, Vec<String>), Refusal> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let ticket = self.store.change(id, change, move |done| drop(tx.send(done)))?;
        match wait(ticket, rx).await? {
            Done::Changed(changed) => Ok(*changed),
            Done::Missing => Err(Refusal::not_found()),
            Done::Refused(fault) => Err(fault.into()),
            _ => Err(Error::Busy.into()),
        }
    }

    /// `GET /healthz`: leads are kept and deliveries can move. Writes nothing.
    pub(super) async fn health(self: &Arc<Self>) -> Result<Answer, Refusal> {
        let edge = Arc::clone(self);
        let (store, lanes) = blocking(move || (edge.store.ping(Duration::from_secs(5)), edge.lanes.alive())).await?;
        if self.store.failing() {
            return Err(Error::Disk(String::new()).into());
        }
        if self.store.space().is_some_and(|room| room.level == Level::Full) {
            return Err(Error::Full.into());
        }
        match (store, lanes) {
            (Ok(()), true) => Ok(json_answer(StatusCode::OK, &json!({ "status": "ok" }))),
            (Ok(()), false) => {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "lane_stopped", "leads are kept, but a delivery thread has ended"))
            }
            (Err(e), _) => Err(e.into()),
        }
    }

    /// Tells the destinations that ask for it that room is short. Called from the writer's thread.
    pub fn announce_shortage(&self, room: &Room) {
        self.announce(|router, ids, clock, now| router.storage_low(ids, room, clock, now));
    }

    /// Tells the destinations that ask for it that more was written today than the budget allows. Called from the writer's thread.
    pub fn announce_wear(&self, day: &Day, budget: u64) {
        self.announce(|router, ids, clock, now| router.storage_wear(ids, day, budget, clock, now));
    }

    pub(super) fn announce(&self, make: impl FnOnce(&Router, &IdKey, &'static str, Wall) -> Result<NewEvent, IntakeError>) {
        let line = self.store.timeline();
        let clock = if line.trusted() { event::TRUSTED } else { event::UNTRUSTED };
        match make(&self.live().router, self.store.ids(), clock, line.wall()) {
            Ok(event) if event.targets.is_empty() => {}
            Ok(event) => self.store.announce(event),
            Err(e) => log::error!("an event about the device could not be made: {e}"),
        }
    }

    /// Whether names and figures may be told: to holders of a token, and on this machine itself.
    pub(super) fn insider(live: &Live, peer: IpAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        // A proxy on this machine makes everybody look local.
        let forwarded = ["x-forwarded-for", "forwarded"].iter().any(|name| headers.contains_key(*name));
        if peer.to_canonical().is_loopback() && !forwarded { Ok(()) } else { Self::authorised(live, headers).map(drop) }
    }

    /// `GET /metrics`.
    pub(super) async fn figures(self: &Arc<Self>) -> Result<Answer, Refusal> {
        let edge = Arc::clone(self);
        blocking(move || edge.metrics()).await?
    }

    /// `GET /readyz`: can leads be taken, and how each destination is. Names and reasons only for token holders and this machine itself.
    pub(super) async fn ready(self: &Arc<Self>, open: bool) -> Result<Answer, Refusal> {
        let edge = Arc::clone(self);
        let known: Result<(StatusCode, Value), Error> = blocking(move || {
            edge.store.ping(Duration::from_secs(5))?;
            let room = edge.store.space();
            let (code, status) = match room {
                _ if edge.store.failing() => (StatusCode::SERVICE_UNAVAILABLE, "failing"),
                Some(room) if room.level == Level::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
                _ => (StatusCode::OK, "ready"),
            };
            if !open {
                return Ok((code, json!({ "status": status })));
            }
            let mut lanes = Vec::new();
            for lane in edge.lanes.status() {
                let (counts, oldest) = (edge.store.counts(lane.dest)?, edge.store.read(|v| v.oldest(lane.dest))?);
                lanes.push(json!({
                    "name": lane.name, "state": lane.state, "since": lane.since.map(Wall::rfc3339), "reason": lane.reason,
                    "waiting": counts.waiting(), "dead": counts.dead, "oldest": oldest.map(Wall::rfc3339),
                }));
            }
            let damage = edge.store.damage();
            let known = json!({
                "status": status,
                "storage": {
                    "state": damage.state, "damage": damage.found,
                    "put_aside": damage.files.iter().map(put_aside).collect::<Vec<_>>(),
                    "room": room.map(|r| r.level.name()), "used_bytes": room.map(|r| r.used), "max_bytes": room.and_then(|r| r.max),
                    "free_bytes": room.map(|r| r.free),
                },
                "clock": if edge.store.timeline().trusted() { event::TRUSTED } else { event::UNTRUSTED },
                "destinations": lanes,
            });
            Ok((code, known))
        })
        .await?;
        let (code, known) = known?;
        Ok(json_answer(code, &known))
    }
}

/// A damaged file that was put aside, and what came of it.
fn put_aside(file: &PutAside) -> Value {
    let r = &file.report;
    json!({
        "file": file.file, "found": file.found, "at": Wall(file.at).rfc3339(), "done": file.done, "leads": r.leads, "events": r.events,
        "pending": r.pending, "requeued": r.requeued, "dead": r.dead, "history": r.history, "rows_lost": r.lost, "pages_unreadable": r.pages,
    })
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the device has a fault; what was kept before is safe"))
}

fn json_only(headers: &HeaderMap) -> Result<(), Refusal> {
    match Kind::of(headers)? {
        Kind::Json => Ok(()),
        _ => Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "send application/json")),
    }
}

fn lead_json(edge: &Edge, record: &Record) -> Value {
    let mut lead = record.lead.clone();
    lead.id = edge.store.ids().lead(record.random).id(record.number);
    let mut value = serde_json::to_value(&lead).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("created_at".to_owned(), record.created.rfc3339().into());
        object.insert("updated_at".to_owned(), record.changed.unwrap_or(record.created).rfc3339().into());
        object.insert("version".to_owned(), record.version.into());
    }
    value
}

/// What a list is narrowed by.
#[derive(Debug, Default)]
struct Filter {
    status: Option<String>,
    source: Option<String>,
    since: Option<Wall>,
    until: Option<Wall>,
    text: Option<String>,
    cursor: Option<String>,
    limit: usize,
}

impl Filter {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut filter = Filter { limit: PAGE_DEFAULT, ..Filter::default() };
        let bad = |name: &str, message: String| Refusal {
            field: Some(name.to_owned()),
            ..Refusal::new(StatusCode::BAD_REQUEST, "invalid_parameter", message)
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let time =
                || Wall::parse(&value).ok_or_else(|| bad(&name, "must be RFC 3339, as in 2026-11-23T12:00:00Z, or a date".to_owned()));
            match name.as_ref() {
                "status" => {
                    check_status(&value).map_err(|f| bad("status", f.message))?;
                    filter.status = Some(value.into_owned());
                }
                "source" => filter.source = Some(value.into_owned()),
                "since" => filter.since = Some(time()?),
                "until" => filter.until = Some(time()?),
                "text" => filter.text = Some(value.to_lowercase()),
                "cursor" => filter.cursor = Some(value.into_owned()),
                "limit" => {
                    filter.limit = value
                        .parse()
                        .ok()
                        .filter(|n| (1..=PAGE_MAX).contains(n))
                        .ok_or_else(|| bad("limit", format!("must be from 1 to {PAGE_MAX}")))?;
                }
                _ => {
                    return Err(bad(&name, "known parameters are status, source, since, until, text, limit and cursor".to_owned()));
                }
            }
        }
        Ok(filter)
    }

    fn matches(&self, record: &Record) -> bool {
        let lead = &record.lead;
        let texts = [&lead.name, &lead.email, &lead.phone, &lead.company, &lead.message];
        self.status.as_ref().is_none_or(|s| *s == lead.status)
            && self.source.as_ref().is_none_or(|s| *s == lead.source)
            && self.since.is_none_or(|t| record.created >= t)
            && self.until.is_none_or(|t| record.created < t)
            && self.text.as_ref().is_none_or(|needle| {
                texts.iter().any(|t| t.as_ref().is_some_and(|t| t.to_lowercase().contains(needle.as_str())))
                    || lead.fields.values().any(|v| v.as_str().is_some_and(|t| t.to_lowercase().contains(needle.as_str())))
            })
    }

    fn page(&self, view: &View<'_>, edge: &Edge) -> Result<Result<Value, Refusal>, Error> {
        let ids = edge.store.ids();
        let mut before = match &self.cursor {
            None => i64::MAX,
            Some(cursor) => match ids.seq(crate::id::Kind::Lead, cursor) {
                Some(number) => number,
                None => {
                    return Ok(Err(Refusal {
                        field: Some("cursor".to_owned()),
                        ..Refusal::new(StatusCode::BAD_REQUEST, "invalid_parameter", "cursor must be the next_cursor of an earlier answer")
                    }));
                }
            },
        };
        let (mut leads, mut looked, mut last, mut more) = (Vec::new(), 0, None, true);
        while leads.len() < self.limit && looked < SCAN_MAX && more {
            let page = view.leads(before, SCAN_STEP)?;
            more = !page.is_empty();
            for record in page {
                if leads.len() == self.limit {
                    break;
                }
                looked += 1;
                before = record.number;
                last = Some(ids.lead(record.random).id(record.number));
                if self.matches(&record) {
                    leads.push(lead_json(edge, &record));
                }
            }
        }
        // There is a next page unless the oldest lead has been looked at.
        let rest = more && !view.leads(before, 1)?.is_empty();
        Ok(Ok(json!({ "leads": leads, "next_cursor": last.filter(|_| rest) })))
    }
}
