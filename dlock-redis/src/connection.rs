//! One connection: a script call is one request and one reply.

use std::fmt;
use std::io::{self, BufRead};
use std::mem;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use dlock_net::{
    Link, NetError, Transport as _, Wire, deadline_in, failed_before_sending, may_have_executed,
};
use redis::{Cmd, Value};

use crate::config::Login;
use crate::error::ServerError;
use crate::protocol::{self, Answer, Call, Form, Message, Packer, ServerTime, Unanswered};
use crate::resp::Parser;
use crate::stream::Stream;

/// A message of which the first bytes are here.
const WHOLE_MESSAGE_WITHIN: Duration = Duration::from_secs(2);

/// One part in this many; the clocks of machines differ by a tenth of that.
const CLOCKS_DIFFER_BY: u32 = 1000;

/// One open connection to a server, logged in.
///
/// It is here for [`r2d2`](crate::r2d2) pools; there is nothing to do with one but to give it to a
/// [`RedisDatastore`](crate::RedisDatastore).
pub struct Connection {
    wire: Wire<Stream>,
    parser: Parser,
    packer: Packer,
    /// What to add to our clock to get the server's, in µs. Taken when a reply has arrived, so the server's clock is ahead of it by up
    /// to a round trip: a call that must not run after an instant is refused early rather than late.
    offset: i64,
    /// When it was taken.
    learnt: Time,
}

impl Connection {
    /// Logs in over a fresh stream.
    ///
    /// # Errors
    ///
    /// Not executed. None has a password in it.
    pub(crate) fn open(
        stream: Stream,
        peer: impl fmt::Display,
        login: &Login,
    ) -> Result<Self, DatastoreError> {
        let mut connection = Connection {
            wire: Wire::new(stream, peer),
            parser: Parser::default(),
            packer: Packer::default(),
            offset: 0,
            learnt: Time::ZERO,
        };
        connection.greet(login)?;
        Ok(connection)
    }

    /// AUTH, SELECT and TIME in one trip, all answered before anything else is sent.
    fn greet(&mut self, login: &Login) -> Result<(), DatastoreError> {
        let mut request = Vec::new();
        if let Some(password) = &login.password {
            let mut auth = Cmd::new();
            auth.arg("AUTH");
            if let Some(user) = &login.user {
                auth.arg(user);
            }
            auth.arg(password).write_packed_command(&mut request);
        }
        if login.database != 0 {
            let mut select = Cmd::new();
            select.arg("SELECT").arg(login.database);
            select.write_packed_command(&mut request);
        }
        Cmd::new().arg("TIME").write_packed_command(&mut request);
        self.wire.send(&request)?;

        if login.password.is_some() {
            let reply = self.greeting()?;
            // A server that does not know AUTH repeats its arguments.
            protocol::done(&reply).map_err(|error| match error {
                Unanswered::Refused(error) => refused_login(error.kind(), error.without_message()),
                Unanswered::Odd => odd_greeting(),
            })?;
        }
        if login.database != 0 {
            let reply = self.greeting()?;
            protocol::done(&reply).map_err(|error| match error {
                // "DB index is out of range"
                Unanswered::Refused(error) if error.code() == "ERR" => {
                    refused_login(ErrorKind::Invalid, error)
                }
                error => not_greeted(error),
            })?;
        }
        let reply = self.greeting()?;
        let time = protocol::time(&reply).map_err(not_greeted)?;
        self.wire.finish();
        self.learn(Some(time));
        Ok(())
    }

    fn greeting(&mut self) -> Result<Value, DatastoreError> {
        self.reply().map_err(|error| {
            failed_before_sending(NetError::new(self.wire.peer(), "log in", error))
        })
    }

    /// Calls a script: one round trip, but for a server that does not know the script yet, or whose clock was set.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong, with what is known about it.
    pub(crate) fn call(&mut self, call: Call<'_>) -> Result<Answer, DatastoreError> {
        let mut form = Form::Hash;
        let mut stale = false;
        loop {
            self.packer.clear();
            let end = self.wire.transport().deadline().time();
            self.packer.push(call, form, self.server_time(end));
            self.wire.send(self.packer.bytes())?;
            let answer = self.answer(&call)?;
            self.wire.finish();
            match answer? {
                Answer::NoScript if form == Form::Hash => form = Form::Text,
                // The reply carried the server's time: if its clock was set forward, the second try is right.
                Answer::Stale if !stale => stale = true,
                answer => return finally(answer),
            }
        }
    }

    /// Calls many scripts in one trip. The answers are in the order of the calls.
    ///
    /// # Errors
    ///
    /// If the connection fails; each call may have been executed then.
    pub(crate) fn call_many(
        &mut self,
        calls: &[Call<'_>],
    ) -> Result<Vec<Result<Answer, DatastoreError>>, DatastoreError> {
        let first: Vec<_> = calls.iter().map(|call| (*call, Form::Hash)).collect();
        let mut answers = self.pipeline(&first)?;
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
            let second = self.pipeline(&second).map_err(may_have_executed)?;
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
    ) -> Result<Vec<Result<Answer, DatastoreError>>, DatastoreError> {
        self.packer.clear();
        let end = self.wire.transport().deadline().time();
        for (call, form) in calls {
            // Some may end before the batch does.
            let not_after = self.server_time(end.min(call.end()));
            self.packer.push(*call, *form, not_after);
        }
        self.wire
            .send(self.packer.bytes())
            .map_err(may_have_executed)?;
        let mut answers = Vec::with_capacity(calls.len());
        for (place, (call, _)) in calls.iter().enumerate() {
            let answer = match place {
                0 => self.answer(call),
                // The ones before it have run.
                _ => self.answer(call).map_err(may_have_executed),
            };
            answers.push(answer?);
        }
        self.wire.finish();
        Ok(answers)
    }

    /// Asks for what is told to `process`, and for nothing else from then on; `None` if the user has no right to.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn subscribe(
        mut self,
        process: &str,
    ) -> Result<Option<Subscription>, DatastoreError> {
        let mut request = Vec::new();
        let mut subscribe = Cmd::new();
        subscribe
            .arg("SUBSCRIBE")
            .arg(protocol::channel(process))
            .write_packed_command(&mut request);
        self.wire.send(&request)?;
        let reply = self.greeting()?;
        match protocol::message(&reply) {
            Ok(Message::Subscribed) => Ok(Some(Subscription(self))),
            Ok(_) => Err(odd_greeting()),
            Err(Unanswered::Refused(error)) if error.code() == "NOPERM" => Ok(None),
            Err(error) => Err(not_greeted(error)),
        }
    }

