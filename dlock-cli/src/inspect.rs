//! The verbs of operators: who holds a lock, free it, let a job run again.

mod break_lock;
mod description;
mod forget;
mod key;
mod list;
mod name;
mod status;
mod target;

pub(crate) use break_lock::break_lock;
pub(crate) use forget::forget;
pub(crate) use key::key;
pub(crate) use list::list;
pub(crate) use status::status;
