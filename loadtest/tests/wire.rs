//! The generator's HTTP/2 client against hyper's server, over a pipe in memory: no socket, no clock.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use penstock_loadtest::echo;
use penstock_loadtest::payload::{Payloads, Shape};
use penstock_loadtest::target::Target;
use penstock_loadtest::wire::{Answer, Client, Ticket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn bodies(scheme: &str, tensor_bytes: usize, count: usize) -> (Client, Vec<Bytes>) {
    let target = Target::parse(&format!("{scheme}://127.0.0.1:1")).unwrap();
    let shape = Shape {
        model: "identity".into(),
        tensor_bytes,
        tokens: None,
        batch: 1,
        input: "INPUT0".into(),
        datatype: "FP32".into(),
        deadline_ms: Some(60_000),
        seed: 1,
    };
    let mut payloads = Payloads::prepare(&target, &shape).unwrap();
    (target.client(shape.deadline_ms), (0..count).map(|_| payloads.advance().clone()).collect())
}

/// Sends all at once, as soon as the connection is ready, and pumps until all are answered.
async fn exchange(mut client: Client, bodies: Vec<Bytes>, window: u32) -> Vec<Answer> {
    let (mut near, far) = tokio::io::duplex(8192);
    tokio::spawn(echo::connection(far, window));
    let (mut answers, mut sent, wanted) = (Vec::new(), false, bodies.len());
    let mut buffer = vec![0; 4096];
    while answers.len() < wanted {
        if client.is_ready() && !sent {
            for (at, body) in bodies.iter().enumerate() {
                client.send(Ticket { intended_us: at as u32, sent_us: at as u32 }, body);
            }
            sent = true;
        }
        // Written in turns with reading, as neither end may wait for the other.
        let out = std::mem::take(client.out());
        let (mut reader, mut writer) = tokio::io::split(&mut near);
        let mut written = 0;
        loop {
            tokio::select! {
                count = writer.write(&out[written..]), if written < out.len() => written += count.unwrap(),
                count = reader.read(&mut buffer) => {
                    let count = count.unwrap();
                    assert!(count > 0, "the server hung up");
                    client.receive(&buffer[..count], &mut answers).unwrap();
                }
            }
            if written == out.len() {
                break;
            }
        }
    }
    assert_eq!(client.in_flight(), 0);
    answers
}

#[tokio::test]
async fn unary_calls_are_answered_through_small_windows() {
    for (tensor_bytes, count, window) in [(16, 300, 1 << 20), (64 << 10, 40, 1 << 18), (600 << 10, 5, 1 << 18)] {
        let (client, bodies) = bodies("grpc", tensor_bytes, count);
        let mut answers = exchange(client, bodies, window).await;
        answers.sort_by_key(|answer| answer.ticket.intended_us);
        for (at, answer) in answers.iter().enumerate() {
            assert_eq!(answer.ticket.intended_us, at as u32);
            let reply = answer.result.as_ref().unwrap();
            assert_eq!((reply.http_status, reply.grpc_status), (200, Some(0)), "{tensor_bytes} bytes");
        }
    }
}

#[tokio::test]
async fn messages_of_a_stream_are_matched_by_id() {
    for (tensor_bytes, count, window) in [(16, 300, 1 << 20), (64 << 10, 40, 1 << 18)] {
        let (client, bodies) = bodies("grpc-stream", tensor_bytes, count);
        let answers = exchange(client, bodies, window).await;
        let order: Vec<u32> = answers.iter().map(|answer| answer.ticket.intended_us).collect();
        assert_eq!(order, (0..count as u32).collect::<Vec<_>>());
        assert!(answers.iter().all(|answer| answer.result.as_ref().is_ok_and(|reply| reply.grpc_status == Some(0))));
    }
}
