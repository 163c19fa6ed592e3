//! Room 1, front end: which service a call is for. Inference goes straight to its generated server; health and
//! reflection, which are rare, go through tonic's routes.

use super::call::{CallBody, CallService};
use super::health::HealthService;
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
    let seed = options.request_id_seed;
    let bytes_max = options.message_limit();
    let health = HealthServer::new(HealthService::new(house.clone()));
    let inference = GrpcInferenceServiceServer::new(InferenceService::new(house, options))
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let others = Routes::new(health).add_service(reflection::v1()).add_service(reflection::v1alpha()).prepare();
    CallService::new(Routed { inference, others }, limits, seed)
}

/// The services of the gRPC port.
#[derive(Clone)]
pub struct Routed {
    inference: GrpcInferenceServiceServer<InferenceService>,
    others: Routes,
}

impl<B> Service<Request<CallBody<B>>> for Routed
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody<B>>) -> Self::Future {
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match path {
            Some((SERVICE_NAME, _)) => self.inference.call(request),
            _ => Box::pin(self.others.call(request)),
        }
    }
}
