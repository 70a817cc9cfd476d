//! The one place that says what an answer means. Pure; see section "What an answer means" in docs/receivers.md.

use super::{Answer, Class, Failure, Moment, Response, Verdict};
use std::time::{Duration, SystemTime};
use url::Url;

/// Characters of an answer's body kept for the operator.
const ANSWER_CHARS_MAX: usize = 300;

/// Judges an answer over HTTP by its status alone.
pub fn judge(url: &Url, answer: &Answer, moment: &Moment) -> Verdict {
    match answer {
        Answer::Failure { kind, detail } => failure(*kind, detail, moment.clock_trusted),
        Answer::Replies(_) => Verdict::internal("an answer in another protocol to a request over HTTP"),
        Answer::Response(response) => {
            let clock_trusted = moment.clock_trusted || moment.vouched;
            let (class, code, reason) = match response.status {
                // Standard Webhooks libraries refuse a timestamp that is minutes off, with one of these.
                400 | 401 | 403 if !clock_trusted => (
                    Class::Clock,
                    "clock",
                    format!(
                        "HTTP {} while this device's clock may be wrong; waiting for the clock. If it is right, set device.clock = \"trusted\" and compare the secrets",
                        response.status
                    ),
                ),
                _ => response_class(url, response),
            };
            Verdict {
                class,
                code,
                status: Some(response.status),
                wait: response
                    .retry_after
                    .as_deref()
                    .and_then(|v| retry_after(v, response.date.as_deref(), clock_trusted.then(|| wall(moment)))),
                reason,
                answer: printable(&response.body),
            }
        }
    }
}

fn wall(moment: &Moment) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(moment.wall.0).unwrap_or(0))
}

/// What it means that there was no answer.
pub fn failure(kind: Failure, detail: &str, clock_trusted: bool) -> Verdict {
    let (class, code, what) = match kind {
        Failure::Dns => (Class::Offline, "dns_error", "the receiver's name could not be looked up"),
        Failure::Refused => (Class::Offline, "connection_refused", "nobody listens at the receiver's address"),
        Failure::Unreachable => (Class::Offline, "network_unreachable", "the network is not reachable"),
        Failure::ConnectTimeout => (Class::Offline, "timeout", "no connection to the receiver within the deadline"),
        Failure::Tls if !clock_trusted => {
            (Class::Clock, "clock", "TLS failed while this device's clock may be wrong; waiting for the clock")
        }
        // rustls's name for bytes that are no TLS at all.
        Failure::Tls if detail.contains("InvalidContentType") => {
            (Class::Refused, "tls_error", "the receiver does not speak TLS at this port; is https in its url a mistake?")
        }
        Failure::Tls => {
            (Class::Refused, "tls_error", "the receiver's certificate is not acceptable; check its date and name, or set delivery.ca_file")
        }
        Failure::Reset => (Class::Temporary, "connection_reset", "the connection broke before the answer was whole"),
        Failure::Timeout => (Class::Temporary, "timeout", "the receiver did not answer within the deadline"),
        Failure::PublicHttp => (Class::Refused, "plain_http", "the url is not used"),
        Failure::PrivateAddress => (Class::Refused, "private_address", "the address is not used"),
        Failure::Itself => (Class::Refused, "loop", "the address is not used"),
        Failure::Protocol => (Class::Temporary, "protocol_error", "the receiver's answer is not HTTP"),
    };
    let reason = if detail.is_empty() { what.to_owned() } else { format!("{what} ({detail})") };
    Verdict { class, code, status: None, wait: None, reason, answer: String::new() }
}

