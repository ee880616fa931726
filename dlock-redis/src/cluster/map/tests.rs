use dlock_net::PoolSettings;

use super::*;
use crate::ConnectionManager;

fn endpoint(host: &str, port: u16) -> Endpoint {
    let host = host.to_owned();
    Endpoint::Tcp { host, port }
}

fn open(endpoint: Endpoint) -> Node {
    let manager = ConnectionManager::new("redis://unused").unwrap();
    let pool = dlock_net::Pool::new(manager.for_node(endpoint.clone()), PoolSettings::default());
    let server = Server::new(pool, None);
    Node { endpoint, server }
}

fn list(parts: &[Value]) -> Value {
    Value::Array(parts.to_vec())
}

fn named(host: &str, port: i64) -> Value {
    let host = Value::BulkString(host.as_bytes().to_vec());
    list(&[host, Value::Int(port), Value::Nil])
}

fn range(first: i64, last: i64, nodes: &[Value]) -> Value {
    list(&[&[Value::Int(first), Value::Int(last)], nodes].concat())
}

fn read(reply: &Value) -> Result<Layout, DatastoreError> {
    layout(reply, &endpoint("asked", 1))
}

fn owner(map: &Map, slot: u16) -> Option<String> {
    map.owner(slot).map(|node| node.endpoint.to_string())
}

#[test]
fn a_map_has_the_owner_of_each_slot() {
    let reply = list(&[
        range(0, 99, &[named("a", 7), named("b", 7)]),
        range(100, 100, &[named("c", 7)]),
        range(101, 16_383, &[named("", 8), named("b", 7)]),
    ]);
    let map = Map::default();
    assert!(map.is_empty() && map.owner(0).is_none());
    let map = map.renewed(read(&reply).unwrap(), open);
    assert!(!map.is_empty());
    for (slot, node) in [
        (0, "a:7"),
        (99, "a:7"),
        (100, "c:7"),
        (101, "asked:8"),
        (16_383, "asked:8"),
    ] {
        assert_eq!(owner(&map, slot).as_deref(), Some(node), "{slot}");
    }
    let all: Vec<_> = map.endpoints().map(ToString::to_string).collect();
    assert_eq!(all, ["a:7", "c:7", "asked:8", "b:7"]);
}

#[test]
fn a_renewed_map_keeps_the_connections_of_the_nodes_that_stay() {
    let one = list(&[range(0, 16_383, &[named("a", 7)])]);
    let two = list(&[
        range(0, 99, &[named("a", 7)]),
        range(200, 16_383, &[named("b", 7)]),
    ]);
    let first = Map::default().renewed(read(&one).unwrap(), open);
    let second = first.renewed(read(&two).unwrap(), open);
    assert!(Arc::ptr_eq(
        first.owner(0).unwrap(),
        second.owner(99).unwrap()
    ));
    assert_eq!(owner(&second, 100), None, "it is not served");
    assert_eq!(owner(&second, 200).as_deref(), Some("b:7"));
    let third = second.renewed(read(&list(&[range(0, 1, &[named("b", 7)])])).unwrap(), open);
    assert!(third.node(&endpoint("a", 7)).is_none(), "it has left");
}

#[test]
fn one_slot_can_have_another_owner() {
    let one = list(&[range(0, 16_383, &[named("a", 7)])]);
    let mut map = Map::default().renewed(read(&one).unwrap(), open);
    let new = endpoint("b", 7);
    map.set_owner(5, &new);
    assert_eq!(owner(&map, 5).as_deref(), Some("a:7"), "not known yet");
    map.add(Arc::new(open(new.clone())));
    let added = Arc::clone(map.node(&new).unwrap());
    map.add(Arc::new(open(new.clone())));
    assert!(
        Arc::ptr_eq(&added, map.node(&new).unwrap()),
        "one is enough"
    );
    map.set_owner(5, &new);
    map.set_owner(SLOTS, &new);
    assert_eq!(owner(&map, 5).as_deref(), Some("b:7"));
    assert_eq!(owner(&map, 4).as_deref(), Some("a:7"));
    assert_eq!(owner(&map, SLOTS), None);
}

#[test]
fn what_is_no_map_is_refused() {
    let range_of = |host: Value| list(&[range(0, 1, &[list(&[host, Value::Int(7)])])]);
    assert!(read(&range_of(Value::Nil)).is_ok());
    for reply in [
        Value::Okay,
        list(&[Value::Int(1)]),
        list(&[range(0, 16_384, &[named("a", 7)])]),
        list(&[range(-1, 1, &[named("a", 7)])]),
        list(&[range(0, 1, &[])]),
        list(&[range(0, 1, &[named("a", 0)])]),
        list(&[range(0, 1, &[named("a", 70_000)])]),
        range_of(Value::Int(1)),
        range_of(Value::BulkString(vec![0xff])),
    ] {
        let error = read(&reply).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{reply:?}");
        assert!(!error.may_have_executed());
    }
    let empty = read(&list(&[])).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Refused, "it is being formed");
    let refusal = |text: &[u8]| redis::parse_redis_value(text).unwrap();
    let alone = refusal(b"-ERR This instance has cluster support disabled\r\n");
    let alone = read(&alone).unwrap_err();
    assert_eq!(alone.kind(), ErrorKind::Unsupported);
    assert!(!alone.may_have_executed());
    let unauthorized = read(&refusal(b"-NOAUTH Authentication required.\r\n"));
    assert_eq!(unauthorized.unwrap_err().kind(), ErrorKind::Refused);
}
