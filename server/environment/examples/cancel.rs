//! How long a cancel takes to reach an environment, with a worker that is busy and others waiting: from the moment the
//! caller's future is dropped until a call sent right behind it on the same link has been refused by the environment, which
//! reads in order. The way back of that refusal is in it, so this is an upper bound. Microseconds.
//!
//! `cargo run --release -p penstock-environment --example cancel -- target/release/penstock`

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "it measures")]

use bytes::Bytes;
use penstock_domain::{Architecture, Datatype, FunctionName, Invocation, Tensor};
use penstock_environment::{
    BatchingPolicy, EnvironmentHandle, IsolationPolicy, Launch, Launcher, QueueLimits, Specification, Started,
};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5000;
/// Beside those that are cancelled, so many wait all the time.
const WAITING: usize = 64;

#[tokio::main]
async fn main() {
    let program = std::env::args().nth(1).expect("the program to start environments with");
    let program = std::path::Path::new(&program).canonicalize().unwrap();
    let launcher = Launcher { program, accelerated: None, arguments: vec!["environment".into()] };
    let options = serde_json::json!({"execute_delay_us": 1_000_000, "execute_delay_us_per_item": 0,
        "delay_kind": "sleep", "max_batch_size": 1});
    let specification = Specification {
        function: "slow".into(),
        version: 1,
        runtime: serde_json::json!({"kind": "identity", "options": options, "inputs": [], "outputs": []}),
        batching: BatchingPolicy::default(),
        queue: QueueLimits { requests: 1000, ..QueueLimits::default() },
        workers: 1,
        preparation_threads: 1,
        isolation: IsolationPolicy::default(),
        device: None,
        accelerator: None,
        provider: None,
        architecture: Architecture::OWN,
        cores: 1,
        memory_bytes: 0,
        body_bytes_max: 1 << 20,
    };
    let Started { from, to, life, .. } = launcher.start(&specification).await.unwrap();
    let environment = EnvironmentHandle::start(from, to, &specification, None, Box::new(|_| {})).await.unwrap();
    let call = |inputs: usize| {
        let environment = environment.clone();
        async move { environment.call(invocation(inputs), false, Instant::now()).await }
    };
    let waiting: Vec<_> = (0..=WAITING).map(|_| tokio::spawn(call(1))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut took_us = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let cancelled = tokio::spawn(call(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        cancelled.abort();
        let _ = cancelled.await;
        // Two inputs of one name: refused as it is read.
        assert!(call(2).await.is_err());
        took_us.push(began.elapsed().as_micros());
    }
    took_us.sort_unstable();
    let at = |share: f64| took_us[(share * (ROUNDS - 1) as f64) as usize];
    println!("{ROUNDS} cancels: p50 {} p99 {} p99.9 {} worst {}", at(0.5), at(0.99), at(0.999), at(1.0));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    environment.cut();
    drop(life);
}

fn invocation(inputs: usize) -> Invocation {
    let tensor = Tensor {
        name: "x".into(),
        datatype: Datatype::Uint8,
        shape: [1, 1].into_iter().collect(),
        data: Bytes::from_static(&[1]),
    };
    Invocation {
        function: FunctionName::new("slow").unwrap(),
        qualifier: penstock_domain::Qualifier::Unnamed,
        id: String::new(),
        parameters: Vec::new(),
        inputs: vec![tensor; inputs],
        outputs: Vec::new(),
        deadline: None,
        priority: 0,
        caller: None,
        splittable: false,
    }
}
