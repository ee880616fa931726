//! What happened, and how it is written down: one line an event.

use std::collections::BTreeSet;
use std::fmt;
use std::str::{FromStr, SplitWhitespace};
use std::sync::Arc;
use std::time::Duration;

use dlock_core::Time;

/// Something that a process did or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which process, or rather which [`Recorder`](crate::Recorder): the name of its file.
    pub actor: Arc<str>,
    /// The time before the call.
    pub before: Time,
    /// The time after the call; for what is no call the same.
    pub after: Time,
    /// The store's name in this history.
    pub store: Arc<str>,
    /// The key of the lock; `-` for what concerns the whole store.
    pub key: Arc<str>,
    /// What it was.
    pub what: What,
}

/// What happened. `holding` numbers what one actor was granted; `until` is the end of the lease as
/// the holder believes it, on the conservative side.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The store was opened.
    Opened {
        /// How long after its end a lease may still bar others.
        granularity: Duration,
        /// Whether there are fencing tokens.
        fenced: bool,
        /// Whether it checks after a grant how long it really keeps the lease, and may declare it
        /// shorter.
        confirms: bool,
        /// Whether waiters queue there, and are woken in turn.
        wakes: bool,
    },
    /// An acquire was granted.
    Granted {
        /// Which holding begins.
        holding: u64,
        /// Its fencing token.
        fence: Option<u64>,
        /// What was asked for.
        ttl: Duration,
        /// The end of the lease.
        until: Time,
        /// How often it was refused before, while waiting.
        refusals: u32,
        /// How long the key stays taken at least; zero for no such promise.
        min_hold: Duration,
    },
    /// An acquire was refused, since somebody else holds the lock.
    Refused {
        /// How often, while waiting.
        refusals: u32,
    },
    /// An acquire failed in another way.
    Failed {
        /// A word for it.
        why: String,
    },
    /// A claim was refused that the store can wake: from here on its place is behind those who
    /// waited before.
    Queued {
        /// Which waiter of this actor.
        waiter: u64,
    },
    /// A waiter was granted what it waited for.
    Served {
        /// Which waiter.
        waiter: u64,
    },
    /// A waiter went without: it gave up, or begins anew.
    Left {
        /// Which waiter.
        waiter: u64,
    },
    /// The lease ends later than was believed.
    Extended {
        /// Which holding.
        holding: u64,
        /// The end of the lease.
        until: Time,
    },
    /// The lease ends earlier than was believed.
    Shortened {
        /// Which holding.
        holding: u64,
        /// The end of the lease.
        until: Time,
    },
    /// An async acquire, release or job was dropped. From `before`, when it began, until `after`,
    /// when its clean-up was over. It may have held the key in between.
    Dropped {
        /// Whether the store showed it as the holder afterwards, though every call was answered.
        held: bool,
    },
    /// The guard was found lost.
    Lost {
        /// Which holding.
        holding: u64,
    },
    /// The store answered an extend, a confirm or a release: not yours.
    Denied {
        /// The fencing token of the lease.
        fence: Option<u64>,
    },
    /// A release begins: from here on the holder believes in nothing.
    Releasing {
        /// Which holding.
        holding: u64,
    },
    /// A release is over.
    Released {
        /// Which holding.
        holding: u64,
        /// How it ended.
        end: End,
    },
    /// A write to the guarded resource.
    Wrote {
        /// Under which holding.
        holding: u64,
        /// The fencing token that was shown.
        token: u64,
        /// Whether the resource took it.
        accepted: bool,
    },
    /// A job that is to be done once ran: from its start until `once` returned.
    Ran {
        /// Which job.
        job: String,
        /// For how long it counts as done.
        keep: Duration,
        /// Whether it could be marked as done.
        marked: bool,
    },
    /// Somebody broke something, from `before` until `after`.
    Fault {
        /// A word for it.
        name: String,
        /// What it did to the store.
        harm: Harm,
    },
    /// From here on nothing is broken: within `patience` every key must be acquired.
    Calm {
        /// That long.
        patience: Duration,
    },
    /// The job of this actor may not run after this time.
    Doomed {
        /// The time.
        by: Time,
        /// A word for the reason.
        why: String,
    },
    /// From `before` until `after` an actor must be granted the key at least this often, whatever
    /// other processes do.
    Thrives {
        /// The name of its file.
        actor: String,
        /// How often.
        least: u64,
    },
    /// From `before` until `after` an actor used the key alone, or beside processes that crashed.
    /// All such times are compared together.
    Paced {
        /// The name of its file.
        actor: String,
        /// Beside others: the actor must be granted the key at least at one part in this many of
        /// the rate that it has alone, and once.
        share: Option<u64>,
    },
    /// A process was killed that held the key, or had been handed it: so the key stays taken, until
    /// then at the latest.
    Orphaned {
        /// The end of its lease.
        until: Time,
    },
    /// A command that ran a job under the lock ended.
    Exited {
        /// The exit code, 128 and the number of the signal, or a word.
        status: String,
    },
    /// A command did what its page excludes.
    Amiss {
        /// What it did.
        text: String,
    },
}

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Well.
    Freed,
    /// The lease had ended before.
    Lost,
    /// The store could not be reached, or did not answer.
    Unknown,
    /// The guard was dropped, which reports no outcome.
    Dropped,
}

