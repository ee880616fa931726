//! The waiters for the keys of a shard, in the order of their coming.
//!
//! The file `shard-07.queue` has a line for each waiter; the first one below is crossed out:
//!
//! ```text
//! - 6f1d… 0123456789abcdef dlock:hourly-import dlock1 web-3 4121 … running
//! w 93ab… 76f1c5d09a8b7e21 dlock:hourly-import dlock1 web-5 977 … running
//! ```
//!
//! After the mark come the owner token, the name of the [pipe](crate::pipe) that its process reads,
//! the key, and the holder's text. Only the process that has locked the shard reads or writes the
//! file. The length of the shard file says how many bytes of it count. So a call learns without a
//! system call of its own that nobody waits, and a line that a dying process has half written does
//! not count.
//!
//! A line is not changed but for its mark. The queue is a hint: nobody holds a key because of it,
//! and each waiter repairs its place the next time it claims.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use dlock_core::OwnerToken;

use crate::failpoint::{Failpoint, reached};
use crate::files;
use crate::pipe;
use crate::record::is_holder;
use crate::shard::Shard;

/// The most bytes that are read: a hundred thousand waiters.
const MAX_BYTES: u64 = 16 << 20;
/// The fewest bytes of crossed-out lines for which a queue is written anew: in tests few, so that
/// a short queue has them.
const MANY_DEAD: usize = if cfg!(test) { 1 << 10 } else { 32 << 10 };
/// The mark of a waiter's line, and the one that replaces its first byte when the waiter is gone.
const WAITING: &str = "w ";
const CROSSED_OUT: &str = "-";

/// A waiter, as its line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) owner: OwnerToken,
    /// The name of the pipe that its process reads.
    pub(crate) pipe: String,
    pub(crate) holder: String,
}

/// The queue of one key. It is read when it is first asked for something, and not at all if nobody
/// waits in the shard.
#[derive(Debug)]
pub(crate) struct Queue<'a> {
    shard: &'a Shard<'a>,
    key: &'a str,
    lines: Option<Lines>,
}

/// The lines of a shard's queue.
#[derive(Debug, Default)]
struct Lines {
    text: String,
    /// Where the lines of waiters begin and end, without the newline.
    waiting: Vec<Range<usize>>,
    /// The starts of lines that are to be crossed out.
    gone: Vec<usize>,
    /// Whether the file could not be read, so that it must not be changed.
    is_unknown: bool,
}

impl<'a> Queue<'a> {
    pub(crate) fn new(shard: &'a Shard<'a>, key: &'a str) -> Self {
        Queue {
            shard,
            key,
            lines: None,
        }
    }

    /// The first waiter of the key whose process lives. The dead ones before it go.
    ///
    /// The waiter `caller` lives: it makes this call.
    pub(crate) fn first(&mut self, caller: Option<OwnerToken>) -> Option<Waiter> {
        if self.is_empty() {
            return None;
        }
        let (folder, key) = (self.shard.folder(), self.key);
        self.retain(|line| {
            if line.key != key {
                return Verdict::Keep;
            }
            let lives = Some(line.owner) == caller || pipe::has_reader(folder, line.pipe);
            if lives { Verdict::Found } else { Verdict::Drop }
        })
    }

    /// How many waiters of the key live.
    pub(crate) fn count(&mut self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let (folder, key) = (self.shard.folder(), self.key);
        let lines = self.lines();
        let waiting = (0..lines.waiting.len()).filter_map(|at| lines.line(at));
        waiting
            .filter(|line| line.key == key && pipe::has_reader(folder, line.pipe))
            .count()
    }

    /// Takes all waiters of the shard off whose processes are dead.
    pub(crate) fn remove_dead(&mut self) {
        let folder = self.shard.folder();
        self.retain(|line| match pipe::has_reader(folder, line.pipe) {
            true => Verdict::Keep,
            false => Verdict::Drop,
        });
    }

