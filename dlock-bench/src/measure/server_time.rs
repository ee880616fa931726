//! The time that commands take inside a Redis server, as it reports itself.

use std::collections::BTreeMap;
use std::time::Duration;

use dlock_test_servers::RedisServer;

use crate::Failure;
use crate::options::Options;
use crate::report::{Table, three_digits};
use crate::rounds::Subject;
use crate::series::float;
use crate::servers::is_sent;

/// For each command: the number of calls, and their time in microseconds.
type Spent = BTreeMap<String, (u64, u64)>;

/// The cost of each subject's operations for the server, by command. Commands that a script calls
/// are counted too, and are part of the script's own time.
pub(crate) fn table(
    caption: &str,
    options: &Options,
    server: &RedisServer,
    subjects: &mut [Box<dyn Subject>],
) -> Result<Table, Failure> {
    let mut spent = vec![Spent::new(); subjects.len()];
    let mut operations = vec![0; subjects.len()];
    for subject in subjects.iter_mut() {
        subject.turn(options.turn())?;
    }
    for _ in 0..options.either(10, 1) {
        for (at, subject) in subjects.iter_mut().enumerate() {
            server.reset_calls();
            operations[at] += subject.turn(options.turn())?.operations;
            for (name, (calls, micros)) in spent_by(server) {
                let sum = spent[at].entry(name).or_default();
                *sum = (sum.0 + calls, sum.1 + micros);
            }
        }
    }
    let rows = subjects.iter().zip(spent).zip(operations);
    let rows = rows.flat_map(|((subject, spent), operations)| {
        let each = move |number: u64| float(number) / float(operations);
        let row = |(name, (calls, micros)): (String, (u64, u64))| {
            let took = three_digits(float(micros) / float(calls));
            vec![
                subject.name().to_owned(),
                name.to_uppercase(),
                three_digits(each(calls)),
                format!("{took} µs"),
                format!("{} µs", three_digits(each(micros))),
            ]
        };
        // Leave out the command that reads these figures.
        let of_pairs = spent
            .into_iter()
            .filter(move |(_, (calls, _))| each(*calls) > 0.5);
        of_pairs.map(row).collect::<Vec<_>>()
    });
    Ok(Table {
        caption: caption.to_owned(),
        head: ["", "command", "calls a pair", "each", "a pair"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    })
}

/// The time that the server took since its figures were reset for the commands that clients sent,
/// with what scripts call. `plain` means that they claim without a script.
pub(crate) fn of_clients(server: &RedisServer, plain: bool) -> Duration {
    let spent = spent_by(server).into_iter();
    let sent = spent.filter(|(name, _)| is_sent(name, plain));
    Duration::from_micros(sent.map(|(_, (_, micros))| micros).sum())
}

fn spent_by(server: &RedisServer) -> Spent {
    let text = server.command(["INFO", "commandstats"]).text();
    let text = text.unwrap_or_default();
    text.lines().filter_map(of_line).collect()
}

fn of_line(line: &str) -> Option<(String, (u64, u64))> {
    let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
    let mut numbers = rest.split(',');
    let calls = numbers.next()?.parse().ok()?;
    let micros = numbers.next()?.strip_prefix("usec=")?.parse().ok()?;
    Some((name.to_owned(), (calls, micros)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_of_the_server_are_parsed() {
        let line = "cmdstat_evalsha:calls=200,usec=1100,usec_per_call=5.50,rejected_calls=0";
        assert_eq!(of_line(line), Some(("evalsha".to_owned(), (200, 1100))));
        assert_eq!(of_line("# Commandstats"), None);
        assert_eq!(of_line("cmdstat_get:calls=x,usec=1"), None);
    }
}
