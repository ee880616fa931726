//! Kills processes while they wait, many at once or again and again, and checks that a healthy
//! process makes progress meanwhile.

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Clock, Time};
use dlock_history::{Harm, Recorder};

use crate::Failure;
use crate::backend::{Backend, LockSpec};
use crate::lanes::{Round, sleep_until};
use crate::plan::{Fault, Planned};
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::workers::Watcher;

/// The lock that a healthy process shares with crashing ones.
pub(crate) const NAME: LockSpec = LockSpec {
    id: "crash",
    ttl: Duration::from_millis(1000),
    hot: true,
};
/// How long it is shared with the crashing processes.
pub(crate) const LASTS: Duration = Duration::from_secs(5);
/// Before that, the healthy process has the lock alone for this time.
const ALONE: Duration = Duration::from_secs(2);
/// Beside crashing processes it must get the lock at least at one part in this many of the rate
/// that it has alone. The machine may be busy, and a process that dies as the holder keeps the lock
/// for one time to live.
const SHARE: u128 = 6;
/// It must get the lock again within this time after many waiters died. The documentation says
/// about a second.
const AGAIN_WITHIN: Duration = Duration::from_secs(6);
/// The time in which processes start and begin to wait.
const WAITING: Duration = Duration::from_millis(900);
/// The lifetime of a process that crashes in a loop.
const LIVES: std::ops::Range<u64> = 400..800;
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// Starts and kills the waiters of one round.
pub(crate) struct Crashes<'a> {
    pub(crate) backend: Backend,
    pub(crate) url: &'a str,
    pub(crate) histories: &'a Path,
    pub(crate) seed: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

/// Waiting processes. They are killed when this is dropped, or when this process is gone.
pub(crate) struct Waiters<'a> {
    of: &'a Crashes<'a>,
    running: Vec<Child>,
    watcher: Watcher,
}

/// How a waiter uses its lock.
#[derive(Clone, Copy)]
struct Habit {
    threads: u64,
    holds: Duration,
    pauses: Duration,
}

const CRASHES: Habit = Habit {
    threads: 1,
    holds: Duration::ZERO,
    pauses: Duration::ZERO,
};

