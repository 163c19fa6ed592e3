//! The ceiling: `ModelInfer` and `ModelStreamInfer` that send inputs back as outputs, hosted as barely as tonic and hyper
//! allow. Also the two HTTP doors, as fixed answers. Called by `main`; what a real server does between is what it costs.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use penstock_proto::inference::model_infer_response::InferOutputTensor;
use penstock_proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tonic::server::{Grpc, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The largest message either way.
const MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// An echo that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// The runtime.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    /// The port.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

fn reflect(request: ModelInferRequest) -> ModelInferResponse {
    let outputs = request.inputs.into_iter().map(|input| InferOutputTensor {
        name: input.name,
        datatype: input.datatype,
        shape: input.shape,
        parameters: input.parameters,
        contents: input.contents,
    });
    ModelInferResponse {
        model_name: request.model_name,
        model_version: request.model_version,
        id: request.id,
        outputs: outputs.collect(),
        raw_output_contents: request.raw_input_contents,
        ..Default::default()
    }
}

struct Unary;

impl UnaryService<ModelInferRequest> for Unary {
    type Response = ModelInferResponse;
    type Future = std::future::Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<ModelInferRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new(reflect(request.into_inner()))))
    }
}

struct Bidirectional;

type Responses = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

impl StreamingService<ModelInferRequest> for Bidirectional {
    type Response = ModelStreamInferResponse;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<ModelInferRequest>>) -> Self::Future {
        let responses = request.into_inner().map(|message| {
            let response = Some(reflect(message?));
            Ok(ModelStreamInferResponse { error_message: String::new(), infer_response: response })
        });
        std::future::ready(Ok(Response::new(Box::pin(responses))))
    }
}

async fn grpc(request: http::Request<Incoming>) -> Result<http::Response<tonic::body::Body>, Infallible> {
    match request.uri().path() {
        "/inference.GRPCInferenceService/ModelInfer" => {
            let codec = ProstCodec::<ModelInferResponse, ModelInferRequest>::default();
            Ok(Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES).unary(Unary, request).await)
        }
        "/inference.GRPCInferenceService/ModelStreamInfer" => {
            let codec = ProstCodec::<ModelStreamInferResponse, ModelInferRequest>::default();
            Ok(Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES).streaming(Bidirectional, request).await)
        }
        _ => Ok(Status::unimplemented("the echo knows ModelInfer and ModelStreamInfer").into_http()),
    }
}

/// Sends a body back as it came, except to an embeddings request, which gets one vector of 384 values.
async fn http(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let embeddings = request.uri().path() == "/v1/embeddings";
    let body = request.into_body().collect().await?.to_bytes();
    Ok(http::Response::new(Full::new(if embeddings { EMBEDDING.clone() } else { body })))
}

static EMBEDDING: std::sync::LazyLock<Bytes> = std::sync::LazyLock::new(|| {
    let vector = vec!["0.0123456"; 384].join(",");
    let head = r#"{"object":"list","model":"echo","usage":{"prompt_tokens":16,"total_tokens":16},"data":"#;
    format!(r#"{head}[{{"object":"embedding","index":0,"embedding":[{vector}]}}]}}"#).into()
});

/// Serves until the process ends. `listening` is told the bound gRPC address.
pub fn serve(
    grpc_address: SocketAddr,
    http_address: Option<SocketAddr>,
    threads: usize,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), EchoError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(EchoError::Runtime)?;
    runtime.block_on(async {
        let bind = |address| async move {
            TcpListener::bind(address).await.map_err(|error| EchoError::Listen(address, error))
        };
        let listener = bind(grpc_address).await?;
        if let Some(address) = http_address {
            tokio::spawn(serve_http(bind(address).await?));
        }
        listening(listener.local_addr().unwrap_or(grpc_address));
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            tokio::spawn(connection(socket, 16 << 20));
        }
    })
}

/// One HTTP/2 connection, with so many bytes of receive window.
pub async fn connection<S>(socket: S, window: u32) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new()).max_concurrent_streams(None);
    server.initial_stream_window_size(window / 4).initial_connection_window_size(window);
    server.serve_connection(TokioIo::new(socket), service_fn(grpc)).await
}

async fn serve_http(listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let _ = socket.set_nodelay(true);
        let server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.serve_connection(TokioIo::new(socket), service_fn(http)));
    }
}
