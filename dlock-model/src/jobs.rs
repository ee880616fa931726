//! Jobs that are to be done once, under one lock: two keys in a store that answers at once, or not
//! at all.
//!
//! What a store can do to a single key is the business of the other worlds. Here answers and
//! requests are lost, processes die and leases end while a job runs; nothing renews them.

use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use dlock_core::{ErrorKind, FakeClock, Time};

use super::explorer::{Explored, Machine, digest, explore};
use super::flows::{Input, Memory, Output, Process, give};
use super::scenarios::{plain, seconds};
use super::types::{Answer, GrantOf, PlanOf, Promise, Property, Verb};

/// How far an exploration of jobs goes.
#[derive(Clone, Debug)]
pub(super) struct JobBounds {
    pub(super) clients: u8,
    pub(super) ticks: u64,
    /// For how long the lock and its mark are waited for.
    pub(super) waits: Option<Duration>,
    /// Calls that are not answered.
    pub(super) losses: u8,
    pub(super) crashes: u8,
    /// Jobs that fail.
    pub(super) failures: u8,
    pub(super) properties: Vec<Property>,
}

const TTL: Duration = Duration::from_secs(3);
/// For how long a job counts as done.
pub(super) const KEEP: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    Start(u8),
    /// The call is carried out and answered.
    Answer(u8),
    /// It is carried out, and the answer is lost.
    LoseAnswer(u8),
    LoseRequest(u8),
    /// The job ends, well or not.
    Succeed(u8),
    Fail(u8),
    Wake(u8),
    Crash(u8),
    Tick,
}

#[derive(Clone, Debug, Hash, PartialEq)]
enum Phase {
    Idle,
    Calling(Call),
    Sleeping(Time),
    /// The job runs.
    Running,
    Ended,
    Dead,
}

/// A call under way.
#[derive(Clone, Debug, Hash, PartialEq)]
struct Call {
    verb: Verb,
    /// Whether it is about the mark, and not the lock.
    mark: bool,
    /// Whether it describes the mark as done.
    done: bool,
    /// The owner token.
    token: u8,
    ttl: Duration,
}

#[derive(Clone, Debug, Hash)]
struct Client {
    phase: Phase,
    process: Process,
}

#[derive(Clone, Debug, Hash)]
struct Record {
    client: u8,
    token: u8,
    done: bool,
    ends: Time,
}

/// Clients that each want to do the same job.
#[derive(Clone)]
pub(super) struct Jobs {
    bounds: Rc<JobBounds>,
    memory: Rc<Memory>,
    now: Time,
    lasts_until: Time,
    clients: Vec<Client>,
    /// What stands at the lock and at the mark.
    records: [Option<Record>; 2],
    faults: [u8; 3],
    /// How often the job was done.
    done: u8,
}

impl Jobs {
    pub(super) fn explored(bounds: &JobBounds, most: usize) -> Explored {
        let now = FakeClock::new().clock().now();
        let client = Client {
            phase: Phase::Idle,
            process: Process::new(),
        };
        let jobs = Jobs {
            memory: Rc::default(),
            now,
            lasts_until: now.saturating_add(seconds(bounds.ticks)),
            clients: vec![client; usize::from(bounds.clients)],
            records: [None, None],
            faults: [bounds.losses, bounds.crashes, bounds.failures],
            done: 0,
            bounds: Rc::new(bounds.clone()),
        };
        explore(&jobs, most)
    }

    fn client(&mut self, id: u8) -> &mut Client {
        &mut self.clients[usize::from(id)]
    }

