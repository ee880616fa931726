//! Names as keys, and keys as files and requests.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlock_core::fuzzing::key(data);
    dlock_file::fuzzing::key(data);
    dlock_memcache::fuzzing::key(data);
});
