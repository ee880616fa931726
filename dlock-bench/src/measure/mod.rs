//! What is measured: one file each.

mod crashed_holder;
mod file_pairs;
mod hand_over;
mod idle_waiters;
mod memcached_pairs;
mod memory_pairs;
mod pairs;
mod redis_pairs;
mod renewal;
mod server_time;
mod start_up;

pub(crate) use memcached_pairs::wait_until_grown_up;

use crate::Failure;
use crate::bench::Bench;
use crate::report::Section;

type Measure = fn(&Bench) -> Result<Section, Failure>;

/// All of it, in the order of the report.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("redis-pairs", redis_pairs::measure),
    ("memcached-pairs", memcached_pairs::measure),
    ("file-pairs", file_pairs::measure),
    ("memory-pairs", memory_pairs::measure),
    ("hand-over", hand_over::measure),
    ("idle-waiters", idle_waiters::measure),
    ("crashed-holder", crashed_holder::measure),
    ("renewal", renewal::measure),
    ("start-up", start_up::measure),
];
