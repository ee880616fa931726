//! The scripts themselves, on a real server.

use std::fs;
use std::path::Path;

use dlock_test_servers::{RedisServer, Reply};

use super::{CLIENTS, STEP};
use crate::protocol::Around;
use crate::redis::Request;
use crate::types::{Message, Owner, Verb};

/// A script that takes longer, in µs, may have seen a time to live shrink.
const TOO_LONG: i64 = 300_000;
const HOLDER: &str = "somebody";

/// The scripts, and a server for them.
pub(super) struct Scripts {
    server: RedisServer,
    acquire: String,
    extend: String,
    release: String,
    heartbeat: String,
    breaks: String,
}

/// What the keys hold, with times that pass only on request.
#[derive(Clone, Debug)]
pub(super) struct Held {
    lock: Option<String>,
    fence: Option<String>,
    /// Waiters and their scores, in turn.
    queue: Vec<String>,
    /// Processes and what is known of them, in turn.
    heartbeats: Vec<String>,
    /// How long each of them is kept, in ms; negative for ever, or if it is not there.
    left: [i64; 4],
}

impl Default for Held {
    fn default() -> Self {
        Held {
            lock: None,
            fence: None,
            queue: Vec::new(),
            heartbeats: Vec::new(),
            left: [-2; 4],
        }
    }
}

/// What came of a call.
pub(super) struct Outcome {
    pub(super) answer: String,
    /// Those that somebody received and that the model knows.
    pub(super) messages: Vec<Message>,
}

impl Scripts {
    pub(super) fn on_a_server() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dlock-redis/src/scripts");
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a script");
        let call = include_str!("call.lua");
        let whole = |name: &str| {
            let script = read(name)
                .replace("-- include fence.lua", &read("fence.lua"))
                .replace("-- include queue.lua", &read("queue.lua"));
            assert!(!script.contains("-- include"), "{name}");
            call.replace("-- the script", &script)
        };
        Scripts {
            server: RedisServer::start(),
            acquire: whole("acquire.lua"),
            extend: whole("extend.lua"),
            release: whole("release.lua"),
            heartbeat: whole("heartbeat.lua"),
            breaks: whole("break.lua"),
        }
    }

    /// Makes a call, and has `held` be what the keys then hold.
    pub(super) fn call(&self, request: &Request, around: &Around, held: &mut Held) -> Outcome {
        let (script, keys, arguments) = self.packed(request);
        let given = given(keys, &arguments, around, held);
        for _ in 0..100 {
            let words = [
                "EVAL",
                script,
                "4",
                "lock",
                "fence",
                "queue",
                "heartbeats",
                &given,
            ];
            let reply = list(&self.server.command(words));
            let [answer, messages, lock, fence, queue, heartbeats, left, took] = &reply[..] else {
                panic!("{reply:?}")
            };
            if took.integer().expect("a time") > TOO_LONG {
                continue; // On a machine that is busy.
            }
            let left: Vec<i64> = list(left).iter().map(whole_steps).collect();
            *held = Held {
                lock: lock.text(),
                fence: fence.text(),
                queue: texts(queue),
                heartbeats: texts(heartbeats),
                left: left.try_into().expect("four keys"),
            };
            return Outcome {
                answer: plain(answer, request),
                messages: texts(messages)
                    .iter()
                    .filter_map(|said| message(said, around))
                    .collect(),
            };
        }
        panic!("the server never has time")
    }

    /// dlock-redis, protocol/request.rs: the script, how many keys it gets, and its arguments.
    fn packed(&self, request: &Request) -> (&str, usize, Vec<String>) {
        let (owner, process) = (token(request.owner), process(request.owner.client));
        let not_after = (request.not_after / 1000).to_string();
        let all_or = |few| if request.all_keys { 4 } else { few };
        match request.verb {
            Verb::Acquire => {
                let named = match request.named {
                    true => format!("@{process}"),
                    false => String::new(),
                };
                let record = format!("{owner} 0{named} {HOLDER}");
                let millis = (request.not_after / 1_000_000).to_string();
                let mut arguments = vec![record, request.ttl.to_string(), millis];
                if request.waits || request.again {
                    let queued_in = request.waits.then_some(process);
                    arguments.push(queued_in.unwrap_or_default());
                }
                if request.again {
                    arguments.push("again".to_owned());
                }
                (&self.acquire, all_or(2), arguments)
            }
            Verb::Extend => {
                let (ttl, sequence) = (request.ttl.to_string(), request.sequence.to_string());
                assert!(request.ttl >= 1000, "the model has no shorter ones");
                let arguments = vec![owner, HOLDER.to_owned(), ttl, not_after, sequence];
                (&self.extend, 1, arguments)
            }
            Verb::Release | Verb::Abandon | Verb::Leave | Verb::GiveBack => {
                // The record if it was never extended, and names no process.
                let mut arguments = match request.waits {
                    false => vec![format!("{owner} 0 {HOLDER}")],
                    true => vec![owner, process],
                };
                if request.verb == Verb::GiveBack {
                    arguments.push("handed".to_owned());
                }
                (&self.release, all_or(1), arguments)
            }
            Verb::Look => {
                let mut arguments = vec![process, "1".to_owned()];
                if request.last {
                    arguments.push(owner);
                }
                (&self.heartbeat, 4, arguments)
            }
            Verb::TakeBack => (&self.breaks, 4, vec![request.fence.to_string(), owner]),
            Verb::Confirm => unreachable!("Redis needs none"),
        }
    }
}

