//! Instants, clocks, wake-ups and waiting.

pub(crate) mod backoff;
pub(crate) mod clock;
pub(crate) mod fake;
pub(crate) mod fake_clock;
pub(crate) mod instant;
pub(crate) mod signal;
mod suspension;
mod system;
pub(crate) mod user_code;
pub(crate) mod wait;
