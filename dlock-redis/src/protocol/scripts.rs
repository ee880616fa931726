//! The scripts that the server runs.

use std::sync::LazyLock;

/// One of the scripts that the server runs.
pub(super) struct Script {
    pub(super) code: String,
    pub(super) hash: String,
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
        Script { code, hash }
    }
}
