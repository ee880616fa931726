//! Servers with users and passwords.

use dlock_core::{Datastore, ErrorKind};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdServer;
use serde_json::{Value, json};

use crate::queue::{granted_when_woken, refused};
use crate::support::{
    LONG, ask, base64, call, claim, eventually, extended, key, ours, store, store_at, take,
};

/// A server on which `app` may use the keys that begin with `dlock:`, and nothing else.
pub(crate) fn server_with_users() -> EtcdServer {
    with_users(EtcdServer::start())
}

fn with_users(server: EtcdServer) -> EtcdServer {
    let permission = json!({
        "permType": "READWRITE", "key": base64("dlock:"), "range_end": base64("dlock;"),
    });
    for (path, body) in [
        ("user/add", json!({"name": "root", "password": "r00t"})),
        ("role/add", json!({"name": "root"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("user/add", json!({"name": "app", "password": "s3cret/@"})),
        ("role/add", json!({"name": "locks"})),
        ("role/grant", json!({"name": "locks", "perm": permission})),
        ("user/grant", json!({"user": "app", "role": "locks"})),
        ("enable", json!({})),
    ] {
        let answer = ask(&server, &format!("/v3/auth/{path}"), &body);
        assert_eq!(answer["error"], Value::Null, "{path}: {answer}");
    }
    server
}

pub(crate) fn store_of(login: &str, server: &EtcdServer) -> EtcdDatastore {
    store_at(&format!("etcd://{login}@{}", server.address()))
}

#[test]
fn a_user_locks_within_its_rights_and_its_login_survives_a_restart() {
    let mut server = server_with_users();
    let store = store_of("app:s3cret%2F%40", &server);
    let lease = take(&store, &key("users"), LONG);
    extended(store.extend(&call(&lease, 1), LONG));
    // The server forgets the tokens of all logins.
    server.restart();
    extended(store.extend(&call(&lease, 2), LONG));
    ours(store.release(&call(&lease, 3)));

    let error = store.acquire(&claim("other:key"), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("permission denied"), "{error}");
    assert!(!error.may_have_executed());
}

#[test]
fn a_user_waits_within_its_rights() {
    let server = server_with_users();
    let store = store_of("app:s3cret%2F%40", &server);
    let key = key("waits");
    let lease = take(&store, &key, LONG);
    let (waiter, watch, signal) = refused(&store, &key);
    ours(store.release(&call(&lease, 1)));
    let lease = granted_when_woken(&store, &waiter, &signal);
    drop(watch);
    ours(store.release(&call(&lease, 1)));
}

#[test]
fn a_token_that_the_server_no_longer_knows_is_replaced() {
    let server = server_with_users();
    let store = store_of("app:s3cret%2F%40", &server);
    let lease = take(&store, &key("tokens"), LONG);
    // Any change of users makes the tokens from before void.
    let root = json!({"name": "root", "password": "r00t"});
    let token = ask(&server, "/v3/auth/authenticate", &root)["token"].clone();
    let role = json!({"name": "another"}).to_string();
    let answer = server.post_as(token.as_str().unwrap(), "/v3/auth/role/add", &role);
    assert!(!answer.contains("error"), "{answer}");
    ours(store.release(&call(&lease, 1)));
}

#[test]
fn a_token_from_before_a_change_of_users_is_replaced() {
    let key_file = std::env::temp_dir().join(key("jwt").replace(':', "-"));
    std::fs::write(&key_file, "a key of nobody").unwrap();
    let tokens = format!("jwt,sign-method=HS256,priv-key={}", key_file.display());
    let server = with_users(EtcdServer::start_with(&["--auth-token", &tokens]));
    let store = store_of("app:s3cret%2F%40", &server);
    let lease = take(&store, &key("jwt"), LONG);
    let root = json!({"name": "root", "password": "r00t"});
    let token = ask(&server, "/v3/auth/authenticate", &root)["token"].clone();
    let role = json!({"name": "another"}).to_string();
    let answer = server.post_as(token.as_str().unwrap(), "/v3/auth/role/add", &role);
    assert!(!answer.contains("error"), "{answer}");
    extended(store.extend(&call(&lease, 1), LONG));
    ours(store.release(&call(&lease, 2)));
    std::fs::remove_file(key_file).unwrap();
}

#[test]
fn a_wrong_login_is_an_error_without_the_password() {
    let server = server_with_users();
    for (store, reason) in [
        (store_of("app:wr0ng", &server), "authentication failed"),
        (store_of("nobody:wr0ng", &server), "authentication failed"),
        (store(&server), "user name is empty"),
    ] {
        let error = eventually("the server answers", || {
            let error = store.acquire(&claim(&key("wrong")), LONG).unwrap_err();
            (error.kind() != ErrorKind::Timeout).then_some(error)
        });
        let text = format!("{error} {error:?} {store:?}");
        assert_eq!(error.kind(), ErrorKind::Refused, "{text}");
        assert!(text.contains(reason), "{text}");
        assert!(
            text.contains("user:password@host") && !text.contains("wr0ng"),
            "{text}"
        );
        assert!(!error.may_have_executed());
    }
}

#[test]
fn a_server_without_users_takes_any_login() {
    let server = EtcdServer::start();
    let store = store_of("app:any", &server);
    take(&store, &key("any"), LONG);
}
