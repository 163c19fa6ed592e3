//! What an environment says of its isolation is seen from outside, on the real process.
#![allow(clippy::unwrap_used)] // helpers of tests

use penstock_domain::Architecture;
use penstock_environment::{
    BatchingPolicy, EnvironmentHandle, IsolationPolicy, Launched, Launcher, QueueLimits, Specification,
};
use serde_json::json;
use std::sync::Arc;

async fn start() -> (Arc<EnvironmentHandle>, tokio::process::Child) {
    let launcher = Launcher {
        program: env!("CARGO_BIN_EXE_penstock").into(),
        accelerated: None,
        arguments: vec!["environment".into()],
    };
    let specification = Specification {
        function: "identity".into(),
        version: 1,
        runtime: json!({
            "kind": "identity", "inputs": [], "outputs": [],
            "options": {"execute_delay_us": 0, "execute_delay_us_per_item": 0, "delay_kind": "sleep", "max_batch_size": 1},
        }),
        batching: BatchingPolicy::default(),
        queue: QueueLimits::default(),
        workers: 1,
        preparation_threads: 1,
        isolation: IsolationPolicy { nice: 3, memory_limit_bytes: 8 << 30, ..IsolationPolicy::default() },
        device: None,
        accelerator: None,
        provider: None,
        architecture: Architecture::OWN,
        cores: 1,
        memory_bytes: 0,
        body_bytes_max: 1 << 20,
    };
    let Launched { child, link } = launcher.launch(&specification.isolation).unwrap();
    let (from, to) = link.into_split();
    (EnvironmentHandle::start(from, to, &specification, None, Box::new(|_| {})).await.unwrap(), child)
}

fn proc(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

fn status(pid: u32, key: &str) -> String {
    let status = proc(pid, "status");
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn every_measure_said_to_be_in_force_is() {
    let (environment, child) = start().await;
    let pid = child.id().unwrap();
    assert_eq!(environment.report().pid, pid);
    let measures = &environment.report().isolation;
    let in_force = |name: &str| measures.iter().any(|measure| measure.name == name && measure.in_force);
    let names: Vec<_> = measures.iter().map(|measure| measure.name.as_str()).collect();
    assert_eq!(names.len(), 8, "{names:?}");

    let stat = proc(pid, "stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    assert_eq!(in_force("session"), fields[2] == pid.to_string() && fields[3] == pid.to_string());
    assert_eq!(in_force("cleared_environment"), proc(pid, "environ").is_empty());
    assert_eq!(in_force("no_new_privileges"), status(pid, "NoNewPrivs:") == "1");
    assert_eq!(in_force("system_call_filter"), status(pid, "Seccomp:") == "2");
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(in_force("no_network"), network(&pid.to_string()) != network("self"));
    let limits = proc(pid, "limits");
    let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    if in_force("resource_limits") {
        assert!(limit("Max open files").contains(" 256 "));
        assert!(limit("Max core file size").contains(" 0 "));
        assert!(limit("Max data size").contains(&(8u64 << 30).to_string()));
        assert_eq!(fields[16], "3", "niceness");
    }
    // Descriptor 0 and its owned copy are the link; the runtime adds its own; no file and no foreign socket is there.
    let mut sockets = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned();
        if target.starts_with("socket:") {
            sockets.insert(target.clone());
        }
        let known = ["socket:", "anon_inode:", "pipe:", "/dev/null"].iter().any(|prefix| target.starts_with(prefix));
        assert!(known, "an environment holds {target}");
    }
    // The link, and the pair by which the runtime hears of signals.
    assert!(in_force("one_descriptor") && sockets.len() <= 3, "{sockets:?}");
}

#[tokio::test]
async fn the_end_of_its_link_is_its_death() {
    let (environment, mut child) = start().await;
    environment.cut();
    let status = tokio::time::timeout(std::time::Duration::from_secs(5), child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    environment.lost().await;
}
