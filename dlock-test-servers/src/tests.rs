mod etcd;
mod redis_cluster;

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{MemcachedServer, PostgresPooler, PostgresServer, RedisServer, Reply, SentinelSet};

fn is_running(pid: &str) -> bool {
    Command::new("kill")
        .args(["-0", pid])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

#[test]
fn a_redis_server_answers_and_ends_with_its_value() {
    let server = RedisServer::start();
    let (pid, socket) = (server.pid().to_string(), server.socket());
    assert_eq!(server.command(["SET", "k", "v"]), text("OK"));
    assert_eq!(server.command(["GET", "k"]), text("v"));
    assert_eq!(server.command(["GET", "none"]), Reply::Nil);
    assert_eq!(server.keys(), ["k"]);
    assert_eq!(server.calls()["set"], 1);
    server.reset_calls();
    assert_eq!(server.calls().get("set"), None);
    drop(server);
    assert!(!is_running(&pid) && !socket.exists());
}

#[test]
fn a_restart_keeps_the_data_or_not_and_the_address_always() {
    let mut server = RedisServer::builder().password("secret").start();
    let url = server.url();
    server.command(["SET", "k", "v"]);
    server.restart_with_data();
    assert_eq!(server.command(["GET", "k"]), text("v"));
    server.restart_empty();
    assert_eq!(server.keys(), [""; 0]);
    assert_eq!(server.url(), url);
    assert!(url.starts_with("redis://:secret@127.0.0.1:"), "{url}");
}

#[test]
fn a_paused_server_answers_when_it_goes_on() {
    let server = RedisServer::start();
    server.pause();
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| server.command(["PING"]));
        thread::sleep(Duration::from_millis(50));
        assert!(!asked.is_finished());
        server.resume();
        asked.join().unwrap()
    });
    assert_eq!(asked, text("PONG"));
    server.pause();
    drop(server); // does not hang
}

#[test]
fn users_have_the_rights_they_are_given_and_settings_are_kept() {
    let server = RedisServer::builder()
        .user("alice", "pw", "~dlock:* +get")
        .config("maxmemory", "100mb")
        .start();
    assert_eq!(
        server.command(["CONFIG", "GET", "maxmemory"]),
        Reply::List(vec![text("maxmemory"), text("104857600")])
    );
    server.config_set("maxmemory", "0");
    assert!(
        matches!(server.try_command(["NONSENSE"]), Reply::Error(error) if error.starts_with("ERR"))
    );
    let refused = server.command(["ACL", "DRYRUN", "alice", "SET", "dlock:x", "1"]);
    assert!(
        refused.text().unwrap().contains("no permissions"),
        "{refused:?}"
    );
    assert_eq!(
        server.command(["ACL", "DRYRUN", "alice", "GET", "dlock:x"]),
        text("OK")
    );
}

