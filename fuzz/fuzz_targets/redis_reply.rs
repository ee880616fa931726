//! Answers of a Redis server.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlock_redis::fuzzing::reply(data);
});
