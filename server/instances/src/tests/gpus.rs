//! Agents with GPUs: a library with NVML's names that answers from a recording (see `gpu/inventory/tests/recorded/nvml.c`).

use super::agents::{World, line, specification, world_of};
use super::{SECOND, shape, types};
use crate::agent::DeviceOptions;
use crate::{DeviceAccess, InstanceView, Listen};
use penstock_environment::{Accelerator, Launch, LaunchError, Specification, Started};
use penstock_scaler::{InstanceType, Shape};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const WHOLE: &str = "GPU-11111111-aaaa-bbbb-cccc-000000000001";
const LARGE: &str = "MIG-22222222-aaaa-bbbb-cccc-000000000010";
const GIB: u64 = 1 << 30;

/// Says on which device it is.
const WHERE: &str = "echo on $CUDA_VISIBLE_DEVICES >&0; exec /bin/cat <&0 >&0";

struct Driver(tempfile::TempDir);

impl Driver {
    fn new() -> Self {
        let driver = Self(tempfile::tempdir().unwrap());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gpu/inventory/tests/recorded/nvml.c");
        let compiler = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&driver.library(), &source])
            .status();
        assert!(compiler.unwrap().success());
        driver.say(&std::fs::read_to_string(source.with_file_name("two-h200.txt")).unwrap());
        driver
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("libnvidia-ml.so.1")
    }

    /// At once: a reader sees the old or the new.
    fn say(&self, recording: &str) {
        let (new, path) = (self.0.path().join("new"), self.0.path().join("recording.txt"));
        std::fs::write(&new, recording).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn recording(&self) -> String {
        std::fs::read_to_string(self.0.path().join("recording.txt")).unwrap()
    }

    fn world(&self, only: Option<Vec<String>>, devices: u32) -> World {
        let of_gpu = InstanceType {
            name: "gpu".into(),
            shape: Shape { devices, device_memory_mib: 140_000, ..shape() },
            ..types().remove(0)
        };
        let access = DeviceAccess {
            device_files: vec!["/dev/its-own".into()],
            readable: vec!["/proc/its-own".into()],
            library_path: vec!["/its/lib".into()],
        };
        let options = DeviceOptions { nvml: Some(self.library()), only, kept_bytes: 512 << 20, access };
        world_of(WHERE, Listen::Folder, vec![types().remove(0), of_gpu], options)
    }
}

fn on_gpu(gib: u64, required: bool) -> Specification {
    let accelerator = Accelerator {
        memory_bytes: gib * GIB,
        required,
        with_instance: true,
        weight: 3,
        device_files: vec!["/dev/the-servers".into()],
        ..Accelerator::default()
    };
    Specification { accelerator: Some(accelerator), ..specification(1) }
}

