//! How a record is deleted without a script, if the server can.

use super::Answer;

/// How a connection's server deletes a record that has not changed since its owner wrote it. A mark
/// changes it, so a waiter is never passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Deletes {
    /// The next release asks.
    #[default]
    Unknown,
    /// The server cannot, or the user may not.
    ByScript,
    /// Valkey 9.
    Delifeq,
    /// Redis 8.4.
    Delex,
}

impl Deletes {
    /// From the name of a command, as release.lua answers it.
    pub(super) fn by(name: &[u8]) -> Option<Self> {
        match name {
            b"" => Some(Deletes::ByScript),
            b"DELIFEQ" => Some(Deletes::Delifeq),
            b"DELEX" => Some(Deletes::Delex),
            _ => None,
        }
    }

    /// Whether the server has a command for it.
    pub(super) fn is_command(self) -> bool {
        matches!(self, Deletes::Delifeq | Deletes::Delex)
    }

    /// Takes in what an answer says about it. What is left of the answer is the caller's.
    pub(crate) fn learn(&mut self, answer: &mut Answer) {
        match answer {
            Answer::ReleasedAnd(ours, deletes) => {
                *self = *deletes;
                *answer = Answer::Released(*ours);
            }
            Answer::NotDeleted => {
                *self = Deletes::ByScript;
                *answer = Answer::Marked;
            }
            _ => {}
        }
    }
}
