//! leadsbotd's own filters: what a lead needs on its way into other systems. Pure.
//!
//! All of them leave what is missing missing, so that `data.phone | e164('43')` is null and no error when there is no phone.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use md5::Md5;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Digits of a telephone number with its country: ITU-T E.164 allows 15; fewer than 7 are an extension.
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// Adds them to the language.
pub fn add(env: &mut Environment<'_>) {
    env.add_filter("first_word", |v: &Value| text(v, |t| t.split_whitespace().next().unwrap_or_default().to_owned()));
    env.add_filter("last_words", |v: &Value| text(v, |t| t.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")));
    env.add_filter("truncate_chars", |v: &Value, max: usize| text(v, |t| t.chars().take(max).collect()));
    env.add_filter("truncate", |v: &Value, max: usize, end: Option<&str>| text(v, |t| truncate(t, max, end.unwrap_or("…"))));
    env.add_filter("slug", |v: &Value| text(v, slug));
    env.add_filter("e164", e164);
    env.add_filter("date", date);
    env.add_filter("md5", |v: &Value| text(v, |t| hex(&Md5::digest(t))));
    env.add_filter("sha256", |v: &Value| text(v, |t| hex(&Sha256::digest(t))));
    env.add_filter("escape_html", |v: &Value| text(v, |t| escaped(t, html)));
    env.add_filter("escape_slack", |v: &Value| text(v, |t| escaped(t, slack)));
    env.add_filter("escape_discord", |v: &Value| text(v, discord));
    env.add_filter("escape_csv", |v: &Value| text(v, csv));
}

/// A filter over text.
fn text(value: &Value, f: impl FnOnce(&str) -> String) -> Value {
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined | ValueKind::None, _) => Value::from(()),
        (_, Some(text)) => Value::from(f(text)),
        _ => Value::from(f(&value.to_string())),
    }
}

/// At most `max` characters, `end` included.
fn truncate(text: &str, max: usize, end: &str) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(end.chars().count())).collect();
    short.truncate(short.trim_end().len());
    short.extend(end.chars().take(max));
    short
}

/// Small letters and digits of any script, everything between them one hyphen.
fn slug(text: &str) -> String {
    let words: Vec<String> = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
    words.join("-")
}

/// A telephone number as ITU-T E.164 writes it: `+436641234567`. `country` is the calling code for numbers without one. Null for what
/// is no such number: a receiver that wants E.164 is better off without it than with something else.
fn e164(value: &Value, country: Option<&str>) -> Result<Value, Error> {
    let country = country.map(|c| c.trim_start_matches('+'));
    if country.is_some_and(|c| c.is_empty() || c.len() > 3 || !c.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Error::new(ErrorKind::InvalidOperation, "e164 wants a calling code, as in e164('43')"));
    }
    let Some(text) = value.as_str() else { return Ok(Value::from(())) };
    // As printed on cards: +43 (0)664 …; the zero is for callers inside the country.
    let text = text.trim().replace("(0)", "");
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let international = if text.starts_with('+') { Some(digits.as_str()) } else { digits.strip_prefix("00") };
    let whole = match (international, country) {
        (Some(digits), _) => digits.to_owned(),
        (None, None) => return Ok(Value::from(())),
        // Italy's zeros belong to the number; North America's trunk prefix is a one.
        (None, Some("39")) => format!("39{digits}"),
        (None, Some("1")) => format!("1{}", digits.strip_prefix('1').unwrap_or(&digits)),
        (None, Some(country)) => format!("{country}{}", digits.strip_prefix('0').unwrap_or(&digits)),
    };
    let letters = text.chars().any(char::is_alphabetic);
    Ok(if !letters && PHONE_DIGITS.contains(&whole.len()) { Value::from(format!("+{whole}")) } else { Value::from(()) })
}

/// A time of the event in the form and the time zone a receiver wants: `created_at | date('%d.%m.%Y %H:%M', 'Europe/Vienna')`. The form is
/// that of strftime(3); without a zone it is UTC. Zones are those of the system's own database.
fn date(value: &Value, format: &str, zone: Option<&str>) -> Result<Value, Error> {
    let wrong = |message: String| Error::new(ErrorKind::InvalidOperation, message);
    let zone = match zone {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name).map_err(|_| wrong(format!("date knows no time zone {name} on this device")))?,
    };
    let shown = |at: Timestamp| {
        strtime::format(format, &ZonedDateTime::new(at, zone.clone())).map_err(|e| wrong(format!("date cannot use its form: {e}")))
    };
    // Whatever the event holds, a form that cannot be used is found when the configuration is read.
    shown(Timestamp::UNIX_EPOCH)?;
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(at) => Ok(Value::from(shown(at)?)),
        None => Ok(Value::from(())),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn escaped(text: &str, entity: impl Fn(char) -> Option<&'static str>) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match entity(c) {
            Some(entity) => out.push_str(entity),
            None => out.push(c),
        }
        out
    })
}

/// The three characters that <https://docs.slack.dev/messaging/formatting-message-text> gives a meaning.
fn slack(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// For HTML text and attributes, and so for Telegram's parse_mode HTML.
fn html(c: char) -> Option<&'static str> {
    match c {
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        other => slack(other),
    }
}

