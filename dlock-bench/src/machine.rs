//! Describes the machine, without which the figures mean nothing.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use dlock_test_servers::server_binary;
use rustix::param::clock_ticks_per_second;
use rustix::system::uname;

use crate::Failure;
use crate::options::Options;

/// The description as Markdown.
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
        version(
            &server_binary("DLOCK_REDIS_SERVER", "redis-server"),
            "--version"
        )?,
        version(&server_binary("DLOCK_MEMCACHED", "memcached"), "-V")?,
    );
    if options.quick {
        text.push_str("- **a quick run**: these figures say nothing\n");
    }
    Ok(text)
}

/// The first line of a program's output about its version.
pub(crate) fn version(program: &str, argument: &str) -> Result<String, Failure> {
    let output = Command::new(program).arg(argument).output();
    let output = output.map_err(|error| format!("cannot run `{program}`: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The CPU time of a process with all its threads so far, to a hundredth of a second.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in parentheses, may contain any characters.
    let fields = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace());
    let ticks = |field: Option<&str>| field.and_then(|ticks| ticks.parse::<u64>().ok());
    // utime and stime, the 14th and 15th of all.
    let times = fields.and_then(|mut fields| Some((ticks(fields.nth(11))?, ticks(fields.next())?)));
    let (user, system) = times.ok_or("a malformed line in /proc")?;
    Ok(Duration::from_millis(
        (user + system) * 1000 / clock_ticks_per_second(),
    ))
}