    fn go_on(&mut self, id: u8, input: Input) -> Result<(), String> {
        let (memory, now) = (Rc::clone(&self.memory), self.now);
        let client = self.client(id);
        let output = give(&memory, &mut client.process, now, input);
        client.phase = match output {
            Output::Call {
                verb, ttl, place, ..
            } => Phase::Calling(Call {
                verb,
                mark: place.mark,
                done: place.done,
                token: place.token,
                ttl,
            }),
            Output::Sleep { until, .. } => Phase::Sleeping(until),
            Output::Watch => return self.go_on(id, Input::Watched(false)),
            Output::Job => Phase::Running,
            Output::AlreadyDone => {
                self.client(id).phase = Phase::Ended;
                return self.check_done(&format!("client {id} was answered so"));
            }
            Output::Ended => Phase::Ended,
            other => unreachable!("{other:?}"),
        };
        if self.client(id).phase == Phase::Ended {
            self.client(id).process = Process::new();
        }
        Ok(())
    }

    fn check_done(&self, why: &str) -> Result<(), String> {
        let checks = self.bounds.properties.contains(&Property::DoneIsDone);
        if self.done == 0 && checks {
            return Err(format!("DoneIsDone: nobody did the job, but {why}"));
        }
        Ok(())
    }

    /// Carries a call out.
    fn execute(&mut self, id: u8, call: &Call) -> Answer {
        let ends = self.now.saturating_add(call.ttl);
        let now = self.now;
        let record = &mut self.records[usize::from(call.mark)];
        if record.as_ref().is_some_and(|record| record.ends <= now) {
            *record = None;
        }
        let own = matches!(record, Some(it) if it.client == id && it.token == call.token);
        let grant = GrantOf {
            fence: None,
            ttl: call.ttl,
            at: None,
            ordinal: 0,
            copy_may_follow: false,
        };
        match (call.verb, record.as_mut()) {
            (Verb::Acquire, Some(record)) if own => {
                record.ends = record.ends.max(ends);
                Answer::Granted(grant)
            }
            (Verb::Acquire, Some(record)) => {
                let expires_in = now.until(record.ends);
                match record.done {
                    true => Answer::HeldByDone { expires_in },
                    false => Answer::Held { expires_in },
                }
            }
            (Verb::Acquire, None) => {
                *record = Some(Record {
                    client: id,
                    token: call.token,
                    done: call.done,
                    ends,
                });
                Answer::Granted(grant)
            }
            (Verb::Extend, Some(record)) if own => {
                (record.ends, record.done) = (ends, call.done);
                Answer::Extended(grant)
            }
            (Verb::Extend, _) => Answer::Lost,
            (verb, _) => {
                if own {
                    *record = None;
                }
                match verb {
                    Verb::Abandon => Answer::Abandoned,
                    _ => Answer::Released(own),
                }
            }
        }
    }

    fn lose(&mut self, id: u8, carried_out: bool) -> Result<(), String> {
        let Phase::Calling(call) = self.client(id).phase.clone() else {
            unreachable!("a call is under way")
        };
        self.faults[0] -= 1;
        if carried_out {
            let _: Answer = self.execute(id, &call);
        }
        let (kind, maybe) = (ErrorKind::Unreachable, true);
        self.go_on(id, Input::Answered(Answer::Failed { kind, maybe }))
    }
}

