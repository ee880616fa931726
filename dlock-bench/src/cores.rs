//! Chooses the cores on which clients and servers run.
//!
//! A wake-up across cores costs several times as much as one on the same core, and without pinning
//! a run changes between the two. So everything is measured both ways: server and clients share a
//! core, or have a core each.

use std::fs;
use std::thread;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Failure;

/// One of the two placements.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) name: &'static str,
    client: usize,
    server: usize,
}

impl Cores {
    /// Both placements; on a machine with one core only the first.
    pub(crate) fn both() -> Result<Vec<Self>, Failure> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let first = cores.next().ok_or("no core to run on")?;
        let way = |name, server| Cores {
            name,
            client: first,
            server,
        };
        let mut ways = vec![way("one core", first)];
        ways.extend(cores.next().map(|second| way("two cores", second)));
        Ok(ways)
    }

    /// Moves a server with all its threads to the core of servers.
    pub(crate) fn pin_server(self, pid: u32) -> Result<(), Failure> {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let id = thread?.file_name().to_string_lossy().parse()?;
            sched_setaffinity(Pid::from_raw(id), &only(self.server))?;
        }
        Ok(())
    }

    /// Runs `work` on a thread on the core of clients. The threads and processes that it starts run
    /// there too.
    pub(crate) fn on_client<T: Send>(
        self,
        work: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let pinned = || {
            sched_setaffinity(None, &only(self.client))?;
            work()
        };
        thread::scope(|scope| {
            let done = scope.spawn(pinned).join();
            done.unwrap_or_else(|_| Err("a measurement panicked".into()))
        })
    }
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}
