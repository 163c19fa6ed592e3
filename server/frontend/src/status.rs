//! Room 8, response: the only table from [`ErrorCode`] to gRPC and HTTP, and what rides beside a refusal.
//!
//! Called by every door. Never decides anything: the code, the reason and the wait come from the rooms behind.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use penstock_control::ErrorKind;
use penstock_domain::{ErrorCode, Refusal, ShedReason};
use std::collections::HashMap;
use std::time::Duration;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

/// Milliseconds until a retry makes sense (HTTP), beside `Retry-After`, which only has whole seconds.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("x-amz-retry-after");
/// Why a request was shed; the same on both protocols and whatever the overload codes.
pub const SHED_REASON: HeaderName = HeaderName::from_static(SHED_REASON_TRAILER);
/// The same, as a gRPC trailer.
pub const SHED_REASON_TRAILER: &str = "x-penstock-shed-reason";
/// Milliseconds until a retry makes sense, as gRPC's retry policy reads it.
pub const RETRY_PUSHBACK_MS: &str = "grpc-retry-pushback-ms";
/// `domain` of google.rpc.ErrorInfo.
pub const ERROR_DOMAIN: &str = "penstock";

/// The wait told when a shed comes without a measured one: nothing has drained yet, so there is nothing to measure.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// How "everything is busy" is told. The machine-readable reason never changes with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OverloadCodes {
    /// 429 / RESOURCE_EXHAUSTED, as AWS Lambda does.
    #[default]
    Lambda,
    /// 503 / UNAVAILABLE, as Triton does; gRPC retry policies usually name only UNAVAILABLE.
    Triton,
}

/// The table. A conflict is FAILED_PRECONDITION, not ABORTED: gRPC tells clients to retry ABORTED at a higher level,
/// and here the same call fails until someone changes the state; ALREADY_EXISTS would be wrong for all but creation.
const fn row(code: ErrorCode, overload: OverloadCodes) -> (tonic::Code, u16) {
    match (code, overload) {
        (ErrorCode::InvalidArgument, _) => (tonic::Code::InvalidArgument, 400),
        (ErrorCode::NotFound, _) => (tonic::Code::NotFound, 404),
        (ErrorCode::Conflict, _) => (tonic::Code::FailedPrecondition, 409),
        (ErrorCode::TooLarge, _) => (tonic::Code::ResourceExhausted, 413),
        (ErrorCode::Unsupported, _) => (tonic::Code::Unimplemented, 501),
        (ErrorCode::Exhausted, OverloadCodes::Lambda) => (tonic::Code::ResourceExhausted, 429),
        (ErrorCode::Exhausted, OverloadCodes::Triton) => (tonic::Code::Unavailable, 503),
        (ErrorCode::Unavailable, _) => (tonic::Code::Unavailable, 503),
        (ErrorCode::DeadlineExceeded, _) => (tonic::Code::DeadlineExceeded, 504),
        (ErrorCode::Cancelled, _) => (tonic::Code::Cancelled, 499),
        (ErrorCode::Internal, _) => (tonic::Code::Internal, 500),
        (ErrorCode::Unauthenticated, _) => (tonic::Code::Unauthenticated, 401),
        (ErrorCode::Forbidden, _) => (tonic::Code::PermissionDenied, 403),
    }
}

/// The gRPC code of an error.
pub const fn grpc_code(code: ErrorCode, overload: OverloadCodes) -> tonic::Code {
    row(code, overload).0
}

/// The HTTP status of an error.
pub fn http_status(code: ErrorCode, overload: OverloadCodes) -> StatusCode {
    StatusCode::from_u16(row(code, overload).1).expect("every status of the table has three digits")
}

/// How long a client should wait before it tries again; `None` where waiting is not what helps.
fn retry_after(refusal: &Refusal) -> Option<Duration> {
    refusal.retry_after.or_else(|| {
        let passes = matches!(refusal.code, ErrorCode::Exhausted | ErrorCode::Unavailable);
        (refusal.shed.is_some() && passes).then_some(RETRY_AFTER_DEFAULT)
    })
}

/// Milliseconds, rounded up, at least 1: never earlier than the measured wait.
fn whole_milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

/// The same wait in whole milliseconds, as every door tells it.
pub(crate) fn retry_after_ms(refusal: &Refusal) -> Option<u64> {
    retry_after(refusal).map(whole_milliseconds)
}

/// Seconds, rounded up, at least 1, as `Retry-After` wants them.
fn whole_seconds(wait: Duration) -> u64 {
    whole_milliseconds(wait).div_ceil(1000)
}

/// When to ask again.
pub(crate) fn wait_headers(wait: Duration) -> [(HeaderName, HeaderValue); 2] {
    [
        (header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait))),
        (RETRY_AFTER_MS, HeaderValue::from(whole_milliseconds(wait))),
    ]
}

