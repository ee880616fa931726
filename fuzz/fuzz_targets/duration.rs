//! Durations as people write them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlock_core::fuzzing::duration(data);
});
