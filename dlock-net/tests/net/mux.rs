//! What the multiplexer promises, against a server that misbehaves in every way at hand.

mod alarms;
mod client;
mod faults;
mod opening;
mod processes;
mod runtimes;
mod session;
mod sharing;
