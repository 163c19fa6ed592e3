//! What the composition root decides for the doors, each with its meaning and unit.

use crate::guard::Guard;
use crate::status::OverloadCodes;
use http::{HeaderMap, HeaderName};
use penstock_admission::ByteBudget;
use penstock_domain::CallerId;
use std::time::Duration;

/// A tensor of this many bytes passes: 64 MiB.
pub const TENSOR_BYTES_MAX: usize = 64 << 20;
/// Room for names, shapes and parameters beside the largest tensor.
pub const MESSAGE_HEAD_BYTES: usize = 64 << 10;

/// Options of the doors.
#[derive(Clone, Debug)]
pub struct FrontendOptions {
    /// How "everything is busy" is told.
    pub overload_codes: OverloadCodes,
    /// Largest gRPC message in bytes, each way, before and after decompression: a tensor of exactly so many bytes
    /// passes, because [`MESSAGE_HEAD_BYTES`] for its names and shapes are allowed on top.
    pub message_bytes_max: usize,
    /// Bytes of all requests in flight; a share is taken before a message is buffered.
    pub byte_budget: ByteBudget,
    /// Most requests in flight on one `ModelStreamInfer` stream; then the stream is not read until one is answered.
    pub stream_requests_max: usize,
    /// The metadata that tells callers apart; `None` where nobody is.
    pub caller_header: Option<HeaderName>,
    /// How long a message that has begun may stand still before its stream is given up.
    pub message_stall_timeout: Duration,
    /// Slowest average of a message, in bytes per second, once that time has passed.
    pub message_bytes_per_second_min: u64,
    /// Asked before every call; `None` where there are no keys.
    pub guard: Option<Guard>,
    /// Tells this process's request ids from those of others.
    pub request_id_seed: u32,
}

impl FrontendOptions {
    /// The defaults, with the budget that all doors share.
    pub fn new(byte_budget: ByteBudget) -> Self {
        Self {
            overload_codes: OverloadCodes::default(),
            message_bytes_max: TENSOR_BYTES_MAX,
            byte_budget,
            stream_requests_max: 256,
            caller_header: None,
            message_stall_timeout: Duration::from_secs(30),
            message_bytes_per_second_min: 16 << 10,
            guard: None,
            request_id_seed: 0,
        }
    }

    /// The limit on a whole gRPC message, in bytes.
    pub(crate) fn message_limit(&self) -> usize {
        self.message_bytes_max.saturating_add(MESSAGE_HEAD_BYTES)
    }
}

/// The header of this name; `None` for the empty text and for what is none.
pub fn header_name(text: &str) -> Option<HeaderName> {
    text.parse().ok()
}

/// Who sent a request, by the header that tells callers apart; all without it are one.
pub(crate) fn caller_of(headers: &HeaderMap, header: Option<&HeaderName>) -> Option<CallerId> {
    header.map(|header| CallerId::of(headers.get(header).map_or(b"", http::HeaderValue::as_bytes)))
}
