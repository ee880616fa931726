//! The scripts that the server runs.

use std::sync::LazyLock;

use crate::wire::Requests;

/// Whether the server knows the script by its hash, or is sent all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Hash,
    Text,
}

/// One of the scripts that the server runs.
pub(super) struct Script {
    by_hash: Requests,
    by_text: Requests,
}

pub(super) static ACQUIRE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/acquire.lua")));
pub(super) static EXTEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/extend.lua")));
pub(super) static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/release.lua")));
pub(super) static LOOK: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/heartbeat.lua")));
pub(super) static HOLDER: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/holder.lua")));
pub(super) static BREAK: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/break.lua")));
pub(super) static WAITING: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/waiting.lua")));
pub(super) static LIST: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/list.lua")));

impl Script {
    /// The script with what it shares with others put in its place: Redis knows no include.
    fn new(code: &str) -> Self {
        let code = code
            .replace("-- include fence.lua", include_str!("../scripts/fence.lua"))
            .replace("-- include queue.lua", include_str!("../scripts/queue.lua"));
        let hash = redis::Script::new(&code).get_hash().to_owned();
        let packed = |words: [&str; 2]| {
            let mut packed = Requests::default();
            words.iter().for_each(|word| packed.word(&[word]));
            packed
        };
        Script {
            by_hash: packed(["EVALSHA", &hash]),
            by_text: packed(["EVAL", &code]),
        }
    }

    /// The two words that call it, packed.
    pub(super) fn words(&self, form: Form) -> &Requests {
        match form {
            Form::Hash => &self.by_hash,
            Form::Text => &self.by_text,
        }
    }
}