/// The headers that go with a refusal over HTTP: `Retry-After`, `x-amz-retry-after`, `x-penstock-shed-reason`.
pub fn refusal_headers(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(wait) = retry_after(refusal) {
        headers.extend(wait_headers(wait));
    }
    if let Some(reason) = refusal.shed {
        headers.insert(SHED_REASON, HeaderValue::from_static(reason.name()));
    }
    headers
}

/// A refusal as gRPC tells it: code and message; `grpc-retry-pushback-ms` and `x-penstock-shed-reason` as trailers;
/// google.rpc ErrorInfo and RetryInfo in `grpc-status-details-bin`.
pub fn refusal_to_status(refusal: &Refusal, overload: OverloadCodes) -> tonic::Status {
    let code = grpc_code(refusal.code, overload);
    let wait_ms = retry_after_ms(refusal);
    let mut metadata = MetadataMap::new();
    if let Some(wait_ms) = wait_ms {
        metadata.insert(RETRY_PUSHBACK_MS, AsciiMetadataValue::from(wait_ms));
    }
    if let Some(reason) = refusal.shed {
        metadata.insert(SHED_REASON_TRAILER, AsciiMetadataValue::from_static(reason.name()));
    }
    let mut details = ErrorDetails::new();
    if let Some(reason) = refusal.reason_name() {
        details.set_error_info(reason, ERROR_DOMAIN, HashMap::new());
    }
    if let Some(wait_ms) = wait_ms {
        details.set_retry_info(Some(Duration::from_millis(wait_ms)));
    }
    if details.error_info().is_none() && details.retry_info().is_none() {
        return tonic::Status::new(code, refusal.message.clone());
    }
    tonic::Status::with_error_details_and_metadata(code, refusal.message.clone(), details, metadata)
}

/// A status of this table's.
pub(crate) fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("every status of the table has three digits")
}

/// Lambda's kind of error for a refusal that is no error of the function.
pub(crate) fn lambda_kind(refusal: &Refusal) -> ErrorKind {
    match (refusal.shed, refusal.code) {
        (Some(ShedReason::NoCapacity | ShedReason::Draining), _) => ErrorKind::ResourceNotReady,
        (Some(_), _) | (None, ErrorCode::Exhausted) => ErrorKind::TooManyRequests,
        (None, ErrorCode::InvalidArgument | ErrorCode::Unsupported) => ErrorKind::InvalidParameterValue,
        (None, ErrorCode::NotFound) => ErrorKind::ResourceNotFound,
        (None, ErrorCode::Conflict) => ErrorKind::ResourceConflict,
        (None, ErrorCode::TooLarge) => ErrorKind::RequestTooLarge,
        (None, ErrorCode::Unavailable) => ErrorKind::ResourceNotReady,
        (None, ErrorCode::Unauthenticated | ErrorCode::Forbidden) => ErrorKind::AccessDenied,
        (None, ErrorCode::DeadlineExceeded | ErrorCode::Cancelled | ErrorCode::Internal) => ErrorKind::Service,
    }
}

/// The table of Lambda's errors: name and status.
pub(crate) const fn lambda_row(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::AccessDenied => ("AccessDeniedException", 403),
        ErrorKind::AliasLimitExceeded => ("AliasLimitExceededException", 400),
        ErrorKind::CapacityProviderLimitExceeded => ("CapacityProviderLimitExceededException", 400),
        ErrorKind::CodeStorageExceeded => ("CodeStorageExceededException", 400),
        ErrorKind::FunctionVersionsPerCapacityProviderLimitExceeded => {
            ("FunctionVersionsPerCapacityProviderLimitExceededException", 400)
        }
        ErrorKind::InvalidParameterValue => ("InvalidParameterValueException", 400),
        ErrorKind::InvalidRequestContent => ("InvalidRequestContentException", 400),
        ErrorKind::NoPublishedVersion => ("NoPublishedVersionException", 400),
        ErrorKind::PreconditionFailed => ("PreconditionFailedException", 412),
        ErrorKind::RequestEntityTooLarge => ("RequestEntityTooLargeException", 413),
        ErrorKind::RequestTooLarge => ("RequestTooLargeException", 413),
        ErrorKind::ResourceConflict => ("ResourceConflictException", 409),
        ErrorKind::ResourceNotFound => ("ResourceNotFoundException", 404),
        ErrorKind::ResourceNotReady => ("ResourceNotReadyException", 502),
        ErrorKind::Serialization => ("SerializationException", 400),
        ErrorKind::Service => ("ServiceException", 500),
        ErrorKind::TooManyRequests => ("TooManyRequestsException", 429),
        ErrorKind::Unavailable => ("ServiceUnavailableException", 503),
        ErrorKind::UnknownOperation => ("UnknownOperationException", 404),
        ErrorKind::UnsupportedMediaType => ("UnsupportedMediaTypeException", 415),
        ErrorKind::Validation => ("ValidationException", 400),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
