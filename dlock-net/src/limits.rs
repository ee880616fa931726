//! The limits of a store, and the setters of its builder.

use std::time::Duration;

use crate::PoolSettings;

/// How long a call of a store may take, and how many connections it keeps.
///
/// A builder has it as its field `limits`. [`impl_limit_setters!`](crate::impl_limit_setters)
/// generates the setters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most that one call may take, however late its caller's deadline is. Default 2 s.
    pub call_timeout: Duration,
    /// The connections.
    pub pool: PoolSettings,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            call_timeout: Duration::from_secs(2),
            pool: PoolSettings::default(),
        }
    }
}

/// Generates the setters of a builder for its fields `limits`, which are [`Limits`], and `manager`,
/// a connection manager with [`impl_dialer_setters!`](crate::impl_dialer_setters).
#[macro_export]
macro_rules! impl_limit_setters {
    ($builder:ty) => {
        impl $builder {
            /// The most that one call may take, however late its caller's deadline is. It covers
            /// waiting for a connection of the pool, connecting, sending and the whole reply.
            /// Default 2 s.
            pub fn call_timeout(mut self, timeout: ::std::time::Duration) -> Self {
                self.limits.call_timeout = timeout;
                self
            }

            /// The most of that time for opening a connection, including name resolution and
            /// handshake. Default 1 s.
            pub fn connect_timeout(mut self, timeout: ::std::time::Duration) -> Self {
                self.manager = self.manager.with_connect_timeout(timeout);
                self
            }

            /// The most that a call waits for a connection while all are in use. Default: the time
            /// of the call.
            pub fn checkout_timeout(mut self, timeout: ::std::time::Duration) -> Self {
                let timeout = ::std::option::Option::Some(timeout);
                self.limits.pool = self.limits.pool.with_checkout_timeout(timeout);
                self
            }

            /// The resolver of the host's name. Default: the system's, bounded by the end of the
            /// call.
            pub fn resolver(mut self, resolver: $crate::Resolver) -> Self {
                self.manager = self.manager.with_resolver(resolver);
                self
            }

            /// The most connections at a time; 0 means 1. Default 10. A store that renews many
            /// locks in one round trip has one more for that. While all are in use, releases and
            /// extends open up to as many again.
            pub fn max_connections(mut self, connections: u32) -> Self {
                self.limits.pool = self.limits.pool.with_max_size(connections);
                self
            }

            /// The time without use after which the next call closes a connection; `None` for
            /// never. Default 10 minutes.
            pub fn idle_timeout(
                mut self,
                timeout: ::std::option::Option<::std::time::Duration>,
            ) -> Self {
                self.limits.pool = self.limits.pool.with_idle_timeout(timeout);
                self
            }

            /// The age at which the next call closes a connection, used or not; `None` for never.
            /// Default 30 minutes.
            pub fn max_lifetime(
                mut self,
                lifetime: ::std::option::Option<::std::time::Duration>,
            ) -> Self {
                self.limits.pool = self.limits.pool.with_max_lifetime(lifetime);
                self
            }
        }
    };
}
