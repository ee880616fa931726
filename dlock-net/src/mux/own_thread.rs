//! Work that blocks, for async callers.

use std::thread;

use dlock_core::{DatastoreError, ErrorKind};
use tokio::sync::oneshot;

/// Runs `job` on a thread of its own, and waits for its result without blocking. It is for what
/// operators ask now and then: the calls of locks go over a shared connection.
///
/// The thread starts when the future is polled first. If the future is dropped the job runs to its
/// end, so it needs a deadline of its own.
///
/// # Errors
///
/// Those of the job; not executed and of kind [`Refused`](ErrorKind::Refused) if the system gives
/// no thread, or if the job panics.
pub async fn on_own_thread<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, DatastoreError> + Send + 'static,
) -> Result<T, DatastoreError> {
    let (to, result) = oneshot::channel();
    let thread = thread::Builder::new().name("dlock-operator".to_owned());
    thread
        .spawn(move || {
            // Nobody may wait for it any more.
            let _ = to.send(job());
        })
        .map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
    result.await.unwrap_or_else(|_| {
        let text = "the thread that was to ask the store has ended";
        Err(DatastoreError::not_executed(ErrorKind::Refused, text))
    })
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::{Context, Waker};

    use super::*;

    fn blocked_on<T>(job: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(job)
    }

    #[test]
    fn the_result_comes_from_another_thread() {
        let here = thread::current().id();
        let there = blocked_on(on_own_thread(|| Ok(thread::current().id()))).unwrap();
        assert_ne!(here, there);
        let failed = blocked_on(on_own_thread(|| {
            Err::<(), _>(DatastoreError::not_executed(ErrorKind::Timeout, "slow"))
        }));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Timeout);
    }

    #[test]
    fn a_job_whose_future_is_dropped_runs_to_its_end() {
        let (begin, begun) = mpsc::channel::<()>();
        let (done, ended) = mpsc::channel();
        let mut asked = Box::pin(on_own_thread(move || {
            begun.recv().unwrap();
            done.send(()).unwrap();
            Ok(())
        }));
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(&mut asked).poll(&mut context).is_pending());
        drop(asked);
        begin.send(()).unwrap();
        ended.recv().unwrap();
    }

    #[test]
    fn a_job_that_panics_is_an_error() {
        let error = blocked_on(on_own_thread(|| -> Result<(), _> { panic!("wanted") }));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);
    }
}
