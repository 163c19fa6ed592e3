//! Room 1, front end: gRPC messages are measured by their heads, before a byte of them is buffered. A message over the
//! limit is refused with the limit and its size; one that fits takes its share of the byte budget; one that stands
//! still or trickles is given up.
//!
//! Wraps the request body of every gRPC call, below tonic's own decoder, which would answer OUT_OF_RANGE after
//! reserving the memory. Never looks into a message.

use crate::status::{OverloadCodes, refusal_to_status};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use penstock_admission::{ByteBudget, ByteShare};
use penstock_domain::{ErrorCode, Refusal, ShedReason};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Bytes of a gRPC message head: a flag for compression and a big-endian length.
pub(crate) const HEAD_BYTES: usize = 5;
/// Deflate's largest expansion is 1032 to 1 (zlib's technical notes): no message unpacks to more than this.
const EXPANSION_MAX: u64 = 1032;

/// What a message head says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageHead {
    /// The message is compressed.
    pub compressed: bool,
    /// Bytes that follow the head.
    pub length: u32,
}

impl MessageHead {
    /// The head at the start of `bytes`; `None` while it is not complete.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let ([flag, length @ ..], _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        Some(Self { compressed: *flag != 0, length: u32::from_be_bytes(*length) })
    }
}

/// Finds the heads in a stream of chunks cut anywhere.
#[derive(Debug, Default)]
pub struct HeadScanner {
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    payload_left: usize,
}

impl HeadScanner {
    /// Reads on, and hands every complete head to `found`; stops at its first error.
    pub fn read<E>(&mut self, mut chunk: &[u8], mut found: impl FnMut(MessageHead) -> Result<(), E>) -> Result<(), E> {
        while !chunk.is_empty() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(chunk.len());
                self.payload_left -= skipped;
                chunk = &chunk[skipped..];
                continue;
            }
            let taken = (HEAD_BYTES - self.head_filled).min(chunk.len());
            self.head[self.head_filled..self.head_filled + taken].copy_from_slice(&chunk[..taken]);
            self.head_filled += taken;
            chunk = &chunk[taken..];
            if self.head_filled == HEAD_BYTES {
                self.head_filled = 0;
                if let Some(head) = MessageHead::read(&self.head) {
                    self.payload_left = head.length as usize;
                    found(head)?;
                }
            }
        }
        Ok(())
    }

    /// A message has begun and not ended.
    pub fn inside_message(&self) -> bool {
        self.head_filled > 0 || self.payload_left > 0
    }
}

/// What a message may weigh and how long it may stand still.
#[derive(Clone, Debug)]
pub struct MessageLimits {
    /// Largest message in bytes, before and after decompression.
    pub message_bytes_max: usize,
    /// Where shares are taken.
    pub byte_budget: ByteBudget,
    /// How long a message that has begun may stand still.
    pub stall_timeout: Duration,
    /// Slowest average of a message, in bytes per second, once that time has passed.
    pub bytes_per_second_min: u64,
    /// How refusals are coded.
    pub overload_codes: OverloadCodes,
}

impl MessageLimits {
    /// The share of one message, or why it is refused.
    fn admit(&self, head: MessageHead) -> Result<ByteShare, Refusal> {
        let (length, limit) = (u64::from(head.length), self.message_bytes_max as u64);
        if length > limit {
            return Err(too_large("request", length, limit));
        }
        // What it unpacks to is only known afterwards: the worst that these bytes can do is taken.
        let unpacked = if head.compressed { limit.min(length * EXPANSION_MAX) } else { 0 };
        self.byte_budget.try_take(length + unpacked).ok_or_else(|| {
            let (taken, budget) = (self.byte_budget.taken(), self.byte_budget.limit());
            let words = format!(
                "a message of {length} bytes does not fit: {taken} of {budget} bytes of memory for requests are taken"
            );
            Refusal::shed(ShedReason::MemoryBudget, words, None)
        })
    }
}

/// The refusal of a message over the limit, either way.
pub fn too_large(which: &str, length: u64, limit: u64) -> Refusal {
    let words = format!("the {which} message has {length} bytes, over this server's limit of {limit} bytes a message");
    Refusal::new(ErrorCode::TooLarge, words)
}

/// Takes the shares of a request's messages as their heads pass, in order.
pub trait ShareSink {
    /// One more message is on its way.
    fn put(&self, share: ByteShare);
}

/// A request body whose messages are measured. Errors are [`tonic::Status`], which tonic passes on as they are.
#[derive(Debug)]
pub struct LimitedBody<B, K> {
    inner: B,
    limits: MessageLimits,
    sink: K,
    scanner: HeadScanner,
    /// The client owes something even between messages: its one message, and then the end of its side.
    unary: bool,
    stall: Option<Pin<Box<Sleep>>>,
    stall_armed: bool,
    /// When the message under way was first waited for, and bytes that came since.
    waiting: Option<(Instant, u64)>,
}

impl<B, K> LimitedBody<B, K> {
    /// Measures `inner` and puts shares into `sink`. The message of a `unary` call, and the end behind it, must come
    /// within the stall timeout; streams may wait as long as they like between messages.
    pub fn new(inner: B, limits: MessageLimits, sink: K, unary: bool) -> Self {
        let scanner = HeadScanner::default();
        Self { inner, limits, sink, scanner, unary, stall: None, stall_armed: false, waiting: None }
    }

    /// Nothing came: once the stall timeout has passed, the answer is an error.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<tonic::Status> {
        if !self.unary && !self.scanner.inside_message() {
            return Poll::Pending;
        }
        let (timeout, rate) = (self.limits.stall_timeout, self.limits.bytes_per_second_min);
        let (begun, received) = *self.waiting.get_or_insert_with(|| (Instant::now(), 0));
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !self.stall_armed {
            let earned = Duration::from_millis(received.saturating_mul(1000) / rate.max(1));
            stall.as_mut().reset((Instant::now() + timeout).min(begun + timeout + earned));
            self.stall_armed = true;
        }
        ready!(stall.as_mut().poll(cx));
        let words = format!(
            "the request message came too slowly: {received} bytes in {} ms; its next piece may take {} ms, and the \
             average must be {rate} bytes per second or more",
            begun.elapsed().as_millis(),
            timeout.as_millis()
        );
        Poll::Ready(refusal_to_status(
            &Refusal::new(ErrorCode::DeadlineExceeded, words).with_reason("request_stalled"),
            self.limits.overload_codes,
        ))
    }
}

impl<B, K> Body for LimitedBody<B, K>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    K: ShareSink + Unpin,
{
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = self.get_mut();
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => return this.poll_stall(cx).map(|status| Some(Err(status))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(tonic::Status::from_error(error.into())))),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        this.stall_armed = false;
        if let Some(chunk) = frame.data_ref() {
            let (limits, sink) = (&this.limits, &this.sink);
            let read = this.scanner.read(chunk, |head| limits.admit(head).map(|share| sink.put(share)));
            if let Err(refusal) = read {
                penstock_telemetry::unrouted(refusal.outcome());
                return Poll::Ready(Some(Err(refusal_to_status(&refusal, this.limits.overload_codes))));
            }
            match &mut this.waiting {
                Some((_, received)) if this.scanner.inside_message() => *received += chunk.len() as u64,
                waiting => *waiting = None,
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
