//! Calls of scripts over a shared connection.

use dlock_core::{DatastoreError, Time};
use dlock_net::mux::{Replied, Sending};
use dlock_net::{Earlier, lost_reply, may_have_executed};

use super::{RequestWriter, Shares};
use crate::connection::finally;
use crate::error::{ServerError, unexpected};
use crate::operations::{Answer, Call, Form, Kind};
use crate::replicas::Replicas;
use crate::server::Server;

type Reply = Result<Answer, DatastoreError>;

/// Whether a call uses a slot that is being moved to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Settled,
    Asking,
}

/// One call: one round trip, but for a server that does not know the script yet, or whose clock was
/// set, or a key where somebody waits unexpectedly. Returns also whether an earlier try may have
/// been carried out as well.
#[expect(
    clippy::manual_async_fn,
    reason = "such a future has room for each argument twice"
)]
pub(crate) fn call<'a>(
    server: &'a Server,
    deadline: Time,
    mut call: Call<'a>,
    slot: Slot,
    before: Earlier,
) -> impl Future<Output = Result<(Answer, bool), DatastoreError>> + Send {
    async move {
        let replicas = server.replicas.filter(|_| call.is_for_replicas());
        let mut form = Form::Hash;
        let (mut stale, mut marked, mut is_elsewhere) = (false, false, false);
        let mut in_doubt = before.may_have_run();
        loop {
            let (before, now, sent) = (in_doubt, form, &call);
            // Lent, since the futures below would have room for a copy of it.
            let write = &mut |writer: &mut RequestWriter, bytes: &mut Vec<u8>, sending: Sending| {
                let again = before || sending.again;
                writer.write(*sent, now, deadline, bytes, Sending { again, ..sending })
            };
            let replied = match (slot, replicas) {
                (Slot::Settled, None) => server.mux.call(deadline, write).await,
                // Boxed, since it is large and rare: the futures of all others would have room
                // for it.
                _ => {
                    Box::pin(call_with_others(
                        &server.mux,
                        deadline,
                        slot,
                        replicas,
                        write,
                    ))
                    .await
                }
            };
            let replied = replied.map_err(|error| with_doubt(error, before))?;
            in_doubt |= replied.in_doubt;
            let reply = match replied.reply {
                // Its connection takes no more calls.
                Err(error) if !is_elsewhere && ServerError::is_of_wrong_server(&error) => {
                    is_elsewhere = true;
                    continue;
                }
                reply => reply,
            };
            match reply.map_err(|error| with_doubt(error, in_doubt))? {
                Answer::NoScript if form == Form::Hash => form = Form::Text,
                // The reply carried the server's time: if its clock was set forward, the second try
                // is right.
                Answer::Stale if !stale => stale = true,
                Answer::Marked if !marked => (marked, call) = (true, call.with_all_keys()),
                answer => {
                    let answer = finally(answer).map_err(|error| with_doubt(error, in_doubt))?;
                    return Ok((answer, in_doubt));
                }
            }
        }
    }
}

/// Sends one request with what belongs to it: before it an ASKING, which is for that request only,
/// behind it the question how many replicas have acknowledged it.
async fn call_with_others(
    mux: &Shares,
    deadline: Time,
    slot: Slot,
    replicas: Option<Replicas>,
    mut write: impl FnMut(&mut RequestWriter, &mut Vec<u8>, Sending) -> Kind + Send,
) -> Result<Replied<Reply>, DatastoreError> {
    let before = usize::from(slot == Slot::Asking);
    let requests = before + 1 + usize::from(replicas.is_some());
    let deadlines = vec![deadline; requests];
    let all = |at: usize, writer: &mut RequestWriter, bytes: &mut Vec<u8>, sending: Sending| {
        match replicas.filter(|_| at > before) {
            Some(replicas) => writer.write_wait(replicas, deadline, bytes, sending),
            None if at < before => writer.write(Call::Asking, Form::Hash, deadline, bytes, sending),
            None => write(writer, bytes, sending),
        }
    };
    let mut replies = mux.call_many(&deadlines, all).await;
    let waited = replicas.map(|_| replies.pop().unwrap_or_else(|| Err(lost_reply())));
    let mut replied = replies.pop().unwrap_or_else(|| Err(lost_reply()))?;
    if let (Some(waited), Some(replicas)) = (&waited, replicas) {
        acknowledge(&mut replied, waited, replicas);
    }
    match replies.pop() {
        // Without the right to ask the call was redirected.
        Some(Ok(Replied {
            reply: Err(error), ..
        })) if replied.reply.is_err() => Ok(Replied {
            reply: Err(error),
            ..replied
        }),
        _ => Ok(replied),
    }
}

