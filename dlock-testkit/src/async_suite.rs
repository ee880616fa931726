//! The suite on async stores: all cases, and those that only the async form has, on both kinds of
//! runtime.

use std::future::pending;
use std::sync::OnceLock;
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Promise, laws};

/// A runtime of this process with two threads.
///
/// # Panics
///
/// If it cannot be started.
#[doc(hidden)]
pub fn __multi_thread() -> Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let start = || {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build();
        runtime.expect("a runtime can be started")
    };
    RUNTIME.get_or_init(start).handle().clone()
}

/// A runtime of this process with one thread, which drives it.
///
/// # Panics
///
/// If it cannot be started.
#[doc(hidden)]
pub fn __current_thread() -> Handle {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    let start = || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be started");
        let handle = runtime.handle().clone();
        thread::spawn(move || runtime.block_on(pending::<()>()));
        handle
    };
    HANDLE.get_or_init(start).clone()
}

/// Makes a module with the whole suite twice: `$name::multi_thread` uses a multi-thread runtime of
/// tokio, `$name::current_thread` a current-thread one. With the feature `tokio`.
///
/// The store is an [`AsyncDatastore`](dlock_core::aio::AsyncDatastore). Every case of
/// [`conformance!`](crate::conformance) runs on it. Those of locks use
/// [`aio::Lock`](dlock_core::aio::Lock): their acquires are tasks of the runtime. The cases of
/// [`ASYNC_LAWS`](crate::ASYNC_LAWS) come in addition. They show what only the async form promises:
/// what a dropped future leaves, what a lost lease ends, and what a blocked or ended runtime does
/// to locks.
///
/// The arguments are those of [`conformance!`](crate::conformance). The functions are called in the
/// context of the runtime, so they may open what needs one.
///
#[doc = "```"]
#[doc = include_str!("../tests/async_table.rs")]
#[doc = "# fn main() {}"]
#[doc = "```"]
///
/// A store that other processes open says how:
///
/// ```
/// # use std::path::Path;
/// # use std::time::Duration;
/// # use dlock_core::*;
/// # use dlock_core::aio::AsyncDatastore;
/// # struct MyStore;
/// # impl MyStore { fn open(_: impl AsRef<Path>) -> Self { MyStore } }
/// # impl AsyncDatastore for MyStore {
/// #     async fn acquire(&self, _: &Claim, _: Duration) -> Result<AcquireOutcome, DatastoreError> { unreachable!() }
/// #     async fn extend(&self, _: &Lease, _: Duration) -> Result<Extension, DatastoreError> { unreachable!() }
/// #     async fn release(&self, _: &Lease) -> Result<ReleaseOutcome, DatastoreError> { unreachable!() }
/// # }
/// use dlock_testkit::{Subject, async_conformance};
///
/// fn subject() -> Subject {
///     let folder = tempfile::tempdir().unwrap();
///     let place = folder.path().join("locks");
///     Subject::of_async({
///         let place = place.clone();
///         move || MyStore::open(&place)
///     })
///     .at(place)
///     .cleaned_by(folder)
/// }
///
/// async_conformance!(my_store, subject, reopen = |place: &str| MyStore::open(place));
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! async_conformance {
    ($name:ident, $build:expr $(,)?) => {
        $crate::__async_suite! { $name, $build, ::core::option::Option::None }
    };
    ($name:ident, $build:expr, reopen = $reopen:expr $(,)?) => {
        $crate::__async_suite! {
            $name, $build, ::core::option::Option::Some($crate::__Reopen::__new_async($reopen))
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __async_suite {
    ($name:ident, $build:expr, $reopen:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::__module! {
                multi_thread,
                $crate::Subject::__built_async(
                    $build, module_path!(), $reopen, &$crate::__multi_thread()
                ),
                __for_each_law, __for_each_async_law
            }
            $crate::__module! {
                current_thread,
                $crate::Subject::__built_async(
                    $build, module_path!(), $reopen, &$crate::__current_thread()
                ),
                __for_each_law, __for_each_async_law
            }
        }
    };
}

/// Passes the list of cases that only the async form has to the macro `$callback`, after the given
/// arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_async_law {
    ($callback:ident! { $($arguments:tt)* }) => {
        $crate::$callback! { { $($arguments)* }
            dropped_calls_mix_up_no_answers = dropped_calls::mix_up_no_answers,
                "A call whose future is dropped, at any await, spoils no later call: each gets its own answer.";
            dropped_extends_lose_no_lease = dropped_calls::extends_lose_no_lease,
                "An extend whose future is dropped leaves the key to its holder, with one of the two times.";
            dropped_an_acquire_leaves_nothing = dropped_acquire::an_acquire_leaves_nothing,
                "An acquire that is dropped at any await holds nothing, and the next one of the same lock works at once.";
            dropped_a_waiter_leaves_its_place = dropped_acquire::a_waiter_leaves_its_place,
                "A waiting acquire that is dropped, before its turn or in it, gives up its place, and the next waiter or claimant gets the key.";
            dropped_a_release_is_carried_out = dropped_release::a_release_is_carried_out,
                "A release that is dropped at any await, or never polled, is carried out.";
            dropped_a_guard_is_released = dropped_release::a_guard_is_released,
                "A guard that is dropped, inside a runtime or outside of it, is released.";
            dropped_a_locked_job_is_ended = dropped_release::a_locked_job_is_ended,
                "When `locked` is dropped the job's future is dropped and the lock released.";
            dropped_once_frees_a_job_that_has_not_ended = dropped_once::frees_a_job_that_has_not_ended,
                "When `once` is dropped before the job has ended, the job runs again at once.";
            dropped_once_marks_a_job_that_has_ended = dropped_once::marks_a_job_that_has_ended,
                "When `once` is dropped after the job has succeeded, the job is done.";
            async_lost_ends_at_the_loss = async_loss::lost_ends_at_the_loss,
                "`lost` ends for everyone who awaits it when the lease is lost, and not before.";
            async_locked_or_cancel_ends_the_job = async_loss::locked_or_cancel_ends_the_job,
                "`locked_or_cancel` runs the job to its end, or drops its future when the lease is lost.";
            async_a_blocked_executor_loses_no_lease_unnoticed = async_runtime::a_blocked_executor_loses_no_lease_unnoticed,
                "A task that blocks its thread for longer than the lease still holds the lock, or finds it lost.";
            async_a_runtime_that_shuts_down_leaves_nothing = async_runtime::a_runtime_that_shuts_down_leaves_nothing,
                "When a runtime shuts down, its tasks that hold locks or wait for them leave nothing behind.";
            async_both_forms_exclude_each_other = async_runtime::both_forms_exclude_each_other,
                "Blocking and async locks of one store exclude each other, and wait for each other.";
        }
    };
}

/// The cases that only the async form has. `async_conformance!` runs them after those of
/// [`LAWS`](crate::LAWS). With the feature `tokio`.
pub const ASYNC_LAWS: &[Promise] = __for_each_async_law!(__table! {});
