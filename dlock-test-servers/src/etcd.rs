//! A private etcd process: a cluster of one, or a node of a larger one.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{self, Ending, Launch, Process};

/// A server that does not answer for this long is stopped, or lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// A private etcd: a child process with ports and a folder of its own on 127.0.0.1. Dropping it
/// kills the process and deletes the folder, which is in memory where the system allows that.
///
/// Which binary is run: that in the environment's `DLOCK_ETCD`, else `etcd`.
pub struct EtcdServer {
    name: String,
    tls_port: Option<u16>,
    arguments: Vec<OsString>,
    pub(super) ports: Ports,
    pub(super) process: Option<Process>,
    folder: TempDir,
}

/// Where a node listens.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) peer: u16,
    /// Where other nodes reach it.
    pub(super) from_peers: u16,
}

impl Ports {
    pub(super) fn free() -> Self {
        let peer = process::free_port();
        Ports {
            client: process::free_port(),
            peer,
            from_peers: peer,
        }
    }
}

impl EtcdServer {
    /// A cluster of one node, which keeps its data until it is dropped.
    ///
    /// # Panics
    ///
    /// If it cannot be started: because the binary is missing, say.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments: `["--quota-backend-bytes", "16777216"]`.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(process::folder_with_room(), arguments, false)
    }

    /// The same with a TLS port beside the plain one, and a certificate that is made for this
    /// server.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[cfg(feature = "tls")]
    pub fn start_with_tls(certificate: crate::TlsCertificate) -> Self {
        Self::start_tls_in(certificate, |_| Vec::new())
    }

    /// The same, where the TLS port requires a certificate of its clients.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[cfg(feature = "tls")]
    pub fn start_requiring_certificates() -> Self {
        Self::start_tls_in(crate::TlsCertificate::Signed, |file| {
            let ca = file("ca.crt");
            vec![
                "--client-cert-auth".to_owned(),
                "--trusted-ca-file".to_owned(),
                ca,
            ]
        })
    }

    #[cfg(feature = "tls")]
    fn start_tls_in(
        certificate: crate::TlsCertificate,
        further: impl Fn(&dyn Fn(&str) -> String) -> Vec<String>,
    ) -> Self {
        let folder = process::folder_with_room();
        crate::tls::write_certificates(folder.path(), certificate);
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let mut arguments = further(&file);
        arguments.extend(["--cert-file".to_owned(), file("server.crt")]);
        arguments.extend(["--key-file".to_owned(), file("server.key")]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Self::start_in(folder, &arguments, true)
    }

    fn start_in(folder: TempDir, arguments: &[&str], with_tls: bool) -> Self {
        let (started, process) = process::on_a_free_port(folder.path(), |_| {
            let (ports, tls_port) = (Ports::free(), with_tls.then(process::free_port));
            let members = [("only", ports)];
            let mut all = all_arguments("only", ports, &members, arguments);
            if let Some(tls) = tls_port {
                let (plain, tls) = (address(ports.client), address(tls));
                // The last one counts.
                all.push("--listen-client-urls".into());
                all.push(format!("http://{plain},https://{tls}").into());
            }
            let process = launch(&all, folder.path(), || is_healthy(ports.client))?;
            Some(((ports, tls_port, all), process))
        });
        let (ports, tls_port, arguments) = started;
        EtcdServer {
            name: "only".to_owned(),
            tls_port,
            arguments,
            ports,
            process: Some(process),
            folder,
        }
    }

    /// One of several nodes. It listens, and may have no leader yet. `None` if it ended at once.
    pub(super) fn start_node(
        name: &str,
        ports: Ports,
        members: &[(&str, Ports)],
        arguments: &[&str],
    ) -> Option<Self> {
        let folder = process::folder_with_room();
        let arguments = all_arguments(name, ports, members, arguments);
        let process = launch(&arguments, folder.path(), || connect(ports.peer).is_ok())?;
        Some(EtcdServer {
            name: name.to_owned(),
            tls_port: None,
            arguments,
            ports,
            process: Some(process),
            folder,
        })
    }

    /// Adds a learner, a node without a vote, to the cluster of one node that this server is.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_learner(&self) -> Self {
        let ports = Ports::free();
        let peer = format!("http://{}", address(ports.peer));
        let member = format!(r#"{{"peerURLs":["{peer}"],"isLearner":true}}"#);
        let answer = self.post("/v3/cluster/member/add", &member);
        assert!(answer.contains(&peer), "{answer}");
        let members = [("only", self.ports), ("learner", ports)];
        let existing = ["--initial-cluster-state", "existing"];
        Self::start_node("learner", ports, &members, &existing).expect("the learner starts")
    }

    /// Where it listens for clients.
    pub fn address(&self) -> SocketAddr {
        address(self.ports.client)
    }

    /// `etcd://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.address())
    }

    /// Where it speaks TLS.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn tls_address(&self) -> SocketAddr {
        address(self.tls_port.expect("the server was started with TLS"))
    }

    /// `etcds://127.0.0.1:port`.
    ///
    /// # Panics
    ///
    /// If it does not speak TLS.
    pub fn tls_url(&self) -> String {
        format!("etcds://{}", self.tls_address())
    }

    /// The file with the authority (PEM) that has signed its certificate; there only if the server
    /// was started with TLS, as the next two.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The file with the certificate (PEM) of a client, signed by the same authority.
    pub fn client_certificate_file(&self) -> PathBuf {
        self.folder.path().join("client.crt")
    }

    /// The file with that client's key (PEM).
    pub fn client_key_file(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }

    /// The file with the certificate (PEM) of a client that has no common name.
    pub fn nameless_certificate_file(&self) -> PathBuf {
        self.folder.path().join("nameless.crt")
    }

    /// The file with that client's key (PEM).
    pub fn nameless_key_file(&self) -> PathBuf {
        self.folder.path().join("nameless.key")
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends one request of the JSON gateway, on a connection of its own, and returns the answer's
    /// body: `post("/v3/maintenance/status", "{}")`. An error of the server is an answer too.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn post(&self, path: &str, body: &str) -> String {
        self.post_as("", path, body)
    }

    /// The same with the token of a login, from `/v3/auth/authenticate`.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn post_as(&self, token: &str, path: &str, body: &str) -> String {
        let head = match token {
            "" => String::new(),
            token => format!("Authorization: {token}\r\n"),
        };
        let port = self.ports.client;
        ask_with(port, &head, "POST", path, body).expect("the etcd server answers")
    }

    /// A count that it keeps for operators, such as `etcd_debugging_mvcc_range_total`; 0 if there
    /// is none of this name.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn metric(&self, name: &str) -> u64 {
        let text = ask(self.ports.client, "GET", "/metrics", "").expect("the etcd server answers");
        let count = text.lines().find_map(|line| {
            let count = line.strip_prefix(name)?.strip_prefix(' ')?;
            count.split('.').next()?.parse().ok()
        });
        count.unwrap_or_default()
    }

    /// Stops it (SIGSTOP): the system still accepts connections and takes bytes for it, but nothing
    /// is answered.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn pause(&self) {
        self.running().pause();
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn resume(&self) {
        self.running().resume();
    }

    /// Kills it (SIGKILL) and waits until it is gone. Its data stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Whether it was not killed, or was started again.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Starts it again after [`kill`](Self::kill), at the same addresses and with its data, and
    /// waits until the cluster has a leader for it.
    ///
    /// # Panics
    ///
    /// If it does not start, or its cluster has no majority.
    pub fn start_again(&mut self) {
        let client = self.ports.client;
        self.launch_again(|| is_healthy(client));
    }

    /// The same for a node of a cluster that has no leader before others are started, too.
    pub(super) fn listen_again(&mut self) {
        let peer = self.ports.peer;
        self.launch_again(|| connect(peer).is_ok());
    }

    fn launch_again(&mut self, ready: impl FnMut() -> bool) {
        let folder = self.folder.path();
        self.process = launch(&self.arguments, folder, ready);
        assert!(
            self.process.is_some(),
            "etcd did not come back; its log:\n{}",
            process::log_text(folder)
        );
    }

    /// Kills it and starts it again, with its data.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn pid(&self) -> u32 {
        self.running().id()
    }

    /// Whether it is running and has a leader.
    pub(super) fn is_healthy(&self) -> bool {
        self.is_running() && is_healthy(self.ports.client)
    }

    /// Whether it believes that it is the leader. A node that does not answer is none.
    pub(super) fn is_leader(&self) -> bool {
        if self.process.as_ref().is_none_or(Process::is_paused) {
            return false;
        }
        let leader = self.status("leader");
        leader.is_some() && leader == self.status("member_id")
    }

    /// Its number in the cluster.
    pub(super) fn member(&self) -> String {
        self.status("member_id").expect("the etcd server answers")
    }

    /// A number of its status.
    fn status(&self, name: &str) -> Option<String> {
        let status = ask(self.ports.client, "POST", "/v3/maintenance/status", "{}").ok()?;
        let (_, rest) = status.split_once(&format!("\"{name}\":\""))?;
        rest.split('"').next().map(str::to_owned)
    }

    /// Forgets all former versions of all keys.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn compact(&self) {
        let answer = self.post("/v3/kv/range", r#"{"key":"AA=="}"#);
        let (_, rest) = answer.split_once(r#""revision":""#).unwrap_or_default();
        let revision = rest.split('"').next().unwrap_or_default();
        let body = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        self.post("/v3/kv/compaction", &body);
    }

    pub(super) fn log_text(&self) -> String {
        process::log_text(self.folder.path())
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server is running")
    }
}