/// Many calls, sent together. The answers are in their order.
pub(crate) async fn call_all(
    server: &Server,
    deadline: Time,
    calls: &[Call<'_>],
) -> Vec<Result<Answer, DatastoreError>> {
    let all: Vec<_> = (0..calls.len()).map(|at| (at, Form::Hash, false)).collect();
    let mut answers: Vec<_> = send(server, deadline, calls, &all).await;
    let repeated = |at: &usize| match &answers[*at] {
        Ok((answer, _)) => matches!(answer, Answer::NoScript | Answer::Stale),
        Err(error) => ServerError::is_of_wrong_server(error),
    };
    let again: Vec<_> = (0..calls.len()).filter(repeated).collect();
    // The first one brings the script along, the others follow it.
    let again: Vec<_> = again
        .iter()
        .enumerate()
        .map(|(place, at)| {
            let form = if place == 0 { Form::Text } else { Form::Hash };
            let in_doubt = match &answers[*at] {
                Ok((_, in_doubt)) => *in_doubt,
                Err(error) => error.may_have_executed(),
            };
            (*at, form, in_doubt)
        })
        .collect();
    if !again.is_empty() {
        let second = send(server, deadline, calls, &again).await;
        for ((at, ..), answer) in again.into_iter().zip(second) {
            answers[at] = answer;
        }
    }
    let finals = answers.into_iter().map(|answer| {
        let (answer, in_doubt) = answer?;
        finally(answer).map_err(|error| with_doubt(error, in_doubt))
    });
    finals.collect()
}

/// Sends some of the calls together.
async fn send(
    server: &Server,
    deadline: Time,
    calls: &[Call<'_>],
    which: &[(usize, Form, bool)],
) -> Vec<Result<(Answer, bool), DatastoreError>> {
    let for_replicas = calls.iter().any(Call::is_for_replicas);
    let replicas = server.replicas.filter(|_| for_replicas);
    let mut deadlines = vec![deadline; which.len()];
    // One question for all, behind the last.
    deadlines.extend(replicas.map(|_| deadline));
    let write = |place: usize, writer: &mut RequestWriter, bytes: &mut Vec<u8>, sending| {
        if let Some(replicas) = replicas.filter(|_| place == which.len()) {
            return writer.write_wait(replicas, deadline, bytes, sending);
        }
        let (at, form, _) = which[place];
        let call = calls[at];
        // Some may end before the batch does.
        writer.write(call, form, deadline.min(call.end()), bytes, sending)
    };
    let mut replies = server.mux.call_many(&deadlines, write).await;
    if let Some(replicas) = replicas {
        let waited = replies.pop().unwrap_or_else(|| Err(lost_reply()));
        for called in replies.iter_mut().flatten() {
            acknowledge(called, &waited, replicas);
        }
    }
    let answers = replies
        .into_iter()
        .zip(which)
        .map(|(replied, (.., before))| {
            let replied = replied.map_err(|error| with_doubt(error, *before))?;
            let in_doubt = *before || replied.in_doubt;
            let answer = replied.reply.map_err(|error| with_doubt(error, in_doubt))?;
            Ok((answer, in_doubt))
        });
    answers.collect()
}

/// What becomes of the answer to a call, with the answer to the question how many replicas have
/// acknowledged it. If that went over another connection, it says nothing of this call.
fn acknowledge(
    called: &mut Replied<Reply>,
    waited: &Result<Replied<Reply>, DatastoreError>,
    replicas: Replicas,
) {
    let Ok(answer) = &called.reply else {
        return;
    };
    let count = match waited {
        Ok(waited) if waited.connection != called.connection => Ok(0),
        Ok(waited) => match &waited.reply {
            Ok(Answer::Acknowledged(count)) => Ok(*count),
            Ok(answer) => Err(unexpected(answer)),
            Err(error) => Err(error.clone()),
        },
        Err(error) => Err(error.clone()),
    };
    called.reply = answer.clone().acknowledged(count, replicas);
}

/// The error of a call of which an earlier copy may have been carried out.
fn with_doubt(error: DatastoreError, in_doubt: bool) -> DatastoreError {
    match in_doubt {
        true => may_have_executed(error),
        false => error,
    }
}
