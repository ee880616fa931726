//! The seeds of the fuzz targets, for each crate's tests.

/// Holds what a target promises against each of the seeds in this folder.
///
/// # Panics
///
/// If the promise is broken, or if the folder has fewer than three seeds.
pub fn hold_on_seeds(folder: &str, promise: fn(&[u8])) {
    let files = std::fs::read_dir(folder).expect(folder);
    let mut count = 0;
    for file in files {
        let file = file.expect(folder).path();
        promise(&std::fs::read(file).expect(folder));
        count += 1;
    }
    assert!(count > 2, "{folder} has {count} seeds");
}
