use std::net::TcpListener;
use std::time::Instant;

use tokio::runtime::Builder;

use super::super::{Answered, Plain, Replies};
use super::*;
use crate::Socket;

/// Longer than a busy machine needs for anything.
const LONG: Duration = Duration::from_secs(60);

/// Connections to a server that accepts them and says nothing.
struct Silent(TcpListener);

struct NoReplies;

impl Replies for NoReplies {
    type Expected = ();
    type Reply = ();

    fn split(&mut self, _: &[u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn read(&mut self, _: &[u8], (): &(), _: Time) -> io::Result<Answered<()>> {
        Err(io::ErrorKind::InvalidData.into())
    }
}

impl Open for Silent {
    type Writer = ();
    type Replies = NoReplies;

    fn open(&self, deadline: Time) -> Result<Opened<(), NoReplies>, DatastoreError> {
        let address = self.0.local_addr().expect("an address").to_string();
        let endpoint = address.parse().expect("an endpoint");
        Ok(Opened {
            socket: Socket::connect(&endpoint, deadline)?,
            layer: Box::new(Plain),
            peer: address,
            writer: (),
            replies: NoReplies,
        })
    }
}

fn table() -> Arc<Table<Silent>> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    Table::new(Arc::new(Silent(listener)))
}

fn count(table: &Table<Silent>) -> usize {
    table.connections.read().expect("no panic").len()
}

#[test]
fn runtimes_without_io_that_have_ended_are_forgotten() {
    let table = table();
    let lives = Builder::new_current_thread().build().expect("a runtime");
    let entry = async || {
        let runtime = Handle::current();
        table.entry(&runtime, false, deadline_in(LONG)).await
    };
    for _ in 0..20 {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let found = runtime.block_on(entry()).expect("what there is");
        assert!(matches!(found, Entry::NoIo(_)));
        let found = lives.block_on(entry()).expect("what there is");
        assert!(matches!(found, Entry::NoIo(_)));
        // The one that ends, the one that lives.
        assert!(count(&table) <= 2, "{}", count(&table));
    }
    assert!(table.known(lives.handle().id()).is_some());
}

#[test]
fn a_table_that_has_ended_leaves_no_task_on_a_runtime_without_io() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    for _ in 0..3 {
        let table = table();
        let handle = runtime.handle().clone();
        let entry = async { table.entry(&handle, false, deadline_in(LONG)).await };
        let found = runtime.block_on(entry).expect("what there is");
        assert!(matches!(found, Entry::NoIo(_)));
    }
    let start = Instant::now();
    while runtime.metrics().num_alive_tasks() > 0 {
        assert!(start.elapsed() < LONG, "tasks are left");
        runtime.block_on(tokio::task::yield_now());
    }
}
