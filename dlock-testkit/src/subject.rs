//! The store under test, and how to open it.

use std::any::Any;
use std::ffi::OsStr;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock};

use dlock_core::Datastore;
#[cfg(feature = "tokio")]
use dlock_core::aio::AsyncDatastore;

use crate::child_process;
#[cfg(feature = "tokio")]
use crate::executor::{__AsyncCalls, AsyncHandle, Executor, Real};
use crate::form::Handle;

type Open = Arc<dyn Fn(&Form) -> Handle + Send + Sync>;
pub(crate) type Reopen = Arc<dyn Fn(&Form, &str) -> Handle + Send + Sync>;
type HoldWriter = Box<dyn Fn(&str) -> Box<dyn Any> + Send + Sync>;
type LockRecord = Box<dyn Fn(&str, &str) -> Box<dyn Any> + Send + Sync>;
type WriteForeign = Box<dyn Fn(&str, &str) + Send + Sync>;

/// The store under test: how to open it, where it is, and what must outlive a case.
///
/// Each case of the suite has its own subject with its own random key prefix, so cases can share a
/// server.
///
/// ```
/// # use std::sync::{Arc, Mutex, MutexGuard};
/// # struct Server; impl Server { fn start() -> Self { Server } fn url(&self) -> String { String::new() } }
/// # #[derive(Default)] struct MyStore;
/// # impl MyStore { fn connect(_: &str) -> Self { MyStore } }
/// # impl dlock_core::Datastore for MyStore {
/// #     fn acquire(&self, _: &dlock_core::Claim, _: std::time::Duration) -> Result<dlock_core::AcquireOutcome, dlock_core::DatastoreError> { unreachable!() }
/// #     fn extend(&self, _: &dlock_core::Lease, _: std::time::Duration) -> Result<dlock_core::Extension, dlock_core::DatastoreError> { unreachable!() }
/// #     fn release(&self, _: &dlock_core::Lease) -> Result<dlock_core::ReleaseOutcome, dlock_core::DatastoreError> { unreachable!() }
/// # }
/// use dlock_testkit::Subject;
///
/// fn subject() -> Subject {
///     let server = Server::start();
///     let url = server.url();
///     Subject::new({ let url = url.clone(); move || MyStore::connect(&url) })
///         .at(url)
///         .cleaned_by(server)
/// }
/// # let _ = subject();
/// ```
pub struct Subject {
    // Handles come first: fields are dropped in order, and a handle may need what the guards keep.
    first: OnceLock<Handle>,
    form: Form,
    open: Open,
    place: Option<String>,
    test: Option<String>,
    reopen: Option<Reopen>,
    hold_writer: Option<HoldWriter>,
    write_foreign: Option<WriteForeign>,
    lock_record: Option<LockRecord>,
    is_without_dangers: bool,
    /// The line that created the subject, for failures.
    made_at: Option<&'static Location<'static>>,
    prefix: String,
    guards: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Subject {
    /// A store of which `open` opens a new handle at each call. A second handle must see the locks
    /// of the first.
    ///
    /// # Panics
    ///
    /// If the operating system has no random numbers.
    pub fn new<D: Datastore + 'static>(open: impl Fn() -> D + Send + Sync + 'static) -> Self {
        Self::opened_by(Arc::new(move |_| Handle::blocking(Arc::new(open()))))
    }

