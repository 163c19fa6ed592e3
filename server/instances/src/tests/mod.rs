//! The roster under a clock of its own, and a fleet whose agents are real and whose environments are shells.

mod random;

use crate::cost::{Costs, FunctionCost};
use crate::protocol::{Beat, Begin, FromAgent, Join, Told, write};
use crate::roster::{Action, Deadlines, Gone, Roster};
use crate::{Fleet, FleetOptions, OnInstances, Provider, agent};
use async_trait::async_trait;
use parking_lot::Mutex;
use penstock_domain::Variables;
use penstock_environment::{
    BatchingPolicy, IsolationPolicy, Launch, LaunchError, Launcher, QueueLimits, Specification, Started,
};
use penstock_scaler::{Architecture, InstanceType, Needs, Rules, Shape, Why};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

fn shape() -> Shape {
    Shape { vcpu: 5, memory_mib: 9 * 1024, devices: 0, device_memory_mib: 0, architecture: Architecture::OWN }
}

fn needs(vcpu: u32) -> Needs {
    Needs { vcpu, memory_mib: 1024, device_memory_mib: 0, architecture: Architecture::OWN }
}

fn rules(vcpu_max: u32) -> Rules {
    let zones = vec!["here".to_owned()];
    let (allowed, excluded) = (Vec::new(), Vec::new());
    Rules { vcpu_max, allowed, excluded, zones, start_timeout: SECOND * 10, empty_after: SECOND * 60 }
}

fn types() -> Vec<InstanceType> {
    vec![InstanceType { name: "local".into(), shape: shape(), usd_per_hour: 0.0, zones: vec!["here".into()] }]
}

fn deadlines() -> Deadlines {
    Deadlines { beat: SECOND * 5, drain: SECOND * 30, stop: SECOND * 5, age: Some(SECOND * 3600) }
}

/// A roster, its time, and what it asked for.
struct Clocked {
    roster: Roster,
    now: Instant,
}

impl Clocked {
    fn new(vcpu_max: u32) -> Self {
        Self { roster: Roster::new(rules(vcpu_max), types(), deadlines()), now: tokio::time::Instant::now().into_std() }
    }

    fn seek(&mut self, count: u32) -> Vec<u64> {
        (0..count).map(|_| self.roster.seek("f:1".into(), needs(2))).collect()
    }

    fn decide(&mut self) -> Vec<Action> {
        let actions = self.roster.decide(self.now);
        let vcpu: u32 = self.roster.instances().values().map(|entry| entry.shape.vcpu).sum();
        assert!(vcpu <= 15, "{vcpu} vCPU");
        assert_eq!(self.roster.decide(self.now), [], "to decide again changes nothing");
        actions
    }

    /// Those that are launching join.
    fn join(&mut self, actions: &[Action]) -> Vec<String> {
        let mut joined = Vec::new();
        for action in actions {
            let Action::Launch { id, .. } = action else { continue };
            self.roster.expect(id, format!("token of {id}"));
            assert!(self.roster.join(id, "a guess", (1, false), "/a".into(), self.now).is_err());
            self.roster.join(id, &format!("token of {id}"), (1, false), "/a".into(), self.now).unwrap();
            let again = self.roster.join(id, &format!("token of {id}"), (1, false), "/a".into(), self.now);
            assert_eq!(again, Err("its token was used"));
            joined.push(id.clone());
        }
        joined
    }

    fn pass(&mut self, seconds: u32) {
        self.now += SECOND * seconds;
        let ids: Vec<String> = self.roster.instances().keys().cloned().collect();
        ids.iter().for_each(|id| self.roster.beat(id, Beat::default(), self.now));
    }
}

fn launched(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Launch { .. })).count()
}

fn given(actions: &[Action]) -> Vec<u64> {
    let given = actions.iter().filter_map(|action| match action {
        Action::Give { seeker, .. } => Some(*seeker),
        _ => None,
    });
    given.collect()
}

