use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{Fault, Proxy};

/// A server that echoes every byte and reports what it received.
fn echo() -> (SocketAddr, Receiver<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    for byte in &buffer[..length] {
                        let _ = sender.send(*byte);
                    }
                    let _ = stream.write_all(&buffer[..length]);
                }
            });
        }
    });
    (address, received)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

fn ask(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer).unwrap())
}

#[test]
fn without_a_fault_it_is_not_there_and_counts() {
    let proxy = Proxy::to(echo().0);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "one").unwrap(), "one");
    assert_eq!(ask(&mut client, "two").unwrap(), "two");
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.round_trips), (1, 2));
    assert_eq!((counts.request_bytes, counts.reply_bytes), (6, 6));
}

#[test]
fn a_reply_is_lost_after_the_server_received_the_request() {
    let (server, received) = echo();
    let proxy = Proxy::to(server);
    proxy.replies_once(Fault::Cut { after: 0 });
    let mut client = connect(&proxy);
    assert!(ask(&mut client, "x").is_err());
    assert_eq!(received.recv().unwrap(), b'x');
    assert_eq!(ask(&mut connect(&proxy), "y").unwrap(), "y", "only once");
}

#[test]
fn a_request_is_cut_before_the_server_received_it() {
    let (server, received) = echo();
    let proxy = Proxy::to(server);
    proxy.requests_once(Fault::Cut { after: 2 });
    assert!(ask(&mut connect(&proxy), "abc").is_err());
    assert_eq!(ask(&mut connect(&proxy), "d").unwrap(), "d");
    // Each connection has a thread of its own there, so their bytes may come in any order.
    let mut bytes: Vec<_> = received.iter().take(3).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, b"abd");
    assert!(received.try_recv().is_err());
}

#[test]
fn a_held_request_arrives_after_its_sender_has_gone() {
    let (server, received) = echo();
    let proxy = Proxy::to(server);
    proxy.requests(Fault::Hold);
    let mut client = connect(&proxy);
    client.write_all(b"late").unwrap();
    proxy.wait_until(|counts| counts.request_bytes == 4);
    drop(client);
    assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
    proxy.heal();
    let late: Vec<_> = received.iter().take(4).collect();
    assert_eq!(late, b"late");
}

#[test]
fn lost_bytes_never_arrive_and_the_connection_stays() {
    let (server, received) = echo();
    let proxy = Proxy::to(server);
    proxy.requests(Fault::Lose);
    let mut client = connect(&proxy);
    client.write_all(b"lost").unwrap();
    proxy.wait_until(|counts| counts.request_bytes == 4);
    proxy.heal();
    assert_eq!(ask(&mut client, "kept").unwrap(), "kept");
    assert_eq!(received.try_iter().collect::<Vec<_>>(), b"kept");
}

#[test]
fn delays_and_dribbles_take_the_time_they_say() {
    let proxy = Proxy::to(echo().0);
    let mut client = connect(&proxy);
    let every = Duration::from_millis(10);
    proxy.replies(Fault::Split { bytes: 1, every });
    let start = Instant::now();
    assert_eq!(ask(&mut client, "dribble").unwrap(), "dribble");
    assert!(start.elapsed() >= every * 6);
    proxy.replies(Fault::None);
    proxy.requests(Fault::Delay(Duration::from_millis(50)));
    let start = Instant::now();
    assert_eq!(ask(&mut client, "later").unwrap(), "later");
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn refused_and_cut_connections_end() {
    let proxy = Proxy::to(echo().0);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "a").unwrap(), "a");
    proxy.cut();
    assert!(ask(&mut client, "b").is_err());
    proxy.refuse();
    assert!(ask(&mut connect(&proxy), "c").is_err());
    proxy.heal();
    assert_eq!(ask(&mut connect(&proxy), "d").unwrap(), "d");
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "e").unwrap(), "e");
    drop(proxy);
    assert!(ask(&mut client, "f").is_err());
}
