//! What the async form promises.

mod bridges;
mod cancel;
mod fork;
mod forms;
mod loss;
mod shutdown;
mod support;