    /// Reads one answer. The outer error is the connection's, the inner one the server's about this call; a server that says
    /// that it is the wrong one ends the connection.
    fn answer(
        &mut self,
        call: &Call<'_>,
    ) -> Result<Result<Answer, DatastoreError>, DatastoreError> {
        let reply = self.reply().map_err(|error| self.wire.failed(error))?;
        match protocol::answer(&reply, call) {
            Ok((answer, time)) => {
                self.learn(time);
                Ok(Ok(answer))
            }
            Err(Unanswered::Refused(error)) if error.ends_connection() => Err(error.into()),
            Err(Unanswered::Refused(error)) => Ok(Err(error.into())),
            Err(Unanswered::Odd) => {
                let odd = io::Error::new(io::ErrorKind::InvalidData, "not an answer to the script");
                Err(self.wire.failed(odd))
            }
        }
    }

    /// Reads one reply to its end and not a byte further.
    fn reply(&mut self) -> io::Result<Value> {
        self.parser.reply(&mut self.wire)
    }

    fn learn(&mut self, time: ServerTime) {
        if let Some(time) = time {
            self.learnt = Clock::BOOTTIME.now();
            self.offset = time.saturating_sub(micros(self.learnt));
        }
    }

    fn server_time(&self, time: Time) -> u64 {
        server_time(time, self.offset, self.learnt.until(Clock::BOOTTIME.now()))
    }
}

/// What the server's clock shows at `time` at the earliest, in µs: since it told its own, `age` ago, our clock may have run ahead.
fn server_time(time: Time, offset: i64, age: Duration) -> u64 {
    let ahead = i64::try_from((age / CLOCKS_DIFFER_BY).as_micros()).unwrap_or(i64::MAX);
    let shown = micros(time).saturating_add(offset).saturating_sub(ahead);
    u64::try_from(shown).unwrap_or(0)
}

impl Link for Connection {
    fn set_deadline(&mut self, deadline: Time) {
        self.wire.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        self.wire.is_usable()
    }
}

/// A connection that hears what is told to one process.
pub(crate) struct Subscription(Connection);

impl Subscription {
    /// The next message, if one comes within this time.
    ///
    /// # Errors
    ///
    /// If the connection is no good any more.
    pub(crate) fn next(&mut self, within: Duration) -> Result<Option<Message>, DatastoreError> {
        let connection = &mut self.0;
        connection.wire.set_deadline(deadline_in(within));
        // Without taking anything: a message that has begun is not torn by the end of this wait.
        match connection.wire.fill_buf() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
            Err(error) => return Err(connection.wire.failed(error)),
        }
        connection
            .wire
            .set_deadline(deadline_in(WHOLE_MESSAGE_WITHIN));
        let reply = connection
            .reply()
            .map_err(|error| connection.wire.failed(error))?;
        match protocol::message(&reply) {
            Ok(message) => Ok(Some(message)),
            Err(Unanswered::Refused(error)) => Err(error.into()),
            Err(Unanswered::Odd) => {
                let odd = io::Error::new(io::ErrorKind::InvalidData, "not a message of ours");
                Err(connection.wire.failed(odd))
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.wire).finish()
    }
}

/// What is an answer only the first time is none the second time.
fn finally(answer: Answer) -> Result<Answer, DatastoreError> {
    match answer {
        Answer::Stale => Err(DatastoreError::not_executed(
            ErrorKind::Stale,
            "the server's clock was past the end of the call, twice",
        )),
        Answer::NoScript => Err(DatastoreError::not_executed(
            ErrorKind::Protocol,
            "the server does not know the script that it was just sent",
        )),
        answer => Ok(answer),
    }
}

fn not_greeted(error: Unanswered) -> DatastoreError {
    match error {
        Unanswered::Refused(error) => refused_login(error.kind(), error),
        Unanswered::Odd => odd_greeting(),
    }
}

/// Whatever the server says to a login, no claim was sent.
fn refused_login(kind: ErrorKind, error: ServerError) -> DatastoreError {
    DatastoreError::not_executed(kind, error)
}

fn odd_greeting() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Protocol,
        "the server's answer to the greeting is not that of a Redis server",
    )
}

fn micros(time: Time) -> i64 {
    i64::try_from(time.as_nanos() / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_ago_the_server_told_its_time_the_earlier_a_call_ends_there() {
        let time = Time::from_nanos(10_000_000);
        assert_eq!(server_time(time, 5, Duration::ZERO), 10_005);
        assert_eq!(server_time(time, 5, Duration::from_secs(1)), 9_005);
        assert_eq!(server_time(time, 5, Duration::from_secs(3600)), 0);
    }
}
