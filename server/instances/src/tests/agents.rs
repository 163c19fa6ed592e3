//! A fleet whose agents are real and whose environments are shells.

use super::{SECOND, deadlines, rules, types};
use crate::agent::DeviceOptions;
use crate::protocol::{Begin, Enrol, FromAgent, FromFleet, Join, Machine, ToAgent, Told, read, write};
use crate::{Address, Fleet, FleetOptions, Hub, Launched, Listen, OnInstances, Order, Outcome, Provider, agent};
use async_trait::async_trait;
use parking_lot::Mutex;
use penstock_domain::{Architecture, Variables};
use penstock_environment::{
    BatchingPolicy, IsolationPolicy, Launch, LaunchError, Launcher, QueueLimits, Specification, Started,
};
use penstock_scaler::InstanceType;
use penstock_trust::{self as tls, Authority};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Agents as tasks, and whether they may come.
struct Tasks {
    running: Mutex<BTreeMap<String, AbortHandle>>,
    script: &'static str,
    devices: DeviceOptions,
}

#[async_trait]
impl Provider for Tasks {
    async fn launch(&self, order: &Order) -> io::Result<Outcome> {
        let arguments = vec!["-c".into(), self.script.into()];
        let launcher = Launcher { program: "/bin/sh".into(), accelerated: None, arguments };
        let mut outcome = Outcome::default();
        for id in &order.ids {
            let disk = order.told.disk.as_ref().map(|disk| disk.join(id));
            let told = Told { name: Some(id.clone()), disk, ..order.told.clone() };
            let task = tokio::spawn(agent::run(told, launcher.clone(), self.devices.clone(), std::future::pending()));
            self.running.lock().insert(id.clone(), task.abort_handle());
            outcome.launched.push(Launched::by_list(id, &order.offers[0]));
        }
        Ok(outcome)
    }

    async fn terminate(&self, id: &str) {
        if let Some(task) = self.running.lock().remove(id) {
            task.abort();
        }
    }

    async fn ended(&self) -> String {
        std::future::pending().await
    }

