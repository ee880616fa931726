//! The programs that a run starts: the real `dlock`, and this program.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;

/// Copies in a folder that other users can reach, since commands run as another user if this
/// process is root.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) dlock: PathBuf,
    pub(crate) torture: PathBuf,
}

impl Programs {
    /// Builds `dlock` if its source and cargo exist, so that both programs have the same source.
    /// Otherwise uses the `dlock` beside this program.
    ///
    /// # Errors
    ///
    /// If there is no `dlock`, or it cannot be built.
    pub(crate) fn find(folder: &Path) -> Result<Self, Failure> {
        let torture = env::current_exe()?;
        let dlock = torture.with_file_name("dlock");
        build(&torture)?;
        if !dlock.is_file() {
            let dlock = dlock.display();
            return Err(format!("no dlock at {dlock}: cargo build -p dlock-cli").into());
        }
        fs::create_dir_all(folder)?;
        let copy = |from: &Path, name: &str| {
            let to = folder.join(name);
            fs::copy(from, &to)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
            Ok::<_, std::io::Error>(to)
        };
        Ok(Programs {
            dlock: copy(&dlock, "dlock")?,
            torture: copy(&torture, "dlock-torture")?,
        })
    }
}

fn build(torture: &Path) -> Result<(), Failure> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dlock-cli/Cargo.toml");
    let profile = torture.parent();
    let name = profile.and_then(Path::file_name).unwrap_or_default();
    let Some(target) = profile.and_then(Path::parent) else {
        return Ok(());
    };
    // In any other folder the two programs were installed together.
    if !manifest.is_file() || (name != "debug" && name != "release") {
        return Ok(());
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--bin", "dlock"])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target);
    if name == "release" {
        command.arg("--release");
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("dlock cannot be built: {status}").into()),
        // There is no cargo, as on a machine that has only the two programs.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot run cargo to build dlock: {error}").into()),
    }
}
