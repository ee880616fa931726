//! Locks kept in memcached, for dlock.
