//! Heads are found wherever the chunks are cut; shares are taken before bytes pass and always come back.

use super::*;
use http_body_util::{BodyExt, StreamBody};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tonic::Code;

#[derive(Clone, Default)]
struct Shares(Arc<Mutex<Vec<ByteShare>>>);

impl ShareSink for Shares {
    fn put(&self, share: ByteShare) {
        self.0.lock().unwrap().push(share);
    }
}

fn message(flag: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![flag];
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn limits(message_bytes_max: usize, budget: u64) -> MessageLimits {
    MessageLimits {
        message_bytes_max,
        byte_budget: ByteBudget::new(budget),
        stall_timeout: Duration::from_secs(30),
        bytes_per_second_min: 1000,
        overload_codes: OverloadCodes::Lambda,
    }
}

fn body(chunks: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
    StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()))
}

async fn pass(limits: &MessageLimits, chunks: Vec<Vec<u8>>) -> (Result<Vec<u8>, tonic::Status>, Shares) {
    let shares = Shares::default();
    let limited = LimitedBody::new(body(chunks), limits.clone(), shares.clone(), true);
    (limited.collect().await.map(|collected| collected.to_bytes().to_vec()), shares)
}

#[tokio::test]
async fn heads_are_found_at_every_cut() {
    let mut wire = message(0, b"abc");
    wire.extend(message(0, b""));
    wire.extend(message(0, &[9; 20]));
    for first in 0..=wire.len() {
        for second in first..=wire.len() {
            let chunks = vec![wire[..first].to_vec(), wire[first..second].to_vec(), wire[second..].to_vec()];
            let limits = limits(20, 23);
            let (passed, shares) = pass(&limits, chunks).await;
            assert_eq!(passed.unwrap(), wire);
            let sizes: Vec<u64> = shares.0.lock().unwrap().iter().map(ByteShare::bytes).collect();
            assert_eq!(sizes, [3, 0, 20]);
            drop(shares);
            assert_eq!(limits.byte_budget.taken(), 0);
        }
    }
}

#[tokio::test]
async fn over_the_limit_is_refused_by_its_head_alone() {
    for cut in 1..5 {
        let head = [0, 0, 0, 0, 21];
        let (passed, _) = pass(&limits(20, 100), vec![head[..cut].to_vec(), head[cut..].to_vec()]).await;
        let status = passed.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("21 bytes") && status.message().contains("20 bytes"), "{status}");
    }
}

#[tokio::test]
async fn a_full_budget_sheds_with_its_reason() {
    let limits = limits(100, 50);
    let held = limits.byte_budget.try_take(31).unwrap();
    let (passed, _) = pass(&limits, vec![message(0, &[0; 20])]).await;
    let status = passed.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("x-penstock-shed-reason").unwrap(), "memory_budget");
    drop(held);
    assert!(pass(&limits, vec![message(0, &[0; 20])]).await.0.is_ok());
}

#[tokio::test]
async fn a_compressed_message_takes_what_it_may_unpack_to() {
    let (passed, shares) = pass(&limits(100_000, 1_000_000), vec![message(1, &[0; 10])]).await;
    assert!(passed.is_ok());
    assert_eq!(shares.0.lock().unwrap()[0].bytes(), 10 + 10 * 1032);
    let (_, shares) = pass(&limits(1000, 1_000_000), vec![message(1, &[0; 10])]).await;
    assert_eq!(shares.0.lock().unwrap()[0].bytes(), 10 + 1000);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stands_still_is_given_up() {
    let begun = |chunk: Vec<u8>| {
        let first = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(chunk)))]);
        StreamBody::new(futures_util::StreamExt::chain(first, futures_util::stream::pending()))
    };
    let run = |chunk: Vec<u8>, unary: bool| async move {
        let limited = LimitedBody::new(begun(chunk), limits(100, 100), Shares::default(), unary);
        tokio::time::timeout(Duration::from_secs(60), limited.collect()).await.map(|collected| collected.unwrap_err())
    };
    assert_eq!(run(vec![0, 0], true).await.unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(run(vec![], true).await.unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(run(message(0, b"abcd")[..7].to_vec(), false).await.unwrap().code(), Code::DeadlineExceeded);
    assert!(run(message(0, b"abcd"), false).await.is_err(), "a stream may rest between messages");
    let endless = run(message(0, b"abcd"), true).await.unwrap();
    assert_eq!(endless.code(), Code::DeadlineExceeded, "a unary call has an end, too");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_trickles_is_given_up() {
    let trickle = |pause: Duration, bytes: usize| {
        let pieces = futures_util::stream::unfold(message(0, &[0; 60_000]), move |mut left| async move {
            tokio::time::sleep(pause).await;
            let rest = left.split_off(bytes.min(left.len()));
            (!left.is_empty()).then(|| (Ok::<_, Infallible>(Frame::data(Bytes::from(left))), rest))
        });
        let limited =
            LimitedBody::new(StreamBody::new(Box::pin(pieces)), limits(60_000, 60_000), Shares::default(), true);
        limited.collect()
    };
    let started = Instant::now();
    let status = trickle(Duration::from_secs(20), 1).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(31), "{:?}", started.elapsed());
    assert!(trickle(Duration::from_secs(20), 20_000).await.is_ok());
}
