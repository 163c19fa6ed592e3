//! Room 8, response: the body of an answer, whichever machinery made it.

use super::unary::MessageBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;

/// A body from tonic, or one made by hand.
#[derive(Debug)]
pub enum AnswerBody {
    /// Of the general machinery.
    Tonic(tonic::body::Body),
    /// Of a plain unary call.
    Message(MessageBody),
}

impl From<tonic::body::Body> for AnswerBody {
    fn from(body: tonic::body::Body) -> Self {
        Self::Tonic(body)
    }
}

impl From<MessageBody> for AnswerBody {
    fn from(body: MessageBody) -> Self {
        Self::Message(body)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Tonic(body) => Pin::new(body).poll_frame(cx),
            Self::Message(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Tonic(body) => body.is_end_stream(),
            Self::Message(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Tonic(body) => body.size_hint(),
            Self::Message(body) => body.size_hint(),
        }
    }
}
