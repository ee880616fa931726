//! The twins of Redis' scripts held to the scripts: random calls are played on a twin and, through
//! the script itself, on a real server, and answers, messages and what the keys then hold are
//! compared.
//!
//! A call on the server is one script of its own, `twins/call.lua`: it writes what the keys held
//! before, runs the script with a clock and with subscribers that the test chooses, and reads what
//! the keys hold then. So nothing depends on how fast the machine is.

mod server;

use std::fmt::Write as _;

use super::protocol::Around;
use super::redis::{Redis, Reply, Request};
use super::types::{Generation, Message, Owner, Seed, Verb};
use server::{Held, Scripts};

/// All times in ms are multiples of it.
const STEP: u64 = 400;
/// When a game begins.
const BEGIN: u64 = 4_000_000;
const CLIENTS: u8 = 3;
/// Claims of each client.
const CLAIMS: u8 = 3;

/// A generator of numbers that are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn new(game: u64) -> Self {
        Random((game + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        let at = self.below(these.len() as u64);
        these[usize::try_from(at).expect("few")]
    }
}

/// A twin and a server at the same moment.
struct Game<'a> {
    scripts: &'a Scripts,
    random: Random,
    twin: Redis,
    held: Held,
    around: Around,
    /// Which generations of the twin are which of the server, of each process.
    generations: Vec<(u8, Generation, u64)>,
}

impl<'a> Game<'a> {
    fn new(scripts: &'a Scripts, game: u64, seed: Seed) -> Self {
        let around = Around {
            now: BEGIN,
            wall: BEGIN,
            micros: 0,
            grants: 0,
            notified: [None; 4],
            receive: [true; 3],
            seed,
        };
        Game {
            scripts,
            random: Random::new(game),
            twin: <Redis as super::protocol::Protocol>::start(&around),
            held: Held::default(),
            around,
            generations: Vec::new(),
        }
    }

    /// Lets time pass and plays one call on both. An error says in what they differ.
    fn play(&mut self, number: u64) -> Result<(), String> {
        let passed = self.random.one_of(&[1, 1, 1, 2, 3, 4, 8, 24]) * STEP;
        if self.random.is(4) {
            // The server's clock is set back.
            self.around.wall -= passed;
            self.held.goes_back(passed);
        } else {
            self.around.wall += passed;
            self.held.pass(passed);
        }
        // The clock shows another time in each call, so that generations differ.
        self.around.micros = number;
        for receives in &mut self.around.receive {
            if self.random.is(10) {
                *receives = !*receives;
            }
        }
        let request = self.request();
        let called = format!("{request:?} with {:?}", self.around);

        let mut around = self.around;
        let twins = <Redis as super::protocol::Protocol>::execute(
            &mut self.twin,
            &request,
            &mut around,
            false,
        );
        self.around.grants = around.grants;
        let twins = twins.map_err(|broken| format!("{called}: {broken}"))?;
        let servers = self.scripts.call(&request, &self.around, &mut self.held);

        let differ = |what: &str, twins: &dyn std::fmt::Debug, servers: &dyn std::fmt::Debug| {
            Err(format!("{what} of {called}: {twins:?}, but {servers:?}"))
        };
        let twins = plain(&twins);
        if twins != servers.answer.as_str() {
            let servers = self.known_generation(&servers.answer, request.owner.client);
            if Some(&twins) != servers.as_ref() {
                return differ("the answer", &twins, &servers);
            }
        }
        let said: Vec<Message> = around.notified.into_iter().flatten().collect();
        if said != servers.messages {
            return differ("the messages", &said, &servers.messages);
        }
        let (twins, servers) = (self.shown(), self.held.shown());
        let servers = self.with_known_generations(servers);
        if twins != servers {
            return differ("the keys", &twins, &servers);
        }
        Ok(())
    }