    /// An async store of which `open` opens a new handle at each call, as [`new`](Self::new). The
    /// suite uses its locks in their async form. `open` is called in the context of the runtime
    /// under test: `tokio::runtime::Handle::current()` is that runtime. With the feature `tokio`.
    ///
    /// # Panics
    ///
    /// If the operating system has no random numbers.
    #[cfg(feature = "tokio")]
    pub fn of_async<D: AsyncDatastore + 'static>(
        open: impl Fn() -> D + Send + Sync + 'static,
    ) -> Self {
        Self::opened_by(Arc::new(move |form| form.opened(&open)))
    }

    fn opened_by(open: Open) -> Self {
        let random = getrandom::u64().expect("the operating system has random numbers");
        Subject {
            first: OnceLock::new(),
            form: Form::default(),
            open,
            place: None,
            test: None,
            reopen: None,
            hold_writer: None,
            write_foreign: None,
            lock_record: None,
            is_without_dangers: false,
            made_at: None,
            prefix: format!("dlock-testkit:{random:016x}:"),
            guards: Mutex::default(),
        }
    }

    /// Sets the place of the store (a folder, a URL), so that other processes can open it too.
    /// `reopen = …` of [`conformance!`](crate::conformance) receives it.
    ///
    /// # Panics
    ///
    /// If the place is not UTF-8.
    #[must_use]
    pub fn at(mut self, place: impl AsRef<OsStr>) -> Self {
        let place = place.as_ref().to_str().expect("the place is UTF-8");
        self.place = Some(place.to_owned());
        self
    }

    /// Keeps `guard` (a temporary folder, a server) until the case and all handles are done, then
    /// drops it.
    #[must_use]
    pub fn cleaned_by(self, guard: impl Any + Send) -> Self {
        let mut guards = self
            .guards
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        guards.push(Box::new(guard));
        drop(guards);
        self
    }

    /// Says how to keep the store's single writer busy. `hold` receives the [place](Self::at) (an
    /// empty text without one). Until its result is dropped, no process can write to the store.
    /// Stores that declare a [`single_writer`](dlock_core::Characteristics::single_writer) must set
    /// it.
    ///
    /// For a store without a place, capture the store:
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # #[derive(Clone, Default)] struct MyStore(Arc<Mutex<bool>>);
    /// # struct Turn(MyStore);
    /// # impl Drop for Turn { fn drop(&mut self) { *self.0.0.lock().unwrap() = false; } }
    /// # impl MyStore { fn write_turn(&self) -> Turn { *self.0.lock().unwrap() = true; Turn(self.clone()) } }
    /// # impl dlock_core::Datastore for MyStore {
    /// #     fn acquire(&self, _: &dlock_core::Claim, _: std::time::Duration) -> Result<dlock_core::AcquireOutcome, dlock_core::DatastoreError> { unreachable!() }
    /// #     fn extend(&self, _: &dlock_core::Lease, _: std::time::Duration) -> Result<dlock_core::Extension, dlock_core::DatastoreError> { unreachable!() }
    /// #     fn release(&self, _: &dlock_core::Lease) -> Result<dlock_core::ReleaseOutcome, dlock_core::DatastoreError> { unreachable!() }
    /// # }
    /// use dlock_testkit::Subject;
    ///
    /// fn subject() -> Subject {
    ///     let store = MyStore::default();
    ///     let same = store.clone();
    ///     Subject::from(store).writer_held_by(move |_| same.write_turn())
    /// }
    /// # let _ = subject();
    /// ```
    #[must_use]
    pub fn writer_held_by<G: Any>(
        mut self,
        hold: impl Fn(&str) -> G + Send + Sync + 'static,
    ) -> Self {
        self.hold_writer = Some(Box::new(move |place| Box::new(hold(place))));
        self
    }

    /// Says how another transaction locks the record of one key. `lock` receives the
    /// [place](Self::at) (an empty text without one) and the key. Until its result is dropped,
    /// calls on that key wait inside the store. It is for stores that lock rows, such as SQL
    /// databases: there an extend may wait for a locked row, and then act on a condition that was
    /// true when it began to wait.
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # #[derive(Clone, Default)] struct MyTable;
    /// # struct Transaction;
    /// # impl MyTable { fn lock_row(&self, _: &str) -> Transaction { Transaction } }
    /// # impl dlock_core::Datastore for MyTable {
    /// #     fn acquire(&self, _: &dlock_core::Claim, _: std::time::Duration) -> Result<dlock_core::AcquireOutcome, dlock_core::DatastoreError> { unreachable!() }
    /// #     fn extend(&self, _: &dlock_core::Lease, _: std::time::Duration) -> Result<dlock_core::Extension, dlock_core::DatastoreError> { unreachable!() }
    /// #     fn release(&self, _: &dlock_core::Lease) -> Result<dlock_core::ReleaseOutcome, dlock_core::DatastoreError> { unreachable!() }
    /// # }
    /// use dlock_testkit::Subject;
    ///
    /// fn subject() -> Subject {
    ///     let table = MyTable::default();
    ///     let same = table.clone();
    ///     // BEGIN; SELECT … WHERE key = … FOR UPDATE; and a ROLLBACK when it is dropped.
    ///     Subject::from(table).record_locked_by(move |_, key| same.lock_row(key))
    /// }
    /// # let _ = subject();
    /// ```
    #[must_use]
    pub fn record_locked_by<G: Any>(
        mut self,
        lock: impl Fn(&str, &str) -> G + Send + Sync + 'static,
    ) -> Self {
        self.lock_record = Some(Box::new(move |place, key| Box::new(lock(place, key))));
        self
    }

    /// Says how to write a value that no lock client writes. `write` receives the [place](Self::at)
    /// (an empty text without one) and the key.
    #[must_use]
    pub fn foreign_written_by(
        mut self,
        write: impl Fn(&str, &str) + Send + Sync + 'static,
    ) -> Self {
        self.write_foreign = Some(Box::new(write));
        self
    }

    /// Says that the store is set up as it should be: what it
    /// [finds in itself](dlock_core::Inspect::findings) must not be a
    /// [danger](dlock_core::Severity::Danger). A server that is started for tests may well have
    /// dangers, because it keeps nothing on its disk for example.
    #[must_use]
    pub fn without_dangers(mut self) -> Self {
        self.is_without_dangers = true;
        self
    }

    /// Says how other processes open the store at its [place](Self::at), and which `#[test]` of the
    /// running binary does so: one that calls [`other_process`](crate::other_process).
    /// [`conformance!`](crate::conformance) sets it; set it yourself only to run single laws.
    #[must_use]
    pub fn reopened_by<D: Datastore + 'static>(
        self,
        test: &str,
        reopen: impl Fn(&str) -> D + Send + Sync + 'static,
    ) -> Self {
        self.in_test(test).reopened(reopener(reopen))
    }

    /// A key prefix that no other subject has.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Called by the expansion of `conformance!`.
    #[doc(hidden)]
    #[track_caller]
    pub fn __built<S: Into<Subject>>(
        build: impl FnOnce() -> S,
        module: &str,
        reopen: Option<__Reopen>,
    ) -> Self {
        let subject = Self::of_parent(reopen.as_ref()).unwrap_or_else(|| build().into());
        subject.of_module(module, reopen)
    }

    /// Called by the expansion of `async_conformance!`.
    #[cfg(feature = "tokio")]
    #[doc(hidden)]
    #[track_caller]
    pub fn __built_async<S: __IntoAsync>(
        build: impl FnOnce() -> S,
        module: &str,
        reopen: Option<__Reopen>,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let subject = Self::of_parent(reopen.as_ref()).unwrap_or_else(|| {
            let _context = runtime.enter();
            build().__into_subject()
        });
        let subject = subject.of_module(module, reopen);
        subject.__on(runtime.clone())
    }

    /// In a process that a case has started: the store of that case, which is not built once more,
    /// since that may start a server.
    fn of_parent(reopen: Option<&__Reopen>) -> Option<Self> {
        let (__Reopen(reopen), place) = (reopen?, child_process::place_of_parent()?);
        Some(Self::opened_by(opened_at(reopen, &place)).at(place))
    }

    /// Has async locks used on this runtime.
    #[cfg(feature = "tokio")]
    #[doc(hidden)]
    #[must_use]
    pub fn __on(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.form.0.runtime = runtime;
        self
    }

    /// Has async locks used by these calls.
    #[cfg(feature = "tokio")]
    #[doc(hidden)]
    #[must_use]
    pub fn __calling(mut self, calls: impl __AsyncCalls + 'static) -> Self {
        self.form.0.calls = Arc::new(calls);
        self
    }

    #[track_caller]
    fn of_module(self, module: &str, reopen: Option<__Reopen>) -> Self {
        let in_crate = module.split_once("::").map_or(module, |(_, rest)| rest);
        let made_at = Some(Location::caller());
        let subject = Subject { made_at, ..self };
        let subject = subject.in_test(&format!("{in_crate}::other_process"));
        match reopen {
            Some(__Reopen(reopen)) => subject.reopened(reopen),
            None => subject,
        }
    }

    fn in_test(mut self, test: &str) -> Self {
        self.test = Some(test.to_owned());
        self
    }

    fn reopened(mut self, reopen: Reopen) -> Self {
        self.reopen = Some(reopen);
        self
    }

    /// The first handle of a case.
    pub(crate) fn first(&self) -> Handle {
        let open = || (self.open)(&self.form);
        self.first.get_or_init(open).clone()
    }

    /// Another handle: another connection, or the folder opened again. It is the same handle if the
    /// store lives in its value.
    pub(crate) fn another(&self) -> Handle {
        // Opened before a second one, in case the store must be created.
        let first = self.first();
        match (&self.place, &self.reopen) {
            (Some(place), Some(reopen)) => reopen(&self.form, place),
            _ => {
                drop(first);
                (self.open)(&self.form)
            }
        }
    }

    pub(crate) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// The `#[test]` to run in another process, if it is set.
    pub(crate) fn test(&self) -> Option<&str> {
        self.test.as_deref()
    }

    pub(crate) fn is_reopenable(&self) -> bool {
        self.place.is_some() && self.reopen.is_some()
    }

    pub(crate) fn hold_writer(&self) -> Option<Box<dyn Any>> {
        let hold = self.hold_writer.as_ref()?;
        Some(hold(self.place.as_deref().unwrap_or("")))
    }

    /// Locks the record of a key until the result is dropped, if the subject says how.
    pub(crate) fn lock_record(&self, key: &str) -> Option<Box<dyn Any>> {
        let lock = self.lock_record.as_ref()?;
        Some(lock(self.place.as_deref().unwrap_or(""), key))
    }

    pub(crate) fn is_without_dangers(&self) -> bool {
        self.is_without_dangers
    }

    /// The line that created the subject, if it is known.
    pub(crate) fn made_at(&self) -> Option<&'static Location<'static>> {
        self.made_at
    }

    /// Writes a foreign value. Returns whether the subject says how.
    pub(crate) fn write_foreign(&self, key: &str) -> bool {
        let Some(write) = &self.write_foreign else {
            return false;
        };
        write(self.place.as_deref().unwrap_or(""), key);
        true
    }

    /// The same store as opened by another process, at the place and with the prefix that it
    /// received.
    pub(crate) fn seen_by_other(mut self, place: Option<String>, prefix: String) -> Self {
        if let (Some(place), Some(reopen)) = (place, &self.reopen) {
            self.open = opened_at(reopen, &place);
            self.place = Some(place);
        }
        self.prefix = prefix;
        self
    }
}

