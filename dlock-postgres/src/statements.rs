//! The statements that the server keeps prepared for a connection, so that it parses and plans each
//! of them once.

use std::io;

use bytes::BytesMut;

use crate::wire::{self, Parameter, Reply};

/// A statement, and the name under which a server keeps it. No other statement, of this version or
/// of another one, has the same name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Statement {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// The statements of one connection.
///
/// A pooler may give each transaction another connection to the server, where a statement would be
/// missing. So they have names only if the connection leads to the server directly; and if the
/// server turns out not to keep them, they have none from then on.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    is_direct: bool,
    /// The names of those that the server has.
    prepared: Vec<&'static str>,
}

impl Statements {
    pub(crate) fn of_connection(is_direct: bool) -> Self {
        Statements {
            is_direct,
            prepared: Vec::new(),
        }
    }

    /// Writes a request: one statement with its parameters, as a transaction of its own.
    pub(crate) fn push(
        &self,
        request: &mut BytesMut,
        Statement { name, sql }: Statement,
        parameters: &[Parameter<'_>],
    ) -> io::Result<()> {
        if !self.is_direct {
            return wire::push_statement(request, sql, parameters);
        }
        if !self.prepared.contains(&name) {
            wire::push_preparation(request, name, sql)?;
        }
        wire::push_execution(request, name, parameters)
    }

    /// Takes note of the reply to such a request. Returns whether the statement must be sent again,
    /// without a name: the server did nothing, because it did not have the statement, or has it for
    /// other columns than those of now.
    pub(crate) fn learn(&mut self, Statement { name, .. }: Statement, reply: &Reply) -> bool {
        let is_prepared = self.prepared.contains(&name);
        match reply {
            Ok(_) if self.is_direct && !is_prepared => self.prepared.push(name),
            Err(error) if is_prepared && error.is_of_prepared_statement() => {
                *self = Statements::default();
                return true;
            }
            Ok(_) | Err(_) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ServerError;

    const ONE: Statement = Statement {
        name: "one",
        sql: "SELECT dlock.first()",
    };
    const TWO: Statement = Statement {
        name: "two",
        sql: "SELECT dlock.second()",
    };

    fn request(statements: &Statements, statement: Statement) -> String {
        let mut request = BytesMut::new();
        statements.push(&mut request, statement, &[]).unwrap();
        String::from_utf8_lossy(&request).into_owned()
    }

    fn error(code: &str) -> Reply {
        Err(ServerError::new("ERROR", code, "text"))
    }

    #[test]
    fn a_statement_is_prepared_once() {
        let mut statements = Statements::of_connection(true);
        for statement in [ONE, TWO] {
            let request = request(&statements, statement);
            assert!(request.contains(&format!("{}\0{}", statement.name, statement.sql)));
            assert!(!statements.learn(statement, &Ok(Vec::new())));
        }
        for statement in [ONE, TWO, ONE] {
            let request = request(&statements, statement);
            assert!(request.contains(&format!("{}\0", statement.name)));
            assert!(!request.contains("SELECT"), "{request}");
            assert!(!statements.learn(statement, &Ok(Vec::new())));
        }
        assert_eq!(statements.prepared, ["one", "two"]);
    }

    #[test]
    fn a_statement_that_failed_the_first_time_is_prepared_again_whatever_the_server_has_kept() {
        let mut statements = Statements::of_connection(true);
        // Also with one of those errors: it had no name that could be wrong.
        for code in ["55P03", "26000"] {
            assert!(!statements.learn(ONE, &error(code)));
            // It deletes the one of this name first, which is no error if there is none.
            let request = request(&statements, ONE);
            let deletes = request.find("Sone\0").unwrap();
            let prepares = request.find("one\0SELECT").unwrap();
            assert!(deletes < prepares, "{request}");
        }
    }

    #[test]
    fn a_server_that_has_not_kept_a_statement_gets_none_with_a_name_any_more() {
        for code in ["26000", "0A000"] {
            let mut statements = Statements::of_connection(true);
            assert!(!statements.learn(ONE, &Ok(Vec::new())));
            assert!(!statements.learn(ONE, &error("55P03")), "it is kept");
            assert!(!request(&statements, ONE).contains("SELECT"));
            assert!(statements.learn(ONE, &error(code)));
            let without = request(&Statements::default(), ONE);
            for _ in 0..2 {
                assert_eq!(request(&statements, ONE), without);
                assert!(!statements.learn(ONE, &error(code)), "endless");
                assert!(!statements.learn(ONE, &Ok(Vec::new())));
            }
        }
    }

    #[test]
    fn behind_a_pooler_no_statement_has_a_name() {
        let mut statements = Statements::of_connection(false);
        for _ in 0..2 {
            let request = request(&statements, ONE);
            assert!(
                request.contains("SELECT") && !request.contains("one"),
                "{request}"
            );
            assert!(!statements.learn(ONE, &Ok(Vec::new())));
        }
    }
}
