//! The thread that a sentinel notifies of another primary, so that the connections to the old one
//! are left although they still work.
//!
//! Nothing rests on it: without it the old primary is left when it refuses a call.

use std::io::{self, BufRead as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError};
use dlock_net::{Streams, Transport, Wire, deadline_in};

use super::Sentinels;
use super::replies::{SWITCHED, switched};
use crate::handshake;
use crate::wire::Parser;

/// How often the thread checks whether it is still wanted.
const LISTEN: Duration = Duration::from_secs(1);
/// The most that subscribing, or the rest of a message, may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// After how long without a word a sentinel is asked whether it is there.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// The pause before another try; each that failed doubles it, up to the second.
const TRY_AGAIN: Duration = Duration::from_millis(200);
const TRY_AGAIN_LATER: Duration = Duration::from_secs(5);

/// Starts the thread, unless it runs in this process. It ends with the sentinels' last user.
pub(super) fn start(sentinels: &Arc<Sentinels>, streams: &Streams) {
    let pid = std::process::id();
    // An inherited thread did not come along.
    if sentinels.listens_in.swap(pid, Ordering::AcqRel) == pid {
        return;
    }
    let (weak, streams) = (Arc::downgrade(sentinels), streams.clone());
    let started = thread::Builder::new()
        .name("dlock-sentinel".to_owned())
        .spawn(move || run(&weak, &streams));
    if started.is_err() {
        sentinels.listens_in.store(0, Ordering::Release);
    }
}

fn run(sentinels: &Weak<Sentinels>, streams: &Streams) {
    let mut try_again = TRY_AGAIN;
    // Tried in turn, from the one that answered the last call on.
    let mut turn = 0;
    while let Some(strong) = sentinels.upgrade() {
        let first = strong.first.load(Ordering::Relaxed);
        let subscribed = subscribe(&strong, streams, first + turn);
        drop(strong);
        match subscribed {
            Ok(ears) => {
                (turn, try_again) = (0, TRY_AGAIN);
                ears.listen(sentinels);
            }
            Err(_) => turn += 1,
        }
        let again_at = deadline_in(try_again);
        while Clock::BOOTTIME.now() < again_at && sentinels.strong_count() > 0 {
            thread::sleep(LISTEN.min(Clock::BOOTTIME.now().until(again_at)));
        }
        try_again = TRY_AGAIN_LATER.min(try_again * 2);
    }
}

fn subscribe(sentinels: &Sentinels, streams: &Streams, at: usize) -> Result<Ears, DatastoreError> {
    let hosts = &sentinels.place.hosts;
    let at = at % hosts.len();
    let stream = streams.open(&hosts[at], deadline_in(ANSWERS_WITHIN))?;
    let mut wire = Wire::new(stream, format_args!("sentinel {}", hosts[at]));
    let mut parser = Parser::default();
    let (login, service) = (&sentinels.place.login, &sentinels.place.service);
    let channel = Some(SWITCHED);
    let before = sentinels.last_named();
    // What was published before is in the answer.
    if let Some(primary) = handshake::ask_sentinel(&mut wire, &mut parser, login, service, channel)?
    {
        sentinels.named_since(before, &primary.to_string());
    }
    Ok(Ears { wire, parser, at })
}

/// A connection to a sentinel that reports another primary.
struct Ears {
    wire: Wire<Box<dyn Transport>>,
    parser: Parser,
    at: usize,
}

impl Ears {
    /// Listens until the connection breaks, another sentinel answers the calls, or nobody wants to
    /// know.
    fn listen(mut self, sentinels: &Weak<Sentinels>) {
        let mut heard = Clock::BOOTTIME.now();
        let mut asked = false;
        loop {
            let Ok(message) = self.next() else {
                return;
            };
            let Some(sentinels) = sentinels.upgrade() else {
                return;
            };
            let now = Clock::BOOTTIME.now();
            match message {
                Some(text) => {
                    (heard, asked) = (now, false);
                    if let Some(primary) = switched(&text, &sentinels.place.service) {
                        sentinels.switched_to(&primary.to_string());
                    }
                }
                None if sentinels.first.load(Ordering::Relaxed) != self.at => return,
                None if heard.until(now) < SILENT_AFTER => {}
                None if asked => return,
                None => {
                    self.wire.set_deadline(deadline_in(ANSWERS_WITHIN));
                    if handshake::ping(&mut self.wire).is_err() {
                        return;
                    }
                    (heard, asked) = (now, true);
                }
            }
        }
    }

    /// What comes next, if something does within [`LISTEN`].
    fn next(&mut self) -> io::Result<Option<redis::Value>> {
        self.wire.set_deadline(deadline_in(LISTEN));
        match self.wire.fill_buf() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
            Err(error) => return Err(error),
        }
        self.wire.set_deadline(deadline_in(ANSWERS_WITHIN));
        self.parser.reply(&mut self.wire).map(Some)
    }
}
