//! Streams to servers whose ports speak TLS from the first byte on, or none.

use dlock_core::{DatastoreError, Time};

#[cfg(feature = "tls")]
use crate::tls::{self, Trust};
use crate::{Dialer, Endpoint, Transport};

/// Opens streams, with TLS or without.
#[derive(Clone)]
pub struct Streams {
    dialer: Dialer,
    #[cfg(feature = "tls")]
    trust: Option<Trust>,
}

impl Streams {
    /// Without TLS.
    pub fn new(dialer: Dialer) -> Self {
        Streams {
            dialer,
            #[cfg(feature = "tls")]
            trust: None,
        }
    }

    /// With TLS, unless there is nothing to trust.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, trust: Option<Trust>) -> Self {
        self.trust = trust;
        self
    }

    /// Connects, and makes the handshake of TLS, by `deadline` and within the dialer's own limit.
    ///
    /// # Errors
    ///
    /// Not executed, with the reason; that of a handshake has a `TlsError` as its source.
    pub fn open(
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
