//! Locks kept in Redis or Valkey, for dlock.
