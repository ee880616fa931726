//! What the server backends of dlock share: sockets that keep a deadline, and an r2d2 pool that does.
