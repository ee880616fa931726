//! PostgreSQL servers: one alone, or a primary with a synchronous standby.

use dlock_postgres::MIGRATION;
use dlock_test_servers::PostgresServer;

/// The role of the workers, which has the rights that the documentation names.
const ROLE: &str = "app";
const RIGHTS: &str = "CREATE ROLE app LOGIN; \
     GRANT USAGE ON SCHEMA dlock TO app; \
     GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app";

/// A server with the schema and the role.
pub(crate) fn start() -> PostgresServer {
    let server = PostgresServer::start();
    server.sql(MIGRATION);
    server.sql(RIGHTS);
    server
}

/// The URL of the database at these hosts.
pub(crate) fn url_at(hosts: &str) -> String {
    format!("postgres://{ROLE}@{hosts}/postgres")
}

/// A primary and its standby, which change places. Commits wait for the standby.
pub(crate) struct Pair {
    nodes: [PostgresServer; 2],
    /// Which of them takes writes.
    primary: usize,
}

impl Pair {
    pub(crate) fn start() -> Self {
        let primary = start();
        // Before the copy, so that each of them has it when it is the primary.
        set_synchronous(&primary, true);
        let standby = primary.standby();
        let pair = Pair {
            nodes: [primary, standby],
            primary: 0,
        };
        pair.wait_until_synchronous();
        pair
    }

    pub(crate) fn url(&self) -> String {
        let [first, second] = self.nodes.each_ref().map(PostgresServer::address);
        url_at(&format!("{first},{second}"))
    }

    pub(crate) fn primary(&self) -> &PostgresServer {
        &self.nodes[self.primary]
    }

    pub(crate) fn primary_mut(&mut self) -> &mut PostgresServer {
        &mut self.nodes[self.primary]
    }

    pub(crate) fn standby(&self) -> &PostgresServer {
        &self.nodes[1 - self.primary]
    }

    pub(crate) fn standby_mut(&mut self) -> &mut PostgresServer {
        &mut self.nodes[1 - self.primary]
    }

    /// The standby takes the place of the primary, which does not know it.
    pub(crate) fn promote(&mut self) {
        self.standby().promote();
        self.primary = 1 - self.primary;
    }

    /// The former primary becomes the standby.
    pub(crate) fn rejoin(&mut self) {
        let (first, second) = self.nodes.split_at_mut(1);
        let (primary, other) = match self.primary {
            0 => (&first[0], &mut second[0]),
            _ => (&second[0], &mut first[0]),
        };
        other.follow(primary);
        self.wait_until_synchronous();
    }

    pub(crate) fn wait_until_synchronous(&self) {
        let count = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        self.primary().wait_for(count, "1");
    }
}

/// Whether commits wait for a standby.
pub(crate) fn set_synchronous(server: &PostgresServer, waits: bool) {
    let names = if waits { "*" } else { "" };
    server.sql(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{names}'"
    ));
    server.sql("SELECT pg_reload_conf()");
    server.wait_for("SHOW synchronous_standby_names", names);
}
