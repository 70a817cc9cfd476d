//! JSON bodies: a lead, a change to one, a reply. What is taken must be in the event, whole.
#![no_main]

use leadsbotd::lead::{Fault, Limits, Patch, Reply, Submission, Trust};
use leadsbotd_fuzz::{event_of, lost};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let said: Option<Map<String, Value>> = serde_json::from_slice(data).ok();
    for trust in [Trust::Public, Trust::Api] {
        match Submission::from_json(data, &limits, trust) {
            Ok(submission) => {
                let said = said.as_ref().expect("what is taken is JSON to others too");
                sizes(&submission.fields, &limits);
                let lost = lost(said, &event_of(submission));
                assert!(lost.is_empty(), "said and not kept: {lost:?}");
            }
            Err(fault) => told(&fault),
        }
    }
    match Patch::from_json(data, &limits) {
        Ok(patch) => {
            let lead = leadsbotd::event::sample_lead();
            if let Ok(changed) = patch.apply(&lead, &limits) {
                let again = patch.apply(&changed.lead, &limits).expect("what was done can be done again");
                assert!(again.names.is_empty() && again.status.is_none(), "a change made twice changes twice");
            }
        }
        Err(fault) => told(&fault),
    }
    if let Err(fault) = Reply::from_json(data, &limits) {
        told(&fault);
    }
});

fn told(fault: &Fault) {
    assert!(matches!(fault.status, 400 | 422) && !fault.code.is_empty() && !fault.message.is_empty(), "{fault:?}");
}

fn sizes(fields: &Map<String, Value>, limits: &Limits) {
    assert!(fields.len() <= limits.fields_max);
    for (name, value) in fields {
        let bytes = value.as_str().map_or_else(|| value.to_string().len(), str::len);
        assert!(name.len() <= limits.name_bytes_max && bytes <= limits.value_bytes_max, "a field of {bytes} bytes got through");
    }
}
