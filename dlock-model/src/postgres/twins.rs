//! The functions of the model held to those of the schema: random calls are played on both, each in
//! a transaction that stays open for a while, and it is compared who waits, what is answered, and
//! what is committed then.
//!
//! The real ones run on a real server with a clock of the test: `dlock.now_us` is replaced by a
//! function that reads a sequence, whose changes every transaction sees at once.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use dlock_test_servers::{PostgresServer, PostgresSession};

use super::functions::{Answer, Around, Call, Mistake, Running};
use super::table::{Row, Table, Transaction};

const SESSIONS: usize = 3;
/// The time when a game begins.
const BEGIN: u64 = 10;
/// The calls and the ends of transactions of a game. Half of what there is to try is over when
/// there is a row.
const MOVES: u64 = 30;
/// How often a session is asked whether it waits.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// The clock of the test, and the functions with their exceptions as answers.
const TEST: &str = "
CREATE SEQUENCE public.clock;
CREATE OR REPLACE FUNCTION dlock.now_us() RETURNS bigint
  LANGUAGE sql VOLATILE AS 'SELECT last_value FROM public.clock';
CREATE FUNCTION public.acquire(k text, o text, t bigint, n bigint) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE r record;
BEGIN
  SELECT * INTO r FROM dlock.acquire(k, o, t, 'h', n, 600000, NULL);
  RETURN format('acquire %s %s %s', r.o_outcome, r.o_fence, r.o_left);
EXCEPTION WHEN SQLSTATE 'DL002' THEN
  RETURN 'acquire 2  ';
END $$;
CREATE FUNCTION public.checked(k text, f bigint) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM dlock.check(k, f);
  RETURN 'checked true';
EXCEPTION WHEN SQLSTATE 'DL001' THEN
  RETURN 'checked false';
END $$";

/// A real server, and the connection that looks at it.
struct Real {
    server: PostgresServer,
    control: PostgresSession,
}

/// A session on a thread of its own, since its calls wait for others.
struct Session {
    statements: Sender<String>,
    answers: Receiver<String>,
    pid: String,
}

impl Real {
    fn start() -> Self {
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dlock-postgres/src/schema.sql");
        let server = PostgresServer::start();
        server.sql(&fs::read_to_string(schema).expect("the schema"));
        server.sql(TEST);
        let control = server.session();
        Real { server, control }
    }

    fn session(&self) -> Session {
        let mut session = self.server.session();
        let pid = session.run("SELECT pg_backend_pid()");
        let (statements, wanted) = channel::<String>();
        let (answered, answers) = channel();
        thread::spawn(move || {
            for sql in wanted {
                if answered.send(session.run(&sql)).is_err() {
                    break;
                }
            }
        });
        Session {
            statements,
            answers,
            pid,
        }
    }

    fn set_clock(&mut self, now: u64) {
        self.control
            .run(&format!("SELECT setval('public.clock', {now})"));
    }

    /// The committed row.
    fn row(&mut self, key: &str) -> String {
        self.control.run(&format!(
            "SELECT format('%s %s %s %s', owner, fence, expires_at, sequence) \
             FROM dlock.locks WHERE key = '{key}'"
        ))
    }

    /// The answer of a session; `None` if it waits for another transaction.
    fn answer(&mut self, session: &Session) -> Option<String> {
        let waits = format!(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = {}",
            session.pid
        );
        loop {
            match session.answers.recv_timeout(ASK_EVERY) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the session has ended"),
            }
            if self.control.run(&waits) != "0" {
                return None;
            }
        }
    }
}

/// A generator of numbers that are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A game: the sessions, and their calls in the model.
struct Game<'a> {
    real: &'a mut Real,
    sessions: &'a [Session],
    key: String,
    random: Random,
    now: u64,
    table: Table,
    calls: [Option<Running>; SESSIONS],
    mistake: Mistake,
    drawn: u64,
}

