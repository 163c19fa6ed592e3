//! Room 8, response: bodies that hold their request's byte share until they are sent or dropped, and small JSON ones.
//!
//! Called by the handlers.

use super::Share;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An answer in pieces that are sent as they are, never joined.
#[derive(Debug)]
pub(crate) struct HeldBody {
    pieces: VecDeque<Bytes>,
    left: u64,
    _share: Share,
}

impl HeldBody {
    /// Keeps `share` until the last piece is taken or the connection is gone.
    pub(crate) fn new(pieces: impl IntoIterator<Item = Bytes>, share: Share) -> Self {
        let pieces: VecDeque<_> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, left, _share: share }
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, json: &impl serde::Serialize) -> Response {
    let body = serde_json::to_vec(json).expect("the answer's own types have string keys and no failing writer");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
