//! The scripts of dlock-redis, line by line.

use super::protocol::{Around, strangers_record};
use super::redis::{Redis, Reply, Request};
use super::redis_queue::HANDOVER;
use super::types::{Owner, Record, Seed};

impl Redis {
    pub(super) fn live(&self, around: &Around) -> Option<Record> {
        // Redis frees a key on the first look at or after its end.
        self.lock
            .filter(|lock| lock.ends.is_none_or(|ends| around.wall < ends))
    }

    /// scripts/acquire.lua
    pub(super) fn acquire(&mut self, request: &Request, around: &mut Around, late: bool) -> Reply {
        // `now >= tonumber(ARGV[3])`
        let (now, owner) = (around.wall, request.owner);
        if is_stale(request, around) {
            return Reply::Stale { now };
        }
        // `set and set.ok`
        if self.lock.is_none() && !self.fence_marked {
            return self.grant(request, false, around, late);
        }
        let ours = self.lock.is_some_and(|lock| lock.owner == owner);
        // `record and not ours and not process`
        if let Some(lock) = self.lock.filter(|_| !ours && !request.waits) {
            return held(&lock, now);
        }
        let waiter = request.waits.then_some(owner);
        if self.lock.is_none() {
            if request.waits {
                self.queue.note_alive(owner, now, around.seed);
            }
            match self.queue.first_alive(None, now) {
                Some(first) if Some(first) != waiter => self.hand_over(first, around),
                _ => {
                    let waited_for = self.leave(waiter);
                    return self.grant(request, waited_for, around, late);
                }
            }
            if let Some(lock) = self.lock.filter(|_| !request.waits) {
                return held(&lock, now);
            }
        }
        if !ours {
            self.enter(owner, around.seed);
            let generation = self.queue.note_alive(owner, now, around.seed);
            let lock = self.lock.as_ref().expect("there is one");
            return Reply::Queued {
                left: left(lock, now),
                now,
                generation,
                is_first: self.queue.waiters.first() == Some(&owner),
            };
        }
        let waited_for = self.leave(waiter);
        let lock = self.lock.as_mut().expect("it is ours");
        let mut promised = request.ttl;
        if std::mem::take(&mut lock.handed) {
            // `string.sub(record, 34, 34) == '@'`
            (lock.ends, lock.late, lock.marked) = (Some(now + request.ttl), late, waited_for);
            if waited_for && request.waits {
                self.queue.is_alive(owner, now);
            }
        } else {
            // The same claim once more: `math.max(redis.call('PTTL', lock), ttl)`
            promised = promised.max(left(lock, now));
            if around.seed != Seed::RepeatDoesNotRaise {
                lock.ends = Some(now + promised);
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
        waited_for: bool,
        around: &mut Around,
        late: bool,
    ) -> Reply {
        let now = around.wall;
        let lock = self.put(request.owner, now + request.ttl, around);
        (lock.late, lock.marked) = (late, waited_for);
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

    /// scripts/queue.lua, `hand_over`
    fn hand_over(&mut self, waiter: Owner, around: &mut Around) {
        let lock = self.put(waiter, around.wall + HANDOVER, around);
        (lock.handed, lock.marked) = (true, true);
        self.fence_marked = true;
        self.queue.handed(waiter, around.wall, around.seed);
        around.told = Some(waiter);
    }

    /// scripts/fence.lua, `draw`; sets the lock too.
    fn put(&mut self, owner: Owner, ends: u64, around: &mut Around) -> &mut Record {
        // `math.max((last or 0) + 1, now)`, with a clock that is somewhat finer than that of this model.
        let now = around.wall;
        let micros = now * 1000 + u64::from(around.grants);
        let fence = match around.seed {
            Seed::FenceIsClock => now * 1000,
            Seed::FenceIsCounter => self.fence + 1,
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
        let (now, seed, owner) = (around.wall, around.seed, request.owner);
        let ours = self.lock.is_some_and(|lock| lock.owner == owner);
        let is_marked = self.lock.is_some_and(|lock| lock.marked);
        if ours {
            self.lock = None;
        } else if let Some(lock) = &self.lock
            && seed == Seed::ReleaseByKey
        {
            return Err(strangers_record(owner, lock));
        }
        // `not process and (not ours or string.sub(record, 33, 33) == ' ')`, `redis.call('EXISTS', KEYS[3]) == 0`
        if !request.waits && (!ours || !is_marked) || !self.queue.exists() {
            return Ok(Reply::Released(ours));
        }
        if request.waits && self.leave(Some(owner)) {
            self.queue.note_alive(owner, now, seed);
        }
        // `ours or not record`
        if self.lock.is_none()
            && seed != Seed::ReleaseHandsNothingOn
            && let Some(first) = self.queue.first_alive(None, now)
        {
            self.hand_over(first, around);
        }
        Ok(Reply::Released(ours))
    }

    /// scripts/look.lua
    pub(super) fn look(&mut self, request: &Request, around: &mut Around) -> Reply {
        let (now, seed, process) = (around.wall, around.seed, request.owner);
        // Without a queue nothing is kept.
        let generation = match self.queue.exists() {
            true => self.queue.note_alive(process, now, seed),
            false => 0,
        };
        if self.lock.is_none()
            && seed != Seed::LookHandsNothingOver
            && let Some(first) = self.queue.first_alive(None, now)
        {
            self.hand_over(first, around);
        }
        if self.queue.exists() {
            self.mark_all();
        }
        let handed = self.lock.filter(|lock| lock.handed).map(|lock| lock.owner);
        let _: Option<Owner> = self.queue.first_alive(handed, now);
        Reply::Looked {
            handed_to: handed.filter(|owner| owner.client == process.client),
            generation,
            now,
        }
    }
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
    now >= request.not_after && around.seed != Seed::NotAfterIgnored
}
