//! The values that stores keep for a lock.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlock_core::fuzzing::holder(data);
    dlock_file::fuzzing::lock_value(data);
    dlock_etcd::fuzzing::lock_value(data);
    dlock_memcache::fuzzing::lock_value(data);
});