impl Game<'_> {
    /// Lets time pass, and begins a call or ends a transaction.
    fn play(&mut self) -> Result<(), String> {
        if self.random.below(3) == 0 {
            self.now += self.random.below(3) + 1;
            self.real.set_clock(self.now);
        }
        let at = usize::try_from(self.random.below(SESSIONS as u64)).unwrap_or(0);
        match &self.calls[at] {
            None => self.begin(at)?,
            Some(call) if call.answer().is_some() => {
                let commits = self.random.below(10) < 7;
                self.end(at, commits)?;
            }
            // It waits.
            Some(_) => {}
        }
        self.compare_rows()
    }

    fn around(&self, at: usize) -> Around {
        Around {
            transaction: Transaction::try_from(at).unwrap_or(0),
            now: self.now,
            mistake: self.mistake,
        }
    }

    /// A call that somebody might make.
    fn call(&mut self) -> Call {
        let random = &mut self.random;
        let row = self.table.read();
        let mut owner = u8::try_from(random.below(3)).unwrap_or(0);
        if let Some(held) = row.and_then(|row| row.owner)
            && random.below(2) == 0
        {
            owner = held;
        }
        let ttl = random.below(10) + 2;
        let not_after = (self.now + random.below(6)).saturating_sub(1);
        match random.below(12) {
            0..4 => Call::Acquire {
                owner,
                ttl,
                not_after,
            },
            4..8 => Call::Extend {
                owner,
                ttl,
                sequence: random.below(3) + 1,
                not_after,
            },
            8 => Call::Release { owner },
            9 => Call::Abandon { owner },
            10 => Call::Check {
                fence: row.map_or(1, |row| row.fence - random.below(5) / 4),
            },
            _ => Call::LockRow,
        }
    }

    fn begin(&mut self, at: usize) -> Result<(), String> {
        let call = self.call();
        let mut running = Running::new(call);
        let (mut table, mut drawn) = (self.table.clone(), self.drawn);
        while running.step(&mut table, self.around(at), &mut drawn) {}
        let waits = running.answer().is_none();
        // Who of two is first when what they wait for ends is chance.
        let others = self.calls.iter().flatten();
        if waits && { others }.any(|call| call.answer().is_none()) {
            return Ok(());
        }
        (self.table, self.drawn) = (table, drawn);
        let sql = sql(&self.key, call);
        let sent = self.sessions[at].statements.send(format!("BEGIN; {sql}"));
        sent.expect("the session is open");
        self.calls[at] = Some(running);
        self.compare_answer(at)
    }

    /// The session has the model's answer, or waits as the call in the model does.
    fn compare_answer(&mut self, at: usize) -> Result<(), String> {
        let Some(running) = &self.calls[at] else {
            return Ok(());
        };
        let call = running.call;
        let model = running.answer().map(|answer| shown(call, answer));
        let real = self.real.answer(&self.sessions[at]);
        if model == real {
            return Ok(());
        }
        Err(format!(
            "{call:?} in session {at} at {}: {model:?}, but {real:?}, with {:?} and {:?}",
            self.now, self.table, self.calls
        ))
    }

    /// Ends a transaction, after which another one may go on.
    fn end(&mut self, at: usize, commits: bool) -> Result<(), String> {
        let around = self.around(at);
        let word = match commits {
            true => {
                self.table.commit(around.transaction);
                "COMMIT"
            }
            false => {
                self.table.roll_back(around.transaction);
                "ROLLBACK"
            }
        };
        self.calls[at] = None;
        let session = &self.sessions[at];
        let sent = session.statements.send(word.to_owned());
        sent.expect("the session is open");
        session.answers.recv().expect("the session is open");
        for other in 0..SESSIONS {
            let around = self.around(other);
            let Some(running) = &mut self.calls[other] else {
                continue;
            };
            if running.answer().is_some() {
                continue;
            }
            while running.step(&mut self.table, around, &mut self.drawn) {}
            if running.answer().is_some() {
                self.compare_answer(other)?;
            }
        }
        Ok(())
    }

    fn compare_rows(&mut self) -> Result<(), String> {
        let model = self.table.read().map(row).unwrap_or_default();
        let real = self.real.row(&self.key);
        match model == real {
            true => Ok(()),
            false => Err(format!("the row is {model:?}, but {real:?}")),
        }
    }

    /// Ends what is open; those that wait can go on then.
    fn clean_up(&mut self) {
        while self.calls.iter().any(Option::is_some) {
            for at in 0..SESSIONS {
                if self.calls[at]
                    .as_ref()
                    .is_some_and(|call| call.answer().is_some())
                {
                    // A difference would have been reported before.
                    let _ = self.end(at, false);
                }
            }
        }
    }
}

