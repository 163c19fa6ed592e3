//! A message is read however it is cut, and written as tonic would write it.

use super::*;
use crate::limits::{LimitedBody, MessageLimits};
use crate::status::OverloadCodes;
use http_body_util::StreamBody;
use penstock_admission::ByteBudget;
use penstock_proto::inference::model_infer_response::InferOutputTensor;
use std::time::Duration;

fn wire(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut out = vec![flag];
    out.extend((message.len() as u32).to_be_bytes());
    out.extend(message);
    out
}

async fn read(pieces: Vec<Vec<u8>>) -> Result<Bytes, Status> {
    let limits = MessageLimits {
        message_bytes_max: 1 << 20,
        byte_budget: ByteBudget::new(1 << 20),
        stall_timeout: Duration::from_secs(1),
        bytes_per_second_min: 1,
        overload_codes: OverloadCodes::Lambda,
    };
    let context = CallContext::new(Instant::now(), None, None, HeaderValue::from_static(""));
    let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
    let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
    read_message(LimitedBody::new(body, limits, Arc::new(context), true)).await
}

#[tokio::test]
async fn a_message_is_read_wherever_it_is_cut() {
    let bytes = wire(0, b"abcdef");
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let pieces = vec![bytes[..first].to_vec(), bytes[first..second].to_vec(), bytes[second..].to_vec()];
            assert_eq!(read(pieces).await.unwrap(), "abcdef");
        }
    }
    assert_eq!(read(vec![wire(0, b"")]).await.unwrap(), "");
}

#[tokio::test]
async fn what_is_not_one_plain_message_is_refused() {
    let words = |read: Result<Bytes, Status>| read.unwrap_err().message().to_owned();
    assert!(words(read(vec![]).await).contains("Missing request message"));
    assert!(words(read(vec![vec![0, 0]]).await).contains("Missing request message"));
    assert!(words(read(vec![wire(0, b"abc")[..7].to_vec()]).await).contains("broke off"));
    assert!(words(read(vec![wire(1, b"abc")]).await).contains("compressed"));
    assert!(words(read(vec![wire(0, b"a"), wire(0, b"b")]).await).contains("one message"));
}

#[tokio::test]
async fn an_answer_is_the_message_prost_writes_and_large_tensors_are_not_copied() {
    for sizes in [&[][..], &[0], &[16], &[PIECE_BYTES], &[100_000, 3, 50_000, 7]] {
        let tensors: Vec<Bytes> = sizes.iter().map(|size| vec![7; *size].into()).collect();
        let response = ModelInferResponse {
            model_name: "m".into(),
            id: "1".into(),
            outputs: vec![InferOutputTensor { name: "y".into(), shape: vec![1, 2], ..Default::default() }],
            raw_output_contents: tensors.clone(),
            ..Default::default()
        };
        let expected = wire(0, &response.encode_to_vec());
        let answer = respond(response);
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let body = answer.into_body();
        assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
        for tensor in tensors.iter().filter(|tensor| tensor.len() >= PIECE_BYTES) {
            assert!(body.pieces.iter().any(|piece| piece.as_ptr() == tensor.as_ptr()));
        }
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert!(collected.to_bytes() == expected);
    }
}