fn response_class(url: &Url, r: &Response) -> (Class, &'static str, String) {
    let plain = url.scheme() == "http";
    match r.status {
        // Over plain http anybody on the way can answer; a login page of the Wi-Fi is no receiver. Over TLS the answer is the receiver's.
        200..=299 if plain && looks_like_a_page(&r.body) => (
            Class::Offline,
            "captive_portal",
            format!("HTTP {} with a web page, where a receiver answers briefly: a login page of the network?", r.status),
        ),
        200..=299 => (Class::Delivered, "delivered", format!("HTTP {}", r.status)),
        511 => (Class::Offline, "captive_portal", "HTTP 511: the network wants a login first".to_owned()),
        300..=399 => {
            let target = r.location.as_deref().and_then(|l| url.join(l).ok());
            let elsewhere = target.as_ref().is_some_and(|t| t.host_str() != url.host_str());
            let to = target.map_or_else(|| "nowhere".to_owned(), |t| format!("{}://{}", t.scheme(), t.host_str().unwrap_or("?")));
            if plain && elsewhere {
                (Class::Offline, "captive_portal", format!("HTTP {} to {to}: a login page of the network?", r.status))
            } else {
                (
                    Class::Refused,
                    "redirect",
                    format!("HTTP {} to {to}; redirects are not followed, put the final address into url", r.status),
                )
            }
        }
        429 => (Class::Throttled, "throttled", "HTTP 429: the receiver asks to slow down".to_owned()),
        503 if r.retry_after.is_some() => (Class::Throttled, "throttled", "HTTP 503: the receiver asks to come back later".to_owned()),
        401 | 403 => (
            Class::Refused,
            "receiver_4xx",
            format!("HTTP {}: the receiver does not accept this sender; compare the secrets and its access rules", r.status),
        ),
        404 | 410 => (Class::Refused, "receiver_4xx", format!("HTTP {}: there is nothing at this url; check its path", r.status)),
        405 | 407 | 421 | 426 | 451 => {
            (Class::Refused, "receiver_4xx", format!("HTTP {}: the receiver refuses every request of this kind; check url", r.status))
        }
        408 | 425 => (Class::Temporary, "receiver_4xx", format!("HTTP {}", r.status)),
        400..=499 => (Class::Rejected, "rejected_body", format!("HTTP {}: the receiver refuses this one delivery", r.status)),
        500..=599 => (Class::Temporary, "receiver_5xx", format!("HTTP {}", r.status)),
        _ => (Class::Temporary, "protocol_error", format!("HTTP {} is no final answer", r.status)),
    }
}