/// A backslash before everything Discord's Markdown could give a meaning.
fn discord(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if "\\`*_~|<>#[]()-+@:".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// A spreadsheet must not take a lead's words for a formula: <https://owasp.org/www-community/attacks/CSV_Injection>.
fn csv(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Expr};
    use serde_json::{Value as Json, json};

    fn value(source: &str) -> Json {
        let event = Event::parse(
            json!({"created_at": "2026-11-23T23:30:00.123Z",
                "data": {"name": " Jane  van Dyke ", "email": "Jane@Example.com", "phone": null, "message": "Please call me back",
                    "fields": {"here": "0664 123 45 67", "there": "+43 (0)664/1234567", "far": "0043 664 1234567", "italy": "06 1234 5678",
                        "us": "1 (555) 010-0000", "short": "112", "word": "call 0664 1234567", "long": "+1234567890123456", "n": 5,
                        "evil": "<@U1> & =cmd|'x'!A1 *b*", "formula": "=IMPORTXML(1)", "title": "QR-Station: Halle 3 / Größe"}}})
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        Expr::new("map.x", source).and_then(|e| e.value(&event)).unwrap_or_else(|e| json!(e.to_string()))
    }

    #[test]
    fn what_is_missing_stays_missing() {
        for filter in [
            "first_word",
            "last_words",
            "truncate_chars(3)",
            "truncate(3)",
            "slug",
            "e164",
            "e164('43')",
            "date('%Y')",
            "md5",
            "sha256",
            "escape_html",
            "escape_slack",
            "escape_discord",
            "escape_csv",
        ] {
            assert_eq!(value(&format!("data.phone | {filter}")), Json::Null, "{filter}");
            assert_eq!(value(&format!("data.no.such | {filter}")), Json::Null, "{filter}");
        }
    }

    #[test]
    fn names_are_parted_and_texts_shortened() {
        assert_eq!(value("data.name | first_word"), "Jane");
        assert_eq!(value("data.name | last_words"), "van Dyke");
        assert_eq!(value("'Prince' | last_words"), "");
        assert_eq!(value("data.message | truncate(12)"), "Please call…");
        assert_eq!(value("data.message | truncate(11, '...')"), "Please c...");
        assert_eq!(value("data.message | truncate(19)"), "Please call me back");
        assert_eq!(value("data.message | truncate(2, '...')"), "..");
        assert_eq!(value("data.fields.n | truncate(9)"), "5");
        assert_eq!(value("data.fields.title | slug"), "qr-station-halle-3-größe");
    }

    #[test]
    fn telephone_numbers_become_e164_or_nothing() {
        for (source, number) in [
            ("data.fields.here | e164('43')", json!("+436641234567")),
            ("data.fields.here | e164('+43')", json!("+436641234567")),
            ("data.fields.there | e164('43')", json!("+436641234567")),
            ("data.fields.there | e164", json!("+436641234567")),
            ("data.fields.far | e164('49')", json!("+436641234567")),
            ("data.fields.italy | e164('39')", json!("+390612345678")),
            ("data.fields.us | e164('1')", json!("+15550100000")),
            ("data.fields.here | e164", Json::Null),
            ("data.fields.short | e164('43')", Json::Null),
            ("data.fields.word | e164('43')", Json::Null),
            ("data.fields.long | e164", Json::Null),
        ] {
            assert_eq!(value(source), number, "{source}");
        }
        assert!(value("data.fields.here | e164('Austria')").as_str().unwrap().contains("invalid operation"));
    }

    #[test]
    fn times_are_told_in_any_form_and_zone() {
        assert_eq!(value("created_at | date('%d.%m.%Y %H:%M')"), "23.11.2026 23:30");
        assert_eq!(value("created_at | date('%d.%m.%Y %H:%M %Z', 'Europe/Vienna')"), "24.11.2026 00:30 CET");
        assert_eq!(value("created_at | date('%s')"), "1795476600");
        assert_eq!(value("data.name | date('%Y')"), Json::Null, "no time at all");
        assert!(value("created_at | date('%Y', 'Europe/Atlantis')").as_str().unwrap().contains("invalid operation"));
        assert!(value("data.phone | date('%!')").as_str().unwrap().contains("invalid operation"));
    }

    #[test]
    fn digests_are_those_others_compute() {
        // RFC 1321 appendix A.5; FIPS 180-4's example.
        assert_eq!(value("'abc' | md5"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(value("'abc' | sha256"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(value("data.email | trim | lower | md5"), value("'jane@example.com' | md5"));
    }

    #[test]
    fn what_a_visitor_typed_has_no_meaning_where_it_arrives() {
        assert_eq!(value("data.fields.evil | escape_slack"), "&lt;@U1&gt; &amp; =cmd|'x'!A1 *b*");
        assert_eq!(value("data.fields.evil | escape_html"), "&lt;@U1&gt; &amp; =cmd|&#39;x&#39;!A1 *b*");
        assert_eq!(value("data.fields.evil | escape_discord"), "\\<\\@U1\\> & =cmd\\|'x'!A1 \\*b\\*");
        assert_eq!(value("data.fields.formula | escape_csv"), "'=IMPORTXML(1)");
        assert_eq!(value("data.message | escape_csv"), "Please call me back");
        for bad in ["+1", "-1", "@x", "\\tx", "\\rx"] {
            assert_eq!(value(&format!("'{bad}' | escape_csv")).as_str().unwrap().as_bytes()[0], b'\'', "{bad}");
        }
    }
}
