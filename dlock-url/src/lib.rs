//! Parses the URLs of dlock's stores, and redacts them for messages.
//!
//! It is an implementation detail of the stores and of the command. A store for another server may
//! use it.
//!
//! ```
//! use dlock_url::{Endpoint, UrlParts, redacted};
//!
//! let url = "redis://app:s3cret@db/0";
//! let parts = UrlParts::of(url).unwrap();
//! assert_eq!((parts.scheme, parts.login, parts.path), ("redis", Some("app:s3cret"), "/0"));
//! let endpoint = Endpoint::parse(parts.host, Some(6379)).unwrap();
//! assert_eq!(endpoint.to_string(), "db:6379");
//! assert_eq!(redacted(url), "redis://***@db/0");
//! ```
#![forbid(unsafe_code)]

mod endpoint;
mod parts;
mod percent;
mod redact;

pub use endpoint::{Endpoint, EndpointError};
pub use parts::UrlParts;
pub use percent::{percent_decoded, percent_decoded_bytes};
pub use redact::{escaped, redacted};
