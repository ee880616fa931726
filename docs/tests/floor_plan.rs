//! The stores have one floor plan: a module of the same name has the same role in each.
//!
//! | module | its role |
//! | --- | --- |
//! | `lib` | what a user sees |
//! | `config` | from a URL and options to a store |
//! | `error` | what can go wrong, and which errors core receives |
//! | `pool` | how connections are opened |
//! | `handshake` | what is asked before the first call |
//! | `connection` | one connection: requests and their replies, in order |
//! | `wire` | bytes: how a request is written and a reply is read |
//! | `operations` | what a claim, an extend and a release are in the server's terms; no socket |
//! | `store` | core's trait: which call runs on which connection, by when |
//! | `waiting` | the waiters of this process, and what wakes them |
//! | `held` | the keys that are held, a page at a time, for operators |
//! | `findings` | what endangers locks in this server or folder, for operators |
//! | `aio` | the async form: a connection that many calls share, and core's async trait |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a store has, unless it says why not.
const COMMON: [&str; 13] = [
    "lib",
    "config",
    "error",
    "pool",
    "handshake",
    "connection",
    "wire",
    "operations",
    "store",
    "waiting",
    "held",
    "findings",
    "aio",
];

/// What any crate may have for its tests.
const TESTS: [&str; 3] = ["fuzzing", "testing", "tests"];

struct Plan {
    package: &'static str,
    /// The common modules that it does not have, with the reason.
    lacks: &'static [(&'static str, &'static str)],
    /// The modules that it alone has.
    own: &'static [&'static str],
}

const PLANS: [Plan; 5] = [
    Plan {
        package: "dlock-redis",
        lacks: &[],
        own: &["cluster", "replicas", "sentinel", "server", "servers"],
    },
    Plan {
        package: "dlock-memcache",
        lacks: &[
            ("waiting", "the server wakes nobody: waiters poll"),
            ("held", "the server does not list its keys"),
        ],
        own: &["incarnations"],
    },
    Plan {
        package: "dlock-etcd",
        lacks: &[],
        own: &["endpoints"],
    },
    Plan {
        package: "dlock-postgres",
        lacks: &[],
        own: &["statements", "tls"],
    },
    Plan {
        package: "dlock-file",
        lacks: &[
            (
                "pool",
                "a call opens the files that it needs, and closes them",
            ),
            (
                "handshake",
                "a folder is checked once, when the store is opened",
            ),
            ("connection", "a call locks a shard, which is a file"),
            (
                "aio",
                "files block: in async code it is used through `Unblock`",
            ),
            ("wire", "nothing is sent; what is stored is a `record`"),
        ],
        own: &[
            "failpoint",
            "file_system",
            "files",
            "folder",
            "listing",
            "lock_owner",
            "now",
            "pipe",
            "queue",
            "record",
            "record_path",
            "shard",
            "sweep",
            "turn",
        ],
    },
];

fn sources(package: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(package)
        .join("src")
}

/// The modules right below the crate's root: files, and folders with files.
fn modules(package: &str) -> BTreeSet<String> {
    let holds_code = |path: &Path| is_rust(path) || entries(path).iter().any(|path| is_rust(path));
    let paths = entries(&sources(package)).into_iter();
    paths
        .filter(|path| holds_code(path))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|name| !TESTS.contains(&name.as_str()))
        .collect()
}

/// What a folder has in it; nothing if it is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

#[test]
fn each_store_has_the_modules_of_the_floor_plan_and_those_that_it_alone_needs() {
    for plan in &PLANS {
        let lacks = |name: &str| plan.lacks.iter().any(|(lacking, _)| *lacking == name);
        let common = COMMON.iter().filter(|name| !lacks(name));
        let planned: BTreeSet<String> = common
            .chain(plan.own)
            .map(|name| (*name).to_owned())
            .collect();
        assert_eq!(modules(plan.package), planned, "{}", plan.package);
    }
}

#[test]
fn each_module_begins_with_its_role() {
    for plan in &PLANS {
        for name in modules(plan.package) {
            let path = sources(plan.package).join(&name).with_extension("rs");
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert!(text.starts_with("//! "), "{path:?}");
        }
    }
}

#[test]
fn the_plan_says_nothing_twice_and_nothing_of_modules_that_are_not_in_it() {
    for plan in &PLANS {
        for (name, why) in plan.lacks {
            assert!(COMMON.contains(name) && !why.is_empty(), "{name}");
        }
        for name in plan.own {
            assert!(!COMMON.contains(name), "{name} is common");
            let elsewhere =
                |other: &&Plan| other.package != plan.package && other.own.contains(name);
            let other = PLANS.iter().find(elsewhere).map(|other| other.package);
            assert_eq!(other, None, "{name} is {}'s own too", plan.package);
        }
    }
}
