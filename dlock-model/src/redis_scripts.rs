//! The scripts of dlock-redis, line by line.

use super::protocol::{Around, strangers_record};
use super::redis::{Redis, Reply, Request};
use super::redis_queue::HANDOVER;
use super::types::{Message, Owner, Record, Seed, Verb};

impl Redis {
    pub(super) fn live(&self, around: &Around) -> Option<Record> {
        // Redis frees a key on the first look at or after its end.
        self.lock
            .filter(|lock| lock.ends.is_none_or(|ends| around.wall < ends))
    }

    /// scripts/acquire.lua
    pub(super) fn acquire(&mut self, request: &Request, around: &mut Around, late: bool) -> Reply {
        let (now, owner) = (around.wall, request.owner);
        // `ARGV[3] - millis > 0`, `now >= ARGV[3] * 1000`
        if is_stale(request, around) {
            return Reply::Stale { now };
        }
        // `if call('SET', lock, ARGV[1], 'NX', 'PX', ttl)`, and `INCR` is no error
        if self.lock.is_none() && !self.fence_marked {
            return self.grant(request, Draw::Counted, false, around, late);
        }
        let ours = self.lock.is_some_and(|lock| lock.owner == owner);
        // `record and not ours and not process`
        if let Some(lock) = self.lock.filter(|_| !ours && !request.waits) {
            return held(&lock, now);
        }
        // `not KEYS[3] and (process or not record or is_marked)`
        let is_marked = self.fence_marked || self.lock.is_some_and(|lock| ours && lock.marked);
        if !request.all_keys && (request.waits || self.lock.is_none() || is_marked) {
            return Reply::Marked;
        }
        let waiter = request.waits.then_some(owner);
        if let Some(lock) = self.lock.filter(|lock| !ours && lock.handed)
            && self.queue.is_gone(lock.owner, around)
        {
            self.lock = None;
        }
        if self.lock.is_none() {
            if request.waits {
                self.queue.note_alive(owner, around, None);
            }
            if !self.hand_over(waiter, around) {
                let waited_for = self.leave(waiter);
                return self.grant(request, Draw::Timed, waited_for, around, late);
            }
            if let Some(lock) = self.lock.filter(|_| !request.waits) {
                return held(&lock, now);
            }
        }
        if !ours {
            self.enter(owner, around.seed);
            let generation = self.queue.note_alive(owner, around, None);
            let lock = self.lock.as_ref().expect("there is one");
            return Reply::Queued {
                left: left(lock, now),
                now,
                generation,
                is_first: self.queue.waiters.first() == Some(&owner),
            };
        }
        // `KEYS[3] and leave(waiter or '')`
        let waited_for = request.all_keys && self.leave(waiter);
        let mut promised = request.ttl;
        if self.lock.is_some_and(|lock| lock.handed) {
            // `string.sub(record, 34, 34) == '@'`
            let fence = self.fence;
            let lock = self.put(owner, now + request.ttl, Draw::Timed, around);
            (lock.late, lock.marked, lock.named) = (late, waited_for, request.named);
            self.fence_marked = waited_for;
            if around.seed == Seed::HandedTokenNotDrawn {
                self.fence = fence;
            }
            if waited_for && request.waits {
                self.queue.is_alive(owner, now, None);
            }
        } else {
            // The same claim once more: `math.max(redis.call('PTTL', lock), ttl)`
            let lock = self.lock.as_mut().expect("it is ours");
            promised = promised.max(left(lock, now));
            if around.seed != Seed::RepeatDoesNotRaise {
                lock.ends = Some(now + promised);
            }
            let before = *lock;
            // `ARGV[5]`
            if request.again && around.seed != Seed::RepeatedTokenNotDrawn {
                let drawn = *self.put(owner, now, Draw::Timed, around);
                self.lock = Some(Record {
                    ordinal: drawn.ordinal,
                    fence: drawn.fence,
                    ..before
                });
                self.fence_marked = waited_for;
            }
        }
        let ordinal = self.lock.expect("it is ours").ordinal;
        Reply::Granted {
            fence: self.fence,
            left: promised,
            now,
            ordinal,
        }
    }

