//! Instances of the service as processes, and what they serve.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Only what hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `look` finds something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        sleep(Duration::from_millis(20));
    }
}

/// A running instance. Dropping it kills it.
pub(crate) struct Instance {
    address: String,
    process: Child,
}

impl Instance {
    pub(crate) fn start(name: &str, store: &str, ledger: &Path, ttl: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_dlock-example-service"))
            .env("INSTANCE", name)
            .env("LISTEN", "127.0.0.1:0")
            .env("STORE", store)
            .env("LEDGER", ledger)
            .env("PERIOD", "100ms")
            .env("TTL", ttl)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the service starts");
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let first = lines.next().expect("a line").expect("text");
        let address = first
            .strip_prefix("listens on ")
            .expect("its address")
            .to_owned();
        let name = name.to_owned();
        // Its pipe must not fill, and a test that fails shows what it wrote.
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| eprintln!("{name}: {line}"));
        });
        Instance { address, process }
    }

    /// The status and the body of a page.
    pub(crate) fn page(&self, path: &str) -> (String, String) {
        let mut connection = TcpStream::connect(&self.address).expect("it listens");
        write!(
            connection,
            "GET {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
        )
        .expect("it reads");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (
            head.lines().next().unwrap_or_default().to_owned(),
            body.to_owned(),
        )
    }

    pub(crate) fn scrape(&self) -> Metrics {
        let (status, page) = self.page("/metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        Metrics::of(&page)
    }

    /// Like a crash: it can do nothing more.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it has ended");
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("it runs");
        until("the end after SIGTERM", || {
            self.process.try_wait().expect("a child")
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A page for Prometheus: each series and its value.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn of(page: &str) -> Self {
        let lines = page
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Metrics(series.collect())
    }

    /// The value of a series; `None` if it is not on the page.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// The value of a series that must be there.
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.get(series)
            .unwrap_or_else(|| panic!("no {series} in {self:?}"))
    }
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: u64,
    pub(crate) what: String,
}

/// What was written so far, where no two instances may have led at once.
pub(crate) fn ledger(path: &Path) -> Vec<Entry> {
    let (accepted, rejected) = received(path);
    assert_eq!(rejected, [""; 0], "two instances led at once: {accepted:?}");
    accepted
}

/// What the ledger has received so far: the entries, and the lines that it rejected.
pub(crate) fn received(path: &Path) -> (Vec<Entry>, Vec<String>) {
    let text = fs::read_to_string(path).unwrap_or_default();
    // A line that a killed instance was writing has no end.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let (rejected, accepted): (Vec<&str>, Vec<&str>) = whole
        .lines()
        .partition(|line| line.starts_with("rejected "));
    let entry = |line: &str| {
        let (token, what) = line.split_once(' ').expect("a token and a text");
        Entry {
            token: token.parse().expect("a token"),
            what: what.to_owned(),
        }
    };
    let rejected = rejected.into_iter().map(str::to_owned).collect();
    (accepted.into_iter().map(entry).collect(), rejected)
}

/// Checks that no run begins before the one before it has ended, but for a run whose instance was
/// killed: the next run has a higher token then. Returns the tokens in their order.
pub(crate) fn leaders(entries: &[Entry]) -> Vec<u64> {
    let mut tokens = Vec::new();
    let mut running = None;
    for Entry { token, what } in entries {
        if tokens.last() != Some(token) {
            assert!(tokens.last() < Some(token), "a token fell: {entries:?}");
            tokens.push(*token);
            running = None;
        }
        match what.as_str() {
            "begin" => assert_eq!(running.replace(token), None, "{entries:?}"),
            "end" => assert_eq!(running.take(), Some(token), "{entries:?}"),
            other => panic!("an unknown entry: {other}"),
        }
    }
    tokens
}
