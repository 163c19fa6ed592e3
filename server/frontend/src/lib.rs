//! Rooms 1 and 8: the doors. Requests come in by gRPC, HTTP and the OpenAI API, are turned into an
//! [`Invocation`](penstock_domain::Invocation), and leave as an answer or a refusal in their own protocol's words.
//!
//! Called by the composition root, which gives it the house, the listeners and the limits. Never runs a model, never
//! admits or routes, and is the only crate with a tonic server and axum.

pub mod classification;
pub mod convert;
pub mod grpc;
pub mod guard;
pub mod host;
pub mod http;
pub mod lambda;
pub mod limits;
pub mod metrics;
pub mod openai;
pub mod options;
pub mod request_id;
pub mod status;
pub mod timing;

pub use grpc::{grpc_router, grpc_service};
pub use options::FrontendOptions;