    async fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn specification(cores: u32) -> Specification {
    Specification {
        function: "f".into(),
        version: 1,
        runtime: serde_json::Value::Null,
        batching: BatchingPolicy::default(),
        queue: QueueLimits::default(),
        workers: 1,
        preparation_threads: 1,
        isolation: IsolationPolicy {
            variables: Variables([("WORD".into(), "hello".into())].into()),
            ..Default::default()
        },
        provider: None,
        architecture: Architecture::OWN,
        cores,
        memory_bytes: 1 << 30,
        device: None,
        accelerator: None,
        body_bytes_max: 1 << 20,
    }
}

pub(super) struct World {
    pub(super) fleet: Arc<Fleet>,
    tasks: Arc<Tasks>,
    pub(super) launch: OnInstances,
    folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

fn world(script: &'static str) -> World {
    world_that_listens(script, Listen::Folder)
}

fn world_over_tcp(script: &'static str, life: Duration) -> (World, Arc<Authority>) {
    let authority = Arc::new(Authority::embedded(tls::FLEET, life, time::OffsetDateTime::now_utc).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stop = CancellationToken::new();
    let hub = Hub::open(listener, None, "127.0.0.1:0".into(), authority.clone(), stop).unwrap();
    (world_that_listens(script, Listen::Tcp(hub)), authority)
}

fn world_that_listens(script: &'static str, listen: Listen) -> World {
    world_of(script, listen, types(), DeviceOptions::default())
}

pub(super) fn world_of(
    script: &'static str,
    listen: Listen,
    types: Vec<InstanceType>,
    devices: DeviceOptions,
) -> World {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Arc::new(Tasks { running: Mutex::default(), script, devices });
    let options = FleetOptions {
        name: "local".into(),
        rules: rules(10),
        types,
        deadlines: deadlines(),
        folder: folder.path().join("sockets"),
        listen,
        disk: Some(folder.path().into()),
        token: || Ok("token".into()),
    };
    let stop = CancellationToken::new();
    let fleet = Fleet::open(options, tasks.clone(), stop.clone()).unwrap();
    World { launch: OnInstances(fleet.clone()), fleet, tasks, folder, _stop: stop.drop_guard() }
}

/// Says a word that it was given, then what it is told, and something in its log.
const ECHO: &str = "echo $WORD >&0; echo 'a line' >&2; exec /bin/cat <&0 >&0";

pub(super) async fn line(started: &mut Started) -> String {
    let mut line = Vec::new();
    loop {
        match timeout(SECOND * 10, started.from.read_u8()).await.unwrap() {
            Ok(b'\n') | Err(_) => return String::from_utf8(line).unwrap(),
            Ok(byte) => line.push(byte),
        }
    }
}

#[tokio::test]
async fn an_environment_runs_on_an_instance_and_its_connection_is_its_link() {
    runs_there(world(ECHO)).await;
}

#[tokio::test]
async fn so_it_does_over_tcp() {
    runs_there(world_over_tcp(ECHO, SECOND * 3600).0).await;
}

async fn runs_there(world: World) {
    assert_eq!(world.fleet.instances().len(), 0);
    let mut started = world.launch.start(&specification(4)).await.unwrap();
    assert_eq!(line(&mut started).await, "hello");
    started.to.write_all(b"over there\n").await.unwrap();
    assert_eq!(line(&mut started).await, "over there");
    let mut log = started.log.take().unwrap();
    let mut said = [0; 7];
    log.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"a line\n");
    let seen = world.fleet.instances();
    assert_eq!((seen.len(), seen[0].state, seen[0].environments["f:1"]), (1, "Ready", 1));
    // It goes by itself when its link ends, or is ended.
    started.to.shutdown().await.unwrap();
    assert_eq!(started.life.end(SECOND * 10).await, "exit status: 0");
    drop(started);
    let mut second = world.launch.start(&specification(4)).await.unwrap();
    assert_eq!(line(&mut second).await, "hello");
    assert_eq!(world.fleet.instances().len(), 1, "on the same instance");
    assert_eq!(second.life.end(Duration::ZERO).await, "killed");
    let too_large = world.launch.start(&specification(9)).await.err().unwrap();
    assert!(matches!(&too_large, LaunchError::NeverRoom(why) if why.contains("9 vCPU")), "{too_large}");
}

#[tokio::test]
async fn what_is_lost_with_its_instance_is_told_and_there_is_room_elsewhere() {
    is_lost(world(ECHO)).await;
    is_lost(world_over_tcp(ECHO, SECOND * 3600).0).await;
}

async fn is_lost(world: World) {
    let mut first = world.launch.start(&specification(4)).await.unwrap();
    assert_eq!(line(&mut first).await, "hello");
    let id = world.fleet.instances()[0].instance_id.clone();
    world.tasks.terminate(&id).await;
    assert_eq!(
        timeout(SECOND * 10, first.from.read_u8()).await.unwrap().unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    let status = first.life.end(SECOND).await;
    assert!(status.contains("is gone: lost"), "{status}");
    drop(first);
    let mut second = world.launch.start(&specification(4)).await.unwrap();
    assert_eq!(line(&mut second).await, "hello");
    assert_ne!(world.fleet.instances()[0].instance_id, id);
}

#[tokio::test]
async fn strangers_do_not_join() {
    let world = world(ECHO);
    let socket = world.fleet.folder().join("fleet.sock");
    for (id, address) in [("i-1", "/a"), ("i-1", "i-1.sock")] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let address = Address::Unix(world.fleet.folder().join(address));
        let join = Join { name: id.into(), token: "token".into(), machine: Machine::default(), address };
        write(&mut stream, &FromAgent::Join(join)).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "nobody launched it");
    }
    // What it is told first is believed within its room alone.
    let mut started = world.launch.start(&specification(3)).await.unwrap();
    assert_eq!(line(&mut started).await, "hello");
    let id = world.fleet.instances()[0].instance_id.clone();
    for token in ["a guess", "token"] {
        let mut stream = UnixStream::connect(world.fleet.folder().join(format!("{id}.sock"))).await.unwrap();
        let begin = Begin {
            token: token.into(),
            environment: 77,
            variables: Variables::default(),
            accelerated: false,
            vcpu: 2,
            memory_mib: 1,
        };
        write(&mut stream, &FromFleet::Begin(begin)).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "one vCPU is free");
    }
}

