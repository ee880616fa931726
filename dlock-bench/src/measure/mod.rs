//! What is measured: one file each.

mod file_pairs;
mod memcached_pairs;
mod memory_pairs;
mod pairs;
mod redis_pairs;

use crate::Failure;
use crate::options::Options;
use crate::report::Section;

type Measure = fn(&Options) -> Result<Section, Failure>;

/// All of it, in the order of the report.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("redis-pairs", redis_pairs::measure),
    ("memcached-pairs", memcached_pairs::measure),
    ("file-pairs", file_pairs::measure),
    ("memory-pairs", memory_pairs::measure),
];
