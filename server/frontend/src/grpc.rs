//! Rooms 1 and 8: the gRPC door. The Open Inference Protocol with Triton's extensions, `grpc.health.v1`, reflection.
//!
//! Called by the composition root, which hands [`grpc_router`]'s result to [`serve`](crate::host::serve). Each call
//! passes, from outside in: [`call`] (request id, deadline, message limits, stage times in the trailers), the
//! server of its service, and the handler. Dropping a call cancels it.

mod answer;
mod call;
mod codec;
mod context;
mod deadline;
mod health;
mod infer;
mod inference;
mod metadata;
mod reflection;
mod repository;
mod routes;
mod service;
mod stream;
mod trailers;
mod unary;

pub use answer::AnswerBody;
pub use call::{CallBody, CallFuture, CallService};
pub use context::CallContext;
pub(crate) use metadata::EXTENSIONS;
pub(crate) use repository::index;
pub use routes::{CallAnswering, Routed, grpc_router, grpc_service};
pub use trailers::TimedBody;
pub use unary::MessageBody;
