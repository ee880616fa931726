//! What the async form promises: the same as the blocking one.

mod conformance;
mod ends;
mod prepared;
mod rows;
