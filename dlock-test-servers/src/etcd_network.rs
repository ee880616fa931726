//! The network between the nodes of an etcd cluster, from which a node can be cut off.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

/// The field of a request in which a node names itself.
const FROM: &str = "X-Server-From: ";
/// The most bytes before the body of a request.
const MAX_HEAD: usize = 16 * 1024;

/// The way to each node for the others: a port on which connections to it are passed on. Dropping
/// it closes all of them.
pub(super) struct Network {
    ports: Vec<u16>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    cut_off: Option<CutOff>,
    links: Vec<Link>,
    is_closed: bool,
}

/// The node that is cut off.
struct CutOff {
    number: usize,
    /// As it calls itself.
    member: String,
}

/// A connection between two nodes.
struct Link {
    /// The member that opened it, if its first request says so.
    from: Option<String>,
    to: usize,
    ends: [Weak<TcpStream>; 2],
}

impl Network {
    /// A way to each of the nodes that listen for others on these ports.
    pub(super) fn to(ports: &[u16]) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let way = |(to, port): (usize, &u16)| {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("127.0.0.1 has free ports");
            let own = listener.local_addr().expect("it is bound").port();
            let (node, state) = (address(*port), Arc::clone(&state));
            thread::spawn(move || accept(&listener, to, node, &state));
            own
        };
        Network {
            ports: ports.iter().enumerate().map(way).collect(),
            state: Arc::clone(&state),
        }
    }

    /// The ports on which others reach the nodes.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Closes the connections between this node and the others, and lets them open no more.
    pub(super) fn cut_off(&self, number: usize, member: u64) {
        let member = format!("{member:x}");
        let mut state = state_of(&self.state);
        state.cut_off = Some(CutOff { number, member });
        let (cut, kept): (Vec<_>, _) = std::mem::take(&mut state.links)
            .into_iter()
            .partition(|link| state.is_cut(link));
        state.links = kept;
        drop(state);
        close(&cut);
    }

    /// Lets all nodes reach each other again.
    pub(super) fn heal(&self) {
        state_of(&self.state).cut_off = None;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut state = state_of(&self.state);
        state.is_closed = true;
        let links = std::mem::take(&mut state.links);
        drop(state);
        close(&links);
        for port in &self.ports {
            // Wakes the thread that accepts.
            let _ = TcpStream::connect(address(*port));
        }
    }
}

impl State {
    /// Whether one end of it is cut off and the other is not. One whose sender is not known is cut
    /// too: its nodes open another one.
    fn is_cut(&self, link: &Link) -> bool {
        self.cut_off.as_ref().is_some_and(|cut| {
            let is_from = |from: &String| *from == cut.member;
            let from = link.from.as_ref().map(is_from);
            from != Some(link.to == cut.number)
        })
    }
}

fn close(links: &[Link]) {
    for end in links.iter().flat_map(|link| &link.ends) {
        if let Some(end) = end.upgrade() {
            // It may be closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, to: usize, node: SocketAddr, state: &Arc<Mutex<State>>) {
    for client in listener.incoming() {
        if state_of(state).is_closed {
            return;
        }
        if let Ok(client) = client {
            let state = Arc::clone(state);
            // A connection that breaks is no failure of the network.
            thread::spawn(move || join(client, to, node, &state));
        }
    }
}

/// Connects a node that has connected with the node `to`, and lets the bytes run.
fn join(client: TcpStream, to: usize, node: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let client = Arc::new(client);
    let mut requests = BufReader::new(&*client);
    let (mut head, mut from) = (Vec::new(), None);
    while !head.ends_with(b"\r\n\r\n") {
        let start = head.len();
        if requests.read_until(b'\n', &mut head)? == 0 || head.len() > MAX_HEAD {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&head[start..]);
        from = line
            .strip_prefix(FROM)
            .map(|id| id.trim().to_owned())
            .or(from);
    }
    let server = Arc::new(TcpStream::connect(node)?);
    server.set_nodelay(true)?;
    let ends = [&client, &server].map(Arc::downgrade);
    let link = Link { from, to, ends };
    {
        let mut state = state_of(state);
        if state.is_closed || state.is_cut(&link) {
            return Ok(());
        }
        state.links.retain(|link| link.ends[0].strong_count() > 0);
        state.links.push(link);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*server, &mut &*client);
            let _ = client.shutdown(Shutdown::Both);
        });
        let sent = (&*server).write_all(&head);
        let _ = sent.and_then(|()| io::copy(&mut requests, &mut &*server));
        let _ = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn state_of(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
