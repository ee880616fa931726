//! Restores older data of a Redis server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dlock_test_servers::RedisServer;

const SAVE: &str = "for _, key in ipairs(KEYS) do
      local saved, left = redis.call('DUMP', key), redis.call('PTTL', key)
      if not saved then
        redis.call('DEL', 'old:' .. key)
      elseif left < 0 then
        redis.call('SET', 'old:' .. key, saved)
      else
        redis.call('SET', 'old:' .. key, saved, 'PX', math.max(left, 1))
      end
    end";
const BRING_BACK: &str = "for _, key in ipairs(KEYS) do
      local saved, left = redis.call('GET', 'old:' .. key), redis.call('PTTL', 'old:' .. key)
      redis.call('DEL', key)
      -- 0 stands for no end.
      if saved then redis.call('RESTORE', key, math.max(left, 0), saved) end
    end";

/// Copies the data file of the server. Returns the path of the copy.
pub(crate) fn copy_file(server: &RedisServer) -> io::Result<PathBuf> {
    let folder = folder(server);
    let copy = folder.join("old");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    fs::create_dir(&copy)?;
    // Stop the server, so that the list of files and the files belong to one moment.
    server.pause();
    let copied = copy_files(&folder.join(FILES), &copy);
    server.resume();
    copied.map(|()| copy)
}

const FILES: &str = "appendonlydir";

fn folder(server: &RedisServer) -> PathBuf {
    let socket = server.socket();
    socket.parent().unwrap_or(Path::new("/")).to_owned()
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // A file that a rewrite has begun is not part of the data, and may disappear at any time.
        let is_begun = entry.file_name().to_string_lossy().starts_with("temp");
        if !is_begun {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Kills the server, and starts it again with the data of the copy.
pub(crate) fn bring_file_back(server: &mut RedisServer, copy: &Path) -> io::Result<()> {
    let files = folder(server).join(FILES);
    server.kill();
    fs::remove_dir_all(&files)?;
    fs::rename(copy, &files)?;
    server.start_again();
    Ok(())
}

/// The keys in which Redis keeps the waiters of a lock.
fn of_queue(lock: &str) -> [String; 2] {
    ["queue", "heartbeats"].map(|name| format!("{{{lock}}}:{name}"))
}

pub(crate) fn copy_queue(server: &RedisServer, lock: &str) {
    let [queue, heartbeats] = of_queue(lock);
    server.command(["EVAL", SAVE, "2", &queue, &heartbeats]);
}

pub(crate) fn bring_queue_back(server: &RedisServer, lock: &str) {
    let [queue, heartbeats] = of_queue(lock);
    server.command(["EVAL", BRING_BACK, "2", &queue, &heartbeats]);
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_old_file_and_an_old_queue_come_back() {
        let mut server = RedisServer::builder()
            .config("appendonly", "yes")
            .config("appendfsync", "no")
            .start();
        let add = |server: &RedisServer, waiter: &str| {
            server.command(["ZADD", "{a}:queue", "1", waiter]);
            server.command(["ZCARD", "{a}:queue"]).integer()
        };
        assert_eq!(add(&server, "one"), Some(1));
        let copy = copy_file(&server).unwrap();
        copy_queue(&server, "a");
        assert_eq!(add(&server, "two"), Some(2));
        // The copy lasts as long as the queue, which has no end here.
        thread::sleep(Duration::from_millis(5));
        bring_queue_back(&server, "a");
        assert_eq!(add(&server, "two"), Some(2));
        bring_file_back(&mut server, &copy).unwrap();
        assert_eq!(add(&server, "two"), Some(2));
        assert_eq!(add(&server, "three"), Some(3));
    }
}
