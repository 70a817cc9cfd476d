//! The text of a configuration file: taken, or refused with faults that name a line of it and no secret.
#![no_main]

use leadsbotd::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A file that names others would have them read; what stands in them is not ours to try.
    if ["_file", "_env", "_credential"].iter().any(|key| text.contains(key)) {
        return;
    }
    match Config::parse(text) {
        Ok(config) => {
            assert!(!config.capture.forms.is_empty(), "there is always a page");
            let _ = format!("{config:?}");
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in faults {
                assert!(!fault.to_string().is_empty());
            }
        }
    }
});
