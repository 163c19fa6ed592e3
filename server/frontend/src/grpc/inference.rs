//! Rooms 1 and 8: the two inference rpcs, `ModelInfer` and `ModelStreamInfer`, from the call's body to the answer's.
//!
//! Called by the routes. A plain unary call goes by hand (`unary`); a compressed one and streams go through tonic.

use super::answer::AnswerBody;
use super::call::CallBody;
use super::codec::{InferCodec, Weighed};
use super::context::CallContext;
use super::infer::infer;
use super::stream::InferStream;
use super::unary::unary;
use crate::options::FrontendOptions;
use crate::status::refusal_to_status;
use bytes::Bytes;
use http::Response;
use http_body::Body;
use penstock_dispatch::House;
use penstock_proto::inference::ModelInferResponse;
use prost::Message;
use std::pin::Pin;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::codec::{CompressionEncoding, EnabledCompressionEncodings};
use tonic::server::{Grpc, StreamingService, UnaryService};
use tonic::{Request, Status, Streaming};

/// A call being answered.
pub(super) type Answering = Pin<Box<dyn Future<Output = Response<AnswerBody>> + Send>>;

/// Answers inference calls.
#[derive(Clone)]
pub(super) struct Inference {
    pub(super) house: Arc<House>,
    pub(super) options: Arc<FrontendOptions>,
}

impl Inference {
    /// `ModelInfer`.
    pub(super) fn unary<B>(&self, request: http::Request<CallBody<B>>) -> Answering
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let context = context_of(request.extensions());
        if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            let (mut grpc, service) = (self.grpc(), Unary { inference: self.clone(), context });
            return Box::pin(async move { grpc.unary(service, request).await.map(AnswerBody::from) });
        }
        let (house, options) = (self.house.clone(), self.options.clone());
        Box::pin(async move {
            match unary(house, options, context, request.into_body()).await {
                Ok(response) => response.map(AnswerBody::from),
                Err(status) => status.into_http::<tonic::body::Body>().map(AnswerBody::from),
            }
        })
    }

    /// `ModelStreamInfer`.
    pub(super) fn stream<B>(&self, request: http::Request<CallBody<B>>) -> Answering
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let context = context_of(request.extensions());
        let (mut grpc, service) = (self.grpc(), Stream { inference: self.clone(), context });
        Box::pin(async move { grpc.streaming(service, request).await.map(AnswerBody::from) })
    }

    fn grpc<T: Message + 'static>(&self) -> Grpc<InferCodec<T>> {
        let mut gzip = EnabledCompressionEncodings::default();
        gzip.enable(CompressionEncoding::Gzip);
        let limit = Some(self.options.message_limit());
        Grpc::new(InferCodec::new(self.options.byte_budget.clone(), self.options.overload_codes))
            .apply_compression_config(gzip, gzip)
            .apply_max_message_size_config(limit, limit)
    }
}

/// What the door knows of a call. Calls that did not pass it (tests) get an empty context.
fn context_of(extensions: &http::Extensions) -> Arc<CallContext> {
    let fresh = || CallContext::new(Instant::now(), None, None, http::HeaderValue::from_static(""));
    extensions.get().cloned().unwrap_or_else(|| Arc::new(fresh()))
}

/// `ModelInfer` of a compressed message.
struct Unary {
    inference: Inference,
    context: Arc<CallContext>,
}

impl UnaryService<Weighed> for Unary {
    type Response = ModelInferResponse;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<ModelInferResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<Weighed>) -> Self::Future {
        let (Inference { house, options }, context) = (self.inference.clone(), self.context.clone());
        let Weighed { request, share } = request.into_inner();
        share.into_iter().for_each(|share| context.hold(share));
        Box::pin(async move {
            let limit = options.message_limit();
            match infer(&house, request, Instant::now(), &context, limit).await {
                Ok((response, times, share)) => {
                    context.set_times(times);
                    share.into_iter().for_each(|share| context.hold(share));
                    Ok(tonic::Response::new(response))
                }
                Err(refusal) => Err(refusal_to_status(&refusal, options.overload_codes)),
            }
        })
    }
}

/// `ModelStreamInfer`.
struct Stream {
    inference: Inference,
    context: Arc<CallContext>,
}

impl StreamingService<Weighed> for Stream {
    type Response = penstock_proto::inference::ModelStreamInferResponse;
    type ResponseStream = InferStream;
    type Future = std::future::Ready<Result<tonic::Response<InferStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Weighed>>) -> Self::Future {
        let Inference { house, options } = self.inference.clone();
        let stream = InferStream::new(house, options, self.context.clone(), request.into_inner());
        std::future::ready(Ok(tonic::Response::new(stream)))
    }
}