async fn becomes(world: &World, what: &str, is: impl Fn(&InstanceView) -> bool) -> InstanceView {
    for _ in 0..200 {
        if let Some(found) = world.fleet.instances().into_iter().find(&is) {
            return found;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: {:?}", world.fleet.instances());
}

async fn start(world: &World, specification: &Specification) -> (Started, String) {
    let mut started = timeout(SECOND * 20, world.launch.start(specification)).await.unwrap().unwrap();
    let line = line(&mut started).await;
    (started, line)
}

#[tokio::test]
async fn an_environment_is_on_a_device_of_its_instance_with_what_that_machine_has() {
    let driver = Driver::new();
    let world = driver.world(None, 3);
    let (started, line) = start(&world, &on_gpu(60, true)).await;
    assert_eq!(line, format!("on {LARGE}"), "a slice has room and the whole is left for others");
    let there = started.specification.as_ref().unwrap();
    assert_eq!(there.placed_on(), Some(LARGE));
    assert_eq!(there.device.as_ref().map(|share| (&*share.name, share.weight)), Some((LARGE, 3)));
    let isolation = &there.isolation;
    assert_eq!(isolation.devices, [Path::new("/dev/its-own")]);
    assert_eq!(isolation.readable, ["/proc/its-own", "/its/lib"].map(PathBuf::from));
    assert_eq!(isolation.variables["LD_LIBRARY_PATH"], "/its/lib");
    let seen = becomes(&world, "it tells what is in use", |one| {
        one.devices.iter().all(|device| device.memory_used_mib.is_some()) && !one.devices.is_empty()
    });
    let devices = seen.await.devices;
    let of = |uuid: &str| devices.iter().find(|device| device.device_id == uuid).unwrap();
    assert_eq!((devices.len(), of(WHOLE).memory_mib, of(WHOLE).memory_used_mib), (3, 143_771, Some(1024)));
    let slice = of(LARGE);
    assert_eq!(
        (&*slice.name, slice.memory_given_mib, slice.memory_used_mib),
        ("NVIDIA H200 MIG 3g.71gb", 60 * 1024, Some(512))
    );
    // What it turns out to take is its part, as far as there is so much.
    started.life.resize(65 * GIB).unwrap();
    let error = started.life.resize(70 * GIB).unwrap_err();
    assert!(error.contains("it takes 71680 MiB") && error.contains("and has 66560 MiB"), "{error}");
    let (_second, line) = start(&world, &on_gpu(100, true)).await;
    assert_eq!(line, format!("on {WHOLE}"));
    // What need not be on one is on the CPU if none is so large; what has to be is refused.
    let (third, line) = start(&world, &on_gpu(140, false)).await;
    let there = third.specification.as_ref().unwrap();
    assert_eq!((&*line, there.placed_on(), &there.device, &there.isolation.devices), ("on", None, &None, &vec![]));
    assert_eq!(third.life.resize(500 * GIB), Ok(()), "it takes none");
    let error = world.launch.start(&on_gpu(140, true)).await.err().unwrap();
    let LaunchError::NeverRoom(why) = error else { panic!("{error}") };
    assert_eq!(
        why,
        "it needs 1 vCPU, 143360 MiB of one device and 1024 MiB of an instance, and no type of instance is so large"
    );
    assert_eq!(world.fleet.instances().len(), 1);
}

#[tokio::test]
async fn a_fault_of_a_gpu_has_its_instance_drained_and_replaced() {
    let driver = Driver::new();
    let world = driver.world(Some(vec![WHOLE.into()]), 1);
    let (first, line) = start(&world, &on_gpu(60, true)).await;
    assert_eq!(line, format!("on {WHOLE}"));
    let sound = driver.recording();
    // A program's fault, and that of a GPU which is another's, are none of its own.
    driver.say(&format!("{sound}xid {WHOLE} 31\nxid GPU-22222222-aaaa-bbbb-cccc-000000000002 79\n"));
    sleep(SECOND * 3).await;
    assert_eq!(world.fleet.instances()[0].unhealthy, None);
    driver.say(&format!("{}xid {WHOLE} 79\n", driver.recording()));
    let broken = becomes(&world, "it says so", |one| one.unhealthy.is_some()).await;
    let words = format!("its GPU {WHOLE} has failed (Xid 79)");
    assert_eq!((broken.unhealthy.as_ref(), broken.devices[0].fault.as_ref()), (Some(&words), Some(&words)));
    let leaving = first.leaving.as_ref().unwrap();
    timeout(SECOND * 10, leaving.cancelled()).await.unwrap();
    // Events are those of a driver that runs: another machine has others.
    driver.say(&sound);
    let (_second, line) = start(&world, &on_gpu(60, true)).await;
    assert_eq!(line, format!("on {WHOLE}"));
    drop(first);
    let replaced = becomes(&world, "the new one is there", |one| one.instance_id != broken.instance_id).await;
    assert_eq!((replaced.unhealthy, replaced.environments["f:1"]), (None, 1));
    for _ in 0..200 {
        if world.fleet.instances().len() == 1 {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the old one is still there");
}

#[tokio::test]
async fn a_gpu_that_does_not_answer_any_more_makes_its_instance_unhealthy() {
    let driver = Driver::new();
    let world = driver.world(Some(vec![WHOLE.into()]), 1);
    let _first = start(&world, &on_gpu(60, true)).await;
    driver.say(&driver.recording().replace(" NVIDIA H200\ngpu", " NVIDIA H200\nlost\ngpu"));
    let lost = becomes(&world, "it says so", |one| one.unhealthy.is_some()).await;
    let words = format!("its GPU {WHOLE} does not answer: device {WHOLE}: the GPU has fallen off the bus");
    assert_eq!(lost.unhealthy, Some(words));
}