    /// A call that somebody might make.
    fn request(&mut self) -> Request {
        let random = &mut self.random;
        let verb = random.one_of(&[
            Verb::Acquire,
            Verb::Acquire,
            Verb::Acquire,
            Verb::Extend,
            Verb::Release,
            Verb::Abandon,
            Verb::Leave,
            Verb::GiveBack,
            Verb::TakeBack,
            Verb::Look,
            Verb::Look,
        ]);
        let mut owner = Owner {
            client: u8::try_from(random.below(u64::from(CLIENTS))).expect("few"),
            number: u8::try_from(random.below(u64::from(CLAIMS))).expect("few"),
        };
        // As often as not about the holder of the lock.
        if let Some(lock) = self.twin.lock
            && random.is(50)
        {
            owner = lock.owner;
        }
        let fence = match random.is(80) {
            true => self.twin.fence,
            false => self.twin.fence.saturating_sub(1),
        };
        let is_of_queue = matches!(verb, Verb::Look | Verb::Leave | Verb::GiveBack);
        let waits = is_of_queue || (verb != Verb::Extend && random.is(60));
        let wall = i128::from(self.around.wall) * 1_000_000;
        Request {
            verb,
            owner,
            ttl: random.one_of(&[3, 4, 8, 30]) * STEP,
            not_after: match random.below(20) {
                0 => wall,
                1 => wall - 1_000_000,
                _ => wall + 1_000_000,
            },
            sequence: match verb {
                Verb::Extend => random.below(4) + 1,
                _ => 0,
            },
            waits,
            named: verb == Verb::Acquire && random.is(50),
            last: verb == Verb::Look && random.is(50),
            again: verb == Verb::Acquire && random.is(15),
            all_keys: waits || random.is(70),
            fence,
        }
    }

    /// The same text with the twin's number of a generation in place of the server's.
    fn known_generation(&mut self, text: &str, process: u8) -> Option<String> {
        let (before, rest) = text.split_once("generation ")?;
        let end = rest.find(',').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let known = self.twins_generation(process, number.parse().ok()?);
        Some(format!("{before}generation {known}{after}"))
    }

    /// The twin's number of a generation: one that was seen before, or that it has just begun.
    fn twins_generation(&mut self, process: u8, servers: u64) -> u64 {
        if servers == 0 {
            return 0;
        }
        let known = |(of, _, real): &&(u8, Generation, u64)| (*of, *real) == (process, servers);
        if let Some((_, twins, _)) = self.generations.iter().find(known) {
            return u64::from(*twins);
        }
        let heartbeat = self.twin.queue.heartbeats[usize::from(process)];
        let twins = heartbeat.map(|heartbeat| heartbeat.generation);
        let is_known = |twins| {
            let mut all = self.generations.iter();
            all.any(|(of, known, _)| (*of, *known) == (process, twins))
        };
        match twins {
            Some(twins) if !is_known(twins) => {
                self.generations.push((process, twins, servers));
                u64::from(twins)
            }
            // Not one of the twin's.
            _ => servers,
        }
    }

    fn with_known_generations(&mut self, shown: Vec<String>) -> Vec<String> {
        let mut lines = Vec::new();
        for line in shown {
            let process = line.strip_prefix("process ").and_then(|line| line.get(..1));
            let process = process.and_then(|process| process.parse().ok());
            let known = process.and_then(|process| self.known_generation(&line, process));
            lines.push(known.unwrap_or(line));
        }
        lines
    }