/// What a fault did to what a store is trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Harm {
    /// Nothing: no lease may suffer from it.
    None,
    /// It lost data. Leases that were granted before its end may be given away before theirs.
    Loss,
    /// It reckoned with a wrong time. The same.
    Clock,
}

impl fmt::Display for Event {
    /// The line that is written to the file, without the actor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (self.before.as_nanos(), self.after.as_nanos());
        write!(
            f,
            "{before} {after} {} {} {}",
            self.store, self.key, self.what
        )
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Opened {
                granularity,
                fenced,
                confirms,
                wakes,
            } => {
                let granularity = granularity.as_nanos();
                write!(f, "opened {granularity} {fenced} {confirms} {wakes}")
            }
            What::Granted {
                holding,
                fence,
                ttl,
                until,
                refusals,
                min_hold,
            } => {
                let fence = optional(*fence);
                let (ttl, min_hold) = (ttl.as_nanos(), min_hold.as_nanos());
                let until = until.as_nanos();
                write!(
                    f,
                    "granted {holding} {fence} {ttl} {until} {refusals} {min_hold}"
                )
            }
            What::Refused { refusals } => write!(f, "refused {refusals}"),
            What::Failed { why } => write!(f, "failed {}", word(why)),
            What::Queued { waiter } => write!(f, "queued {waiter}"),
            What::Served { waiter } => write!(f, "served {waiter}"),
            What::Left { waiter } => write!(f, "left {waiter}"),
            What::Extended { holding, until } => {
                write!(f, "extended {holding} {}", until.as_nanos())
            }
            What::Shortened { holding, until } => {
                write!(f, "shortened {holding} {}", until.as_nanos())
            }
            What::Dropped { held } => write!(f, "dropped {held}"),
            What::Lost { holding } => write!(f, "lost {holding}"),
            What::Denied { fence } => write!(f, "denied {}", optional(*fence)),
            What::Releasing { holding } => write!(f, "releasing {holding}"),
            What::Released { holding, end } => write!(f, "released {holding} {end:?}"),
            What::Wrote {
                holding,
                token,
                accepted,
            } => write!(f, "wrote {holding} {token} {accepted}"),
            What::Ran { job, keep, marked } => {
                write!(f, "ran {} {} {marked}", word(job), keep.as_nanos())
            }
            What::Fault { name, harm } => write!(f, "fault {} {harm:?}", word(name)),
            What::Calm { patience } => write!(f, "calm {}", patience.as_nanos()),
            What::Doomed { by, why } => write!(f, "doomed {} {}", by.as_nanos(), word(why)),
            What::Thrives { actor, least } => write!(f, "thrives {} {least}", word(actor)),
            What::Paced { actor, share } => {
                write!(f, "paced {} {}", word(actor), optional(*share))
            }
            What::Orphaned { until } => write!(f, "orphaned {}", until.as_nanos()),
            What::Exited { status } => write!(f, "exited {}", word(status)),
            What::Amiss { text } => write!(f, "amiss {}", word(text)),
        }
    }
}

