//! Answers of a memcached server.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlock_memcache::fuzzing::reply(data);
});