impl Machine for Jobs {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let [losses, crashes, failures] = self.faults;
        let mut steps = Vec::new();
        let mut add = |if_so: bool, step: Step| {
            if if_so {
                steps.push(step);
            }
        };
        let mut is_urgent = false;
        for (id, client) in (0u8..).zip(&self.clients) {
            let calls = matches!(client.phase, Phase::Calling(_));
            let wakes = matches!(client.phase, Phase::Sleeping(until) if until <= self.now);
            let runs = client.phase == Phase::Running;
            is_urgent |= calls || wakes;
            add(client.phase == Phase::Idle, Step::Start(id));
            add(calls, Step::Answer(id));
            add(calls && losses > 0, Step::LoseAnswer(id));
            add(calls && losses > 0, Step::LoseRequest(id));
            add(wakes, Step::Wake(id));
            add(runs, Step::Succeed(id));
            add(runs && failures > 0, Step::Fail(id));
            let is_at_work = !matches!(client.phase, Phase::Idle | Phase::Ended | Phase::Dead);
            add(is_at_work && crashes > 0, Step::Crash(id));
        }
        add(!is_urgent && self.now < self.lasts_until, Step::Tick);
        steps
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Start(id) => {
                let waits = self.bounds.waits;
                let call_timeout = plain().call_timeout;
                let plan = PlanOf {
                    deadline: self.now.saturating_add(waits.unwrap_or(call_timeout)),
                    waits: waits.is_some(),
                    pause: seconds(1),
                };
                let promise = Promise {
                    ttl: TTL,
                    renew: false,
                    min_hold: None,
                    max_hold: None,
                    ttl_min: seconds(1),
                    confirm_after: None,
                    call_timeout,
                };
                self.go_on(id, Input::RunOnce(plan, promise))
            }
            Step::Answer(id) => {
                let Phase::Calling(call) = self.client(id).phase.clone() else {
                    unreachable!("a call is under way")
                };
                let answer = self.execute(id, &call);
                self.go_on(id, Input::Answered(answer))
            }
            Step::LoseAnswer(id) => self.lose(id, true),
            Step::LoseRequest(id) => self.lose(id, false),
            Step::Succeed(id) => {
                self.done += 1;
                self.go_on(id, Input::JobEnded(true))
            }
            Step::Fail(id) => {
                self.faults[2] -= 1;
                self.go_on(id, Input::JobEnded(false))
            }
            Step::Wake(id) => self.go_on(id, Input::Woken),
            Step::Crash(id) => {
                self.faults[1] -= 1;
                *self.client(id) = Client {
                    phase: Phase::Dead,
                    process: Process::new(),
                };
                Ok(())
            }
            Step::Tick => {
                self.now = self.now.saturating_add(seconds(1));
                Ok(())
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        let mark = self.records[1].as_ref();
        if mark.is_some_and(|mark| mark.done) {
            self.check_done("the mark says so")?;
        }
        let is_calm = self.bounds.losses == 0 && self.bounds.crashes == 0;
        let checks = self.bounds.properties.contains(&Property::DoneOnce);
        // A job that is shorter than its lease.
        if is_calm && self.bounds.ticks < TTL.as_secs() && self.done > 1 && checks {
            return Err(format!("DoneOnce: the job was done {} times", self.done));
        }
        Ok(())
    }

    fn fingerprint(&self) -> u64 {
        digest(&(
            self.now,
            &self.clients,
            &self.records,
            self.faults,
            self.done,
        ))
    }

    fn show(&self) -> String {
        let mut text = format!("done {} times, {:?}", self.done, self.records);
        for client in &self.clients {
            let _ = write!(text, "; {:?}", client.phase);
        }
        text
    }
}

/// Two clients that want the same job done, and wait for each other.
pub(super) fn two_clients() -> JobBounds {
    JobBounds {
        clients: 2,
        ticks: 6,
        waits: Some(seconds(4)),
        losses: 0,
        crashes: 0,
        failures: 1,
        properties: vec![Property::DoneIsDone, Property::DoneOnce],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(bounds: &JobBounds) {
        let explored = Jobs::explored(bounds, 1_000_000);
        assert!(explored.broken.is_none(), "{explored}");
        assert!(explored.complete && explored.states > 50, "{explored}");
    }

    #[test]
    fn a_job_is_done_once_and_marked_only_when_it_was_done() {
        holds(&JobBounds {
            ticks: 2,
            ..two_clients()
        });
    }

    #[test]
    fn a_job_that_outlives_its_lease_is_marked_only_when_it_was_done() {
        holds(&two_clients());
    }

    #[test]
    fn lost_calls_and_dead_processes_mark_nothing_that_was_not_done() {
        holds(&JobBounds {
            losses: 2,
            crashes: 1,
            ..two_clients()
        });
    }

    #[test]
    fn three_clients_do_not_disturb_each_other() {
        holds(&JobBounds {
            clients: 3,
            ticks: 4,
            losses: 1,
            waits: None,
            ..two_clients()
        });
    }
}
