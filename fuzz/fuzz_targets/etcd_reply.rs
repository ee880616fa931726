//! Answers of an etcd node.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    dlock_etcd::fuzzing::reply(data);
});
