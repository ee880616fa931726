//! PostgreSQL: the functions of dlock-postgres' schema as transactions that wait for each other's
//! row, and a world of clients around them.
//!
//! The other worlds have a server that carries out one call after the other. PostgreSQL carries out
//! many at a time: a call waits for the row, its commit may come long after its decision, and a
//! reader sees what was committed when its statement began. So here each statement of a function is
//! a step, and its commit another. Requests arrive at any time, and answers get lost.
//!
//! - `table`: one row of `dlock.locks`, as it is committed, locked and written (READ COMMITTED).
//! - `functions`: acquire, extend, release, abandon and check, statement by statement. `twins`
//!   plays random calls in open transactions on these and, with a clock of the test, on a real
//!   server, and compares who waits, the answers and the row.
//! - `world`: clients that claim, extend, release and give up, a transaction of a holder that calls
//!   `dlock.check`, another one that only locks the row; and what must hold.
//! - `scenarios`: the bounds, and mistakes in the functions that a property must show.

mod functions;
mod scenarios;
mod table;
mod twins;
mod world;