fn ended(actions: &[Action]) -> Vec<Gone> {
    let ended = actions.iter().filter_map(|action| match action {
        Action::Terminate { why, .. } => Some(*why),
        _ => None,
    });
    ended.collect()
}

#[test]
fn those_that_seek_get_room_on_as_few_instances_as_there_may_be() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(7);
    let actions = all.decide();
    // Two on each; the seventh would be a fourth instance.
    assert_eq!(launched(&actions), 3);
    let refused: Vec<_> = actions.iter().filter(|action| matches!(action, Action::Refuse { .. })).collect();
    assert_eq!(refused, [&Action::Refuse { seeker: seekers[6], why: Why::VcpuMax }], "who came last");
    all.join(&actions);
    assert_eq!(given(&all.decide()), seekers[..6]);
    // One leaves: its room is the next one's.
    all.roster.release(seekers[0], all.now);
    let next = all.seek(1);
    let actions = all.decide();
    assert_eq!((launched(&actions), given(&actions)), (0, next));
}

#[test]
fn one_that_is_not_ready_in_time_is_given_up_and_its_type_left_alone_for_a_while() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(1);
    assert_eq!(launched(&all.decide()), 1);
    all.pass(11);
    let actions = all.decide();
    assert_eq!((ended(&actions), launched(&actions)), (vec![Gone::GivenUp], 0));
    assert!(actions.contains(&Action::Refuse { seeker: seekers[0], why: Why::Unavailable }));
    all.pass(6);
    all.seek(1);
    let actions = all.decide();
    assert_eq!(launched(&actions), 1);
    all.join(&actions);
    assert_eq!(given(&all.decide()).len(), 1);
}

#[test]
fn one_that_is_lost_is_replaced_and_an_empty_one_given_back() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(1);
    let actions = all.decide();
    let ids = all.join(&actions);
    all.decide();
    all.now += SECOND * 6;
    let actions = all.decide();
    assert_eq!(actions, [Action::Terminate { id: ids[0].clone(), leases: seekers.clone(), why: Gone::Lost }]);
    // Its supervisor gives the room back, and asks again.
    all.roster.release(seekers[0], all.now);
    let seekers = all.seek(1);
    let actions = all.decide();
    let ids = all.join(&actions);
    assert_eq!(given(&all.decide()), seekers);
    all.roster.release(seekers[0], all.now);
    all.pass(59);
    assert_eq!(all.decide(), []);
    all.pass(2);
    assert_eq!(all.decide(), [Action::Stop { id: ids[0].clone() }]);
    let gone = all.roster.gone(&ids[0], all.now).unwrap();
    assert_eq!(gone, Action::Terminate { id: ids[0].clone(), leases: vec![], why: Gone::Empty });
    assert!(all.roster.gone(&ids[0], all.now).is_none());
}

#[test]
fn old_ones_are_replaced_one_after_the_other_and_only_if_a_new_one_fits() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(4);
    let actions = all.decide();
    all.join(&actions);
    all.decide();
    all.pass(3601);
    let actions = all.decide();
    assert_eq!(actions, [Action::Leave { lease: seekers[0] }, Action::Leave { lease: seekers[1] }]);
    // Both look for other room; what they have stays until they have it.
    let moved = all.seek(2);
    let actions = all.decide();
    assert_eq!(launched(&actions), 1);
    let new = all.join(&actions);
    assert_eq!(given(&all.decide()), moved);
    seekers[..2].iter().for_each(|lease| all.roster.release(*lease, all.now));
    let actions = all.decide();
    let [Action::Stop { id }] = &actions[..] else { panic!("{actions:?}") };
    let gone = all.roster.gone(&id.clone(), all.now);
    assert!(matches!(gone, Some(Action::Terminate { why: Gone::Aged, .. })), "{gone:?}");
    let actions = all.decide();
    assert_eq!(actions, [Action::Leave { lease: seekers[2] }, Action::Leave { lease: seekers[3] }], "then the second");
    assert_eq!(all.roster.instances()[&new[0]].leases.len(), 2);

    // Another that is old has room, and will not be there for long.
    let mut half = Clocked::new(15);
    half.seek(3);
    let actions = half.decide();
    half.join(&actions);
    half.decide();
    half.pass(3601);
    half.decide();
    let moved = half.seek(2);
    let actions = half.decide();
    let new = half.join(&actions);
    assert_eq!((new.len(), given(&half.decide())), (1, moved));
    assert_eq!(half.roster.instances()[&new[0]].leases.len(), 2);

    let mut full = Clocked::new(5);
    full.seek(1);
    let actions = full.decide();
    full.join(&actions);
    full.decide();
    full.pass(3601);
    assert_eq!(full.decide(), [], "there is no room beside it");
}