    fn grant(
        &mut self,
        request: &Request,
        draw: Draw,
        waited_for: bool,
        around: &mut Around,
        late: bool,
    ) -> Reply {
        let now = around.wall;
        let lock = self.put(request.owner, now + request.ttl, draw, around);
        (lock.late, lock.marked, lock.named) = (late, waited_for, request.named);
        let (fence, ordinal) = (lock.fence, lock.ordinal);
        self.fence_marked = waited_for;
        Reply::Granted {
            fence,
            left: request.ttl,
            now,
            ordinal,
        }
    }

    /// scripts/queue.lua, `enter` and `mark_all`
    fn enter(&mut self, waiter: Owner, seed: Seed) {
        if self.queue.enter(waiter) && seed != Seed::QueueUnmarked {
            self.mark_all();
        }
    }

    fn mark_all(&mut self) {
        self.fence_marked = true;
        if let Some(lock) = &mut self.lock {
            lock.marked = true;
        }
    }

    /// scripts/queue.lua, `leave`: whether somebody still waits.
    fn leave(&mut self, waiter: Option<Owner>) -> bool {
        self.fence_marked &= self.queue.leave(waiter);
        self.queue.exists()
    }

    /// scripts/queue.lua, `hand_over`: whether the lock was handed to somebody else than
    /// `claimant`.
    fn hand_over(&mut self, claimant: Option<Owner>, around: &mut Around) -> bool {
        let waiter = self.queue.first_reached(claimant, around);
        let Some(waiter) = waiter.filter(|waiter| Some(*waiter) != claimant) else {
            return false;
        };
        self.lock = Some(Record {
            owner: waiter,
            // It is drawn when it is claimed.
            ordinal: 0,
            fence: 0,
            sequence: 0,
            ends: Some(around.wall + HANDOVER),
            late: false,
            handed: true,
            marked: true,
            named: false,
        });
        self.fence_marked = true;
        self.queue.handed(waiter, around.wall, around.seed);
        true
    }

    /// Draws a token, and sets the lock too.
    fn put(&mut self, owner: Owner, ends: u64, draw: Draw, around: &mut Around) -> &mut Record {
        let now = around.wall;
        let micros = now * 1000 + around.micros;
        let fence = match (around.seed, draw) {
            (Seed::FenceIsClock, _) => now * 1000,
            (Seed::FenceIsCounter, _) => self.fence + 1,
            // The first token of a millisecond, and those that are counted from it.
            (_, Draw::Counted) if self.fence != 0 => (now * 1000).max(self.fence + 1),
            _ => micros.max(self.fence + 1),
        };
        around.grants += 1;
        self.fence = fence;
        self.lock.insert(Record {
            owner,
            ordinal: around.grants,
            sequence: 0,
            fence,
            ends: Some(ends),
            late: false,
            handed: false,
            marked: false,
            named: false,
        })
    }

    /// scripts/extend.lua
    pub(super) fn extend(&mut self, request: &Request, around: &Around) -> Result<Reply, String> {
        let Some(lock) = &mut self.lock else {
            return Ok(Reply::Lost);
        };
        if lock.owner != request.owner {
            if around.seed != Seed::ExtendByKey {
                return Ok(Reply::Lost);
            }
            return Err(strangers_record(request.owner, lock));
        }
        let now = around.wall;
        if is_stale(request, around) {
            return Ok(Reply::Stale { now });
        }
        // `not sequence`
        if lock.handed {
            return Ok(Reply::Lost);
        }
        // `tonumber(ARGV[5]) <= tonumber(sequence)`
        if request.sequence <= lock.sequence && around.seed != Seed::SequenceIgnored {
            let left = left(lock, now);
            return Ok(Reply::Extended { left, now });
        }
        lock.ends = (around.seed != Seed::ExtendIsImmortal).then_some(now + request.ttl);
        lock.sequence = request.sequence;
        let left = request.ttl;
        Ok(Reply::Extended { left, now })
    }

