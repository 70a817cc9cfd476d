//! Handles on real things: the binary, a receiver with a script, requests byte by byte.

mod daemon;
pub mod http;
pub mod peers;
mod receiver;
pub mod rig;

pub use daemon::{Daemon, Home, leadsbotd};
pub use receiver::{Delivery, Receiver, Reply};

use std::time::{Duration, Instant};

/// The secret of every test's destination.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The API token of every test's daemon.
pub const TOKEN: &str = "test-token-0123456789";

/// Waits until `ready` holds. The limit only ends a test that has failed; nothing is measured by it.
#[track_caller]
pub fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < until, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port that is free now, below those that connections are given at random: it must still be free when a server comes back.
pub fn free_port() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// The private key of a service account. Made for these tests; it opens nothing.
pub const ACCOUNT_KEY: &str = include_str!("service_account.pem");
/// The account's address.
pub const ACCOUNT: &str = "kiosk@example.iam.gserviceaccount.com";

/// The file that Google gives for a key of a service account.
pub fn service_account(token_url: &str) -> String {
    serde_json::json!({
        "type": "service_account", "project_id": "example", "private_key_id": "0123456789abcdef", "private_key": ACCOUNT_KEY,
        "client_email": ACCOUNT, "client_id": "1", "token_uri": token_url,
    })
    .to_string()
}
