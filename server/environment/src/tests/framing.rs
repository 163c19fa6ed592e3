//! Messages arrive as they were sent, whatever their size and however the stream is cut.

use crate::frame::{Body, CHUNK_BYTES, FrameReader, Outbox, write_frames};
use bytes::Bytes;
use penstock_proto::link::{self, header::Kind};
use proptest::prelude::*;
use prost::Message;
use std::time::Duration;

fn cancel() -> Kind {
    Kind::Cancel(link::Cancel {})
}

fn drain() -> Kind {
    Kind::Drain(link::Drain {})
}

async fn through(pipe_bytes: usize, bodies: Vec<Vec<usize>>) -> Vec<(u64, usize, u64)> {
    let (near, far) = tokio::io::duplex(pipe_bytes);
    let outbox = Outbox::new();
    for (call, pieces) in bodies.iter().enumerate() {
        let body: Body = pieces.iter().map(|size| Bytes::from(vec![call as u8; *size])).collect();
        outbox.send(call as u64, drain(), body);
    }
    outbox.close();
    let writer = tokio::spawn(write_frames(outbox, near));
    let mut reader = FrameReader::new(far, 1 << 30);
    let mut seen = Vec::new();
    while let Some(message) = reader.next().await.unwrap() {
        let sum = message.body.iter().map(|byte| u64::from(*byte)).sum();
        seen.push((message.call, message.body.len(), sum));
    }
    writer.await.unwrap().unwrap();
    seen.sort_unstable();
    seen
}

#[tokio::test]
async fn small_and_large_bodies_arrive_whole() {
    let sizes = [0, 1, 100, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17];
    let bodies = sizes.iter().map(|size| vec![*size, 3]).collect();
    let seen = through(4096, bodies).await;
    let expected: Vec<_> =
        sizes.iter().enumerate().map(|(call, size)| (call as u64, size + 3, (call * (size + 3)) as u64)).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_cancel_does_not_wait_for_a_large_body() {
    let (near, far) = tokio::io::duplex(CHUNK_BYTES);
    let outbox = Outbox::new();
    outbox.send(1, drain(), [Bytes::from(vec![0; 64 * CHUNK_BYTES])].into_iter().collect());
    tokio::spawn(write_frames(outbox.clone(), near));
    tokio::task::yield_now().await; // the writer is now held up by the full pipe
    outbox.send(2, cancel(), Body::new());
    let mut reader = FrameReader::new(far, 1 << 30);
    assert_eq!(reader.next().await.unwrap().unwrap().call, 2);
    assert_eq!(reader.next().await.unwrap().unwrap().call, 1);
}

#[tokio::test]
async fn a_message_cancelled_while_its_body_crosses_never_arrives() {
    let (near, far) = tokio::io::duplex(CHUNK_BYTES);
    let outbox = Outbox::new();
    outbox.send(1, drain(), [Bytes::from(vec![0; 64 * CHUNK_BYTES])].into_iter().collect());
    let writer = tokio::spawn(write_frames(outbox.clone(), near));
    tokio::task::yield_now().await;
    outbox.send(1, cancel(), Body::new());
    outbox.send(2, cancel(), Body::new());
    outbox.close();
    let mut reader = FrameReader::new(far, 1 << 30);
    let mut calls = Vec::new();
    while let Some(message) = reader.next().await.unwrap() {
        assert!(matches!(message.kind, Kind::Cancel(_)));
        calls.push(message.call);
    }
    assert_eq!(calls, [1, 2]);
    writer.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_and_nonsense_are_refused() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let outbox = Outbox::new();
    outbox.send(1, drain(), [Bytes::from(vec![0; 2000])].into_iter().collect());
    tokio::spawn(write_frames(outbox, near));
    assert!(FrameReader::new(far, 1000).next().await.is_err());
    let nonsense: &[u8] = &[255; 64];
    assert!(FrameReader::new(nonsense, 1000).next().await.is_err());
    let cut: &[u8] = &[9, 0, 0];
    assert!(FrameReader::new(cut, 1000).next().await.is_err());
}

/// A frame of this header, and of so many bytes of body beside it.
fn frame(call: u64, body_bytes: u64, kind: Kind, beside: usize) -> Vec<u8> {
    let header = link::Header { call, body_bytes, kind: Some(kind) }.encode_to_vec();
    let mut bytes = ((header.len() + beside) as u32).to_le_bytes().to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    bytes.extend(vec![7; beside]);
    bytes
}

fn chunk(call: u64, bytes: usize) -> Vec<u8> {
    frame(call, bytes as u64, Kind::Chunk(link::BodyChunk {}), bytes)
}

#[tokio::test]
async fn a_peer_cannot_send_more_than_it_has_announced() {
    let large = 20_000;
    let open = || frame(1, large, drain(), 0);
    let again = [open(), frame(1, 0, cancel(), 0), open(), chunk(1, 1000)].concat();
    let twice = [open(), open()].concat();
    let over = [open(), chunk(1, 15_000), chunk(1, 5_001)].concat();
    let nobodys = chunk(9, 10);
    let part_beside = frame(1, large, drain(), 100);
    for bytes in [again, twice, over, nobodys, part_beside] {
        let mut reader = FrameReader::new(&bytes[..], 1 << 20);
        let end = loop {
            match reader.next().await {
                Ok(Some(message)) => assert!(matches!(message.kind, Kind::Cancel(_)), "{message:?}"),
                end => break end,
            }
        };
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }
    // Cut in a chunk, and read in any pieces.
    let whole = [open(), chunk(1, 15_000), frame(2, 0, cancel(), 0), chunk(1, 5_000)].concat();
    let mut cut = FrameReader::new(&whole[..9_000], 1 << 20);
    assert_eq!(cut.next().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let mut reader = FrameReader::new(&whole[..], 1 << 20);
    assert_eq!(reader.next().await.unwrap().unwrap().call, 2);
    let message = reader.next().await.unwrap().unwrap();
    assert_eq!((message.call, message.body.len()), (1, 20_000));
    assert!(reader.next().await.unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_bodies_through_any_pipe(pipe in 1usize..70_000, bodies in prop::collection::vec(prop::collection::vec(0usize..40_000, 0..3), 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let seen = runtime.block_on(through(pipe, bodies.clone()));
        prop_assert_eq!(seen.len(), bodies.len());
        for (call, pieces) in bodies.iter().enumerate() {
            prop_assert_eq!(seen[call].1, pieces.iter().sum::<usize>());
        }
    }

    #[test]
    fn nonsense_never_panics(data: Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(&data[..], 1000);
            while let Ok(Some(_)) = reader.next().await {}
        });
    }
}

#[tokio::test]
async fn what_stands_between_the_ends_is_told_to_send_on() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let outbox = Outbox::new();
    // As TLS does where the socket is full.
    tokio::spawn(write_frames(outbox.clone(), tokio::io::BufWriter::with_capacity(1 << 16, near)));
    outbox.send(7, Kind::Cancel(link::Cancel {}), Body::new());
    let mut reader = FrameReader::new(far, 1 << 20);
    let incoming = tokio::time::timeout(Duration::from_secs(10), reader.next()).await.expect("it is not kept back");
    assert_eq!(incoming.unwrap().unwrap().call, 7);
}
