//! The measurements, one in each file.

mod async_memcached;
mod async_memory;
mod async_pairs;
mod async_waiting;
mod crashed_holder;
mod etcd;
mod file_pairs;
mod hand_over;
mod idle_waiters;
mod memcached_pairs;
mod memory_pairs;
mod next_job;
mod pairs;
mod postgres;
mod redis_pairs;
mod renewal;
mod server_time;
mod start_up;
mod urgency;

pub(crate) use async_memory::child as memory;
pub(crate) use next_job::job;

use crate::Failure;
use crate::bench::Bench;
use crate::report::Section;

type Measure = fn(&Bench) -> Result<Section, Failure>;

/// All measurements, in the order of the report.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("redis-pairs", redis_pairs::measure),
    ("async", async_pairs::measure),
    ("async-waiting", async_waiting::measure),
    ("async-memory", async_memory::measure),
    ("memcached-pairs", memcached_pairs::measure),
    ("async-memcached", async_memcached::measure),
    ("file-pairs", file_pairs::measure),
    ("postgres", postgres::measure),
    ("etcd", etcd::measure),
    ("memory-pairs", memory_pairs::measure),
    ("hand-over", hand_over::measure),
    ("idle-waiters", idle_waiters::measure),
    ("crashed-holder", crashed_holder::measure),
    ("renewal", renewal::measure),
    ("urgency", urgency::measure),
    ("start-up", start_up::measure),
    ("next-job", next_job::measure),
];