    /// scripts/release.lua
    pub(super) fn release(
        &mut self,
        request: &Request,
        around: &mut Around,
    ) -> Result<Reply, String> {
        let (seed, owner) = (around.seed, request.owner);
        let only_handed = request.verb == Verb::GiveBack && seed != Seed::GivenBackClaimed;
        let ours =
            (self.lock).is_some_and(|lock| lock.owner == owner && (lock.handed || !only_handed));
        let is_marked = self.lock.is_some_and(|lock| lock.marked);
        // `not KEYS[2] and is_marked`
        if !request.all_keys && ours && is_marked {
            return Ok(Reply::Marked);
        }
        if ours {
            self.lock = None;
        } else if let Some(lock) = &self.lock
            && seed == Seed::ReleaseByKey
        {
            return Err(strangers_record(owner, lock));
        }
        // `not process and (not ours or not is_marked)`, `redis.call('EXISTS', KEYS[3]) == 0`
        if !request.waits && (!ours || !is_marked) || !self.queue.exists() {
            return Ok(Reply::Released(ours));
        }
        if request.waits && self.leave(Some(owner)) {
            self.queue.note_alive(owner, around, None);
        }
        // `ours or not record`
        let hands_on = self.lock.is_none() && seed != Seed::ReleaseHandsNothingOn;
        if hands_on && !self.hand_over(None, around) {
            self.leave(None);
        }
        Ok(Reply::Released(ours))
    }

    /// scripts/break.lua, as dlock-redis calls it for an owner
    pub(super) fn take_back(&mut self, request: &Request, around: &mut Around) -> Reply {
        let is_any = around.seed == Seed::TakesAnyGrantBack;
        let is_it = self.lock.is_some_and(|lock| {
            !lock.handed && lock.owner == request.owner && (is_any || self.fence == request.fence)
        });
        if is_it {
            self.lock = None;
            if self.queue.exists() && !self.hand_over(None, around) {
                self.leave(None);
            }
        }
        Reply::Released(is_it)
    }

    /// scripts/heartbeat.lua
    pub(super) fn look(&mut self, request: &Request, around: &mut Around) -> Reply {
        let (now, seed, process) = (around.wall, around.seed, request.owner);
        // Without a queue nothing is kept.
        let unsubscribed = Some(!around.receives(process.client));
        let mut generation = match self.queue.exists() {
            true => self.queue.note_alive(process, around, unsubscribed),
            false => 0,
        };
        let is_missing = request.last && !self.queue.waiters.contains(&process);
        if is_missing && seed != Seed::LastNotNamed {
            generation = 0;
        }
        if self.lock.is_none() && seed != Seed::LookHandsNothingOver {
            self.hand_over(None, around);
        }
        if self.queue.exists() {
            self.mark_all();
        }
        let handed = self.lock.filter(|lock| lock.handed).map(|lock| lock.owner);
        let next = self.queue.next_waiter(handed, around);
        if next.is_some_and(|next| next.client == process.client)
            && seed != Seed::NobodyAsked
            && let Some(lock) = self.lock.filter(|lock| lock.named)
        {
            around.notify(Message::Asked(lock.owner));
        }
        Reply::Looked {
            handed_to: handed.filter(|owner| owner.client == process.client),
            generation,
            now,
        }
    }
}

/// How acquire.lua draws a token.
#[derive(Clone, Copy)]
enum Draw {
    /// Where nobody waits: the time is that of the millisecond, unless there was no fence.
    Counted,
    /// `draw`
    Timed,
}

fn left(lock: &Record, now: u64) -> u64 {
    lock.ends.map_or(u64::MAX, |ends| ends - now)
}

fn held(lock: &Record, now: u64) -> Reply {
    let left = left(lock, now);
    Reply::Held { left, now }
}

pub(super) fn is_stale(request: &Request, around: &Around) -> bool {
    let now = i128::from(around.wall) * 1_000_000;
    let not_after = match request.verb {
        // Whole ms.
        Verb::Acquire => request.not_after / 1_000_000 * 1_000_000,
        _ => request.not_after,
    };
    now >= not_after && around.seed != Seed::NotAfterIgnored
}
