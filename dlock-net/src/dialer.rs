//! Connects a backend to its server.

use std::time::Duration;

use dlock_core::{DatastoreError, Time};

use crate::{Endpoint, Resolver, Socket, deadline_in};

/// The default limit for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The address of a server, and how long opening a connection to it may take.
///
/// A connection manager has it as its field `dialer`.
/// [`impl_dialer_setters!`](crate::impl_dialer_setters) generates the setters.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// The address of the server.
    pub endpoint: Endpoint,
    /// The most that opening a connection may take, including name resolution and handshake.
    /// Default 1 s.
    pub connect_timeout: Duration,
    /// The resolver of the host's name. Default: the system's.
    pub resolver: Resolver,
}

impl Dialer {
    /// A dialer with the default limits.
    pub fn new(endpoint: Endpoint) -> Self {
        Dialer {
            endpoint,
            connect_timeout: CONNECT_TIMEOUT,
            resolver: Resolver::system(),
        }
    }

    /// Connects by `deadline`, and no later than [`connect_timeout`](Self::connect_timeout) from
    /// now. The socket keeps that deadline for the handshake.
    ///
    /// # Errors
    ///
    /// Not executed, with the reason.
    pub fn connect(&self, deadline: Time) -> Result<Socket, DatastoreError> {
        self.connect_to(&self.endpoint, deadline)
    }

    /// The same, to another address: that of a server to which the first has referred.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_to(
        &self,
        endpoint: &Endpoint,
        deadline: Time,
    ) -> Result<Socket, DatastoreError> {
        let deadline = deadline.min(deadline_in(self.connect_timeout));
        Socket::connect_with(&self.resolver, endpoint, deadline)
    }
}

/// Generates the setters of a connection manager for its field `dialer`, a [`Dialer`].
#[macro_export]
macro_rules! impl_dialer_setters {
    ($manager:ty) => {
        impl $manager {
            /// With this limit for opening a connection, including name resolution and handshake.
            /// It never takes longer than the call that needs it. Default 1 s.
            #[must_use]
            pub fn with_connect_timeout(mut self, timeout: ::std::time::Duration) -> Self {
                self.dialer.connect_timeout = timeout;
                self
            }

            /// With another resolver for the host's name than the system's.
            #[must_use]
            pub fn with_resolver(mut self, resolver: $crate::Resolver) -> Self {
                self.dialer.resolver = resolver;
                self
            }
        }
    };
}
