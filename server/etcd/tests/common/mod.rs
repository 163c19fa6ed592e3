//! What the tests share: an etcd of a test's own, stores in it, and a way there that can be cut.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used)] // helpers of tests

use penstock_etcd::{EtcdOptions, EtcdStore};
use penstock_registry::store::{Commit, Leadership, Store};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long anything may take that is not about how long it takes.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// What etcd grants at least.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// A member that is alone, with its own folder and ports; it ends with the test.
pub(crate) struct Etcd {
    folder: TempDir,
    ports: (u16, u16),
    options: Vec<&'static str>,
    process: Child,
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        Self::start_with(&["--max-request-bytes", "10485760"]).await
    }

    pub(crate) async fn start_with(options: &[&'static str]) -> Self {
        let folder = TempDir::new().unwrap();
        // Somebody else may have taken a port meanwhile.
        for _ in 0..5 {
            let ports = (free_port().await, free_port().await);
            if let Some(process) = serve(&folder, ports, options).await {
                return Self { folder, ports, options: options.to_vec(), process };
            }
        }
        panic!("etcd did not start: {}", std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.0).into()
    }

    /// It does nothing and says nothing, until it goes on.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Kills it, and starts it with what it has kept.
    pub(crate) async fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = serve(&self.folder, self.ports, &self.options).await.expect("it starts on ports that it had");
    }

    /// A client that knows nothing of stores.
    pub(crate) async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.address().to_string()], None).await.unwrap()
    }

    pub(crate) async fn store(&self, prefix: &str) -> Arc<dyn Store> {
        open(self.address(), prefix, "http://one").await
    }

    /// A store that leads, and the revision it is at.
    pub(crate) async fn leading(&self, prefix: &str) -> (Arc<dyn Store>, u64) {
        let store = self.store(prefix).await;
        leads(&store).await;
        let at = store.commit(Commit::new()).await.unwrap();
        (store, at)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

#[allow(clippy::disallowed_methods)] // where tests find their tools
fn program() -> PathBuf {
    let cache = std::env::var_os("PENSTOCK_CACHE_DIR").filter(|cache| !cache.is_empty()).map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/penstock"));
    let program = cache.join("bin/etcd");
    assert!(program.is_file(), "{} is not there: run tests/tools.sh etcd", program.display());
    program
}

/// Waits until it answers; `None` if it ends before.
async fn serve(folder: &TempDir, (own, peers): (u16, u16), options: &[&str]) -> Option<Child> {
    let [own_url, peer_url] = [own, peers].map(|port| format!("http://127.0.0.1:{port}"));
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut process = Command::new(program())
        .args(["--name", "one", "--data-dir"])
        .arg(folder.path().join("data"))
        .args(["--listen-client-urls", &own_url, "--advertise-client-urls", &own_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("one={peer_url}")])
        .args(options)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let answers = async || {
        let mut client = etcd_client::Client::connect([format!("127.0.0.1:{own}")], None).await.ok()?;
        timeout(Duration::from_secs(1), client.get("any", None)).await.ok()?.ok()
    };
    for _ in 0..600 {
        if process.try_wait().unwrap().is_some() {
            return None;
        }
        if answers().await.is_some() {
            return Some(process);
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("etcd does not answer");
}

pub(crate) fn options(at: SocketAddr, prefix: &str, own: &str) -> EtcdOptions {
    EtcdOptions {
        endpoints: vec![format!("http://{at}")],
        prefix: prefix.into(),
        address: own.into(),
        user: None,
        tls: None,
        timeout: Duration::from_secs(1),
        lease: LEASE,
    }
}

pub(crate) async fn open(at: SocketAddr, prefix: &str, own: &str) -> Arc<dyn Store> {
    Arc::new(EtcdStore::open(options(at, prefix, own)).await.unwrap())
}

/// Waits until the store's server leads; gives the term.
pub(crate) async fn leads(store: &Arc<dyn Store>) -> u64 {
    let found = until(store, |leadership| leadership.term().is_some()).await;
    found.term().unwrap()
}

/// Waits until its leadership is as said.
pub(crate) async fn until(store: &Arc<dyn Store>, is: impl Fn(&Leadership) -> bool) -> Leadership {
    let mut leadership = store.leadership();
    let found = timeout(SOON, leadership.wait_for(|leadership| is(leadership))).await;
    found.expect("it becomes so in time").unwrap().clone()
}

async fn becomes(is_cut: &mut watch::Receiver<bool>, wanted: bool) {
    // An error means that the test is over.
    let _ = is_cut.wait_for(|cut| *cut == wanted).await;
}

/// A way to etcd that can be cut: what goes over it then neither arrives nor fails.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    cut: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl Way {
    pub(crate) async fn to(etcd: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut here, _) = listener.accept().await.unwrap();
                let mut is_cut = is_cut.clone();
                connections.spawn(async move {
                    let Ok(mut there) = TcpStream::connect(etcd).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut here, &mut there) => return,
                        () = becomes(&mut is_cut, true) => {}
                    }
                    // Both ends stay open, and silent, until the way is whole again.
                    becomes(&mut is_cut, false).await;
                });
            }
        });
        Self { address, cut, _serving: serving }
    }

    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(crate) fn heal(&self) {
        self.cut.send_replace(false);
    }
}