#[test]
fn one_that_says_it_is_unhealthy_is_replaced_and_goes_on_if_there_is_no_room() {
    let full = || Beat { unhealthy: Some("its disk is full".into()), ..Beat::default() };
    let mut all = Clocked::new(15);
    let seekers = all.seek(4);
    let actions = all.decide();
    let ids = all.join(&actions);
    all.decide();
    ids.iter().for_each(|id| all.roster.beat(id, full(), all.now));
    let leave = [0, 1].map(|one| Action::Leave { lease: seekers[one] });
    assert_eq!(all.decide(), leave, "one after the other");
    // Nobody finds other room: what answers is not ended.
    all.now += SECOND * 31;
    ids.iter().for_each(|id| all.roster.beat(id, full(), all.now));
    assert_eq!(all.decide(), leave, "it drains again");
    seekers[..2].iter().for_each(|lease| all.roster.release(*lease, all.now));
    let [Action::Stop { id }] = &all.decide()[..] else { panic!("it stops when it is empty") };
    let gone = all.roster.gone(id, all.now);
    assert!(matches!(gone, Some(Action::Terminate { why: Gone::Unhealthy, .. })), "{gone:?}");
    // One that was so from its beginning is not bought again at once.
    let seeker = all.seek(3)[2];
    assert!(all.decide().contains(&Action::Refuse { seeker, why: Why::Unavailable }));
}

#[test]
fn those_that_fail_together_count_once_and_a_pause_of_ones_own_is_nobodys_silence() {
    let mut all = Clocked::new(15);
    all.seek(6);
    let actions = all.decide();
    assert_eq!(launched(&actions), 3);
    all.now += SECOND * 11;
    assert_eq!(ended(&all.decide()), [Gone::GivenUp; 3]);
    all.now += SECOND * 5;
    all.seek(1);
    let actions = all.decide();
    assert_eq!(launched(&actions), 1, "after the first pause");
    all.join(&actions);
    all.now += SECOND * 60;
    all.roster.stood_still(SECOND * 60);
    assert_eq!(ended(&all.decide()), []);
    all.now += SECOND * 6;
    assert_eq!(ended(&all.decide()), [Gone::Lost]);
}

#[test]
fn a_limit_that_is_lowered_takes_nothing_and_gives_nothing_more() {
    let mut all = Clocked::new(15);
    all.seek(4);
    let actions = all.decide();
    all.join(&actions);
    assert_eq!(given(&all.decide()).len(), 4);
    all.roster.set_vcpu_max(5);
    let seeker = all.seek(1)[0];
    assert_eq!(all.decide(), [Action::Refuse { seeker, why: Why::VcpuMax }]);
    assert_eq!(all.roster.instances().len(), 2);
    all.roster.set_vcpu_max(15);
    all.seek(1);
    assert_eq!(launched(&all.decide()), 1);
}

