//! Form bodies, urlencoded and multipart: the first line is the Content-Type, the rest the body. What is taken must be in the event.
#![no_main]

use leadsbotd::capture;
use leadsbotd::lead::Limits;
use leadsbotd_fuzz::{event_of, lost, ready};
use libfuzzer_sys::fuzz_target;
use serde_json::map::Entry;
use serde_json::{Map, json};

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|b| *b == b'\n') else { return };
    let Ok(content_type) = std::str::from_utf8(&data[..end]) else { return };
    let (limits, body) = (Limits::default(), data[end + 1..].to_vec());
    let Ok(submission) = ready(capture::read(content_type, body.clone(), &limits)) else { return };
    let event = event_of(submission.clone());
    assert!(event["data"]["fields"].is_object());
    // A form that was taken is taken again, and says the same.
    assert_eq!(ready(capture::read(content_type, body.clone(), &limits)), Ok(submission));
    if content_type.starts_with("application/x-www-form-urlencoded") {
        let mut said = Map::new();
        for (name, value) in url::form_urlencoded::parse(&body) {
            match said.entry(name) {
                Entry::Vacant(new) => drop(new.insert(json!([value]))),
                Entry::Occupied(mut list) => list.get_mut().as_array_mut().expect("a list").push(json!(value)),
            }
        }
        let lost = lost(&said, &event);
        assert!(lost.is_empty(), "said and not kept: {lost:?}");
    }
});
