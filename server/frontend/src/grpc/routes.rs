//! Room 1, front end: which service a call is for. Inference has its own file, the other calls of the
//! protocol go to its generated server; health and reflection, which are rare, go through tonic's routes.

use super::answer::AnswerBody;
use super::call::{CallBody, CallService};
use super::health::HealthService;
use super::inference::{Answering, Inference};
use super::reflection;
use super::service::InferenceService;
use crate::limits::MessageLimits;
use crate::options::FrontendOptions;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use penstock_dispatch::House;
use penstock_proto::inference::grpc_inference_service_server::{GrpcInferenceServiceServer, SERVICE_NAME};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

/// Everything the gRPC port answers, as a router like those of the other ports.
pub fn grpc_router(house: Arc<House>, options: FrontendOptions) -> axum::Router {
    axum::Router::new().fallback_service(grpc_service(house, options))
}

/// The same without a router around it: [`serve`](crate::host::serve) takes it as it is, and a call costs less.
pub fn grpc_service(house: Arc<House>, options: FrontendOptions) -> CallService<Routed> {
    let limits = MessageLimits {
        message_bytes_max: options.message_limit(),
        byte_budget: options.byte_budget.clone(),
        stall_timeout: options.message_stall_timeout,
        bytes_per_second_min: options.message_bytes_per_second_min,
        overload_codes: options.overload_codes,
    };
    let (seed, caller_header) = (options.request_id_seed, options.caller_header.clone());
    let guard = options.guard.clone();
    let bytes_max = options.message_limit();
    let health = HealthServer::new(HealthService::new(house.clone()));
    let options = Arc::new(options);
    let inference = Inference { house: house.clone(), options: options.clone() };
    let management = GrpcInferenceServiceServer::new(InferenceService::new(house, options))
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let others = Routes::new(health).add_service(reflection::v1()).add_service(reflection::v1alpha()).prepare();
    CallService::new(Routed { inference, management, others }, limits, seed, caller_header, guard)
}

/// The services of the gRPC port.
#[derive(Clone)]
pub struct Routed {
    inference: Inference,
    management: GrpcInferenceServiceServer<InferenceService>,
    others: Routes,
}

impl<B> Service<Request<CallBody<B>>> for Routed
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = CallAnswering;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody<B>>) -> Self::Future {
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        CallAnswering(match path {
            Some((SERVICE_NAME, "ModelInfer")) => self.inference.unary(request),
            Some((SERVICE_NAME, "ModelStreamInfer")) => self.inference.stream(request),
            Some((SERVICE_NAME, _)) => boxed(self.management.call(request)),
            _ => boxed(self.others.call(request)),
        })
    }
}

fn boxed(
    answering: impl Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send + 'static,
) -> Answering {
    Box::pin(async move {
        let Ok(response) = answering.await;
        response.map(AnswerBody::from)
    })
}

/// A call being answered; dropping it cancels it.
pub struct CallAnswering(Answering);

impl Future for CallAnswering {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}
