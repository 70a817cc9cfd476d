//! Handles on real things: the binary, a receiver with a script, requests byte by byte.

mod daemon;
pub mod http;
mod receiver;

pub use daemon::{Daemon, Home, leadsbotd};
pub use receiver::{Delivery, Receiver, Reply};

use std::time::{Duration, Instant};

/// The secret of every test's destination.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The API token of every test's daemon.
pub const TOKEN: &str = "test-token-0123456789";

/// Whether a program that a test needs is on PATH. If not, says loudly what to install; the test then counts as skipped, or fails where
/// `LEADSBOT_REQUIRE_PEERS=1` says that everything was installed.
pub fn peer(program: &str, install: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        assert!(std::env::var_os("LEADSBOT_REQUIRE_PEERS").is_none(), "{program} is missing; install it with: {install}");
        eprintln!("SKIPPED: {program} is missing; install it with: {install}");
    }
    found
}

/// Waits until `ready` holds. The limit only ends a test that has failed; nothing is measured by it.
#[track_caller]
pub fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < until, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