/// The form in which locks are under test. Blocking stores have no use for it.
#[derive(Clone)]
#[cfg_attr(not(feature = "tokio"), derive(Default))]
pub(crate) struct Form(#[cfg(feature = "tokio")] Executor);

#[cfg(feature = "tokio")]
impl Default for Form {
    fn default() -> Self {
        Form(Executor {
            runtime: crate::__multi_thread(),
            calls: Arc::new(Real),
        })
    }
}

#[cfg(feature = "tokio")]
impl Form {
    /// The handle of an async store that is opened in the context of the runtime.
    fn opened<D: AsyncDatastore + 'static>(&self, open: impl FnOnce() -> D) -> Handle {
        let _context = self.0.runtime.enter();
        Handle::asynchronous(AsyncHandle {
            store: Arc::new(open()),
            executor: self.0.clone(),
        })
    }
}

/// What `async_conformance!` takes: a subject, or an async store that lives in its value.
#[cfg(feature = "tokio")]
#[doc(hidden)]
pub trait __IntoAsync {
    #[doc(hidden)]
    fn __into_subject(self) -> Subject;
}

#[cfg(feature = "tokio")]
impl __IntoAsync for Subject {
    fn __into_subject(self) -> Subject {
        self
    }
}

#[cfg(feature = "tokio")]
impl<D: AsyncDatastore + 'static> __IntoAsync for D {
    fn __into_subject(self) -> Subject {
        let store = Arc::new(self);
        Subject::of_async(move || Arc::clone(&store))
    }
}

