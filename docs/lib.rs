//! The guide, page by page, so that `cargo test` compiles and runs the Rust code in it. To read it,
//! begin with `docs/src/SUMMARY.md`, or build the book: `mdbook build docs`.

#![forbid(unsafe_code)]
// One page shows an `impl` in pieces. That the pieces are the whole is tested in `tests/pages.rs`.
#![allow(rustdoc::invalid_rust_codeblocks)]

#[doc = include_str!("src/async.md")]
pub mod async_form {}
#[doc = include_str!("src/choosing.md")]
pub mod choosing {}
#[doc = include_str!("src/command.md")]
pub mod command {}
#[doc = include_str!("src/design.md")]
pub mod design {}
#[doc = include_str!("src/etcd.md")]
pub mod etcd {}
#[doc = include_str!("src/faults.md")]
pub mod faults {}
#[doc = include_str!("src/file.md")]
pub mod file {}
#[doc = include_str!("src/first-lock.md")]
pub mod first_lock {}
#[doc = include_str!("src/glossary.md")]
pub mod glossary {}
#[doc = include_str!("src/guarantees.md")]
pub mod guarantees {}
#[doc = include_str!("src/memcache.md")]
pub mod memcache {}
#[doc = include_str!("src/metrics.md")]
pub mod metrics {}
#[doc = include_str!("src/moving.md")]
pub mod moving {}
#[doc = include_str!("src/observe.md")]
pub mod observe {}
#[doc = include_str!("src/performance.md")]
pub mod performance {}
#[doc = include_str!("src/php.md")]
pub mod php {}
#[doc = include_str!("src/postgres.md")]
pub mod postgres {}
#[doc = include_str!("../README.md")]
pub mod readme {}
#[doc = include_str!("../dlock-core/README.md")]
pub mod readme_of_core {}
#[doc = include_str!("src/redis.md")]
pub mod redis {}
#[doc = include_str!("src/service.md")]
pub mod service {}
#[doc = include_str!("src/tour.md")]
pub mod tour {}
#[doc = include_str!("src/write-an-adapter.md")]
pub mod write_an_adapter {}
