//! URLs, and their redacted form in messages.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlock_net::fuzzing::url(data);
    dlock_file::fuzzing::url(data);
    dlock_memcache::fuzzing::url(data);
    dlock_redis::fuzzing::url(data);
});
