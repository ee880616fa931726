//! The programs that a run starts: `dlock`, and this program.
//!
//! Both are one file: this program is the command if its name is `dlock`. So they have the same
//! source, and nothing has to be built or found when a run begins.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Failure;

/// The name under which this program is the command.
const DLOCK: &str = "dlock";

/// Copies in a folder that other users can reach, since commands run as another user if this
/// process is root.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) dlock: PathBuf,
    pub(crate) torture: PathBuf,
}

impl Programs {
    /// Puts the programs into a folder.
    ///
    /// # Errors
    ///
    /// If this program cannot be copied.
    pub(crate) fn copy_to(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder)?;
        let (dlock, torture) = (folder.join(DLOCK), folder.join("dlock-torture"));
        fs::copy(env::current_exe()?, &torture)?;
        fs::set_permissions(&torture, fs::Permissions::from_mode(0o755))?;
        fs::hard_link(&torture, &dlock)?;
        Ok(Programs { dlock, torture })
    }
}

/// Returns whether this process was started as `dlock`.
pub(crate) fn is_dlock() -> bool {
    let program = env::args_os().next().map(PathBuf::from);
    program.is_some_and(|program| program.file_name().is_some_and(|name| name == DLOCK))
}
