//! The dlock command: flock(1) for many hosts.