impl Crashes<'_> {
    /// Carries out the planned crashes during the time of all other faults.
    pub(crate) fn break_waiters(&self, round: &Round, plan: &[Planned]) -> Result<(), Failure> {
        for (number, planned) in plan.iter().enumerate() {
            sleep_until(round.start.saturating_add(planned.at));
            let since = Clock::BOOTTIME.now();
            let mut random = Random::new(self.seed, &[6, number as u64]);
            match planned.fault {
                Fault::DeadWaiters(name, processes, threads) => {
                    self.many_die(&format!("dead-{number}"), name, processes, threads)?;
                }
                Fault::CrashingWaiters(name, processes) => {
                    let until = since.saturating_add(planned.lasts);
                    self.crash(
                        &format!("loop-{number}"),
                        name,
                        processes,
                        until,
                        &mut random,
                    )?;
                }
                ref other => unreachable!("{other:?} is not of waiters"),
            }
            round.record.fault(planned.fault.name(), Harm::None, since);
        }
        Ok(())
    }

    /// After the other faults, lets a healthy process and crashing ones share [`NAME`]. The healthy
    /// process continues afterwards.
    pub(crate) fn share(&self, record: &Recorder) -> Result<Waiters<'_>, Failure> {
        let mut random = Random::new(self.seed, &[7]);
        let mut healthy = self.waiters()?;
        let habit = Habit {
            threads: 1,
            holds: Duration::from_millis(20),
            pauses: match self.sabotage {
                // After its first hold it pauses until the end of the round.
                Some(Sabotage::Starves) => ENDS_WITHIN / 3,
                // The lock is hardly ever free, so the crashing processes wait for it and rarely
                // die as its holder.
                _ => Duration::ZERO,
            },
        };
        healthy.start("healthy", NAME, habit)?;
        self.wait_for_grants("healthy", 1, AGAIN_WITHIN * 2)?;
        let before = self.grants("healthy")?;
        thread::sleep(ALONE);
        let alone = self.grants("healthy")?.saturating_sub(before);
        let least = match self.backend {
            // A hand-over to a process that was killed a moment ago costs the others 1.2 seconds:
            // the nodes do not say who receives messages.
            Backend::Cluster => 1,
            _ => alone as u128 * LASTS.as_millis() / ALONE.as_millis() / SHARE,
        };
        let since = Clock::BOOTTIME.now();
        self.crash("loop", NAME, 3, since.saturating_add(LASTS), &mut random)?;
        record.fault("crashing-waiters", Harm::None, since);
        record.thrives(
            &NAME.key(),
            "healthy",
            u64::try_from(least)?.max(1),
            since,
            LASTS,
        );
        let processes = random.pick(&[1, 5, 8, 12]);
        let threads = random.pick(&[1, 1, 3, 8]);
        let since = Clock::BOOTTIME.now();
        let died = self.many_die("dead", NAME, processes, threads)?;
        record.fault("dead-waiters", Harm::None, since);
        let before = self.grants("healthy")?;
        self.wait_for_grants("healthy", before + 1, AGAIN_WITHIN)?;
        record.thrives(&NAME.key(), "healthy", 1, died, AGAIN_WITHIN);
        Ok(healthy)
    }

    /// Lets `processes` processes with `threads` threads each wait, and kills them. Returns the
    /// time of the kill.
    fn many_die(
        &self,
        actor: &str,
        name: LockSpec,
        processes: u64,
        threads: u64,
    ) -> Result<Time, Failure> {
        let mut waiters = self.waiters()?;
        for number in 0..processes {
            let habit = Habit { threads, ..CRASHES };
            waiters.start(&format!("{actor}-{number}"), name, habit)?;
        }
        thread::sleep(WAITING);
        waiters.kill();
        Ok(Clock::BOOTTIME.now())
    }

    /// Starts processes that wait, kills them, and starts them again.
    fn crash(
        &self,
        actor: &str,
        name: LockSpec,
        processes: u64,
        until: Time,
        random: &mut Random,
    ) -> Result<(), Failure> {
        let mut slots = Vec::new();
        for _ in 0..processes {
            slots.push((self.waiters()?, Clock::BOOTTIME.now()));
        }
        let mut started = 0;
        while Clock::BOOTTIME.now() < until {
            for (waiters, dies) in &mut slots {
                if Clock::BOOTTIME.now() < *dies {
                    continue;
                }
                waiters.kill();
                waiters.start(&format!("{actor}-{started}"), name, CRASHES)?;
                *dies = Clock::BOOTTIME.now().saturating_add(random.millis(LIVES));
                started += 1;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The number of grants to an actor.
    fn grants(&self, actor: &str) -> Result<usize, Failure> {
        let text = fs::read_to_string(self.histories.join(format!("{actor}.history")));
        Ok(text.unwrap_or_default().matches(" granted ").count())
    }

    fn wait_for_grants(&self, actor: &str, count: usize, within: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        while self.grants(actor)? < count && start.elapsed() < within {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn waiters(&self) -> Result<Waiters<'_>, Failure> {
        Ok(Waiters {
            of: self,
            running: Vec::new(),
            watcher: Watcher::start()?,
        })
    }
}

impl Waiters<'_> {
    fn start(&mut self, actor: &str, name: LockSpec, habit: Habit) -> Result<(), Failure> {
        let Crashes {
            backend,
            url,
            histories,
            seed,
            ..
        } = self.of;
        let errors = File::create(histories.join(format!("{actor}.stderr")))?;
        let child = Command::new(env::current_exe()?)
            .args(["waiter", backend.name(), url])
            .arg(histories)
            .args([
                actor,
                &seed.to_string(),
                name.id,
                &habit.threads.to_string(),
            ])
            .args([name.ttl, habit.holds, habit.pauses].map(|time| time.as_millis().to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()?;
        self.watcher.send('+', &child);
        self.running.push(child);
        Ok(())
    }

    fn kill(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
        }
        for mut child in self.running.drain(..) {
            // In this order: while the watcher may kill an id, it must belong to this child.
            self.watcher.send('-', &child);
            let _ = child.wait();
        }
    }

    /// Asks the waiters to end, and waits until they have.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let asked = Instant::now();
        for child in &mut self.running {
            drop(child.stdin.take());
        }
        while asked.elapsed() < ENDS_WITHIN {
            let mut ended = true;
            for child in &mut self.running {
                match child.try_wait()? {
                    Some(status) if status.success() => {}
                    Some(status) => {
                        let folder = self.of.histories.display();
                        let text =
                            format!("a waiter ended ({status}); see the .stderr files in {folder}");
                        return Err(text.into());
                    }
                    None => ended = false,
                }
            }
            if ended {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("a waiter hangs".into())
    }
}

impl Drop for Waiters<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}
