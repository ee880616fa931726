//! The scripts that the server runs.

use std::sync::LazyLock;

use super::request::Form;
use crate::resp::Requests;

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
    LazyLock::new(|| Script::new(include_str!("../scripts/look.lua")));

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
