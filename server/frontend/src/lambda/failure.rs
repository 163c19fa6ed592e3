//! Room 8, Lambda door: errors in Lambda's shape.
//!
//! Called by the handlers, and by the HTTP door for what never reached one. Status and name of each kind are in `status`.

use crate::status::{lambda_kind, lambda_row, refusal_headers, wait_headers};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use penstock_control::{ControlError, ErrorKind};
use penstock_domain::{Refusal, ShedReason};
use serde_json::json;
use std::time::Duration;

/// The request's id, where Lambda's clients look for it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// The name of an error, where they look for that.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// When to ask again for what nobody can do now: by then another server may lead.
const UNAVAILABLE_WAIT: Duration = Duration::from_secs(1);

/// An error on its way out.
#[derive(Debug)]
pub(crate) struct LambdaError {
    error: ControlError,
    /// Lambda's `Reason`, of a throttled call.
    reason: Option<&'static str>,
    /// What was refused, with its wait and its own reason.
    refusal: Option<Box<Refusal>>,
}

impl LambdaError {
    /// There is no such function or version.
    pub(crate) fn is_not_found(&self) -> bool {
        self.error.kind == ErrorKind::ResourceNotFound
    }

    /// In words.
    pub(crate) fn message(&self) -> &str {
        &self.error.message
    }
}

impl From<ControlError> for LambdaError {
    fn from(error: ControlError) -> Self {
        Self { error, reason: None, refusal: None }
    }
}

impl From<Refusal> for LambdaError {
    fn from(refusal: Refusal) -> Self {
        let kind = lambda_kind(&refusal);
        let reason = (kind == ErrorKind::TooManyRequests).then(|| throttle_reason(refusal.shed));
        let message = match refusal.reason_name() {
            // AWS's own words first: people look for them. The reason says which limit it was.
            Some(name) if reason.is_some() => format!("Rate Exceeded. {} ({name})", refusal.message),
            _ => refusal.message.clone(),
        };
        Self { error: ControlError::new(kind, message), reason, refusal: Some(Box::new(refusal)) }
    }
}

impl From<crate::http::Failure> for LambdaError {
    fn from(failure: crate::http::Failure) -> Self {
        failure.refusal.into()
    }
}

/// Lambda's closest word for a limit of ours; the exact one is in `x-penstock-shed-reason`.
fn throttle_reason(shed: Option<ShedReason>) -> &'static str {
    match shed {
        Some(ShedReason::FunctionConcurrency) => "ReservedFunctionConcurrentInvocationLimitExceeded",
        Some(ShedReason::CallerConcurrency) => "CallerRateLimitExceeded",
        _ => "ConcurrentInvocationLimitExceeded",
    }
}

impl IntoResponse for LambdaError {
    fn into_response(self) -> Response {
        let (name, status) = lambda_row(self.error.kind);
        let who = if status >= 500 { "Service" } else { "User" };
        let message = &self.error.message;
        // Members differ in case from shape to shape: clients of either find theirs.
        let mut body = json!({ "Type": who, "message": message, "Message": message });
        if let Some(reason) = self.reason {
            body["Reason"] = reason.into();
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = crate::status::status_code(status);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_TYPE, HeaderValue::from_static(name));
        if self.error.kind == ErrorKind::Unavailable {
            headers.extend(wait_headers(UNAVAILABLE_WAIT));
        }
        if let Some(refusal) = &self.refusal {
            headers.extend(refusal_headers(refusal));
        }
        response
    }
}

/// What the authoriser found wrong.
pub(crate) fn denied(name: &'static str, status: StatusCode, message: &str) -> Response {
    let body = json!({ "Type": "User", "message": message, "Message": message });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ERROR_TYPE, HeaderValue::from_static(name));
    response
}

/// What the HTTP door found wrong before a handler was reached, in Lambda's shape.
pub(crate) fn error_response(failure: &crate::http::Failure) -> Response {
    let refusal = &failure.refusal;
    if failure.is_no_route() {
        let text = format!("{}: Lambda has such an operation, or not; this server does not offer it", refusal.message);
        return LambdaError::from(ControlError::new(ErrorKind::UnknownOperation, text)).into_response();
    }
    LambdaError::from(refusal.clone()).into_response()
}
