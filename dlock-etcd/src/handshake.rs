//! What is asked before the first call: whether the node has a leader, and of which cluster it is;
//! and the login.

use dlock_core::{DatastoreError, ErrorKind, at_once};
use dlock_net::nothing_was_done;
use serde_json::{Value, json};

use crate::config::Login;
use crate::connection::Connection;
use crate::error::Problem;
use crate::operations::commands::{Commands, Method};

/// Refuses a node that has no leader, which could not carry out a call, and one of another cluster.
/// Returns whether the node said what it is: some versions say it only after a login.
///
/// # Errors
///
/// Not executed.
pub(crate) fn check_node(
    connection: &mut Connection,
    may_log_in: bool,
) -> Result<bool, DatastoreError> {
    let status = match at_once(connection.ask(Method::Status, &json!({}))) {
        Ok(status) => status,
        Err(error) if error.kind() == ErrorKind::Refused && may_log_in => return Ok(false),
        Err(error) => return Err(error),
    };
    let peer = connection.peer().to_owned();
    let cluster = status["header"]["cluster_id"].as_str();
    let Some(cluster) = cluster else {
        return Err(nothing_was_done(connection.unexpected(&status)));
    };
    connection.endpoints().check_cluster(&peer, cluster)?;
    // Zeros are left out.
    if status["leader"].as_str().is_none_or(|leader| leader == "0") {
        let problem = Problem::NoLeader { peer };
        return Err(DatastoreError::not_executed(ErrorKind::Refused, problem));
    }
    Ok(true)
}

/// Logs in. A cluster without users takes any login.
///
/// # Errors
///
/// Not executed.
pub(crate) fn log_in(connection: &mut Connection, login: &Login) -> Result<(), DatastoreError> {
    let body = json!({"name": login.user, "password": login.password});
    let answer = match at_once(connection.ask(Method::Authenticate, &body)) {
        Ok(answer) => answer,
        // That of a cluster without users.
        Err(error) if error.kind() == ErrorKind::Stale => return Ok(()),
        Err(error) => return Err(nothing_was_done(error)),
    };
    match token(&answer) {
        Some(token) => {
            connection.use_token(token.to_owned());
            Ok(())
        }
        // Not the answer, which may have the token in it.
        None => Err(DatastoreError::not_executed(
            ErrorKind::Protocol,
            format!(
                "{}: the answer to the login has no token",
                connection.peer()
            ),
        )),
    }
}

/// A token that fits into a header.
fn token(answer: &Value) -> Option<&str> {
    let token = answer["token"].as_str()?;
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_cannot_carry_a_header_of_its_own() {
        assert_eq!(token(&json!({"token": "abc.17"})), Some("abc.17"));
        for other in ["", "a b", "a\r\nX: y", "\u{e4}"] {
            assert_eq!(token(&json!({"token": other})), None, "{other:?}");
        }
        assert_eq!(token(&json!({})), None);
    }
}
