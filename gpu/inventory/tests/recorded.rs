//! The inventory, against a library with NVML's names that answers from a recording.
#![allow(clippy::unwrap_used)] // tests

use penstock_domain::DeviceReading;
use penstock_inventory::{Driver, Fault, FaultClass, InventoryError, Nvidia, Watch};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

const FIRST: &str = "GPU-11111111-aaaa-bbbb-cccc-000000000001";
const SECOND: &str = "GPU-22222222-aaaa-bbbb-cccc-000000000002";
const MIB: u64 = 1 << 20;

/// The library, built, and its recording.
struct Recorded {
    folder: tempfile::TempDir,
}

impl Recorded {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/nvml.c");
        let recorded = Self { folder };
        let compiled = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&recorded.library(), &source])
            .status()
            .unwrap();
        assert!(compiled.success());
        recorded.say(&std::fs::read_to_string(source.with_file_name("two-h200.txt")).unwrap());
        recorded
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// At once: a reader sees the old or the new.
    fn say(&self, recording: &str) {
        let (new, path) = (self.folder.path().join("new"), self.folder.path().join("recording.txt"));
        std::fs::write(&new, recording).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn recording(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("recording.txt")).unwrap()
    }

    fn open(&self) -> Nvidia {
        Nvidia::open(Some(&self.library())).unwrap().unwrap()
    }
}

#[test]
fn gpus_and_slices_are_listed_and_read() {
    let recorded = Recorded::new();
    let nvidia = recorded.open();
    assert_eq!(nvidia.driver().unwrap(), Driver { version: "580.159.04".into(), cuda: (13, 0) });
    let gpus: Vec<_> = nvidia.gpus().unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(
        gpus.iter().map(|gpu| (gpu.index, gpu.uuid.as_str(), gpu.sliced)).collect::<Vec<_>>(),
        [(0, FIRST, false), (1, SECOND, true)]
    );
    assert_eq!((gpus[0].name.as_str(), gpus[0].compute_capability), ("NVIDIA H200", Some((9, 0))));
    // Nothing runs on a GPU that is cut, only on its slices.
    let places: Vec<_> = gpus.iter().flat_map(|gpu| gpu.places()).map(|p| (p.uuid, p.index, p.memory_bytes)).collect();
    assert_eq!(
        places,
        [
            (FIRST.into(), 0, 143_771 * MIB),
            ("MIG-22222222-aaaa-bbbb-cccc-000000000010".into(), 1, 71_424 * MIB),
            ("MIG-22222222-aaaa-bbbb-cccc-000000000011".into(), 1, 18_176 * MIB),
        ]
    );
    assert_eq!(
        nvidia.read(FIRST).unwrap(),
        DeviceReading {
            memory_total_bytes: Some(143_771 * MIB),
            memory_used_bytes: Some(1024 * MIB),
            memory_free_bytes: Some(142_747 * MIB),
            busy: Some(0.37),
            temperature_celsius: Some(41),
            power_watts: Some(120.5),
            power_limit_watts: Some(700.0),
            energy_joules: Some(123_456.789),
            ecc_corrected: Some(2),
            ecc_uncorrected: Some(0),
        }
    );
    let cut = nvidia.read(SECOND).unwrap();
    assert_eq!((cut.busy, cut.temperature_celsius, cut.ecc_uncorrected), (None, Some(35), Some(1)));
}

#[test]
fn a_machine_without_a_driver_is_a_normal_one_and_a_broken_driver_is_not() {
    assert!(Nvidia::open(None).is_ok(), "whether or not this machine has one");
    let recorded = Recorded::new();
    recorded.say("driver none\n");
    let broken = Nvidia::open(Some(&recorded.library())).unwrap_err().to_string();
    assert_eq!(broken, "NVIDIA's driver is there and does not work: the kernel's module is not loaded");
    let named = Nvidia::open(Some(Path::new("/nowhere/libnvidia-ml.so.1"))).unwrap_err();
    assert!(matches!(&named, InventoryError::Driver(text) if text.contains("/nowhere/")), "{named}");
    let text = recorded.folder.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    assert!(Nvidia::open(Some(&text)).is_err());
}

#[test]
fn a_lost_gpu_hides_no_other() {
    let recorded = Recorded::new();
    let nvidia = recorded.open();
    recorded.say(&recorded.recording().replace("0 1 NVIDIA H200\n", "0 1 NVIDIA H200\nlost\n"));
    let gpus = nvidia.gpus().unwrap();
    assert_eq!(gpus[0].as_ref().unwrap().uuid, FIRST);
    assert_eq!(gpus[1].as_ref().unwrap_err().to_string(), "device 1: the GPU has fallen off the bus");
    assert!(nvidia.read(SECOND).is_err() && nvidia.read(FIRST).is_ok());
    assert_eq!(nvidia.read("GPU-0").unwrap_err().to_string(), "device GPU-0: there is no such device");
}

#[test]
fn a_gpu_that_tells_little_has_its_slices_and_hides_no_fault() {
    let recorded = Recorded::new();
    let nvidia = recorded.open();
    recorded.say(&recorded.recording().replace("0 1 NVIDIA H200\n", "0 1 NVIDIA H200\nprivate\n"));
    let gpus: Vec<_> = nvidia.gpus().unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!((gpus[1].memory_bytes, gpus[1].places().len()), ((71_424 + 18_176) * MIB, 2));
    assert_eq!(nvidia.read(SECOND).unwrap().memory_used_bytes, None);
    // It has no events either, and those of the others are heard all the same.
    let (tell, told) = mpsc::channel();
    let _watch = Watch::start(nvidia, move |fault| tell.send(fault).unwrap()).unwrap();
    recorded.say(&format!("{}xid {FIRST} 13\n", recorded.recording()));
    assert_eq!(told.recv_timeout(Duration::from_secs(20)).unwrap(), Fault { uuid: FIRST.into(), xid: 13 });
}

#[test]
fn faults_are_told_as_they_happen() {
    let recorded = Recorded::new();
    let (tell, told) = mpsc::channel();
    let watch = Watch::start(recorded.open(), move |fault| tell.send(fault).unwrap()).unwrap();
    let heard = || told.recv_timeout(Duration::from_secs(20)).unwrap();
    recorded.say(&format!("{}xid {FIRST} 31\n", recorded.recording()));
    let fault = heard();
    assert_eq!((&fault, fault.class()), (&Fault { uuid: FIRST.into(), xid: 31 }, FaultClass::Program));
    recorded.say(&format!("{}xid {SECOND} 79\n", recorded.recording()));
    assert_eq!(heard(), Fault { uuid: SECOND.into(), xid: 79 });
    drop(watch);
    assert!(told.recv().is_err(), "its thread has ended, and with it what would tell");
}
