//! The lock, and the job that runs under it.

use std::time::Duration;

use dlock_core::FencingToken;
use dlock_core::aio::{Lock, LockGuard};
use metrics::counter;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::Outcome;
use crate::ledger::Ledger;

/// How long to pause after an error that waiting does not mend, such as a wrong password.
const PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Leader {
    lock: Lock,
    ledger: Ledger,
    period: Duration,
}

impl Leader {
    pub(crate) fn new(lock: Lock, ledger: Ledger, period: Duration) -> Self {
        // Prometheus sees no increase in a counter whose first value is one.
        counter!("report_runs_total").increment(0);
        Leader {
            lock,
            ledger,
            period,
        }
    }

    /// Leads whenever this instance holds the lock, until the service stops.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<bool>) -> Outcome {
        while !*stopped.borrow() {
            // The wait costs a task here, and a command a second in Redis. If the service stops,
            // `select!` drops the future: then the place in the queue is given up, and a lock that
            // was granted at this moment is released.
            let guard = tokio::select! {
                guard = self.lock.acquire() => guard,
                () = is_true(&mut stopped) => break,
            };
            let ended = match guard {
                Ok(guard) => self.lead(guard, stopped.clone()).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = ended {
                eprintln!("does not lead: {error}");
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = is_true(&mut stopped) => {}
                }
            }
        }
        Ok(())
    }

    /// Runs the job until the lease is lost, the job fails or the service stops.
    async fn lead(&self, guard: LockGuard, stopped: watch::Receiver<bool>) -> Outcome {
        let token = guard
            .fencing_token()
            .ok_or("this store has no fencing tokens")?;
        eprintln!("leads with token {token}");
        // `biased`: if the lease is lost and a run is due, do not begin the run.
        let result = tokio::select! {
            biased;
            () = guard.lost() => Err("the lease is lost".into()),
            result = self.run_every_period(token, stopped) => result,
        };
        // Awaited, and not only dropped, to know how it went: an error here means that somebody
        // else may have held the lock during the last run.
        let released = guard.release().await;
        result?;
        released?;
        eprintln!("does not lead any more");
        Ok(())
    }

    /// Returns when the service stops, between two runs of the job.
    async fn run_every_period(
        &self,
        token: FencingToken,
        mut stopped: watch::Receiver<bool>,
    ) -> Outcome {
        let mut due = interval(self.period);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = is_true(&mut stopped) => return Ok(()),
                _ = due.tick() => {}
            }
            self.report(token).await?;
            counter!("report_runs_total").increment(1);
        }
    }

    /// The job. It can be cancelled where it awaits, but what it has handed to the ledger is
    /// written all the same. That is why each entry carries the token.
    async fn report(&self, token: FencingToken) -> Outcome {
        self.ledger.write(token, "begin").await?;
        sleep(self.period / 4).await; // the work
        self.ledger.write(token, "end").await?;
        Ok(())
    }
}

/// Returns when the value is true.
async fn is_true(value: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it `main`.
    let _ = value.wait_for(|value| *value).await;
}
