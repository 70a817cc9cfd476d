//! `when` and `map` expressions over any event: a value or an error, soon, and no error that says what a person said.
#![no_main]

use leadsbotd::mapping::{Event, Expr};
use libfuzzer_sys::fuzz_target;

const EVENT: &str = r#"{"id":"evt_1","event":"lead.created","data":{"name":"Jane QUITE-PRIVATE","email":"jane@example.com","phone":null,
    "score":88,"fields":{"vip":true,"tags":["a","b"],"n":-1.5,"deep":{"deeper":[{}]}}},"context":{"utm":{}}}"#;

// The first line is the expression, the rest the event; without a rest it is one with a person's name in it.
fuzz_target!(|text: &str| {
    let (source, event) = text.split_once('\n').unwrap_or((text, EVENT));
    let Ok(expr) = Expr::new("map.x", source) else { return };
    let Ok(event) = Event::parse(event.as_bytes()) else { return };
    for error in [expr.value(&event).err(), expr.holds(&event).err()].into_iter().flatten() {
        assert!(source.contains("QUITE-PRIVATE") || !error.to_string().contains("QUITE-PRIVATE"), "{error}");
    }
    if let (Ok(value), Ok(again)) = (expr.value(&event), expr.value(&event)) {
        assert_eq!(value, again, "the same event gives another body");
    }
});
