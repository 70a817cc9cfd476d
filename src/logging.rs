//! The log: to standard error, one line an event. Under systemd the journal adds the time, so the line does not.
//!
//! Lines carry ids and names from the configuration, never a person's details, a secret, or the path of a URL.

use log::LevelFilter;
use simplelog::{ConfigBuilder, WriteLogger};
use time::macros::format_description;

/// Starts logging; a second call only changes the level.
pub fn start(level: LevelFilter) {
    let mut config = ConfigBuilder::new();
    config
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_time_format_custom(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"))
        // Other crates' words are about their own insides, and some of them quote URLs.
        .add_filter_allow_str("leadsbotd");
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        config.set_time_level(LevelFilter::Off);
    }
    // The level is held by `log` itself, so that a reload can change it.
    drop(WriteLogger::init(LevelFilter::Debug, config.build(), std::io::stderr()));
    log::set_max_level(level);
}
