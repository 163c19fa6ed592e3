//! Room 8, response: `grpc.health.v1`, for the whole server (`""` and `inference.GRPCInferenceService`) and for each
//! function by its name. A Watch of what nobody knows stays open and tells when it comes, as the protocol wants.

use futures_util::{FutureExt, Stream, stream};
use penstock_dispatch::{Health as State, House};
use penstock_proto::inference::grpc_inference_service_server::SERVICE_NAME;
use std::pin::Pin;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The service behind `grpc.health.v1.Health`.
pub(super) struct HealthService {
    house: Arc<House>,
}

impl HealthService {
    pub(super) fn new(house: Arc<House>) -> Self {
        Self { house }
    }
}

/// The health of a service by the name a client gives it.
fn status(house: &House, service: &str) -> ServingStatus {
    let service = if service == SERVICE_NAME { "" } else { service };
    match house.health(service) {
        State::Serving => ServingStatus::Serving,
        State::NotServing => ServingStatus::NotServing,
        State::Unknown => ServingStatus::ServiceUnknown,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// The next status that differs from `last`. The wait is begun before the status is read, so that a change between
/// the two is not missed.
async fn next_status(house: &House, service: &str, last: Option<ServingStatus>) -> ServingStatus {
    loop {
        let mut changed = Box::pin(house.health_changed());
        let changed_already = (&mut changed).now_or_never().is_some();
        let now = status(house, service);
        if Some(now) != last {
            return now;
        }
        if !changed_already {
            changed.await;
        }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match status(&self.house, &service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!("there is no service '{service}'"))),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let start = (self.house.clone(), request.into_inner().service, None);
        let statuses = stream::unfold(start, |(house, service, last)| async move {
            let status = next_status(&house, &service, last).await;
            Some((Ok(response(status)), (house, service, Some(status))))
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}
