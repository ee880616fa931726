//! A forked child leaves its parent's connections alone.

use std::sync::Arc;

use super::client::*;
use crate::support::{Behaviour, in_child, is_alone, serve};

#[test]
fn a_forked_child_opens_a_connection_of_its_own_and_leaves_its_parents_alone() {
    let name = "a_forked_child_opens_a_connection_of_its_own_and_leaves_its_parents_alone";
    if !is_alone(&format!("mux::processes::{name}")) {
        return;
    }
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    let runtime = current_thread();
    assert_eq!(runtime.block_on(ask(&mux, LONG, "a")).unwrap(), "a");
    assert_eq!(by_hand(ask(&mux, LONG, "b")).unwrap(), "b");
    assert_eq!(server.connections(), 2);

    assert!(in_child(|| {
        let asks = |text| ask(&mux, LONG, text);
        let own = current_thread().block_on(asks("c"));
        own.is_ok_and(|answer| answer == "c")
            && by_hand(asks("d")).is_ok_and(|answer| answer == "d")
    }));

    assert_eq!(server.connections(), 4, "the child's own two");
    assert_eq!(runtime.block_on(ask(&mux, LONG, "e")).unwrap(), "e");
    assert_eq!(by_hand(ask(&mux, LONG, "f")).unwrap(), "f");
    assert_eq!(server.connections(), 4);
}

#[test]
fn a_forked_child_that_drops_all_it_inherited_leaves_its_parent_its_connections() {
    let name = "a_forked_child_that_drops_all_it_inherited_leaves_its_parent_its_connections";
    if !is_alone(&format!("mux::processes::{name}")) {
        return;
    }
    let server = serve(Behaviour::Echo);
    let mut mux = Some(Arc::into_inner(mux(&server)).unwrap());
    let mut runtime = Some(current_thread());
    let ask = |mux: &Option<_>, runtime: &Option<tokio::runtime::Runtime>, text| {
        let answer = ask(mux.as_ref().unwrap(), LONG, text);
        runtime.as_ref().unwrap().block_on(answer).unwrap()
    };
    assert_eq!(ask(&mux, &runtime, "a"), "a");
    assert!(in_child(|| {
        drop(mux.take());
        drop(runtime.take());
        true
    }));
    assert_eq!(ask(&mux, &runtime, "b"), "b");
    assert_eq!(server.connections(), 1);
}
