//! What is compared.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::aio::{Lock, Store};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Script, Value};

use super::super::pairs::TTL;
use crate::Failure;
use crate::tasks::{Pair, Running};

pub(super) struct Variant {
    pub(super) name: &'static str,
    /// Whether the others are compared with it.
    pub(super) is_base: bool,
    /// Whether it claims with a plain `SET`.
    pub(super) is_plain: bool,
    pub(super) pair: Pair,
}

const COMPARE_AND_DELETE: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// A time after which the call must do nothing, in ms, in the far future.
const NOT_AFTER: u64 = 9_000_000_000_000;

/// A script of dlock, with the shared files put in place of its `include` lines.
macro_rules! script {
    ($file:literal) => {
        Script::new(
            &include_str!(concat!("../../../../dlock-redis/src/scripts/", $file))
                .replace(
                    "-- include fence.lua",
                    include_str!("../../../../dlock-redis/src/scripts/fence.lua"),
                )
                .replace(
                    "-- include queue.lua",
                    include_str!("../../../../dlock-redis/src/scripts/queue.lua"),
                ),
        )
    };
}

/// All of them, connected.
pub(super) async fn all(server: &RedisServer, tasks: usize) -> Result<Vec<Variant>, Failure> {
    Ok(vec![
        ours(server, tasks)?,
        same_scripts(connect(server).await?).await?,
        unfenced(connect(server).await?).await?,
    ])
}

async fn connect(server: &RedisServer) -> Result<MultiplexedConnection, Failure> {
    let client = redis::Client::open(server.url())?;
    // Its default of half a second is too short for thousands of tasks on a busy machine.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(super::super::pairs::CALL_TIMEOUT * 10));
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

fn ours(server: &RedisServer, tasks: usize) -> Result<Variant, Failure> {
    let store = Store::new(RedisDatastore::open(&server.url())?);
    let lock = |task| Lock::new(&store, format!("job-{task}"));
    let locks: Arc<Vec<Lock>> = Arc::new((0..tasks).map(lock).collect());
    let pair = move |task: usize| -> Running {
        let locks = Arc::clone(&locks);
        Box::pin(async move {
            locks[task].try_acquire().await?.release().await?;
            Ok(())
        })
    };
    Ok(Variant {
        name: "dlock::aio",
        is_base: false,
        is_plain: false,
        pair: Arc::new(pair),
    })
}

async fn same_scripts(connection: MultiplexedConnection) -> Result<Variant, Failure> {
    let (acquire, release) = (script!("acquire.lua"), script!("release.lua"));
    load(&connection, &[&acquire, &release]).await?;
    let hashes: Arc<[String; 2]> =
        Arc::new([acquire.get_hash().to_owned(), release.get_hash().to_owned()]);
    let pair = move |task: usize| -> Running {
        let (mut connection, hashes) = (connection.clone(), Arc::clone(&hashes));
        Box::pin(async move {
            let lock = format!("same:{task}");
            let fence_key = format!("{{{lock}}}:fence");
            let record =
                format!("{TOKEN} 0 dlock1 web-3 4121 00000000000000aa 1764000271000 running");
            // As dlock calls them where nobody waits: without the keys of the queue, and with the
            // whole record in the release.
            let mut acquire = redis::cmd("EVALSHA");
            acquire
                .arg(&hashes[0])
                .arg(2)
                .arg(&lock)
                .arg(fence_key)
                .arg(&record)
                .arg(millis(TTL));
            let fence: i64 = acquire.arg(NOT_AFTER).query_async(&mut connection).await?;
            let mut release = redis::cmd("EVALSHA");
            release.arg(&hashes[1]).arg(1).arg(&lock).arg(record);
            match (fence, release.query_async(&mut connection).await?) {
                (1.., 1_i64) => Ok(()),
                other => Err(format!("not granted and released: {other:?}").into()),
            }
        })
    };
    Ok(Variant {
        name: "the same scripts, redis crate",
        is_base: true,
        is_plain: false,
        pair: Arc::new(pair),
    })
}

/// The time to live as a command takes it.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn unfenced(connection: MultiplexedConnection) -> Result<Variant, Failure> {
    let script = Script::new(COMPARE_AND_DELETE);
    load(&connection, &[&script]).await?;
    let hash: Arc<str> = script.get_hash().into();
    let pair = move |task: usize| -> Running {
        let (mut connection, hash) = (connection.clone(), Arc::clone(&hash));
        Box::pin(async move {
            let key = format!("unfenced:{task}");
            let mut set = redis::cmd("SET");
            set.arg(&key)
                .arg(TOKEN)
                .arg("NX")
                .arg("PX")
                .arg(millis(TTL));
            let granted: Option<String> = set.query_async(&mut connection).await?;
            let mut release = redis::cmd("EVALSHA");
            release.arg(&*hash).arg(1).arg(&key).arg(TOKEN);
            match (
                granted.is_some(),
                release.query_async(&mut connection).await?,
            ) {
                (true, 1_i64) => Ok(()),
                other => Err(format!("not granted and released: {other:?}").into()),
            }
        })
    };
    Ok(Variant {
        name: "SET NX PX, redis crate",
        is_base: false,
        is_plain: true,
        pair: Arc::new(pair),
    })
}

/// Makes the server know the scripts.
async fn load(connection: &MultiplexedConnection, scripts: &[&Script]) -> Result<(), Failure> {
    for script in scripts {
        let mut connection = connection.clone();
        let _: Value = script
            .prepare_invoke()
            .load_async(&mut connection)
            .await
            .map(Value::SimpleString)?;
    }
    Ok(())
}