fn row(row: Row) -> String {
    let owner = row.owner.map(|owner| owner.to_string()).unwrap_or_default();
    let Row {
        fence,
        expires_at,
        sequence,
        ..
    } = row;
    format!("{owner} {fence} {expires_at} {sequence}")
}

/// The call on the server. Its answer is as [`shown`] writes it.
fn sql(key: &str, call: Call) -> String {
    match call {
        Call::Acquire {
            owner,
            ttl,
            not_after,
        } => format!("SELECT public.acquire('{key}', '{owner}', {ttl}, {not_after})"),
        Call::Extend {
            owner,
            ttl,
            sequence,
            not_after,
        } => format!(
            "SELECT format('extend %s %s', o_outcome, o_left) FROM dlock.extend(\
             '{key}', '{owner}', {ttl}, 'h', {sequence}, {not_after}, 600000)"
        ),
        Call::Release { owner } => {
            format!("SELECT format('freed %s', dlock.release('{key}', '{owner}', 600000))")
        }
        Call::Abandon { owner } => {
            format!("SELECT format('freed %s', dlock.abandon('{key}', '{owner}', 600000))")
        }
        Call::Check { fence } => format!("SELECT public.checked('{key}', {fence})"),
        Call::LockRow => format!(
            "SELECT 'locked' FROM (SELECT count(*) FROM (\
             SELECT 1 FROM dlock.locks WHERE key = '{key}' FOR UPDATE) l) c"
        ),
    }
}

/// An answer as the server writes it.
fn shown(call: Call, answer: Answer) -> String {
    let truth = |is: bool| if is { "t" } else { "f" };
    match answer {
        Answer::Granted { fence, left } => format!("acquire 1 {fence} {left}"),
        Answer::Held { fence, left } => format!("acquire 0 {fence} {left}"),
        Answer::TooLate => match call {
            Call::Extend { .. } => "extend 2".to_owned(),
            _ => "acquire 2".to_owned(),
        },
        Answer::Extended { left } => format!("extend 1 {left}"),
        Answer::Lost => "extend 0".to_owned(),
        Answer::Freed(done) => format!("freed {}", truth(done)),
        Answer::Checked(held) => format!("checked {held}"),
        Answer::Locked => "locked".to_owned(),
    }
}

/// Plays that many games, until one shows a difference.
fn play(real: &mut Real, name: &str, games: u64, mistake: Mistake) -> Result<(), String> {
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| real.session()).collect();
    for number in 0..games {
        real.set_clock(BEGIN);
        let mut game = Game {
            real,
            sessions: &sessions,
            key: format!("{name}-{number}"),
            random: Random((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            now: BEGIN,
            table: Table::default(),
            calls: [None, None, None],
            mistake,
            drawn: 0,
        };
        for call in 0..MOVES {
            game.play()
                .map_err(|differ| format!("game {number}, call {call}: {differ}"))?;
        }
        game.clean_up();
    }
    Ok(())
}

#[test]
fn the_functions_of_the_model_do_what_those_of_the_schema_do() {
    if let Err(differ) = play(&mut Real::start(), "same", 60, Mistake::None) {
        panic!("{differ}");
    }
}

/// Each mistake that the properties are tested with shows in the comparison too.
#[test]
fn a_function_that_is_changed_does_something_else() {
    let mut real = Real::start();
    let unseen: Vec<_> = [
        Mistake::ExtendReadsClockFirst,
        Mistake::ClaimReadsClockFirst,
        Mistake::ClaimLocksNothing,
        Mistake::FenceDrawnFirst,
        Mistake::FenceIsClock,
        Mistake::LateClaimGranted,
        Mistake::LateInsertGranted,
        Mistake::AbandonDoesNotWait,
        Mistake::AbandonInsertsNothing,
        Mistake::ClaimLocksLittle,
        Mistake::CheckLocksNothing,
        Mistake::ReleaseByKey,
        Mistake::SequenceIgnored,
    ]
    .into_iter()
    .filter(|mistake| play(&mut real, &format!("{mistake:?}"), 150, *mistake).is_ok())
    .collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
