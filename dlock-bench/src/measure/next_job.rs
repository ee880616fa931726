//! From the end of one job to the start of the next, with whole processes, beside flock(1).

use std::env;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Failure;
use crate::bench::Bench;
use crate::contender::now;
use crate::measure::start_up;
use crate::report::{Section, Table, three_digits, time};
use crate::series::quantile;

/// How long a job holds the lock.
const HOLD: Duration = Duration::from_millis(300);
const FLOCK: &str = "`flock -w 60 FILE JOB`";
const DLOCK: &str = "`dlock run --wait 60s --store file:FOLDER NAME -- JOB`";

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let dlock = start_up::built(options)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("lock");
    let store = format!("file:{}", folder.path().join("locks").display());
    let hold = options.either(HOLD, HOLD / 10);
    let by_flock = || {
        let mut command = Command::new("flock");
        command.args(["-w", "60"]).arg(&file);
        command
    };
    let by_dlock = || {
        let mut command = Command::new(&dlock);
        command.args(["run", "--wait", "60s", "--store", &store, "job", "--"]);
        command
    };
    let ways: [(&str, &dyn Fn() -> Command); 2] = [(FLOCK, &by_flock), (DLOCK, &by_dlock)];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..options.either(30, 2) {
        for ((_, command), times) in ways.iter().zip(&mut times) {
            times.push(one(command, folder.path(), hold)?);
        }
    }
    let base = quantile(&times[0], 0.5);
    let row = |((name, _), times): (&(&str, _), &Vec<u64>)| {
        let at = |at| quantile(times, at);
        vec![
            (*name).to_owned(),
            time(at(0.0)),
            time(at(0.5)),
            time(at(1.0)),
            three_digits(at(0.5) / base),
        ]
    };
    let head = [
        "",
        "soonest",
        "median",
        "latest",
        "median / median of flock",
    ];
    Ok(Section {
        title: "The next job".to_owned(),
        text: format!(
            "One process holds the lock for {hold:?}, and another waits. Counted from the last moment of the first one's job to the \
             first moment of the second one's. So it has the end of one process, the hand-over, and the start of another."
        ),
        tables: vec![Table {
            caption: format!("From job to job, held for {hold:?}"),
            head: head.map(str::to_owned).to_vec(),
            rows: ways.iter().zip(&times).map(row).collect(),
        }],
        ..Section::default()
    })
}

/// Two jobs, of which the second one waits: the time between them, in nanoseconds.
fn one(command: &dyn Fn() -> Command, folder: &Path, hold: Duration) -> Result<u64, Failure> {
    let (first, second) = (folder.join("first"), folder.join("second"));
    for file in [&first, &second] {
        let _ = fs::remove_file(file);
    }
    let start = |file: &Path, hold: Duration| -> Result<Child, Failure> {
        let mut command = command();
        command
            .arg(env::current_exe()?)
            .args([Path::new("job"), file])
            .arg(hold.as_millis().to_string())
            .stdin(Stdio::null());
        Ok(command.spawn()?)
    };
    let mut holder = start(&first, hold)?;
    while !first.exists() {
        if holder.try_wait()?.is_some() {
            return Err("the first job did not start".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let mut waiter = start(&second, Duration::ZERO)?;
    for job in [&mut holder, &mut waiter] {
        let status = job.wait()?;
        if !status.success() {
            return Err(format!("a job ended with {status}").into());
        }
    }
    let [_, ended] = noted(&first)?;
    let [started, _] = noted(&second)?;
    started
        .checked_sub(ended)
        .ok_or_else(|| "two jobs ran at the same time".into())
}

/// When a job started and ended.
fn noted(file: &Path) -> Result<[u64; 2], Failure> {
    let text = fs::read_to_string(file)?;
    let (start, end) = text.split_once(' ').ok_or("a job noted nothing")?;
    Ok([start.parse()?, end.parse()?])
}

/// The job: notes in the file when it started and ended.
pub(crate) fn job(words: &[String]) -> Result<(), Failure> {
    let start = now();
    let [file, millis] = words else {
        return Err("usage: dlock-bench job FILE MILLIS".into());
    };
    let mut file = fs::File::create(file)?;
    thread::sleep(Duration::from_millis(millis.parse()?));
    let end = now();
    write!(file, "{start} {end}")?;
    Ok(())
}
