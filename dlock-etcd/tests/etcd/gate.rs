//! A proxy that reads the requests of the gateway, so that a test decides what becomes of each.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use dlock_test_servers::EtcdServer;
use serde_json::Value;

/// A request, before the server has it.
pub(crate) struct Request {
    /// Such as `kv/txn`.
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) has_login: bool,
    head: String,
}

/// What becomes of a request.
pub(crate) enum Fate {
    /// The server has it, and its answer is passed on.
    Passes,
    /// The server has it, and its answer is passed on changed.
    Changed(fn(Value) -> Value),
    /// The server has it, and this is answered, with this HTTP status.
    Replaced(u16, Value),
    /// The server never has it, and this is answered.
    Answered(u16, Value),
    /// The server never has it, and its connection ends.
    Cut,
}

/// Whether the request would take a key.
pub(crate) fn takes(request: &Request) -> bool {
    request.path == "kv/txn" && request.body["compare"][0]["target"] == "CREATE"
}

/// A switch that a test and the gate share.
#[derive(Clone, Default)]
pub(crate) struct Switch(Arc<AtomicBool>);

impl Switch {
    pub(crate) fn set(&self, on: bool) {
        self.0.store(on, Ordering::SeqCst);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Switches it off, and returns whether it was on.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// A proxy to a server. Watches pass as they are.
pub(crate) struct Gate {
    address: SocketAddr,
    under_way: Arc<AtomicUsize>,
}

/// A request that has arrived and has no answer yet.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn counted_by(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        UnderWay(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// `fate` decides. It may wait: the request is held meanwhile, whether its sender waits or not.
    pub(crate) fn to(
        server: &EtcdServer,
        fate: impl Fn(&Request) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, server, fate) = (
            listener.local_addr().unwrap(),
            server.address(),
            Arc::new(fate),
        );
        let under_way = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&under_way);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (fate, counted) = (Arc::clone(&fate), Arc::clone(&counted));
                thread::spawn(move || serve(&client, server, &counted, &*fate));
            }
        });
        Gate { address, under_way }
    }

    /// How many requests have arrived and have no answer of the server yet.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("etcd://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves a connection until it ends.
fn serve(
    client: &TcpStream,
    server: SocketAddr,
    under_way: &AtomicUsize,
    fate: &dyn Fn(&Request) -> Fate,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut requests = BufReader::new(client);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if requests.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let field = |name: &str| {
            let value = |line: &str| line.strip_prefix(name).map(ToOwned::to_owned);
            head.lines().find_map(value)
        };
        if field("POST /v3/watch").is_some() {
            return tunnel(&head, requests, client, server);
        }
        let length = field("Content-Length: ").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        requests.read_exact(&mut body)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let request = Request {
            path: path.trim_start_matches("/v3/").to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            has_login: field("Authorization: ").is_some(),
            head: head.clone(),
        };
        let counted = UnderWay::counted_by(under_way);
        let (status, answer) = match fate(&request) {
            Fate::Cut => return Ok(()),
            Fate::Answered(status, answer) => (status, answer.to_string()),
            Fate::Passes => ask(&request, &body, server)?,
            Fate::Replaced(status, answer) => {
                ask(&request, &body, server)?;
                (status, answer.to_string())
            }
            Fate::Changed(change) => {
                let (status, answer) = ask(&request, &body, server)?;
                let answer = serde_json::from_str(&answer).unwrap();
                (status, change(answer).to_string())
            }
        };
        drop(counted);
        let length = answer.len();
        write!(
            &mut &*client,
            "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{answer}"
        )?;
    }
}

/// Asks the server on a connection of its own, by HTTP/1.0, so that the answer ends with it.
fn ask(request: &Request, body: &[u8], server: SocketAddr) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(server)?;
    let head = request.head.replacen(" HTTP/1.1\r\n", " HTTP/1.0\r\n", 1);
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((status.parse().unwrap(), body.to_owned()))
}

/// Lets a watch run in both directions.
fn tunnel(
    head: &str,
    mut requests: BufReader<&TcpStream>,
    client: &TcpStream,
    server: SocketAddr,
) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    (&server).write_all(head.as_bytes())?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &server, &mut &*client);
            let _ = client.shutdown(std::net::Shutdown::Both);
        });
        let _ = io::copy(&mut requests, &mut &server);
        let _ = server.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}