impl Held {
    /// That many ms pass.
    pub(super) fn pass(&mut self, millis: u64) {
        let passed = i64::try_from(millis).expect("short");
        for left in self.left.iter_mut().filter(|left| **left >= 0) {
            *left -= passed;
            if *left <= 0 {
                *left = -2;
            }
        }
        if self.left[0] == -2 {
            self.lock = None;
        }
        if self.left[1] == -2 {
            self.fence = None;
        }
        if self.left[2] == -2 {
            self.queue.clear();
        }
        if self.left[3] == -2 {
            self.heartbeats.clear();
        }
    }

    /// The server's clock is set back by that many ms.
    pub(super) fn goes_back(&mut self, millis: u64) {
        let more = i64::try_from(millis).expect("short");
        for left in self.left.iter_mut().filter(|left| **left >= 0) {
            *left += more;
        }
    }

    /// What the keys hold, in words.
    pub(super) fn shown(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(lock) = &self.lock {
            lines.push(self.shown_lock(lock));
        }
        let fence = self.fence.as_deref().unwrap_or("0");
        let number = fence.trim_end_matches(" +");
        lines.push(format!("fence {number} marked {}", number != fence));
        if !self.queue.is_empty() {
            let waiters: Vec<Owner> = self.queue.chunks(2).map(|pair| owner(&pair[0])).collect();
            lines.push(format!("queue {waiters:?} for {}", self.left[2]));
        }
        if !self.heartbeats.is_empty() {
            lines.push(format!("heartbeats for {}", self.left[3]));
        }
        let mut processes: Vec<_> = self.heartbeats.chunks(2).collect();
        processes.sort();
        for pair in processes {
            lines.push(shown_heartbeat(&pair[0], &pair[1]));
        }
        lines
    }

    /// `<owner token>[ +]<sequence>[@<process>] <holder>`
    fn shown_lock(&self, lock: &str) -> String {
        let (before, holder) = lock[33..].split_once(' ').expect("a record");
        assert!([HOLDER, ""].contains(&holder), "{lock}");
        let (sequence, named) = match before.split_once('@') {
            Some((sequence, of)) => {
                assert_eq!(of, process(owner(lock).client), "{lock}");
                (sequence, true)
            }
            None => (before, false),
        };
        let state = match sequence {
            "" => " handed".to_owned(),
            sequence => format!(" sequence {sequence}"),
        };
        let left = u64::try_from(self.left[0]).ok();
        format!(
            "lock {:?}{state} marked {} named {named} for {left:?}",
            owner(lock),
            &lock[32..33] == "+"
        )
    }
}

/// `<generation> <until in µs><flags> <holder>`
fn shown_heartbeat(process: &str, value: &str) -> String {
    let mut words = value.splitn(3, ' ');
    let (generation, until) = (words.next().expect("one"), words.next().expect("another"));
    let micros: u64 = until.trim_end_matches(['!', '?']).parse().expect("a time");
    format!(
        "process {} generation {generation}, until {} unsubscribed {} has not called {}",
        client(process),
        micros / 1000,
        until.contains('!'),
        until.contains('?')
    )
}