    /// What the twin's keys hold, as [`Held::shown`] writes it.
    fn shown(&mut self) -> Vec<String> {
        let wall = self.around.wall;
        <Redis as super::protocol::Protocol>::notice_time(&mut self.twin, &self.around);
        let mut lines = Vec::new();
        if let Some(lock) = &self.twin.lock {
            let mut line = format!("lock {:?}", lock.owner);
            let state = match lock.handed {
                true => " handed".to_owned(),
                false => format!(" sequence {}", lock.sequence),
            };
            let left = lock.ends.map(|ends| ends - wall);
            let _ = write!(
                line,
                "{state} marked {} named {} for {left:?}",
                lock.marked,
                lock.named || lock.handed
            );
            lines.push(line);
        }
        let fence = (self.twin.fence, self.twin.fence_marked);
        lines.push(format!("fence {} marked {}", fence.0, fence.1));
        let queue = &self.twin.queue;
        if queue.exists() {
            let left = queue.ends.saturating_sub(wall);
            lines.push(format!("queue {:?} for {left}", queue.waiters));
        }
        if queue.heartbeats.iter().any(Option::is_some) {
            let left = queue.ends.saturating_sub(wall);
            lines.push(format!("heartbeats for {left}"));
        }
        for (process, heartbeat) in queue.heartbeats.iter().enumerate() {
            if let Some(heartbeat) = heartbeat {
                lines.push(format!(
                    "process {process} generation {}, until {} unsubscribed {} has not called {}",
                    heartbeat.generation,
                    heartbeat.until,
                    heartbeat.unsubscribed,
                    heartbeat.has_not_called
                ));
            }
        }
        lines
    }
}

/// The twin's answer as `twins/server.rs` writes one.
fn plain(reply: &Reply) -> String {
    match reply {
        Reply::Granted { fence, left, .. } => format!("granted {fence} for {left}"),
        Reply::Held { left, .. } => format!("held for {left}"),
        Reply::Queued {
            left,
            generation,
            is_first,
            ..
        } => format!("queued for {left}, generation {generation}, first {is_first}"),
        Reply::Looked {
            handed_to,
            generation,
            ..
        } => {
            let handed_to = handed_to.map_or("nobody".to_owned(), |owner| format!("{owner:?}"));
            format!("handed to {handed_to}, generation {generation}")
        }
        Reply::Stale { .. } => "stale".to_owned(),
        Reply::Marked => "marked".to_owned(),
        Reply::Extended { left, .. } => format!("extended for {left}"),
        Reply::Lost => "lost".to_owned(),
        Reply::Released(ours) => format!("released {ours}"),
        Reply::Unacknowledged(_) => unreachable!("no script's answer"),
    }
}

/// Plays that many games of random calls, until a twin with that seed and the server differ.
fn play(scripts: &Scripts, games: u64, calls: u64, seed: Seed) -> Result<(), String> {
    for game in 0..games {
        let mut playing = Game::new(scripts, game, seed);
        for number in 0..calls {
            playing
                .play(number)
                .map_err(|differ| format!("game {game}, call {number}: {differ}"))?;
        }
    }
    Ok(())
}

#[test]
fn the_twins_do_what_the_scripts_do() {
    let scripts = Scripts::on_a_server();
    if let Err(differ) = play(&scripts, 100, 50, Seed::None) {
        panic!("{differ}");
    }
}

/// Each mistake in a twin that its properties are tested with shows in the comparison too.
#[test]
fn a_twin_that_is_changed_does_something_else_than_its_script() {
    let scripts = Scripts::on_a_server();
    let unseen: Vec<_> = [
        Seed::FenceIsClock,
        Seed::FenceIsCounter,
        Seed::RepeatDoesNotRaise,
        Seed::SequenceIgnored,
        Seed::NotAfterIgnored,
        Seed::ReleaseByKey,
        Seed::ExtendByKey,
        Seed::ExtendIsImmortal,
        Seed::NotDoubted,
        Seed::QueueUnmarked,
        Seed::LookHandsNothingOver,
        Seed::ReleaseHandsNothingOn,
        Seed::QueueIsImmortal,
        Seed::ReceiversIgnored,
        Seed::UnsubscribedIsDead,
        Seed::OnlyTheFirstLookedAt,
        Seed::GivenBackClaimed,
        Seed::NobodyAsked,
        Seed::LastNotNamed,
        Seed::HandedTokenNotDrawn,
        Seed::RepeatedTokenNotDrawn,
        Seed::TakesAnyGrantBack,
    ]
    .into_iter()
    .filter(|seed| play(&scripts, 150, 50, *seed).is_ok())
    .collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
