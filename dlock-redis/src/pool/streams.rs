//! Streams with TLS or without, to nodes and to sentinels.

use dlock_core::{DatastoreError, Time};
use dlock_net::{Dialer, Endpoint, Transport};

#[cfg(feature = "tls")]
use crate::tls::{self, Trust};

/// Opens streams, to nodes and to sentinels.
#[derive(Clone)]
pub(crate) struct Streams {
    pub(super) dialer: Dialer,
    #[cfg(feature = "tls")]
    pub(super) trust: Option<Trust>,
}

impl Streams {
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn open(
        &self,
        endpoint: &Endpoint,
        deadline: Time,
    ) -> Result<Box<dyn Transport>, DatastoreError> {
        let socket = self.dialer.connect_to(endpoint, deadline)?;
        #[cfg(feature = "tls")]
        if let Some(trust) = &self.trust {
            return Ok(Box::new(tls::shake_hands(trust, socket, endpoint)?));
        }
        Ok(Box::new(socket))
    }
}
