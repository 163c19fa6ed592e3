//! Rooms 1 and 8: the Open Inference Protocol's service, rpc by rpc. Each handler turns its message into a question to
//! the house and the answer into its message; what takes more than a few lines has its own file.

use super::{metadata, repository};
use crate::convert::shared_memory_refusal;
use crate::options::FrontendOptions;
use crate::status::refusal_to_status;
use penstock_dispatch::House;
use penstock_domain::{ErrorCode, Refusal};
use penstock_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use penstock_proto::inference::*;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// The service behind `inference.GRPCInferenceService`.
pub(crate) struct InferenceService {
    house: Arc<House>,
    options: Arc<FrontendOptions>,
}

type Answered<T> = Result<Response<T>, Status>;

impl InferenceService {
    pub(super) fn new(house: Arc<House>, options: Arc<FrontendOptions>) -> Self {
        Self { house, options }
    }

    /// A handler's result in gRPC's words.
    fn answer<T>(&self, result: Result<T, Refusal>) -> Answered<T> {
        result.map(Response::new).map_err(|refusal| self.status(&refusal))
    }

    fn status(&self, refusal: &Refusal) -> Status {
        refusal_to_status(refusal, self.options.overload_codes)
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for InferenceService {
    type ModelStreamInferStream = tokio_stream::Empty<Result<ModelStreamInferResponse, Status>>;

    // The two inference calls are taken by the routes before the generated server sees them: they have their own codec.
    async fn model_infer(&self, _request: Request<ModelInferRequest>) -> Answered<ModelInferResponse> {
        Err(Status::internal("ModelInfer is routed elsewhere"))
    }

    async fn model_stream_infer(
        &self,
        _request: Request<Streaming<ModelInferRequest>>,
    ) -> Answered<Self::ModelStreamInferStream> {
        Err(Status::internal("ModelStreamInfer is routed elsewhere"))
    }

    async fn server_live(&self, _request: Request<ServerLiveRequest>) -> Answered<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _request: Request<ServerReadyRequest>) -> Answered<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.house.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answered<ModelReadyResponse> {
        let request = request.into_inner();
        self.answer(metadata::ready(&self.house, &request.name, &request.version))
    }

    async fn server_metadata(&self, _request: Request<ServerMetadataRequest>) -> Answered<ServerMetadataResponse> {
        Ok(Response::new(metadata::server()))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answered<ModelMetadataResponse> {
        let request = request.into_inner();
        self.answer(metadata::model(&self.house, &request.name, &request.version))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answered<ModelConfigResponse> {
        let request = request.into_inner();
        self.answer(metadata::config(&self.house, &request.name, &request.version))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answered<ModelStatisticsResponse> {
        let request = request.into_inner();
        self.answer(metadata::statistics(&self.house, &request.name, &request.version))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answered<RepositoryIndexResponse> {
        self.answer(repository::index(&self.house, &request.into_inner()).await)
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answered<RepositoryModelLoadResponse> {
        self.answer(repository::load(&self.house, request.into_inner()).await)
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answered<RepositoryModelUnloadResponse> {
        self.answer(repository::unload(&self.house, request.into_inner()).await)
    }

    async fn system_shared_memory_status(
        &self,
        _request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answered<SystemSharedMemoryStatusResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answered<SystemSharedMemoryRegisterResponse> {
        let region = request.into_inner().name;
        self.answer(Err(shared_memory_refusal(&format!("system shared memory region '{region}'"))))
    }

    async fn system_shared_memory_unregister(
        &self,
        _request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answered<SystemSharedMemoryUnregisterResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn cuda_shared_memory_status(
        &self,
        _request: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answered<CudaSharedMemoryStatusResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        request: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Answered<CudaSharedMemoryRegisterResponse> {
        let region = request.into_inner().name;
        self.answer(Err(shared_memory_refusal(&format!("CUDA shared memory region '{region}'"))))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _request: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answered<CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn trace_setting(&self, _request: Request<TraceSettingRequest>) -> Answered<TraceSettingResponse> {
        self.answer(Err(not_offered("trace settings", "every response carries its stage times in 'penstock-timing'")))
    }

    async fn log_settings(&self, _request: Request<LogSettingsRequest>) -> Answered<LogSettingsResponse> {
        self.answer(Err(not_offered("log settings over the API", "set the log level in the server's configuration")))
    }
}

/// Why an extension is refused, and what there is instead.
fn not_offered(what: &str, instead: &str) -> Refusal {
    Refusal::new(ErrorCode::Unsupported, format!("{what} are not offered: {instead}"))
}
