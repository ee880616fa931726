//! The seeds of the fuzz targets, for each crate's tests.

/// Holds what a target promises against each of its seeds.
pub(crate) fn keep(target: &str, promise: fn(&[u8])) {
    let folder = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(&folder).expect(&folder);
    let mut count = 0;
    for file in files {
        promise(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 2, "{folder} has {count} seeds");
}