/// A store that lives in its value, such as one in memory: all handles are this one.
impl<D: Datastore + 'static> From<D> for Subject {
    fn from(store: D) -> Self {
        let store = Handle::blocking(Arc::new(store));
        Subject::opened_by(Arc::new(move |_| store.clone()))
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The place is left out: it may be a URL with a password.
        f.debug_struct("Subject")
            .field("prefix", &self.prefix)
            .field("has_place", &self.place.is_some())
            .finish_non_exhaustive()
    }
}

/// How another process opens a store, with its type erased.
#[doc(hidden)]
#[allow(missing_debug_implementations)]
#[derive(Clone)]
pub struct __Reopen(Reopen);

impl __Reopen {
    #[doc(hidden)]
    pub fn __new<D: Datastore + 'static>(
        reopen: impl Fn(&str) -> D + Send + Sync + 'static,
    ) -> Self {
        __Reopen(reopener(reopen))
    }

    #[cfg(feature = "tokio")]
    #[doc(hidden)]
    pub fn __new_async<D: AsyncDatastore + 'static>(
        reopen: impl Fn(&str) -> D + Send + Sync + 'static,
    ) -> Self {
        __Reopen(Arc::new(move |form, place| form.opened(|| reopen(place))))
    }
}

fn opened_at(reopen: &Reopen, place: &str) -> Open {
    let (reopen, place) = (Arc::clone(reopen), place.to_owned());
    Arc::new(move |form| reopen(form, &place))
}

fn reopener<D: Datastore + 'static>(reopen: impl Fn(&str) -> D + Send + Sync + 'static) -> Reopen {
    Arc::new(move |_, place| Handle::blocking(Arc::new(reopen(place))))
}
