//! leadsbotd keeps every lead a kiosk or QR station captures and forwards it, signed, to the systems the business already uses.
//!
//! The promise: after a 2xx the lead is on the disk with everything it still has to reach, and it will reach it.
//! ARCHITECTURE.md is the map of this crate.

pub mod alarm;
pub mod capture;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod destination;
pub mod event;
pub mod id;
pub mod intake;
pub mod lead;
pub mod logging;
pub mod mapping;
pub mod retry;
pub mod secret;
pub mod signature;
pub mod store;
pub mod time;
