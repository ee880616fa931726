//! One connection: a script call is one request and one reply.

use std::fmt;
use std::io::{self, BufRead};
use std::mem;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use dlock_net::{
    Link, ServerClock, Transport, Wire, deadline_in, may_have_executed, nothing_was_done,
};
use redis::Value;

use crate::config::Login;
use crate::handshake::{self, Wanted};
use crate::operations::{self, Answer, Call, Form, Kind, Message, Packer, Unanswered};
use crate::replicas::Replicas;
use crate::sentinel::Named;
use crate::wire::Parser;

/// A message of which the first bytes are here.
const WHOLE_MESSAGE_WITHIN: Duration = Duration::from_secs(2);

/// One open connection to a server, logged in.
///
/// It is here for [`r2d2`](crate::r2d2) pools; there is nothing to do with one but to give it to a
/// [`RedisDatastore`](crate::RedisDatastore).
pub struct Connection<S: Transport = Box<dyn Transport>> {
    wire: Wire<S>,
    parser: Parser,
    packer: Packer,
    clock: ServerClock,
    in_cluster: bool,
    /// By whom the server was named, if it was.
    named: Option<Named>,
    /// Whether another server may be the right one, although this one answers.
    is_doubtful: bool,
}

impl<S: Transport> Connection<S> {
    /// Logs in over a fresh stream.
    ///
    /// # Errors
    ///
    /// Not executed. None has a password in it.
    pub(crate) fn open(
        stream: S,
        peer: impl fmt::Display,
        login: &Login,
        wanted: Wanted,
    ) -> Result<Self, DatastoreError> {
        let (mut wire, mut parser) = (Wire::new(stream, peer), Parser::default());
        let time = handshake::log_in(&mut wire, &mut parser, login, wanted)?;
        let mut connection = Connection {
            wire,
            parser,
            packer: Packer::default(),
            clock: ServerClock::default(),
            in_cluster: false,
            named: None,
            is_doubtful: false,
        };
        connection.clock.learn(Some(time));
        Ok(connection)
    }

    /// The same as that of a node of a cluster, which redirects calls.
    pub(crate) fn in_cluster(mut self) -> Self {
        self.in_cluster = true;
        self
    }

    /// Has claims keep a fence for this long.
    pub(crate) fn keep_fences_for(&mut self, time: Duration) {
        self.packer.keep_fences_for(time);
    }

    /// The same to a server that a sentinel has named.
    pub(crate) fn of_sentinels(mut self, named: Named) -> Self {
        self.named = Some(named);
        self
    }

    /// Whether the server is still the one to ask, as far as anybody has said.
    fn is_current(&self) -> bool {
        self.named.as_ref().is_none_or(Named::is_current)
    }

    /// The server, without credentials.
    pub(crate) fn peer(&self) -> &str {
        self.wire.peer()
    }

    /// Calls a script: one round trip, but for a server that does not know the script yet, or whose
    /// clock was set, or a key where somebody waits unexpectedly. In the same trip it waits until
    /// replicas have acknowledged what the script wrote, if it is one for them.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong, with what is known about it.
    pub(crate) fn call_and_wait(
        &mut self,
        mut call: Call<'_>,
        replicas: Option<Replicas>,
    ) -> Result<Answer, DatastoreError> {
        let replicas = replicas.filter(|_| call.is_for_replicas());
        let mut form = Form::Hash;
        let mut marked = false;
        let mut stale = false;
        loop {
            self.packer.clear();
            let end = self.wire.deadline();
            self.packer.push(call, form, self.clock.at(end));
            self.push_wait(replicas);
            let sent = self.wire.send(self.packer.bytes());
            // The script may be there, and not the question.
            sent.map_err(|error| error.with_execution(replicas.is_some()))?;
            let mut answer = self.answer(call.kind_with(self.packer.deletes))?;
            if let Some(replicas) = replicas {
                let acknowledged = self.acknowledged(replicas)?;
                answer = self.replicated(answer, acknowledged, replicas);
            }
            self.wire.finish();
            match answer? {
                Answer::NoScript if form == Form::Hash => form = Form::Text,
                // The reply carried the server's time: if its clock was set forward, the second try
                // is right.
                Answer::Stale if !stale => stale = true,
                Answer::Marked if !marked => (marked, call) = (true, call.with_all_keys()),
                answer => return finally(answer),
            }
        }
    }

    /// Calls a script in a slot that is being moved to this node.
    ///
    /// # Errors
    ///
    /// As [`call_and_wait`](Self::call_and_wait).
    pub(crate) fn call_asking(
        &mut self,
        mut call: Call<'_>,
        replicas: Option<Replicas>,
    ) -> Result<Answer, DatastoreError> {
        let mut form = Form::Hash;
        let mut marked = false;
        let mut stale = false;
        loop {
            // What is asked for is for one call only.
            let answers = self.pipeline(&[(Call::Asking, Form::Hash), (call, form)], replicas)?;
            let mut answers = answers.into_iter();
            let (asked, answer) = (answers.next(), answers.next());
            // Without the right to ask the call was redirected.
            if let Some(Err(error)) = asked {
                return Err(error);
            }
            match answer.ok_or_else(handshake::no_redis)?? {
                Answer::NoScript if form == Form::Hash => form = Form::Text,
                Answer::Stale if !stale => stale = true,
                Answer::Marked if !marked => (marked, call) = (true, call.with_all_keys()),
                answer => return finally(answer),
            }
        }
    }

