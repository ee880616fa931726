//! The async form: the same locks over connections of which each has one call at a time.
//!
//! A call may wait in the database for a row that somebody has locked, and all that is sent after
//! it over the same connection waits too. So a call has a connection for itself, as in the blocking
//! form, and there are as many of them.

mod at_drop;
mod operations;
mod replies;
mod turns;

use std::sync::Arc;

use bytes::BytesMut;
use dlock_core::aio::is_polled_by_drop;
use dlock_core::{Clock, DatastoreError, Time};
use dlock_net::mux::{Multiplexer, Open, Opened, Pinned};
use dlock_net::{Pool, Transport as _};

use crate::connection::{Server, unsent};
use crate::error::unexpected;
use crate::operations::{Answer, Call};
use crate::pool::ConnectionManager;
use replies::PostgresReplies;
use turns::Turns;

/// The connections of the async form.
pub(crate) struct Shares {
    turns: Turns,
    /// One for each turn, and of each one for every runtime that calls.
    connections: Vec<Multiplexer<Opener>>,
}

impl Shares {
    /// Connections that are opened as those of the pool are, and belong to none.
    pub(crate) fn of(pool: &Arc<Pool<ConnectionManager>>) -> Self {
        let usual = usize::try_from(pool.max_size())
            .unwrap_or(usize::MAX)
            .max(1);
        let all = usual.saturating_mul(2);
        let connection = |_| Multiplexer::new(Opener(Arc::clone(pool)));
        Shares {
            turns: Turns::new(usual, all),
            connections: (0..all).map(connection).collect(),
        }
    }

    /// Makes a call by `deadline`. Returns whether an earlier try of it, on a connection that died,
    /// may have been carried out as well.
    pub(crate) async fn call(
        &self,
        deadline: Time,
        call: Call<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        match is_polled_by_drop() {
            true => Box::pin(self.call_at_drop(deadline, call)).await,
            false => self.call_alone(deadline, call).await,
        }
    }

    /// The same, always over a connection that the call has for itself.
    async fn call_alone(
        &self,
        deadline: Time,
        call: Call<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        let turn = self.turns.take(call.is_urgent(), deadline).await?;
        let mut session = self.connections[turn.place()].session(deadline)?;
        loop {
            let (mut connection, earlier) = session.connection().await?;
            let in_doubt = earlier.may_have_run();
            let outcome = ask(&mut connection, &call).await;
            if let Some(outcome) = session.ended(connection, outcome) {
                return outcome.map(|answer| (answer, in_doubt));
            }
        }
    }
}

async fn ask(connection: &mut Pinned<Opener>, call: &Call<'_>) -> Result<Answer, DatastoreError> {
    let answer = ask_once(connection, call).await?;
    // What we knew of the server's clock was old, and there is time yet.
    if matches!(answer, Answer::TooLate) && Clock::BOOTTIME.now() < connection.deadline() {
        return ask_once(connection, call).await;
    }
    Ok(answer)
}

async fn ask_once(
    connection: &mut Pinned<Opener>,
    call: &Call<'_>,
) -> Result<Answer, DatastoreError> {
    loop {
        let deadline = connection.deadline();
        let mut request = BytesMut::new();
        connection
            .with_writer(|line| line.server.write(&mut request, call, deadline))
            .map_err(|error| unsent(connection.peer(), error))?;
        let reply = connection.ask(|line, bytes, _| {
            line.is_busy = true;
            bytes.extend_from_slice(&request);
        });
        let reply = reply.await?;
        let answer = connection.with_writer(|line| {
            line.is_busy = matches!(&reply, Err(error) if error.ends_connection());
            line.server.read(call, reply)
        });
        if let Some(answer) = answer? {
            return Ok(answer);
        }
    }
}

/// The state of a connection between two requests.
pub(crate) struct Line {
    server: Server,
    /// Whether a call is under way. If its caller has gone, the next call goes over another
    /// connection: it would wait for what the server still does.
    is_busy: bool,
}

pub(crate) struct Opener(Arc<Pool<ConnectionManager>>);

impl Open for Opener {
    type Writer = Line;
    type Replies = PostgresReplies;

    fn open(&self, deadline: Time) -> Result<Opened<Line, PostgresReplies>, DatastoreError> {
        let connection = self.0.open(deadline)?;
        let parts = connection.into_parts().and_then(|(stream, peer, server)| {
            let (layer, socket) = Box::new(stream).into_shared()?;
            Some((layer, socket, peer, server))
        });
        let (layer, socket, peer, server) = parts.ok_or_else(unexpected)?;
        Ok(Opened {
            socket,
            layer,
            peer,
            writer: Line {
                server,
                is_busy: false,
            },
            replies: PostgresReplies,
        })
    }

    fn takes_more(&self, line: &mut Line) -> bool {
        !line.is_busy
    }
}