    /// Judges the lines one after the other, up to the first that is found. A line that dlock did
    /// not write goes.
    fn retain(&mut self, judge: impl Fn(&Line<'_>) -> Verdict) -> Option<Waiter> {
        let lines = self.lines();
        let mut at = 0;
        while at < lines.waiting.len() {
            let line = lines.line(at);
            match line.as_ref().map_or(Verdict::Drop, &judge) {
                Verdict::Found => return line.map(Waiter::from),
                Verdict::Keep => at += 1,
                Verdict::Drop => lines.cross_out(at),
            }
        }
        None
    }

    /// How many waiters of the key are before this one; `None` if it is not in the queue.
    pub(crate) fn place_of(&mut self, owner: OwnerToken) -> Option<usize> {
        let key = self.key;
        let lines = self.lines();
        let at = lines.position(owner)?;
        let before = lines.waiting[..at].iter();
        let of_key = before.filter(|line| key_of(&lines.text[(*line).clone()]) == Some(key));
        Some(of_key.count())
    }

    /// Adds a waiter at the end.
    pub(crate) fn enter(&mut self, waiter: &Waiter) -> io::Result<()> {
        let (shard, key) = (self.shard, self.key);
        let lines = self.lines();
        if lines.is_unknown {
            return Err(ErrorKind::Other.into());
        }
        let Waiter {
            owner,
            pipe,
            holder,
        } = waiter;
        let line = format!("w {owner} {pipe} {key} {holder}\n");
        let (start, end) = (lines.text.len(), lines.text.len() + line.len());
        if end as u64 > MAX_BYTES {
            return Err(ErrorKind::FileTooLarge.into());
        }
        reached(Failpoint::Queuing)?;
        let file = shard.queue_file()?;
        file.write_all_at(line.as_bytes(), start as u64)?;
        reached(Failpoint::LineWritten)?;
        shard.set_queue_length(end as u64)?;
        lines.text.push_str(&line);
        lines.waiting.push(start..end - 1);
        reached(Failpoint::Queued)
    }

    /// Takes a waiter off the queue when that is [saved](Self::save).
    pub(crate) fn remove(&mut self, owner: OwnerToken) {
        let lines = self.lines();
        while let Some(at) = lines.position(owner) {
            lines.cross_out(at);
        }
    }

    /// Carries out the removals.
    pub(crate) fn save(&mut self) -> io::Result<()> {
        let shard = self.shard;
        match &mut self.lines {
            Some(lines) => lines.save(shard),
            None => Ok(()),
        }
    }

    /// Returns whether nobody waits in the shard, as most calls find out from its length.
    pub(crate) fn is_empty(&self) -> bool {
        self.shard.queue_length() == 0
    }

    fn lines(&mut self) -> &mut Lines {
        let shard = self.shard;
        self.lines
            .get_or_insert_with(|| match shard.queue_length() {
                0 => Lines::default(),
                length => Lines::read(shard, length),
            })
    }
}

/// What becomes of a line.
enum Verdict {
    Found,
    Keep,
    Drop,
}

impl Lines {
    /// Reads the queue, of which `length` bytes count.
    fn read(shard: &Shard<'_>, length: u64) -> Self {
        let file = reached(Failpoint::ReadingQueue)
            .and_then(|()| files::open_to_read(&shard.queue_path()));
        let content = file.and_then(|file| {
            let found = file.metadata()?;
            match found.nlink() {
                1 => files::content(&file, &found, length.min(MAX_BYTES)),
                _ => Ok(None),
            }
        });
        match content {
            Err(error) if error.kind() != ErrorKind::NotFound && !files::is_not_plain(&error) => {
                Lines {
                    is_unknown: true,
                    ..Lines::default()
                }
            }
            // What is no text, or no plain file of this folder alone, is no queue. Its waiters
            // enter the next one.
            content => {
                let text = content.ok().flatten().map(String::from_utf8);
                Self::of(text.and_then(Result::ok).unwrap_or_default())
            }
        }
    }

    /// The lines of a text, without a last line that has no end.
    fn of(mut text: String) -> Self {
        let mut waiting = Vec::new();
        let mut start = 0;
        while let Some(length) = text[start..].find('\n') {
            if text[start..].starts_with(WAITING) {
                waiting.push(start..start + length);
            }
            start += length + 1;
        }
        text.truncate(start);
        Lines {
            text,
            waiting,
            ..Lines::default()
        }
    }

    fn line(&self, at: usize) -> Option<Line<'_>> {
        Line::parse(&self.text[self.waiting[at].clone()])
    }

    fn position(&self, owner: OwnerToken) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let owner = format!("{WAITING}{owner} ");
        let is_it = |line: &Range<usize>| self.text[line.clone()].starts_with(&owner);
        self.waiting.iter().position(is_it)
    }

    fn cross_out(&mut self, at: usize) {
        let start = self.waiting.remove(at).start;
        self.text.replace_range(start..=start, CROSSED_OUT);
        self.gone.push(start);
    }

    fn save(&mut self, shard: &Shard<'_>) -> io::Result<()> {
        if self.is_unknown {
            return Ok(());
        }
        if self.waiting.is_empty() {
            return self.empty(shard);
        }
        let live: usize = self.waiting.iter().map(|line| line.len() + 1).sum();
        let dead = self.text.len() - live;
        if !self.gone.is_empty() && dead > live.max(MANY_DEAD) {
            return self.write_anew(shard);
        }
        if self.gone.is_empty() {
            return Ok(());
        }
        let file = shard.queue_file()?;
        for start in self.gone.drain(..) {
            reached(Failpoint::CrossingOut)?;
            file.write_all_at(CROSSED_OUT.as_bytes(), start as u64)?;
            reached(Failpoint::CrossedOut)?;
        }
        Ok(())
    }

    /// Nobody waits in the shard any more.
    fn empty(&mut self, shard: &Shard<'_>) -> io::Result<()> {
        if shard.queue_length() == 0 {
            return Ok(());
        }
        shard.set_queue_length(0)?;
        *self = Lines::default();
        reached(Failpoint::QueueEmptied)
    }

    /// Replaces the file by one that has only the lines of waiters. The length is set last: until
    /// then it is that of the longer file, so the whole new one counts.
    fn write_anew(&mut self, shard: &Shard<'_>) -> io::Result<()> {
        let lines = self.waiting.iter().map(|line| &self.text[line.clone()]);
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        shard.replace_queue(text.as_bytes())?;
        reached(Failpoint::QueueReplaced)?;
        shard.set_queue_length(text.len() as u64)?;
        *self = Self::of(text);
        Ok(())
    }
}

/// A line of a waiter.
struct Line<'a> {
    owner: OwnerToken,
    pipe: &'a str,
    key: &'a str,
    holder: &'a str,
}

impl<'a> Line<'a> {
    /// Reads a line; `None` if dlock did not write it.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.strip_prefix(WAITING)?.splitn(4, ' ');
        let owner = OwnerToken::from_hex(words.next()?)?;
        let pipe = words.next().filter(|name| pipe::is_name(name))?;
        let key = words.next()?;
        let holder = words.next().filter(|text| is_holder(text))?;
        Some(Line {
            owner,
            pipe,
            key,
            holder,
        })
    }
}

/// The key of a line: all that a waiter needs to count the others.
fn key_of(line: &str) -> Option<&str> {
    line.split(' ').nth(3)
}

impl From<Line<'_>> for Waiter {
    fn from(line: Line<'_>) -> Self {
        Waiter {
            owner: line.owner,
            pipe: line.pipe.to_owned(),
            holder: line.holder.to_owned(),
        }
    }
}
