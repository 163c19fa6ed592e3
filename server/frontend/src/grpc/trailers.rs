//! Room 8, response: the stage times and the request id go out in the trailers, and the byte share goes back when the
//! last byte has left.

use super::context::CallContext;
use crate::request_id::REQUEST_ID;
use crate::timing::GRPC_TIMING;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// From this size on, the bytes themselves hold the call's share until they are written to the socket; the body is
/// dropped when its last frame is queued, which for a large answer to a slow reader is long before.
const HELD_CHUNK_BYTES: usize = 64 << 10;

/// A response body that ends with the stage times and the request id.
#[derive(Debug)]
pub struct TimedBody<B> {
    inner: B,
    context: Option<Arc<CallContext>>,
}

/// Bytes on their way out, with what they hold.
struct Held {
    bytes: Bytes,
    _context: Arc<CallContext>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B> TimedBody<B> {
    /// Ends `inner` with the times of `context`.
    pub(super) fn new(inner: B, context: Arc<CallContext>) -> Self {
        Self { inner, context: Some(context) }
    }

    /// Nothing to add.
    pub(super) fn plain(inner: B) -> Self {
        Self { inner, context: None }
    }
}

/// Adds the stage times and the request id to trailers, or to the head of an answer that has only one.
pub(super) fn add_trailers(trailers: &mut HeaderMap, context: &CallContext) {
    // No two are alike: kept out of HPACK's table, where each would only push out what is worth keeping.
    for (name, mut value) in [(GRPC_TIMING, context.timing()), (REQUEST_ID, context.request_id.clone())] {
        value.set_sensitive(true);
        trailers.insert(name, value);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TimedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(Ok(mut frame)) = ready!(Pin::new(&mut this.inner).poll_frame(cx)?.map(|f| f.map(Ok::<_, B::Error>)))
        else {
            return Poll::Ready(None);
        };
        let Some(context) = &this.context else { return Poll::Ready(Some(Ok(frame))) };
        if let Some(trailers) = frame.trailers_mut() {
            add_trailers(trailers, context);
            return Poll::Ready(Some(Ok(frame)));
        }
        Poll::Ready(Some(Ok(frame.map_data(|bytes| match bytes.len() {
            0..HELD_CHUNK_BYTES => bytes,
            _ => Bytes::from_owner(Held { bytes, _context: context.clone() }),
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
