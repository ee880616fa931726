//! The store under test, and how to get at it.

use std::any::Any;
use std::ffi::OsStr;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use dlock_core::Datastore;

/// A handle of the store under test.
pub(crate) type Handle = Arc<dyn Datastore>;
type Open = Arc<dyn Fn() -> Handle + Send + Sync>;
pub(crate) type Reopen = Arc<dyn Fn(&str) -> Handle + Send + Sync>;
type HoldWriter = Box<dyn Fn(&str) -> Box<dyn Any> + Send + Sync>;
type WriteForeign = Box<dyn Fn(&str, &str) + Send + Sync>;

/// The store under test: how to open it, where it is, and what must outlive the case.
///
/// Every case of the suite gets a subject of its own, with a random key prefix of its own, so cases can share a server.
///
/// ```
/// # use std::sync::{Arc, Mutex, MutexGuard};
/// # struct Server; impl Server { fn start() -> Self { Server } fn url(&self) -> String { String::new() } }
/// # #[derive(Default)] struct MyStore;
/// # impl MyStore { fn connect(_: &str) -> Self { MyStore } }
/// # impl dlock_core::Datastore for MyStore {
/// #     fn acquire(&self, _: &dlock_core::Claim, _: std::time::Duration) -> Result<dlock_core::Attempt, dlock_core::DatastoreError> { unreachable!() }
/// #     fn extend(&self, _: &dlock_core::Lease, _: std::time::Duration) -> Result<dlock_core::Extension, dlock_core::DatastoreError> { unreachable!() }
/// #     fn release(&self, _: &dlock_core::Lease) -> Result<dlock_core::Released, dlock_core::DatastoreError> { unreachable!() }
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
    // Handles come first, since fields are dropped in order and a handle may need what the guards keep.
    first: OnceLock<Handle>,
    open: Open,
    place: Option<String>,
    test: Option<String>,
    reopen: Option<Reopen>,
    hold_writer: Option<HoldWriter>,
    write_foreign: Option<WriteForeign>,
    prefix: String,
    guards: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Subject {
    /// A store that `open` opens a handle of, each time anew: a second handle must meet the locks of the first.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    pub fn new<D: Datastore + 'static>(open: impl Fn() -> D + Send + Sync + 'static) -> Self {
        Self::opened_by(Arc::new(move || Arc::new(open())))
    }

    fn opened_by(open: Open) -> Self {
        let random = getrandom::u64().expect("the operating system has random numbers");
        Subject {
            first: OnceLock::new(),
            open,
            place: None,
            test: None,
            reopen: None,
            hold_writer: None,
            write_foreign: None,
            prefix: format!("dlock-testkit:{random:016x}:"),
            guards: Mutex::default(),
        }
    }

    /// Where the store is (a folder, a URL), so that other processes can open it too. What `reopen = …` of
    /// [`conformance!`](crate::conformance) is given.
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

    /// Keeps `guard` (a temporary folder, a server) until the case and all handles are done, then drops it.
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

    /// How to keep the store's one writer busy: `hold` is given the [place](Self::at) (an empty text without one), and nobody can write
    /// to the store until what it returns is dropped. Stores that declare a
    /// [`single_writer`](dlock_core::Characteristics::single_writer) must give it.
    ///
    /// A store that is not at a place is captured:
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # #[derive(Clone, Default)] struct MyStore(Arc<Mutex<bool>>);
    /// # struct Turn(MyStore);
    /// # impl Drop for Turn { fn drop(&mut self) { *self.0.0.lock().unwrap() = false; } }
    /// # impl MyStore { fn write_turn(&self) -> Turn { *self.0.lock().unwrap() = true; Turn(self.clone()) } }
    /// # impl dlock_core::Datastore for MyStore {
    /// #     fn acquire(&self, _: &dlock_core::Claim, _: std::time::Duration) -> Result<dlock_core::Attempt, dlock_core::DatastoreError> { unreachable!() }
    /// #     fn extend(&self, _: &dlock_core::Lease, _: std::time::Duration) -> Result<dlock_core::Extension, dlock_core::DatastoreError> { unreachable!() }
    /// #     fn release(&self, _: &dlock_core::Lease) -> Result<dlock_core::Released, dlock_core::DatastoreError> { unreachable!() }
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

    /// How to write something that no lock client writes: `write` is given the [place](Self::at) (an empty text without one) and the key
    /// at which to write it.
    #[must_use]
    pub fn foreign_written_by(
        mut self,
        write: impl Fn(&str, &str) + Send + Sync + 'static,
    ) -> Self {
        self.write_foreign = Some(Box::new(write));
        self
    }

    /// How other processes open the store at its [place](Self::at), and the `#[test]` of the running binary that does it: one that calls
    /// [`other_process`](crate::other_process). [`conformance!`](crate::conformance) sets it; it is here for whoever runs single laws.
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

    /// What the expansion of `conformance!` does with its arguments.
    #[doc(hidden)]
    pub fn __built<S: Into<Subject>>(
        build: impl FnOnce() -> S,
        module: &str,
        reopen: Option<__Reopen>,
    ) -> Self {
        let in_crate = module.split_once("::").map_or(module, |(_, rest)| rest);
        let subject = build()
            .into()
            .in_test(&format!("{in_crate}::other_process"));
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

    /// The handle that a case uses first.
    pub(crate) fn first(&self) -> Handle {
        Arc::clone(self.first.get_or_init(|| (self.open)()))
    }

    /// Another handle: another connection, another opened folder. The same one where the store lives in its value.
    pub(crate) fn another(&self) -> Handle {
        // Opened before a second one, so that a store which must be created first is.
        let first = self.first();
        match (&self.place, &self.reopen) {
            (Some(place), Some(reopen)) => reopen(place),
            _ => {
                drop(first);
                (self.open)()
            }
        }
    }

    pub(crate) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// The `#[test]` to run in another process, if that was told.
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

    /// Whether there was a way to write it.
    pub(crate) fn write_foreign(&self, key: &str) -> bool {
        let Some(write) = &self.write_foreign else {
            return false;
        };
        write(self.place.as_deref().unwrap_or(""), key);
        true
    }

    /// The same store as another process sees it: at the place and with the prefix that it was told.
    pub(crate) fn seen_by_other(mut self, place: Option<String>, prefix: String) -> Self {
        if let (Some(place), Some(reopen)) = (place, self.reopen.clone()) {
            self.open = Arc::new({
                let place = place.clone();
                move || reopen(&place)
            });
            self.place = Some(place);
        }
        self.prefix = prefix;
        self
    }
}

/// A store that lives in its value, such as one in memory: all handles are this one.
impl<D: Datastore + 'static> From<D> for Subject {
    fn from(store: D) -> Self {
        let store: Handle = Arc::new(store);
        Subject::opened_by(Arc::new(move || Arc::clone(&store)))
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A place may be a URL with a password.
        f.debug_struct("Subject")
            .field("prefix", &self.prefix)
            .field("has_place", &self.place.is_some())
            .finish_non_exhaustive()
    }
}

/// How another process opens a store, without its type.
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
}

fn reopener<D: Datastore + 'static>(reopen: impl Fn(&str) -> D + Send + Sync + 'static) -> Reopen {
    Arc::new(move |place| Arc::new(reopen(place)))
}