#[cfg(feature = "tls")]
#[test]
fn a_tls_port_and_its_certificates_are_there() {
    let server = RedisServer::builder().tls().start();
    assert!(
        std::fs::read_to_string(server.ca_file())
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
    assert!(std::net::TcpStream::connect(server.tls_address().unwrap()).is_ok());
    assert!(server.tls_url().starts_with("rediss://localhost:"));
}

#[test]
fn a_memcached_server_answers_restarts_and_ends_with_its_value() {
    let mut server = MemcachedServer::start();
    assert!(server.command("mn").starts_with("MN"));
    let first = server.stats()["pid"].clone();
    server.restart();
    let second = server.stats()["pid"].clone();
    assert_ne!(first, second);
    drop(server);
    assert!(!is_running(&second));
}

#[test]
fn a_missing_binary_is_a_failure_that_says_what_installs_it() {
    let folder = super::process::folder();
    let launch = super::process::Launch {
        binary: "no-such-server",
        install: "apt-get install no-such-server",
        arguments: Vec::new(),
        environment: Vec::new(),
        folder: folder.path(),
        user: None,
        ending: super::process::Ending::Kill,
    };
    let panic =
        std::panic::catch_unwind(|| super::process::Process::start(&launch, || true).is_some())
            .err();
    let message = panic.unwrap().downcast::<String>().unwrap();
    assert!(
        message.contains("apt-get install no-such-server"),
        "{message}"
    );
}

/// Plays the test process that is killed, for the test below.
#[test]
#[ignore = "run by the test below"]
#[expect(clippy::print_stdout, reason = "that is how the other test learns it")]
fn process_that_is_killed() {
    let server = RedisServer::start();
    println!("server {} {}", server.pid(), server.socket().display());
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_server_does_not_outlive_a_killed_test_process() {
    use std::io::{BufRead, BufReader};
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::process_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("server ")?.1.to_owned()))
        .unwrap();
    let (pid, socket) = line.split_once(' ').unwrap();
    assert!(is_running(pid));
    process.kill().unwrap();
    process.wait().unwrap();
    let killed = Instant::now();
    while is_running(pid) || Path::new(socket).exists() {
        assert!(
            killed.elapsed() < Duration::from_secs(20),
            "{line} is still there"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_servers_wall_clock_goes_where_it_is_set_and_its_keys_with_it() {
    let now = |server: &RedisServer| match server.command(["TIME"]) {
        Reply::List(time) => time[0].text().unwrap().parse::<u64>().unwrap(),
        other => panic!("{other:?}"),
    };
    let hour = Duration::from_secs(3600);
    let mut server = RedisServer::builder().clock_step().start();
    let start = now(&server);
    server.command(["SET", "k", "v", "PX", "600000"]);
    server.step_clock_back(hour);
    assert!(now(&server) < start);
    assert_eq!(server.command(["GET", "k"]), text("v"));
    server.restart_with_data();
    assert!(now(&server) < start, "through a restart as well");
    server.step_clock_forward(hour * 2);
    assert!(now(&server) >= start + 3600);
    assert_eq!(server.command(["GET", "k"]), Reply::Nil, "it has expired");
}

#[test]
fn no_two_servers_of_a_process_get_the_same_port() {
    let mut ports = std::collections::BTreeSet::new();
    // By chance alone, two of them would be the same.
    for _ in 0..1000 {
        assert!(ports.insert(super::process::free_port()));
    }
}

#[test]
fn a_set_elects_another_primary_when_the_first_is_killed() {
    let mut set = SentinelSet::builder()
        .password("secret")
        .sentinel_password("other")
        .start();
    assert!(set.url().starts_with("redis+sentinel://:secret@127.0.0.1:"));
    assert!(set.url().ends_with("/locks?sentinel_password=other"));
    let old = set.primary();
    assert_eq!(
        (old, set.is_primary(0), set.is_primary(1)),
        (0, true, false)
    );
    set.node(old).command(["SET", "k", "v"]);
    set.wait_for_replicas(old, 2);

    set.node_mut(old).kill();
    let new = set.wait_for_another(old);
    assert_eq!(set.node(new).command(["GET", "k"]), text("v"));

    set.impostors_last(Duration::from_secs(600));
    set.node_mut(old).restart_empty();
    assert!(set.is_primary(old) && set.is_primary(new));
    set.impostors_last(Duration::from_millis(40));
    set.wait_for_replica(old);
    assert_eq!(set.node(old).command(["GET", "k"]), text("v"));
}

#[test]
fn a_set_whose_links_are_cut_loses_what_the_primary_is_told() {
    let mut set = SentinelSet::start();
    set.node(0).command(["SET", "k", "before"]);
    set.wait_for_replicas(0, 2);
    set.cut_replicas(0);
    set.node(0).command(["SET", "k", "after"]);
    assert_eq!(set.node(0).command(["WAIT", "1", "10"]), Reply::Integer(0));
    set.node_mut(0).kill();
    set.resume_replicas(0);
    let new = set.wait_for_another(0);
    assert_eq!(set.node(new).command(["GET", "k"]), text("before"));
}

#[test]
fn a_set_fails_over_on_demand() {
    let set = SentinelSet::builder().replicas(1).start();
    set.node(0).command(["SET", "k", "v"]);
    set.wait_for_replicas(0, 1);
    let new = set.fail_over();
    assert_eq!(new, 1);
    set.impostors_last(Duration::from_millis(200));
    set.wait_for_replica(0);
    assert_eq!(set.node(0).command(["GET", "k"]), text("v"));
}

#[cfg(feature = "tls")]
#[test]
fn a_set_speaks_tls_among_itself() {
    let set = SentinelSet::builder().tls().start();
    assert!(set.tls_url().starts_with("rediss+sentinel://127.0.0.1:"));
    assert_eq!(set.node(0).command(["SET", "k", "v"]), text("OK"));
    assert_eq!(
        set.node(0).command(["WAIT", "2", "10000"]),
        Reply::Integer(2)
    );
    assert_ne!(set.fail_over(), 0);
}

#[test]
fn a_postgres_server_answers_restarts_with_its_data_and_ends_with_its_value() {
    let mut server = PostgresServer::start();
    server.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1), (2)");
    server.restart();
    assert_eq!(server.sql("SELECT n FROM kept ORDER BY n"), "1\n2");
    let error = server.try_sql("SELECT n FROM lost").unwrap_err();
    assert!(error.contains("42P01"), "{error}");
    let pid = server.pid().to_string();
    drop(server);
    assert!(!is_running(&pid));
}

#[test]
fn a_session_of_postgres_keeps_its_transaction_open_until_it_is_dropped() {
    let server = PostgresServer::start();
    server.sql("CREATE TABLE t (n int)");
    let mut session = server.session();
    session.run("BEGIN; INSERT INTO t VALUES (1)");
    assert_eq!(session.run("SELECT count(*) FROM t"), "1");
    assert_eq!(server.sql("SELECT count(*) FROM t"), "0");
    drop(session);
    assert_eq!(server.sql("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_standby_of_postgres_follows_and_can_be_promoted() {
    let server = PostgresServer::start();
    let standby = server.standby();
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    standby.promote();
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "f");
}

#[test]
fn a_former_primary_of_postgres_becomes_the_standby_of_its_successor() {
    let mut old = PostgresServer::start();
    let new = old.standby();
    let address = old.address();
    old.sql("CREATE TABLE lost (n int)");
    new.promote();
    new.sql("CREATE TABLE kept (n int)");
    old.follow(&new);
    assert_eq!(old.address(), address);
    assert_eq!(old.sql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(old.sql("SELECT count(*) FROM kept"), "0");
}

#[cfg(target_os = "linux")]
#[test]
fn a_crashed_postgres_keeps_what_was_committed() {
    let mut server = PostgresServer::start();
    server.sql("CREATE TABLE kept (n int)");
    let open = server.session();
    server.crash();
    drop(open);
    server.start_again();
    assert_eq!(server.sql("SELECT count(*) FROM kept"), "0");
}

#[cfg(target_os = "linux")]
#[test]
fn a_paused_postgres_answers_nothing_until_it_goes_on() {
    let server = PostgresServer::start();
    let mut open = server.session();
    server.pause();
    let answered = thread::scope(|scope| {
        let asked = scope.spawn(|| open.run("SELECT 1"));
        thread::sleep(Duration::from_millis(300));
        let early = asked.is_finished();
        server.resume();
        (early, asked.join().unwrap())
    });
    assert_eq!(answered, (false, "1".to_owned()));
}

#[test]
fn a_postgres_without_one_of_its_backends_recovers() {
    let server = PostgresServer::start();
    let mut open = server.session();
    open.run("SET application_name = 'victim'");
    server.kill_backend("victim");
    server.wait_for(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim'",
        "0",
    );
    server.wait_until_ready();
}

#[test]
fn a_pooler_leads_to_its_server() {
    let server = PostgresServer::start();
    server.sql("CREATE TABLE here (n int)");
    let pooler = PostgresPooler::before(&server);
    assert_eq!(pooler.sql("SELECT count(*) FROM here"), "0");
}
