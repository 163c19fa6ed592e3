//! Rooms 1 and 8: `ModelInfer`, the call that is made most: one message in, one out.
//!
//! Called by the routes for calls that are not compressed; those go through tonic's general machinery, as streams do.
//! It is by hand because it is the hot path: a message that came in one piece is decoded where it lies, large tensors
//! leave as the buffers they are, and nothing is boxed twice (16 B, 64 in flight: 5 of 32 us of a call's processor time).

use super::call::CallBody;
use super::codec::RequestDecoder;
use super::context::CallContext;
use super::infer::infer;
use crate::limits::{HEAD_BYTES, MessageHead};
use crate::options::FrontendOptions;
use crate::status::refusal_to_status;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use penstock_dispatch::House;
use penstock_proto::inference::ModelInferResponse;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use smallvec::SmallVec;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::Status;

/// From this size on a tensor leaves as the buffer it is; copying a smaller one costs less than a frame of its own.
const PIECE_BYTES: usize = 8 << 10;
/// Number of `raw_output_contents` in `ModelInferResponse`: its last field, so that the tensors come behind the rest.
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// One message, or several buffers that make it up, and the trailers of a success.
#[derive(Debug)]
pub struct MessageBody {
    /// In reverse order.
    pieces: SmallVec<[Bytes; 2]>,
    ended: bool,
}

type Answered = Result<Response<MessageBody>, Status>;

/// Reads the call's message, runs it, answers it. Dropping the future cancels it.
pub(super) async fn unary<B>(
    house: Arc<House>,
    options: Arc<FrontendOptions>,
    context: Arc<CallContext>,
    body: CallBody<B>,
) -> Answered
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let message = read_message(body).await?;
    let received = Instant::now();
    let weighed = RequestDecoder::new(options.byte_budget.clone(), options.overload_codes).read(message)?;
    weighed.share.into_iter().for_each(|share| context.hold(share));
    let limit = options.message_limit();
    match infer(&house, weighed.request, received, &context, limit).await {
        Ok((response, times, share)) => {
            context.set_times(times);
            share.into_iter().for_each(|share| context.hold(share));
            Ok(respond(response))
        }
        Err(refusal) => Err(refusal_to_status(&refusal, options.overload_codes)),
    }
}

/// The one message of a call, without its head.
async fn read_message<B>(mut body: CallBody<B>) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut expected = None;
    while let Some(frame) = body.frame().await {
        // Trailers of a request carry nothing for us.
        let Ok(piece) = frame?.into_data() else { continue };
        if first.is_empty() && all.is_empty() {
            first = piece;
        } else {
            if all.is_empty() {
                all.reserve(expected.unwrap_or(first.len()).max(first.len() + piece.len()));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&piece);
        }
        let held: &[u8] = if all.is_empty() { &first } else { &all };
        expected = expected.or_else(|| MessageHead::read(held).map(|head| HEAD_BYTES + head.length as usize));
        if expected.is_some_and(|expected| held.len() > expected) {
            return Err(Status::internal("a unary call has one message, this one has more"));
        }
    }
    let mut message = if all.is_empty() { first } else { all.freeze() };
    match MessageHead::read(&message) {
        None => Err(Status::internal("Missing request message.")),
        Some(head) if head.compressed => {
            Err(Status::internal("a message is flagged as compressed, but the call has no grpc-encoding"))
        }
        Some(_) if expected != Some(message.len()) => Err(Status::internal("the message broke off before its end")),
        Some(_) => {
            message.advance(HEAD_BYTES);
            Ok(message)
        }
    }
}

/// The response as a message: the head and everything small in one buffer, large tensors as they are.
fn respond(mut response: ModelInferResponse) -> Response<MessageBody> {
    let tensors = std::mem::take(&mut response.raw_output_contents);
    let mut length = response.encoded_len();
    let mut heads = HEAD_BYTES + length;
    for tensor in &tensors {
        let head = prost::encoding::key_len(RAW_OUTPUT_CONTENTS) + prost::length_delimiter_len(tensor.len());
        length += head + tensor.len();
        heads += head + if tensor.len() < PIECE_BYTES { tensor.len() } else { 0 };
    }
    let mut out = BytesMut::with_capacity(heads);
    out.put_u8(0);
    // Within the message limit, which is below 2 GiB.
    out.put_u32(length as u32);
    response.encode_raw(&mut out);
    let mut pieces = SmallVec::new();
    for tensor in tensors {
        encode_key(RAW_OUTPUT_CONTENTS, WireType::LengthDelimited, &mut out);
        encode_varint(tensor.len() as u64, &mut out);
        if tensor.len() < PIECE_BYTES {
            out.put_slice(&tensor);
        } else {
            pieces.push(out.split().freeze());
            pieces.push(tensor);
        }
    }
    if !out.is_empty() {
        pieces.push(out.freeze());
    }
    pieces.reverse();
    let mut response = Response::new(MessageBody { pieces, ended: false });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

impl Body for MessageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(piece) = this.pieces.pop() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if std::mem::replace(&mut this.ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(4);
        trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
#[path = "unary_tests.rs"]
mod tests;