    /// Sends a command that changes nothing, and reads the reply, of up to `longest` bytes.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn ask(
        &mut self,
        command: &redis::Cmd,
        longest: u64,
    ) -> Result<Value, DatastoreError> {
        let mut request = Vec::new();
        command.write_packed_command(&mut request);
        self.wire.send(&request)?;
        let reply = self.parser.reply_within(&mut self.wire, longest);
        let reply = reply.map_err(|error| nothing_was_done(self.wire.failed(error)))?;
        self.wire.finish();
        Ok(reply)
    }

    /// Calls many scripts in one trip, and waits until replicas have acknowledged all of them. The
    /// answers are in the order of the calls.
    ///
    /// # Errors
    ///
    /// If the connection fails; each call may have been executed then.
    pub(crate) fn call_many(
        &mut self,
        calls: &[Call<'_>],
        replicas: Option<Replicas>,
    ) -> Result<Vec<Result<Answer, DatastoreError>>, DatastoreError> {
        let first: Vec<_> = calls.iter().map(|call| (*call, Form::Hash)).collect();
        let mut answers = self.pipeline(&first, replicas)?;
        let again: Vec<_> = (0..calls.len())
            .filter(|at| matches!(answers[*at], Ok(Answer::NoScript | Answer::Stale)))
            .collect();
        if !again.is_empty() {
            // The first one of each script brings it along, the others follow it.
            let mut brought = Vec::new();
            let second: Vec<_> = again
                .iter()
                .map(|at| {
                    let script = mem::discriminant(&calls[*at]);
                    if brought.contains(&script) {
                        return (calls[*at], Form::Hash);
                    }
                    brought.push(script);
                    (calls[*at], Form::Text)
                })
                .collect();
            let second = self
                .pipeline(&second, replicas)
                .map_err(may_have_executed)?;
            for (at, answer) in again.into_iter().zip(second) {
                answers[at] = answer;
            }
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.and_then(finally))
            .collect())
    }

    fn pipeline(
        &mut self,
        calls: &[(Call<'_>, Form)],
        replicas: Option<Replicas>,
    ) -> Result<Vec<Result<Answer, DatastoreError>>, DatastoreError> {
        let replicas = replicas.filter(|_| calls.iter().any(|(call, _)| call.is_for_replicas()));
        self.packer.clear();
        let end = self.wire.deadline();
        for (call, form) in calls {
            // Some may end before the batch does.
            let not_after = self.clock.at(end.min(call.end()));
            self.packer.push(*call, *form, not_after);
        }
        self.push_wait(replicas);
        self.wire
            .send(self.packer.bytes())
            .map_err(may_have_executed)?;
        let deletes = self.packer.deletes;
        let mut answers = Vec::with_capacity(calls.len());
        for (place, (call, _)) in calls.iter().enumerate() {
            let answer = match place {
                0 => self.answer(call.kind_with(deletes)),
                // The ones before it have run.
                _ => self
                    .answer(call.kind_with(deletes))
                    .map_err(may_have_executed),
            };
            answers.push(answer?);
        }
        if let Some(replicas) = replicas {
            let acknowledged = self.acknowledged(replicas)?;
            for answer in &mut answers {
                let own = mem::replace(answer, Ok(Answer::Lost));
                *answer = self.replicated(own, acknowledged.clone(), replicas);
            }
        }
        self.wire.finish();
        Ok(answers)
    }

    /// Asks, behind what is packed, how many replicas have acknowledged it.
    fn push_wait(&mut self, replicas: Option<Replicas>) {
        if let Some(replicas) = replicas {
            let left = Clock::BOOTTIME.now().until(self.wire.deadline());
            self.packer.push_wait(replicas.count, replicas.millis(left));
        }
    }

    /// Reads the answer to that. The outer error is the connection's, the inner one the server's.
    ///
    /// # Errors
    ///
    /// Maybe executed: what stands before it was.
    fn acknowledged(
        &mut self,
        replicas: Replicas,
    ) -> Result<Result<u32, DatastoreError>, DatastoreError> {
        let reply = self.reply().map_err(|error| self.wire.failed(error))?;
        match operations::answer_to(&reply, Kind::Wait(replicas.count)) {
            Ok((Answer::Acknowledged(count), _)) => Ok(Ok(count)),
            Err(Unanswered::Refused(error)) => {
                // Of a node that is a replica by now.
                self.is_doubtful |= error.ends_connection(self.in_cluster);
                Ok(Err(error.into()))
            }
            Ok(_) | Err(Unanswered::Malformed) => {
                let odd = io::Error::new(io::ErrorKind::InvalidData, "not an answer to WAIT");
                Err(self.wire.failed(odd))
            }
        }
    }

    /// An answer that too few replicas have acknowledged is another. The server may have lost its
    /// replicas because it is the primary no more.
    fn replicated(
        &mut self,
        answer: Result<Answer, DatastoreError>,
        by: Result<u32, DatastoreError>,
        replicas: Replicas,
    ) -> Result<Answer, DatastoreError> {
        let answer = answer?.acknowledged(by, replicas)?;
        self.is_doubtful |= matches!(answer, Answer::Unacknowledged(..));
        Ok(answer)
    }

    /// Asks for the messages to `process`, and for nothing else from then on; `None` if the user
    /// has no right to.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn subscribe(
        mut self,
        process: &str,
    ) -> Result<Option<Subscription<S>>, DatastoreError> {
        let subscribed = handshake::subscribe(&mut self.wire, &mut self.parser, process)?;
        Ok(subscribed.then_some(Subscription(self)))
    }

    /// Reads one answer. The outer error is the connection's, the inner one the server's about this
    /// call; a server that says that it is the wrong one ends the connection.
    fn answer(&mut self, kind: Kind) -> Result<Result<Answer, DatastoreError>, DatastoreError> {
        let reply = self.reply().map_err(|error| self.wire.failed(error))?;
        match operations::answer_to(&reply, kind) {
            Ok((mut answer, time)) => {
                self.clock.learn(time);
                self.packer.deletes.learn(&mut answer);
                Ok(Ok(answer))
            }
            Err(Unanswered::Refused(error)) if error.ends_connection(self.in_cluster) => {
                Err(error.into())
            }
            Err(Unanswered::Refused(error)) => Ok(Err(error.into())),
            Err(Unanswered::Malformed) => {
                let odd = io::Error::new(io::ErrorKind::InvalidData, "not an answer to the script");
                Err(self.wire.failed(odd))
            }
        }
    }

    /// Reads one reply to its end and not a byte further.
    fn reply(&mut self) -> io::Result<Value> {
        self.parser.reply(&mut self.wire)
    }

    /// Gives the connection away, between two calls; `None` if something has arrived that was not
    /// asked for.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_parts(self) -> Option<Parts<S>> {
        Some(Parts {
            peer: self.wire.peer().to_owned(),
            stream: self.wire.into_transport()?,
            packer: self.packer,
            clock: self.clock,
            in_cluster: self.in_cluster,
            named: self.named,
        })
    }
}

