//! What sentinels, and the nodes that they name, answer and publish.

use dlock_net::Endpoint;
use redis::Value;

use crate::error::ServerError;
use crate::operations::Unanswered;

/// The channel on which a sentinel reports another primary.
pub(crate) const SWITCHED: &str = "+switch-master";

/// Reads the address of a primary; `None` if there is none of that name.
///
/// # Errors
///
/// What the sentinel refused with, or no address.
pub(crate) fn named(reply: &Value) -> Result<Option<Endpoint>, Unanswered> {
    match reply {
        Value::Nil => Ok(None),
        Value::Array(parts) => {
            let address = || match parts.as_slice() {
                [host, port] => endpoint(text(host)?, text(port)?),
                _ => None,
            };
            address().map(Some).ok_or(Unanswered::Malformed)
        }
        other => Err(refused(other)),
    }
}

/// Reads the answer to ROLE.
///
/// # Errors
///
/// What the server refused with, or no role.
pub(crate) fn is_primary(reply: &Value) -> Result<bool, Unanswered> {
    match reply {
        Value::Array(parts) => {
            let role = parts.first().and_then(text);
            role.map(|role| role == "master")
                .ok_or(Unanswered::Malformed)
        }
        other => Err(refused(other)),
    }
}

/// Reads a message of a sentinel: the new primary with the name `service`. `None` if it is about
/// anything else.
pub(crate) fn switched(message: &Value, service: &str) -> Option<Endpoint> {
    let Value::Array(parts) = message else {
        return None;
    };
    let [kind, channel, payload] = parts.as_slice() else {
        return None;
    };
    if (text(kind)?, text(channel)?) != ("message", SWITCHED) {
        return None;
    }
    // Name, old host and port, new host and port. A name may have no spaces.
    let mut words = text(payload)?.split(' ');
    if words.next()? != service {
        return None;
    }
    let (host, port) = (words.nth(2)?, words.next()?);
    endpoint(host, port)
}

fn endpoint(host: &str, port: &str) -> Option<Endpoint> {
    let authority = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    authority.parse().ok()
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn refused(reply: &Value) -> Unanswered {
    match reply {
        Value::ServerError(error) => Unanswered::Refused(ServerError::new(
            error.code(),
            error.details().unwrap_or_default(),
        )),
        _ => Unanswered::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Parser;

    fn value(reply: &str) -> Value {
        Parser::default().reply(reply.as_bytes()).unwrap()
    }

    fn list(words: &[&str]) -> Value {
        let words = words
            .iter()
            .map(|word| Value::BulkString(word.as_bytes().to_vec()));
        Value::Array(words.collect())
    }

    fn shown(endpoint: Option<Endpoint>) -> Option<String> {
        endpoint.map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn a_sentinel_names_a_node_by_host_and_port() {
        let named = |words: &[&str]| named(&list(words)).map(shown);
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(named(&["10.0.0.1", "6379"]), some("10.0.0.1:6379"));
        assert_eq!(named(&["::1", "6379"]), some("[::1]:6379"));
        assert_eq!(named(&["db.example", "1"]), some("db.example:1"));
        for no_address in [
            &["a"][..],
            &["a", "0"],
            &["a", "x"],
            &["", "1"],
            &["a b", "1"],
            &[],
        ] {
            assert_eq!(
                named(no_address),
                Err(Unanswered::Malformed),
                "{no_address:?}"
            );
        }
    }

    #[test]
    fn a_sentinel_that_knows_of_no_such_primary_says_so() {
        assert_eq!(named(&value("*-1\r\n")), Ok(None));
        assert_eq!(named(&value("$-1\r\n")), Ok(None));
        let refused = named(&value("-NOAUTH Authentication required.\r\n")).unwrap_err();
        assert_eq!(
            refused,
            Unanswered::Refused(ServerError::new("NOAUTH", "Authentication required."))
        );
        assert_eq!(named(&value(":1\r\n")), Err(Unanswered::Malformed));
    }

    #[test]
    fn a_role_is_that_of_a_primary_or_another() {
        assert_eq!(
            is_primary(&value("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")),
            Ok(true)
        );
        assert_eq!(is_primary(&list(&["slave", "h"])), Ok(false));
        assert_eq!(is_primary(&list(&["sentinel"])), Ok(false));
        assert_eq!(is_primary(&list(&[])), Err(Unanswered::Malformed));
        assert_eq!(is_primary(&value("+OK\r\n")), Err(Unanswered::Malformed));
        let refused = is_primary(&value("-NOPERM no\r\n")).unwrap_err();
        assert_eq!(
            refused,
            Unanswered::Refused(ServerError::new("NOPERM", "no"))
        );
    }

    #[test]
    fn a_switch_of_this_service_names_the_new_primary_and_nothing_else_does() {
        let told = |kind, channel, text| shown(switched(&list(&[kind, channel, text]), "locks"));
        let message = |text| told("message", SWITCHED, text);
        assert_eq!(message("locks a 1 b 2").as_deref(), Some("b:2"));
        assert_eq!(message("locks ::1 1 ::2 2").as_deref(), Some("[::2]:2"));
        for text in [
            "other a 1 b 2",
            "locks a 1 b",
            "locks a 1",
            "locks",
            "",
            "locks a 1 b x",
        ] {
            assert_eq!(message(text), None, "{text}");
        }
        assert_eq!(told("message", "+sdown", "locks a 1 b 2"), None);
        assert_eq!(told("pmessage", SWITCHED, "locks a 1 b 2"), None);
        assert_eq!(shown(switched(&list(&["pong", ""]), "locks")), None);
        assert_eq!(shown(switched(&value("+PONG\r\n"), "locks")), None);
    }
}