fn looks_like_a_page(body: &[u8]) -> bool {
    let start: Vec<u8> = body.iter().skip_while(|b| b.is_ascii_whitespace()).take(14).map(u8::to_ascii_lowercase).collect();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

/// RFC 9110 section 10.2.3: seconds, or a date. A date is read against the receiver's own `Date`, because this device's clock may be
/// wrong; a past date is no wait. What is neither is ignored, and so is a date when nobody knows the time: in 1970 it is half a century off.
fn retry_after(value: &str, date: Option<&str>, wall_now: Option<SystemTime>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit mean "very long": the cap of the configuration decides.
        return Some(value.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = date.and_then(|d| httpdate::parse_http_date(d).ok()).or(wall_now)?;
    Some(until.duration_since(now).unwrap_or(Duration::ZERO))
}

/// The beginning of an answer as one line of text, for [`Verdict::answer`].
pub fn printable(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().map(|c| if c.is_control() { ' ' } else { c }).take(ANSWER_CHARS_MAX).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Tick, Wall};

    fn at_the_epoch(clock_trusted: bool) -> Moment {
        Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted, vouched: false }
    }

    fn response(url: &str, r: Response) -> Verdict {
        judge(&Url::parse(url).unwrap(), &Answer::Response(r), &at_the_epoch(true))
    }

    fn status(status: u16) -> Class {
        response("https://r.example/h", Response { status, ..Response::default() }).class
    }

    #[test]
    fn every_status_has_its_class() {
        use Class::*;
        for (range, class) in [
            (200..=299, Delivered),
            (300..=399, Refused),
            (401..=401, Refused),
            (403..=405, Refused),
            (407..=407, Refused),
            (410..=410, Refused),
            (400..=400, Rejected),
            (402..=402, Rejected),
            (406..=406, Rejected),
            (409..=409, Rejected),
            (411..=420, Rejected),
            (422..=424, Rejected),
            (408..=408, Temporary),
            (425..=425, Temporary),
            (429..=429, Throttled),
            (500..=510, Temporary),
            (511..=511, Offline),
            (100..=199, Temporary),
            (600..=999, Temporary),
        ] {
            for code in range {
                assert_eq!(status(code), class, "{code}");
            }
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_never_panics() {
        let get = |value: &str, date: Option<&str>| {
            response(
                "https://r.example/",
                Response { status: 503, retry_after: Some(value.into()), date: date.map(Into::into), ..Response::default() },
            )
            .wait
        };
        assert_eq!(get("120", None), Some(Duration::from_secs(120)));
        assert_eq!(get("0", None), Some(Duration::ZERO));
        assert_eq!(get("99999999999999999999999", None), Some(Duration::MAX));
        assert_eq!(get("Thu, 01 Jan 1970 00:02:00 GMT", None), Some(Duration::from_secs(120)));
        assert_eq!(get("Mon, 23 Nov 2026 12:01:00 GMT", Some("Mon, 23 Nov 2026 12:00:00 GMT")), Some(Duration::from_secs(60)));
        assert_eq!(get("Mon, 23 Nov 2026 11:00:00 GMT", Some("Mon, 23 Nov 2026 12:00:00 GMT")), Some(Duration::ZERO));
        for nonsense in ["", "-5", "1.5", "soon", "12 parsecs", "é"] {
            assert_eq!(get(nonsense, None), None, "{nonsense}");
        }
    }

    #[test]
    fn a_date_is_no_wait_when_nobody_knows_the_time() {
        let url = Url::parse("https://r.example/").unwrap();
        let asked = |date: Option<&str>| {
            let retry_after = Some("Mon, 23 Nov 2026 12:01:00 GMT".to_owned());
            let response = Response { status: 503, retry_after, date: date.map(str::to_owned), ..Response::default() };
            let verdict = judge(&url, &Answer::Response(response), &at_the_epoch(false));
            (verdict.class, verdict.wait)
        };
        assert_eq!(asked(None), (Class::Throttled, None));
        assert_eq!(asked(Some("Mon, 23 Nov 2026 12:00:00 GMT")), (Class::Throttled, Some(Duration::from_secs(60))));
    }

    #[test]
    fn a_captive_portal_is_the_network_and_not_the_receiver() {
        let page = Response { status: 200, body: b"\n<!DOCTYPE html><title>Wi-Fi".to_vec(), ..Response::default() };
        assert_eq!(response("http://r.example/", page.clone()).code, "captive_portal");
        assert_eq!(response("https://r.example/", page).class, Class::Delivered);
        let away = Response { status: 302, location: Some("http://login.hotel/".into()), ..Response::default() };
        assert_eq!(response("http://r.example/", away.clone()).class, Class::Offline);
        assert_eq!(response("https://r.example/", away).class, Class::Refused);
        let moved = Response { status: 301, location: Some("/new".into()), ..Response::default() };
        assert_eq!(response("http://r.example/", moved).class, Class::Refused);
    }

    #[test]
    fn a_tls_failure_with_a_wrong_clock_is_the_clocks() {
        let url = Url::parse("https://r.example").unwrap();
        let answer = Answer::Failure { kind: Failure::Tls, detail: String::new() };
        assert_eq!(judge(&url, &answer, &at_the_epoch(false)).class, Class::Clock);
        assert_eq!(judge(&url, &answer, &at_the_epoch(true)).class, Class::Refused);
        for (status, class) in [(400, Class::Rejected), (401, Class::Refused), (403, Class::Refused)] {
            let answer = Answer::Response(Response { status, ..Response::default() });
            assert_eq!(judge(&url, &answer, &at_the_epoch(false)).class, Class::Clock, "a timestamp may be what it refuses");
            assert_eq!(judge(&url, &answer, &at_the_epoch(true)).class, class);
        }
    }
}
