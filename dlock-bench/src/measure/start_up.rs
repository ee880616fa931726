//! Measures the start of the command before the job begins, compared with flock(1).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::measure::pairs;
use crate::options::Options;
use crate::report::Section;
use crate::rounds::{Operation, Subject, Threads};

const FLOCK: &str = "`flock -n FILE true`";

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let dlock = built(options)?;
    let folder = tempfile::tempdir()?;
    let (file, store) = (folder.path().join("lock"), folder.path().join("locks"));
    let store = format!("file:{}", store.display());
    let table = || {
        let run = |name, program: &Path, words: &[&str]| -> Box<dyn Subject> {
            Box::new(Threads::new(name, vec![started(program, words)]))
        };
        let flock = ["-n", &*file.to_string_lossy(), "true"];
        let subjects = vec![
            run("`true`", Path::new("true"), &[]),
            run(FLOCK, Path::new("flock"), &flock),
            run(
                "`dlock run --store file:FOLDER NAME -- true`",
                &dlock,
                &["run", "--store", &store, "start-up", "--", "true"],
            ),
        ];
        pairs::table("The command", options, subjects, 1, &[FLOCK])
    };
    // On several cores the command and the job may run at the same time. On one core the figure is
    // the same each time.
    let cores = Cores::both()?[0];
    Ok(Section {
        title: "The command's start-up".to_owned(),
        text: format!(
            "The benchmark starts a process and waits for its end, on one core. The release build of `dlock` has \
             {:.2} MB.",
            size(&dlock)?
        ),
        tables: vec![cores.on_client(table)?],
        ..Section::default()
    })
}

/// Runs a program to its end.
fn started(program: &Path, words: &[&str]) -> Operation {
    let mut command = Command::new(program);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Box::new(move || {
        let status = command.status()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{command:?}: {status}").into()),
        }
    })
}

/// The command, built in the same profile as this program. A quick run uses an existing one.
pub(super) fn built(options: &Options) -> Result<PathBuf, Failure> {
    let here = env::current_exe()?;
    let dlock = here.with_file_name("dlock");
    if options.quick && dlock.exists() {
        return Ok(dlock);
    }
    let target = here
        .ancestors()
        .nth(2)
        .ok_or("this program has no folder")?;
    let profile = match cfg!(debug_assertions) {
        true => "dev",
        false => "release",
    };
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--package", "dlock-cli"])
        .args(["--profile", profile, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status()?;
    match built.success() {
        true => Ok(dlock),
        false => Err("the command does not build".into()),
    }
}

fn size(program: &Path) -> Result<f64, Failure> {
    Ok(crate::series::float(fs::metadata(program)?.len()) / 1e6)
}
