//! Futures whose type is not known.

use std::future::Future;
use std::pin::Pin;

/// A future in a box, as [`DynAsyncDatastore`](super::DynAsyncDatastore) gives it.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
