//! `GET /metrics`: what an operator's Prometheus asks, in the OpenMetrics text format.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>. All numbers are known or read by index; a scrape costs the same however
//! much is waiting.

use super::Edge;
use super::answer::{Answer, Refusal};
use crate::delivery::Status;
use crate::retry::Hold;
use crate::store::{Counts, Error, Level, Limits, Room, Worn};
use crate::time::Wall;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Before every name.
const PREFIX: &str = "leadsbotd";

/// Answers given, by their status.
#[derive(Debug, Default)]
pub struct Answers(Mutex<BTreeMap<u16, u64>>);

impl Answers {
    /// Counts one.
    pub fn count(&self, status: StatusCode) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(status.as_u16()).or_default() += 1;
    }

    fn all(&self) -> BTreeMap<u16, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All that is told, as of one moment.
#[derive(Debug)]
struct Snapshot {
    answers: BTreeMap<u16, u64>,
    lanes: Vec<(Status, Counts, Option<Wall>)>,
    now: Wall,
    trusted: bool,
    failing: bool,
    room: Option<Room>,
    worn: Worn,
    limits: Limits,
}

impl Edge {
    /// The figures. Blocks for a few short reads.
    pub(super) fn metrics(&self) -> Result<Answer, Refusal> {
        let line = self.store.timeline();
        let lanes = self.lanes.status().into_iter().map(|lane| {
            let (counts, oldest) = (self.store.counts(lane.dest)?, self.store.read(|view| view.oldest(lane.dest))?);
            Ok((lane, counts, oldest))
        });
        let snapshot = Snapshot {
            answers: self.answers.all(),
            lanes: lanes.collect::<Result<_, Error>>()?,
            now: line.wall(),
            trusted: line.trusted(),
            failing: self.store.failing(),
            room: self.store.space(),
            worn: self.store.worn(),
            limits: self.store.limits(),
        };
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).map_err(|e| {
            log::error!("the metrics could not be written: {e}");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the metrics could not be written")
        })?;
        let mut answer = Response::new(Bytes::from(text).into());
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
        Ok(answer)
    }
}

/// A figure without labels, if it is known.
fn single(encoder: &mut DescriptorEncoder<'_>, kind: MetricType, name: &str, help: &str, value: Option<u64>) -> fmt::Result {
    let Some(value) = value else { return Ok(()) };
    figure(encoder.encode_descriptor(name, help, None, kind)?, kind, value)
}

/// One kind of figure with a value for each set of labels.
fn family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    kind: MetricType,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    values.into_iter().try_for_each(|(labels, value)| figure(metric.encode_family(&labels)?, kind, value))
}

fn figure(mut encoder: MetricEncoder<'_>, kind: MetricType, value: u64) -> fmt::Result {
    match kind {
        MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        use MetricType::{Counter, Gauge};
        let e = &mut encoder;
        single(e, Gauge, "clock_trusted", "Whether the wall clock is believed", Some(self.trusted.into()))?;
        single(e, Gauge, "storage_failing", "Whether the latest write to the database failed", Some(self.failing.into()))?;
        let room = self.room.as_ref();
        single(e, Gauge, "storage_used_bytes", "Bytes of the database in use", room.map(|r| r.used))?;
        single(e, Gauge, "storage_max_bytes", "Bytes the database may use", room.and_then(|r| r.max))?;
        single(e, Gauge, "storage_free_bytes", "Bytes the file system has left, the reserve not counted", room.map(|r| r.free))?;
        single(e, Gauge, "storage_full", "Whether leads are refused for want of room", room.map(|r| (r.level == Level::Full).into()))?;
        let (worn, run) = (&self.worn, self.worn.since_start());
        let measured = |value: u64| worn.is_measured().then_some(value);
        single(e, Counter, "leads", "Leads captured since the start", Some(run.leads))?;
        single(e, Counter, "deliveries", "Deliveries that ended since the start", Some(run.deliveries))?;
        single(e, Counter, "written_bytes", "Bytes this process had written, by the kernel's count", measured(run.bytes))?;
        single(e, Gauge, "leads_today", "Leads captured on this day, UTC, restarts included", Some(worn.today.leads))?;
        single(e, Gauge, "written_today_bytes", "Bytes written on this day, UTC, restarts included", measured(worn.today.bytes))?;
        single(
            e,
            Gauge,
            "write_budget_bytes",
            "Bytes that may be written on a day before storage.wear is raised",
            self.limits.write_budget,
        )?;
        let card = self.limits.card_endurance.and_then(|endurance| measured(worn.card_days(endurance)));
        single(e, Gauge, "card_life_days", "Days that a card of the configured endurance lasts at the present pace", card)?;

        let answers = self.answers.iter().map(|(status, n)| ([("status", status.to_string())], *n));
        family(e, Counter, "http_answers", "Answers given since the start", answers)?;
        let states = self.lanes.iter().flat_map(|(lane, ..)| {
            let names = ["open", "paused"].into_iter().chain(Hold::ALL.map(Hold::name));
            names.map(|state| ([("destination", lane.name.as_str()), ("state", state)], (lane.state == state).into()))
        });
        family(e, Gauge, "destination_state", "1 for the state the destination is in", states)?;
        let attempts = self.lanes.iter().flat_map(|(lane, ..)| {
            lane.attempts.iter().map(|(class, n)| ([("destination", lane.name.as_str()), ("class", class.name())], *n))
        });
        family(e, Counter, "attempts", "Attempts since the start, by what came of them", attempts)?;
        let waiting = self.lanes.iter().flat_map(|(lane, c, _)| {
            let states = [("ready", c.ready), ("retrying", c.retrying), ("held", c.held), ("dead", c.dead)];
            states.map(|(state, n)| ([("destination", lane.name.as_str()), ("state", state)], u64::try_from(n).unwrap_or(0)))
        });
        family(e, Gauge, "queue", "Deliveries that are not finished, and dead letters", waiting)?;
        let oldest = self.lanes.iter().filter_map(|(lane, _, oldest)| {
            let ms = u64::try_from(self.now.0.saturating_sub(oldest.as_ref()?.0)).unwrap_or(0);
            Some(([("destination", lane.name.as_str())], ms / 1000))
        });
        family(e, Gauge, "oldest_seconds", "Age of the oldest delivery that is not finished, by the wall clock", oldest)
    }
}
