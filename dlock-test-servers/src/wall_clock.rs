//! A wall clock of its own for one server, which a test can set forward and back while it runs.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// A library that is preloaded into the server and adds to every wall-clock time what stands in a
/// mapped file.
pub(super) struct WallClock {
    library: PathBuf,
    path: PathBuf,
    file: File,
    shift: Mutex<i64>,
}

impl WallClock {
    /// Compiles the library into the server's folder.
    ///
    /// # Panics
    ///
    /// If there is no C compiler.
    pub(super) fn build(folder: &Path) -> Self {
        let source = folder.join("wall_clock.c");
        let library = folder.join("wall_clock.so");
        let path = folder.join("wall_clock");
        fs::write(&source, include_str!("wall_clock.c")).expect("the server's folder is ours");
        let built = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output();
        match built {
            Ok(output) if output.status.success() => {}
            Ok(output) => panic!(
                "`cc` cannot compile the library that shifts a server's clock:\n{}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => {
                panic!(
                    "cannot run `cc`: {error}\n    install it with: apt-get install gcc libc6-dev"
                )
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)
            .expect("the server's folder is ours");
        let clock = WallClock {
            library,
            path,
            file,
            shift: Mutex::new(0),
        };
        clock.write(0);
        clock
    }

    /// What the server must find in its environment.
    pub(super) fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("DLOCK_TEST_WALL_CLOCK", self.path.clone().into()),
        ]
    }

    pub(super) fn step(&self, by: Duration, forward: bool) {
        let by = i64::try_from(by.as_nanos()).expect("a step of less than 292 years");
        let mut shift = self.shift.lock().expect("nothing panics while it is held");
        *shift = if forward { *shift + by } else { *shift - by };
        self.write(*shift);
    }

    fn write(&self, shift: i64) {
        self.file
            .write_all_at(&shift.to_ne_bytes(), 0)
            .expect("the server's folder can be written");
    }
}