fn optional(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Without white space, since that ends a field.
fn word(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join("_")
}

/// Reads the complete lines of `text` into `events`; the first that is no event is the error.
pub(super) fn parse(actor: &str, text: &str, events: &mut Vec<Event>) -> Result<(), String> {
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut names = Names(BTreeSet::new());
    let actor: Arc<str> = actor.into();
    for line in complete.lines() {
        let event = event(&actor, line, &mut names).ok_or_else(|| line.to_owned())?;
        events.push(event);
    }
    Ok(())
}

fn event(actor: &Arc<str>, line: &str, names: &mut Names) -> Option<Event> {
    let mut fields = Fields(line.split_whitespace());
    let event = Event {
        actor: Arc::clone(actor),
        before: fields.time()?,
        after: fields.time()?,
        store: names.name(fields.text()?),
        key: names.name(fields.text()?),
        what: fields.what()?,
    };
    fields.text().is_none().then_some(event)
}

/// The few names that all lines repeat, each kept once.
struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

struct Fields<'a>(SplitWhitespace<'a>);

impl<'a> Fields<'a> {
    fn text(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    fn value<T: FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    fn time(&mut self) -> Option<Time> {
        self.value().map(Time::from_nanos)
    }

    fn duration(&mut self) -> Option<Duration> {
        self.value().map(Duration::from_nanos)
    }

    fn optional(&mut self) -> Option<Option<u64>> {
        Some(match self.text()? {
            "-" => None,
            number => Some(number.parse().ok()?),
        })
    }

    fn what(&mut self) -> Option<What> {
        Some(match self.text()? {
            "opened" => What::Opened {
                granularity: self.duration()?,
                fenced: self.value()?,
                confirms: self.value()?,
                wakes: self.value()?,
            },
            "granted" => What::Granted {
                holding: self.value()?,
                fence: self.optional()?,
                ttl: self.duration()?,
                until: self.time()?,
                refusals: self.value()?,
                min_hold: self.duration()?,
            },
            "refused" => What::Refused {
                refusals: self.value()?,
            },
            "failed" => What::Failed { why: self.value()? },
            "queued" => What::Queued {
                waiter: self.value()?,
            },
            "served" => What::Served {
                waiter: self.value()?,
            },
            "left" => What::Left {
                waiter: self.value()?,
            },
            "extended" => What::Extended {
                holding: self.value()?,
                until: self.time()?,
            },
            "shortened" => What::Shortened {
                holding: self.value()?,
                until: self.time()?,
            },
            "dropped" => What::Dropped {
                held: self.value()?,
            },
            "lost" => What::Lost {
                holding: self.value()?,
            },
            "denied" => What::Denied {
                fence: self.optional()?,
            },
            "releasing" => What::Releasing {
                holding: self.value()?,
            },
            "released" => What::Released {
                holding: self.value()?,
                end: match self.text()? {
                    "Freed" => End::Freed,
                    "Lost" => End::Lost,
                    "Unknown" => End::Unknown,
                    "Dropped" => End::Dropped,
                    _ => return None,
                },
            },
            "wrote" => What::Wrote {
                holding: self.value()?,
                token: self.value()?,
                accepted: self.value()?,
            },
            "ran" => What::Ran {
                job: self.value()?,
                keep: self.duration()?,
                marked: self.value()?,
            },
            "fault" => What::Fault {
                name: self.value()?,
                harm: match self.text()? {
                    "None" => Harm::None,
                    "Loss" => Harm::Loss,
                    "Clock" => Harm::Clock,
                    _ => return None,
                },
            },
            "calm" => What::Calm {
                patience: self.duration()?,
            },
            "doomed" => What::Doomed {
                by: self.time()?,
                why: self.value()?,
            },
            "thrives" => What::Thrives {
                actor: self.value()?,
                least: self.value()?,
            },
            "paced" => What::Paced {
                actor: self.value()?,
                share: self.optional()?,
            },
            "orphaned" => What::Orphaned {
                until: self.time()?,
            },
            "exited" => What::Exited {
                status: self.value()?,
            },
            "amiss" => What::Amiss {
                text: self.value()?,
            },
            _ => return None,
        })
    }
}