/// What an open connection is made of.
#[cfg(feature = "tokio")]
pub(crate) struct Parts<S> {
    pub(crate) stream: S,
    pub(crate) peer: String,
    pub(crate) packer: Packer,
    pub(crate) clock: ServerClock,
    pub(crate) in_cluster: bool,
    pub(crate) named: Option<Named>,
}

impl<S: Transport> Link for Connection<S> {
    fn set_deadline(&mut self, deadline: Time) {
        self.wire.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        !self.is_doubtful && self.is_current() && self.wire.is_usable()
    }
}

/// A connection that receives the messages to one process.
pub(crate) struct Subscription<S: Transport = Box<dyn Transport>>(Connection<S>);

impl<S: Transport> Subscription<S> {
    /// The next message, if one comes within this time.
    ///
    /// # Errors
    ///
    /// If the connection is no good any more.
    pub(crate) fn next(&mut self, within: Duration) -> Result<Option<Message>, DatastoreError> {
        let connection = &mut self.0;
        connection.wire.set_deadline(deadline_in(within));
        // Without taking anything: a message that has begun is not torn by the end of this wait.
        match connection.wire.fill_buf().map(drop) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut && connection.is_current() => {
                return Ok(None);
            }
            Err(error) => return Err(connection.wire.failed(error)),
        }
        connection
            .wire
            .set_deadline(deadline_in(WHOLE_MESSAGE_WITHIN));
        let reply = connection
            .reply()
            .map_err(|error| connection.wire.failed(error))?;
        match operations::message(&reply) {
            Ok(message) => Ok(Some(message)),
            Err(Unanswered::Refused(error)) => Err(error.into()),
            Err(Unanswered::Malformed) => {
                let odd = io::Error::new(io::ErrorKind::InvalidData, "not a message of ours");
                Err(connection.wire.failed(odd))
            }
        }
    }
}

impl<S: Transport> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.wire).finish()
    }
}

/// What is an answer only the first time is none the second time.
pub(crate) fn finally(answer: Answer) -> Result<Answer, DatastoreError> {
    match answer {
        Answer::Stale => Err(DatastoreError::not_executed(
            ErrorKind::Stale,
            "the server's clock was past the end of the call, twice",
        )),
        Answer::NoScript => Err(DatastoreError::not_executed(
            ErrorKind::Protocol,
            "the server does not know the script that it was just sent",
        )),
        Answer::Marked => Err(DatastoreError::not_executed(
            ErrorKind::Protocol,
            "the script asks for keys that it was given",
        )),
        answer => Ok(answer),
    }
}