#[test]
fn costs_are_each_ones_part_of_the_cores_and_go_on_by_the_clock() {
    let mut all = Clocked::new(15);
    let leases = all.seek(1);
    let actions = all.decide();
    all.join(&actions);
    all.decide();
    let mut costs = Costs::default();
    // Two of the four cores that environments may have.
    let expected = BTreeMap::from([("f".to_owned(), 4.0), (String::new(), 4.0)]);
    assert_eq!(*costs.look(all.roster.instances(), |_| 8.0, all.now), expected);
    all.pass(900);
    costs.look(all.roster.instances(), |_| 8.0, all.now);
    all.roster.release(leases[0], all.now);
    let expected = BTreeMap::from([("f".to_owned(), 0.0), (String::new(), 8.0)]);
    assert_eq!(*costs.look(all.roster.instances(), |_| 8.0, all.now), expected);
    all.pass(450);
    let expected = BTreeMap::from([(String::new(), 8.0)]);
    assert_eq!(*costs.look(all.roster.instances(), |_| 8.0, all.now), expected);
    let of = |function: &str, usd_per_hour, usd| FunctionCost { function: function.into(), usd_per_hour, usd };
    assert_eq!(costs.of_all(), [of("", 8.0, 2.0), of("f", 0.0, 1.0)]);
}

/// Agents as tasks, and whether they may come.
struct Tasks {
    running: Mutex<BTreeMap<String, AbortHandle>>,
    script: &'static str,
}

#[async_trait]
impl Provider for Tasks {
    async fn launch(&self, _: &str, _: &str, told: &Told) -> io::Result<()> {
        let launcher =
            Launcher { program: "/bin/sh".into(), accelerated: None, arguments: vec!["-c".into(), self.script.into()] };
        let task = tokio::spawn(agent::run(told.clone(), launcher));
        self.running.lock().insert(told.id.clone(), task.abort_handle());
        Ok(())
    }

    async fn terminate(&self, id: &str) {
        if let Some(task) = self.running.lock().remove(id) {
            task.abort();
        }
    }

    async fn ended(&self) -> String {
        std::future::pending().await
    }

    async fn close(&self) {}
}

fn specification(cores: u32) -> Specification {
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
        cores,
        memory_bytes: 1 << 30,
        device: None,
        accelerator: None,
        body_bytes_max: 1 << 20,
    }
}

struct World {
    fleet: Arc<Fleet>,
    tasks: Arc<Tasks>,
    launch: OnInstances,
    _folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

fn world(script: &'static str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Arc::new(Tasks { running: Mutex::default(), script });
    let options = FleetOptions {
        rules: rules(10),
        types: types(),
        deadlines: deadlines(),
        folder: folder.path().join("sockets"),
        disk: Some(folder.path().into()),
        token: || Ok("token".into()),
    };
    let stop = CancellationToken::new();
    let fleet = Fleet::open(options, tasks.clone(), stop.clone()).unwrap();
    World { launch: OnInstances(fleet.clone()), fleet, tasks, _folder: folder, _stop: stop.drop_guard() }
}

/// Says a word that it was given, then what it is told, and something in its log.
const ECHO: &str = "echo $WORD >&0; echo 'a line' >&2; exec /bin/cat <&0 >&0";

async fn line(started: &mut Started) -> String {
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
    let world = world(ECHO);
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
    assert!(matches!(&too_large, LaunchError::NoRoom(why) if why.contains("9 vCPU")), "{too_large}");
}

#[tokio::test]
async fn what_is_lost_with_its_instance_is_told_and_there_is_room_elsewhere() {
    let world = world(ECHO);
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
        let address = world.fleet.folder().join(address);
        let join = Join { id: id.into(), token: "token".into(), pid: 1, is_limited: false, address };
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
        write(&mut stream, &begin).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "one vCPU is free");
    }
}

#[tokio::test]
async fn a_second_server_leaves_the_instances_of_the_first_alone() {
    let world = world(ECHO);
    let options = |folder: &std::path::Path| FleetOptions {
        rules: rules(10),
        types: types(),
        deadlines: deadlines(),
        folder: folder.to_owned(),
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
