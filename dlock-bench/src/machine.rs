//! Where it was measured: without that no figure means anything.

use std::fs;
use std::process::Command;
use std::thread;

use rustix::system::uname;

use crate::Failure;
use crate::options::Options;

/// Lines of Markdown.
pub(crate) fn describe(options: &Options) -> Result<String, Failure> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let kernel = uname();
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let mut text = format!(
        "- CPU: {cpu}, {} cores\n- kernel: {} {}\n- load when it began: {load}\n- dlock: {}{}\n- {}\n- {}\n",
        thread::available_parallelism()?,
        kernel.sysname().to_string_lossy(),
        kernel.release().to_string_lossy(),
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) {
            ", **not a release build**"
        } else {
            ""
        },
        version("redis-server", "--version")?,
        version("memcached", "-V")?,
    );
    if options.quick {
        text.push_str("- **a quick run**: these figures say nothing\n");
    }
    Ok(text)
}

/// What a program says of its version, in its first line.
pub(crate) fn version(program: &str, argument: &str) -> Result<String, Failure> {
    let output = Command::new(program).arg(argument).output();
    let output = output.map_err(|error| format!("cannot run `{program}`: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