/// Speaks to an address of TCP as `identity`, or as nobody, and says one thing: what is answered, if anything.
async fn say<T: serde::de::DeserializeOwned>(
    address: &str,
    connector: tokio_rustls::TlsConnector,
    name: &str,
    message: &impl serde::Serialize,
) -> io::Result<T> {
    let mut connection = crate::transport::connect_tcp(address, connector, name).await?;
    write(&mut connection.to, message).await?;
    timeout(SECOND * 10, read(&mut connection.from)).await.unwrap()
}

#[tokio::test]
async fn over_tcp_a_token_gives_one_certificate_and_only_the_fleet_begins_environments() {
    let (world, authority) = world_over_tcp(ECHO, SECOND * 3600);
    let (Address::Tcp(fleet), _) = world.fleet.addresses() else { panic!("not TCP") };
    let nobody = || tls::unknown_connector(&authority.trust()).unwrap();
    let identity = |name: &str| {
        let key = tls::Key::generate().unwrap();
        let issued = authority.issue(&tls::instance_name(name), &key.public()).unwrap();
        key.with(&issued).unwrap()
    };
    let enrol = |name: &str, token: &str| {
        let public_key = tls::Key::generate().unwrap().public();
        FromAgent::Enrol(Enrol { name: name.into(), token: token.into(), public_key })
    };
    let mut started = world.launch.start(&specification(3)).await.unwrap();
    assert_eq!(line(&mut started).await, "hello");
    let id = world.fleet.instances()[0].instance_id.clone();
    // A second certificate for the same token, or for one that nobody was given.
    for (name, token) in [(&*id, "token"), ("i-99999999", "token")] {
        assert!(say::<ToAgent>(&fleet, nobody(), tls::FLEET, &enrol(name, token)).await.is_err(), "{name} {token}");
    }
    // To join takes the certificate of that name, once.
    let address = Address::Tcp("127.0.0.1:1".into());
    let join = |name: &str| {
        let (name, token, address) = (name.to_owned(), "token".to_owned(), address.clone());
        FromAgent::Join(Join { name, token, machine: Machine::default(), address })
    };
    let known = || identity(&id).connector().unwrap();
    assert!(say::<ToAgent>(&fleet, nobody(), tls::FLEET, &join(&id)).await.is_err());
    assert!(say::<ToAgent>(&fleet, identity("i-2").connector().unwrap(), tls::FLEET, &join(&id)).await.is_err());
    assert!(say::<ToAgent>(&fleet, known(), tls::FLEET, &join(&id)).await.is_err(), "it has joined");
    // An instance is not asked by others, whatever they know.
    let Some(Address::Tcp(agent)) = world.fleet.address_of(&id) else { panic!("it has no address") };
    let begin = |environment, vcpu| Begin {
        token: "token".into(),
        environment,
        variables: Variables::default(),
        accelerated: false,
        vcpu,
        memory_mib: 1,
    };
    let name = tls::instance_name(&id);
    for connector in [nobody(), known(), identity("i-2").connector().unwrap()] {
        assert!(say::<u8>(&agent, connector, &name, &FromFleet::Begin(begin(77, 1))).await.is_err());
    }
    let own = authority.own().connector().unwrap();
    let mut connection = crate::transport::connect_tcp(&agent, own, &name).await.unwrap();
    write(&mut connection.to, &FromFleet::Begin(begin(78, 1))).await.unwrap();
    assert_ne!(connection.from.read(&mut [0; 8]).await.unwrap(), 0, "the fleet is believed");
}

