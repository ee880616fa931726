//! What the multiplexer promises, against a server that misbehaves in every way at hand.

mod alarms;
mod client;
mod faults;
mod opening;
#[cfg(target_os = "linux")]
mod processes;
mod runtimes;
mod session;
mod sharing;
