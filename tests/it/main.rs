//! Every test that drives the real binary, or real parts over a real disk and real sockets. Modules by capability.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test that cannot go on fails, and says where"
)]

mod support;

mod alarms;
mod backup;
mod bad_http;
mod bounds;
mod brokers;
mod chat;
mod cli;
mod clock;
mod config;
mod crm;
mod cut;
mod damage;
mod everywhere;
mod faults;
mod files;
mod golden;
mod hostile;
#[cfg(feature = "email")]
mod mail;
mod model;
mod outage;
mod packaging;
mod pages;
mod peers;
mod power;
mod rotation;
mod schemas;
mod sheets;
mod space;
mod spine;
mod systemd;
mod tls;
mod upgrade;
mod warehouse;
mod wear;
mod webhooks;
