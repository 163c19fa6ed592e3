//! Room 1, front end: reads a request's body, within its limits and on its share of the memory budget.
//!
//! Called by every HTTP handler that takes a body. The order is: what the head says is judged before a byte is read;
//! bytes are taken out of the budget before they are buffered; a writer that stalls or trickles is answered 408; and
//! a compressed body is inflated in steps, never past the limit. Never looks at what the body says.

use super::failure::Failure;
use super::inflate::{Coding, inflate};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use penstock_admission::{ByteBudget, ByteShare};
use penstock_domain::{ErrorCode, Refusal, ShedReason};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// After a refusal the rest of the body is read and thrown away, so that the client, still writing, gets to read why:
/// at most this many bytes, for at most this long.
const LINGER_BYTES_MAX: usize = 256 << 20;
const LINGER: Duration = Duration::from_secs(10);

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Most bytes, also after inflating.
    pub(crate) bytes_max: usize,
    /// Longest wait for the next piece.
    pub(crate) stall_max: Duration,
    /// Slowest average, in bytes per second, once `stall_max` has passed.
    pub(crate) bytes_per_second_min: u64,
}

/// The part of the memory budget one request holds: its body, and later its answer's. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: ByteBudget,
    held: Option<ByteShare>,
}

impl Share {
    pub(crate) fn new(budget: &ByteBudget) -> Self {
        Self { budget: budget.clone(), held: None }
    }

    /// Holds another share of the same budget too.
    pub(crate) fn hold(&mut self, other: Option<ByteShare>) {
        match (&mut self.held, other) {
            (Some(held), Some(other)) => held.join(other),
            (None, other) => self.held = other,
            (Some(_), None) => {}
        }
    }

    /// Takes `more` bytes, or sheds the request.
    pub(crate) fn take(&mut self, more: u64) -> Result<(), Refusal> {
        let granted = match &mut self.held {
            Some(held) => held.try_grow(more),
            None => {
                self.held = self.budget.try_take(more);
                self.held.is_some()
            }
        };
        if granted {
            return Ok(());
        }
        let message = format!(
            "no memory for {more} more bytes now: {} of the {} bytes that requests may hold are taken",
            self.budget.taken(),
            self.budget.limit()
        );
        Err(Refusal::shed(ShedReason::MemoryBudget, message, None))
    }
}

/// A request's body, not read yet. Dropped before its end, the rest is thrown away in the background: after a refusal
/// the client gets to read why, and after a disconnection reading fails at once.
pub(crate) struct Upload {
    body: Body,
    length: Option<u64>,
    linger: bool,
}

/// 413, naming the limit and the size.
pub(crate) fn within(size: u64, limit: usize, what: &str) -> Result<(), Refusal> {
    if size <= limit as u64 {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::TooLarge, format!("{what} has {size} bytes, the limit is {limit}")))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Upload {
    /// Nothing is read yet.
    pub(crate) fn new(headers: &HeaderMap, body: Body) -> Self {
        // A client that waits for `100 Continue` is not writing: reading would tell it to begin.
        Self { body, length: content_length(headers), linger: !headers.contains_key(header::EXPECT) }
    }

    /// The body, for whoever reads it after this.
    pub(crate) fn into_body(mut self) -> Body {
        self.linger = false;
        std::mem::take(&mut self.body)
    }

    /// Reads the whole body and inflates it.
    pub(crate) async fn read(
        mut self,
        headers: &HeaderMap,
        limits: BodyLimits,
        share: &mut Share,
    ) -> Result<Bytes, Failure> {
        let coding = Coding::of_request(headers)?;
        if let Some(length) = self.length {
            within(length, limits.bytes_max, "request body")?;
            share.take(length)?;
        }
        let bytes = self.collect(limits, share).await?;
        match coding {
            None => Ok(bytes),
            Some(coding) => Ok(inflate(bytes, coding, limits.bytes_max, share).await?),
        }
    }

    async fn collect(&mut self, limits: BodyLimits, share: &mut Share) -> Result<Bytes, Failure> {
        let (begun, length) = (Instant::now(), self.length);
        let mut first: Option<Bytes> = None;
        let mut all = BytesMut::new();
        let mut received = 0u64;
        loop {
            let Some(piece) = self.next(begun, received, limits).await? else {
                break;
            };
            received += piece.len() as u64;
            if length.is_none() {
                if received > limits.bytes_max as u64 {
                    let message =
                        format!("request body has {received} bytes and more, the limit is {}", limits.bytes_max);
                    return Err(Refusal::new(ErrorCode::TooLarge, message).into());
                }
                share.take(piece.len() as u64)?;
            }
            // A body that came in one piece is not copied.
            match (&first, all.is_empty()) {
                (None, true) => first = Some(piece),
                _ => {
                    if let Some(first) = first.take() {
                        all.reserve(length.map_or(first.len() + piece.len(), |length| length as usize));
                        all.extend_from_slice(&first);
                    }
                    all.extend_from_slice(&piece);
                }
            }
        }
        self.linger = false;
        Ok(first.unwrap_or_else(|| all.freeze()))
    }

    /// Passes the body on as it comes: no more of it is in memory than the channel holds. Ends early, and well, if nobody
    /// takes it any more.
    pub(crate) async fn pass_on(
        mut self,
        limits: BodyLimits,
        to: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), Failure> {
        let (mut begun, mut received) = (Instant::now(), 0u64);
        loop {
            match self.next(begun, received, limits).await {
                Ok(None) => {
                    self.linger = false;
                    return Ok(());
                }
                Ok(Some(piece)) => {
                    received += piece.len() as u64;
                    let passing = Instant::now();
                    if to.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                    // What its taker needs is not the client's slowness.
                    begun += passing.elapsed();
                }
                Err(failure) => {
                    let _ = to.send(Err(io::Error::other("the body broke off"))).await;
                    return Err(failure);
                }
            }
        }
    }

    /// The next piece, `None` at the end.
    async fn next(&mut self, begun: Instant, received: u64, limits: BodyLimits) -> Result<Option<Bytes>, Failure> {
        let earned = Duration::from_millis(received.saturating_mul(1000) / limits.bytes_per_second_min.max(1));
        let deadline = (Instant::now() + limits.stall_max).min(begun + limits.stall_max + earned);
        loop {
            let frame = match timeout_at(deadline, self.body.frame()).await {
                Err(_) => {
                    let message = format!(
                        "request body came too slowly: {received} bytes in {:.1} s; the next piece may take {:.1} s, \
                         and the average must be {} bytes per second or more",
                        begun.elapsed().as_secs_f64(),
                        limits.stall_max.as_secs_f64(),
                        limits.bytes_per_second_min
                    );
                    self.linger = false;
                    return Err(Failure::http(StatusCode::REQUEST_TIMEOUT, Refusal::invalid(message)));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    self.linger = false;
                    return Err(
                        Refusal::invalid(format!("request body broke off after {received} bytes: {error}")).into()
                    );
                }
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers carry nothing for us.
            if let Ok(piece) = frame.into_data()
                && !piece.is_empty()
            {
                return Ok(Some(piece));
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.linger {
            return;
        }
        let mut body = std::mem::take(&mut self.body);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let deadline = Instant::now() + LINGER;
            let mut left = LINGER_BYTES_MAX;
            while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