/// All arguments of `call.lua`, as JSON. Nothing in it has to be escaped.
fn given(keys: usize, arguments: &[String], around: &Around, held: &Held) -> String {
    let micros = around.wall * 1000 + around.micros;
    let time = [
        (micros / 1_000_000).to_string(),
        (micros % 1_000_000).to_string(),
    ];
    let or_none = |text: &Option<String>| match text {
        Some(text) => format!("{text:?}"),
        None => "false".to_owned(),
    };
    let receivers: Vec<String> = (0..CLIENTS)
        .map(|id| {
            let receives = u8::from(around.receive[usize::from(id)]);
            format!("{:?}:{receives}", process(id))
        })
        .collect();
    format!(
        "{{\"keys\":{keys},\"arguments\":{arguments:?},\"time\":{time:?},\
         \"receivers\":{{{}}},\"lock\":{},\"fence\":{},\"queue\":{:?},\"heartbeats\":{:?},\
         \"left\":{:?}}}",
        receivers.join(","),
        or_none(&held.lock),
        or_none(&held.fence),
        held.queue,
        held.heartbeats,
        held.left
    )
}

/// The script's answer, in the words of `plain` for the twin's.
fn plain(answer: &Reply, request: &Request) -> String {
    if let Some(number) = answer.integer() {
        return match (request.verb, number) {
            (Verb::Acquire, fence) => format!("granted {fence} for {}", request.ttl),
            (Verb::Extend, 0) => "lost".to_owned(),
            (Verb::Extend, _) => format!("extended for {}", request.ttl),
            (_, number) => format!("released {}", number == 1),
        };
    }
    let parts = list(answer);
    let number = |at: usize| parts[at].integer().expect("a number");
    let time = |at: usize| whole_steps(&parts[at]);
    let name = parts[0].text().expect("a name");
    match &*name {
        "granted" => format!("granted {} for {}", number(1), time(2)),
        "held" => format!("held for {}", time(2)),
        "queued" => format!(
            "queued for {}, generation {}, first {}",
            time(2),
            number(5),
            number(6) == 1
        ),
        "heartbeat" => {
            let token = parts[1].text().expect("a token");
            let handed_to = match &*token {
                "" => "nobody".to_owned(),
                token => format!("{:?}", owner(token)),
            };
            format!("handed to {handed_to}, generation {}", number(4))
        }
        "stale" | "marked" => name,
        "extended" => format!("extended for {}", time(1)),
        _ => format!("{parts:?}"),
    }
}

/// A message that was received; `None` for a ping.
fn message(said: &str, around: &Around) -> Option<Message> {
    let mut words = said.split(' ');
    let to = client(words.next()?);
    if !around.receive[usize::from(to)] {
        return None;
    }
    match (words.next()?, words.next()) {
        ("claim", Some(token)) => Some(Message::Claim(owner(token))),
        ("asked", Some(token)) => Some(Message::Asked(owner(token))),
        ("ends", Some("0")) => Some(Message::Call(Owner {
            client: to,
            number: 0,
        })),
        ("ping", None) => None,
        _ => panic!("{said}"),
    }
}

fn list(reply: &Reply) -> Vec<Reply> {
    match reply {
        Reply::List(parts) => parts.clone(),
        other => panic!("{other:?} is no list"),
    }
}

fn texts(reply: &Reply) -> Vec<String> {
    let parts = list(reply).into_iter();
    parts.map(|part| part.text().expect("a text")).collect()
}

/// A time to live, which may have begun to shrink.
fn whole_steps(left: &Reply) -> i64 {
    let (left, step) = (
        left.integer().expect("a time"),
        i64::try_from(STEP).expect("short"),
    );
    if left < 0 {
        left
    } else {
        (left + step - 1) / step * step
    }
}

fn token(owner: Owner) -> String {
    format!("{:030x}{:x}{:x}", 0, owner.client + 1, owner.number + 1)
}

/// Whose token a text begins with.
fn owner(text: &str) -> Owner {
    let digit = |at: usize| u8::from_str_radix(&text[at..=at], 16).expect("a token") - 1;
    Owner {
        client: digit(30),
        number: digit(31),
    }
}

fn process(client: u8) -> String {
    format!("a{client}")
}

fn client(process: &str) -> u8 {
    process[1..].parse().expect("a process")
}