fn all_arguments(
    name: &str,
    ports: Ports,
    members: &[(&str, Ports)],
    further: &[&str],
) -> Vec<OsString> {
    let url = |port| format!("http://{}", address(port));
    let cluster: Vec<_> = members
        .iter()
        .map(|(name, ports)| format!("{name}={}", url(ports.from_peers)))
        .collect();
    // No other cluster of this machine has the same.
    let token = format!("dlock-{}", members[0].1.peer);
    let options = [
        ("--name", name.to_owned()),
        ("--listen-client-urls", url(ports.client)),
        ("--advertise-client-urls", url(ports.client)),
        ("--listen-peer-urls", url(ports.peer)),
        ("--initial-advertise-peer-urls", url(ports.from_peers)),
        ("--initial-cluster", cluster.join(",")),
        ("--initial-cluster-token", token),
        ("--initial-cluster-state", "new".to_owned()),
    ];
    let options = options
        .into_iter()
        .flat_map(|(option, value)| [option.into(), value.into()]);
    options.chain(further.iter().map(OsString::from)).collect()
}

/// Starts the process; `None` if it ended at once, since somebody took its port, say.
fn launch(arguments: &[OsString], folder: &Path, ready: impl FnMut() -> bool) -> Option<Process> {
    let mut arguments = arguments.to_vec();
    arguments.extend(["--data-dir".into(), folder.join("data").into()]);
    let launch = Launch {
        binary: &process::binary("DLOCK_ETCD", "etcd"),
        install: "apt-get install etcd-server",
        arguments,
        // It refuses other processors than those that its makers test.
        environment: vec![("ETCD_UNSUPPORTED_ARCH", go_processor().into())],
        folder,
        user: None,
        ending: Ending::Kill,
    };
    Process::start(&launch, ready)
}

/// What Go calls this processor.
fn go_processor() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn is_healthy(port: u16) -> bool {
    ask(port, "GET", "/health", "").is_ok_and(|answer| answer.contains("true"))
}

fn ask(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    ask_with(port, "", method, path, body)
}

/// Asks by HTTP/1.0, so that the answer ends with the connection.
fn ask_with(
    port: u16,
    head: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<String> {
    let mut stream = connect(port)?;
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.0\r\n{head}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.to_owned())
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address(port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