#[tokio::test]
async fn what_environments_read_is_sent_once_and_read_there() {
    for over_tcp in [false, true] {
        let world = if over_tcp { world_over_tcp(ECHO, SECOND * 3600).0 } else { world(ECHO) };
        let model = world.folder.path().join("model");
        std::fs::create_dir_all(model.join("1")).unwrap();
        let weights: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(model.join("1/weights"), &weights).unwrap();
        let mut wanted = specification(2);
        wanted.runtime = serde_json::json!({ "folder": model });
        wanted.isolation.readable = vec![model.clone()];
        let there = |started: &Started| {
            let specification = started.specification.as_ref().expect("its paths are others");
            assert_eq!(specification.runtime["folder"], specification.isolation.readable[0].to_str().unwrap());
            specification.isolation.readable[0].clone()
        };
        let mut first = world.launch.start(&wanted).await.unwrap();
        let mut second = world.launch.start(&wanted).await.unwrap();
        assert_eq!((line(&mut first).await, line(&mut second).await), ("hello".into(), "hello".into()));
        let (place, instance) = (there(&first), world.fleet.instances()[0].instance_id.clone());
        assert!(place.starts_with(world.folder.path().join(&instance)) && place == there(&second));
        assert_eq!(std::fs::read(place.join("1/weights")).unwrap(), weights);
        // What is the same is not sent again, under whatever name.
        std::fs::write(model.join("1/copy"), &weights).unwrap();
        second.life.end(Duration::ZERO).await;
        drop(second);
        let mut third = world.launch.start(&wanted).await.unwrap();
        assert_eq!(line(&mut third).await, "hello");
        let inode = |path: std::path::PathBuf| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        assert_eq!(inode(there(&third).join("1/copy")), inode(place.join("1/weights")));
        assert_eq!(world.fleet.instances().len(), 1);
        // What cannot be read is told by its name.
        wanted.isolation.readable = vec![world.folder.path().join("nothing")];
        third.life.end(Duration::ZERO).await;
        drop(third);
        let error = world.launch.start(&wanted).await.err().unwrap().to_string();
        assert!(error.contains("nothing"), "{error}");
    }
}

#[tokio::test]
async fn certificates_are_renewed_before_they_end() {
    let (world, _) = world_over_tcp(ECHO, SECOND * 4);
    let mut first = world.launch.start(&specification(2)).await.unwrap();
    assert_eq!(line(&mut first).await, "hello");
    // Half of it, and until the fleet looks again.
    tokio::time::sleep(SECOND * 6).await;
    let mut second = world.launch.start(&specification(2)).await.unwrap();
    assert_eq!(line(&mut second).await, "hello");
    assert_eq!(world.fleet.instances().len(), 1, "on the same instance");
    first.to.write_all(b"still there\n").await.unwrap();
    assert_eq!(line(&mut first).await, "still there");
}

#[tokio::test]
async fn a_second_server_leaves_the_instances_of_the_first_alone() {
    let world = world(ECHO);
    let options = |folder: &std::path::Path| FleetOptions {
        name: "local".into(),
        rules: rules(10),
        types: types(),
        deadlines: deadlines(),
        folder: folder.to_owned(),
        listen: Listen::Folder,
        disk: None,
        token: || Ok("token".into()),
    };
    let second = Fleet::open(options(world.fleet.folder()), world.tasks.clone(), CancellationToken::new());
    assert_eq!(second.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    let mut started = world.launch.start(&specification(4)).await.unwrap();
    assert_eq!(line(&mut started).await, "hello");
    let long = world.fleet.folder().join("long".repeat(30));
    let error = Fleet::open(options(&long), world.tasks.clone(), CancellationToken::new()).err().unwrap();
    assert!(error.to_string().contains("cache_dir"), "{error}");
}
