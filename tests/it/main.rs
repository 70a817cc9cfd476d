//! Every test that drives the real binary, or real parts over a real disk and real sockets. Modules by capability.

mod support;

mod outage;
mod power;
mod spine;
