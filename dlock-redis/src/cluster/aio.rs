//! Calls to a cluster from async code.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::mux::{ready_by, sleep_until, until};

use super::map::Node;
use super::walk::Walk;
use super::{Cluster, slot};
use crate::aio::Shares;
use crate::aio::calls::{self, Slot};
use crate::operations::{Answer, Call};

impl Cluster {
    /// As [`call`](Self::call), without blocking.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) async fn call_shared(
        self: &Arc<Self>,
        deadline: Time,
        call: Call<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        let here = self.here();
        let slot = slot::of(call.key());
        let mut walk = Walk::new(call);
        loop {
            let found = here.find_shared(slot, &walk, deadline).await;
            let node = found.as_ref().ok().map(|node| node.endpoint.clone());
            let answered = match found {
                Ok(node) => node.call_shared(deadline, &walk).await,
                Err(error) => Err(error),
            };
            let pause = match answered {
                Ok(answer) => return Ok(answer),
                Err(error) => here.after(&mut walk, error, node.as_ref(), deadline)?,
            };
            if let Some(until) = pause {
                let slept = sleep_until(until.min(deadline)).await;
                let refused = |error| DatastoreError::not_executed(ErrorKind::Refused, error);
                slept.map_err(|error| walk.earlier().and_then(refused(error)))?;
            }
        }
    }

    /// As [`primaries`](Self::primaries), without blocking.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) async fn primaries_shared(
        self: &Arc<Self>,
        deadline: Time,
    ) -> Result<Vec<Arc<Node>>, DatastoreError> {
        let here = self.here();
        let any = Walk::new(Call::Asking);
        here.find_shared(0, &any, deadline).await?;
        Ok(here.map().primaries())
    }

    /// Many calls, those to one node together, the nodes side by side. All end by one deadline, as
    /// in [`call_all`](Self::call_all). The answers are in the order of the calls. What is not
    /// carried out at once goes its own way.
    pub(crate) async fn call_all_shared(
        self: &Arc<Self>,
        deadline: Time,
        calls: &[Call<'_>],
    ) -> Vec<Result<Answer, DatastoreError>> {
        let here = self.here();
        let mut trips: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            let walk = Walk::new(*call);
            let found = here.find_shared(slot::of(call.key()), &walk, deadline);
            // The call's own way finds out once more that there is none.
            let Ok(node) = found.await else { continue };
            match trips
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &node))
            {
                Some((_, which)) => which.push(at),
                None => trips.push((node, vec![at])),
            }
        }
        let taken = trips.iter().map(|(node, which)| async move {
            let sent: Vec<_> = which.iter().map(|at| calls[*at]).collect();
            let answers = calls::call_all(&node.server, deadline, &sent).await;
            which.iter().copied().zip(answers).collect::<Vec<_>>()
        });
        let taken = all(taken.collect()).await;
        let mut first: Vec<Option<_>> = calls.iter().map(|_| None).collect();
        for ((node, _), answers) in trips.iter().zip(taken) {
            for (at, answer) in answers {
                first[at] = Some((node, answer));
            }
        }
        let results = first.into_iter().zip(calls).map(|(first, call)| {
            let here = Arc::clone(here);
            // Some may end before the batch does.
            let deadline = deadline.min(call.end());
            async move {
                let before = match first {
                    Some((_, Ok(answer))) => return Ok(answer),
                    Some((node, Err(error))) => {
                        let mut walk = Walk::new(*call);
                        here.after(&mut walk, error, Some(&node.endpoint), deadline)?;
                        walk.earlier()
                    }
                    None => dlock_net::Earlier::NOTHING,
                };
                let answer = here.call_shared(deadline, *call).await;
                let answer = answer.map_err(|error| before.and_then(error));
                answer.map(|(answer, _)| answer)
            }
        });
        all(results.collect()).await
    }

    /// The shared connections to the node that has a key, as far as is known.
    pub(crate) fn shares_of(self: &Arc<Self>, key: &str) -> Option<Arc<Shares>> {
        let map = self.here().map();
        let node = map.owner(slot::of(key))?;
        Some(Arc::clone(&node.server.mux))
    }

    async fn find_shared(
        self: &Arc<Self>,
        slot: u16,
        walk: &Walk<'_>,
        deadline: Time,
    ) -> Result<Arc<Node>, DatastoreError> {
        let find = || match self.target(slot, walk) {
            Ok(None) => self.why_no_map().map(Err),
            found => found.transpose(),
        };
        let found = ready_by(deadline, until(&self.renewed, find)).await;
        found
            .map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?
            .unwrap_or_else(|| Err(self.refreshing().no_map_in_time()))
    }
}

impl Node {
    async fn call_shared(
        &self,
        deadline: Time,
        walk: &Walk<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        let slot = match walk.asks() {
            None => Slot::Settled,
            Some(_) => Slot::Asking,
        };
        let server = &self.server;
        calls::call(server, deadline, walk.call(), slot, walk.earlier()).await
    }
}

/// Runs futures side by side. The results are in their order.
async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    poll_fn(move |cx| {
        let mut is_over = true;
        for (future, result) in running.iter_mut().zip(&mut results) {
            if result.is_some() {
                continue;
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(done) => *result = Some(done),
                Poll::Pending => is_over = false,
            }
        }
        match is_over {
            true => Poll::Ready(results.iter_mut().filter_map(Option::take).collect()),
            false => Poll::Pending,
        }
    })
    .await
}
