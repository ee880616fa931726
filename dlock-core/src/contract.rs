//! The contract with adapters: the trait, its arguments, its answers, and what a store declares
//! about itself.

pub(crate) mod characteristics;
pub(crate) mod claim;
pub(crate) mod datastore;
pub(crate) mod error;
pub(crate) mod finding;
pub(crate) mod grant;
pub(crate) mod holder;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod layer;
pub(crate) mod lease;
pub(crate) mod outcome;
