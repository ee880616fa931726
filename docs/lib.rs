//! The guide, page by page, so that `cargo test` compiles and runs the Rust code in it. To read it, see `docs/src/SUMMARY.md`, or build the
//! book: `mdbook build docs`.

#![forbid(unsafe_code)]

#[doc = include_str!("src/file.md")]
pub mod file {}
#[doc = include_str!("src/redis.md")]
pub mod redis {}
