//! Room 1, front end: what belongs to one call and outlives its handler: when it came, until when it matters, who
//! sent it, its id, its byte shares, and where its time went.

use crate::limits::ShareSink;
use crate::timing::{timing_value, total_value};
use http::HeaderValue;
use penstock_admission::ByteShare;
use penstock_domain::{CallerId, StageTimes};
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::time::Instant;

/// Shared by the request body (which puts shares), the handler (which tells the times) and the response body (which
/// sends the times and, by being dropped, gives the shares back).
#[derive(Debug)]
pub struct CallContext {
    /// When the head of the request was read.
    pub(super) received: Instant,
    /// `received` and `grpc-timeout`.
    pub(super) deadline: Option<std::time::Instant>,
    /// Who sent it, where callers are told apart.
    pub(super) caller: Option<CallerId>,
    /// The caller's id, or ours.
    pub(super) request_id: HeaderValue,
    times: OnceLock<StageTimes>,
    shares: Mutex<SmallVec<[ByteShare; 1]>>,
}

impl CallContext {
    pub(super) fn new(
        received: Instant,
        deadline: Option<std::time::Instant>,
        caller: Option<CallerId>,
        request_id: HeaderValue,
    ) -> Self {
        Self { received, deadline, caller, request_id, times: OnceLock::new(), shares: Mutex::default() }
    }

    /// Microseconds since the head was read.
    pub(super) fn elapsed_us(&self) -> u64 {
        self.received.elapsed().as_micros() as u64
    }

    /// Tells where the time went; the first to tell is believed.
    pub(super) fn set_times(&self, times: StageTimes) {
        let _ = self.times.set(times);
    }

    /// The stage times as trailer text; only the total if nothing ran.
    pub(super) fn timing(&self) -> HeaderValue {
        match self.times.get() {
            Some(times) => timing_value(times),
            None => total_value(self.received.elapsed()),
        }
    }

    /// Keeps a share until the answer is sent or dropped.
    pub(super) fn hold(&self, share: ByteShare) {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).push(share);
    }

    /// The share of the oldest message whose share was not taken yet: streams take one with each message.
    pub(super) fn take_share(&self) -> Option<ByteShare> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        (!shares.is_empty()).then(|| shares.remove(0))
    }
}

impl ShareSink for Arc<CallContext> {
    fn put(&self, share: ByteShare) {
        self.hold(share);
    }
}
