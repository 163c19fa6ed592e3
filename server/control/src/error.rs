//! Why an operation is not done: Lambda's own kinds of errors, with words.
//!
//! Made by the operations; the front end knows the status of each kind. Never says what a client could not act on.

use penstock_domain::{ErrorCode, Refusal};
use penstock_packages::PackageError;
use penstock_registry::store::StoreError;

/// The kinds of errors, by Lambda's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are Lambda's
pub enum ErrorKind {
    AccessDenied,
    AliasLimitExceeded,
    CapacityProviderLimitExceeded,
    CodeStorageExceeded,
    FunctionVersionsPerCapacityProviderLimitExceeded,
    InvalidParameterValue,
    InvalidRequestContent,
    NoPublishedVersion,
    PreconditionFailed,
    RequestEntityTooLarge,
    RequestTooLarge,
    ResourceConflict,
    ResourceNotFound,
    ResourceNotReady,
    Serialization,
    Service,
    TooManyRequests,
    Unavailable,
    UnknownOperation,
    UnsupportedMediaType,
    Validation,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [ErrorKind; 21] = [
        ErrorKind::AccessDenied,
        ErrorKind::AliasLimitExceeded,
        ErrorKind::CapacityProviderLimitExceeded,
        ErrorKind::CodeStorageExceeded,
        ErrorKind::FunctionVersionsPerCapacityProviderLimitExceeded,
        ErrorKind::InvalidParameterValue,
        ErrorKind::InvalidRequestContent,
        ErrorKind::NoPublishedVersion,
        ErrorKind::PreconditionFailed,
        ErrorKind::RequestEntityTooLarge,
        ErrorKind::RequestTooLarge,
        ErrorKind::ResourceConflict,
        ErrorKind::ResourceNotFound,
        ErrorKind::ResourceNotReady,
        ErrorKind::Serialization,
        ErrorKind::Service,
        ErrorKind::TooManyRequests,
        ErrorKind::Unavailable,
        ErrorKind::UnknownOperation,
        ErrorKind::UnsupportedMediaType,
        ErrorKind::Validation,
    ];
}

/// An operation that was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// Its kind.
    pub kind: ErrorKind,
    /// What was found and what would be right; Lambda's own words where it has them.
    pub message: String,
}

impl ControlError {
    /// A kind with words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A parameter that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameterValue, message)
    }

    /// A member that its own constraint refuses, in Lambda's words.
    pub fn validation(value: impl std::fmt::Display, member: &str, constraint: impl std::fmt::Display) -> Self {
        let text = format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
        );
        Self::new(ErrorKind::Validation, text)
    }

    /// It cannot be done as things stand.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ResourceConflict, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ResourceNotFound, message)
    }

    /// Our fault.
    pub fn service(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Service, message)
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => {
                Self::conflict("The operation cannot be performed at this time: the resource was changed meanwhile.")
            }
            StoreError::TooLarge { .. } => Self::invalid(error.to_string()),
            // Trying again makes no room.
            StoreError::Full { .. } | StoreError::NoSpace(_) => {
                Self::new(ErrorKind::CodeStorageExceeded, error.to_string())
            }
            StoreError::Invalid { .. } => Self::invalid(error.to_string()),
            StoreError::NotLeading { .. } | StoreError::Away(_) => Self::new(ErrorKind::Unavailable, error.to_string()),
            other => {
                tracing::error!(error = %other, "the store failed");
                Self::service(other.to_string())
            }
        }
    }
}

impl From<PackageError> for ControlError {
    fn from(error: PackageError) -> Self {
        let told = error.to_string();
        match error.code() {
            ErrorCode::TooLarge | ErrorCode::InvalidArgument | ErrorCode::Unsupported => {
                let lambda = error.lambda_text().map(|text| format!("{text} ({told})"));
                Self::invalid(lambda.unwrap_or(told))
            }
            _ if matches!(error, PackageError::MissingContents { .. }) => Self::invalid(told),
            _ => {
                tracing::error!(error = %told, "the content store failed");
                Self::service(told)
            }
        }
    }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            ErrorCode::Conflict => Self::conflict(refusal.message),
            ErrorCode::NotFound => Self::not_found(refusal.message),
            ErrorCode::InvalidArgument => Self::invalid(refusal.message),
            _ => Self::service(refusal.message),
        }
    }
}

/// A record of ours that cannot be read or written: only a fault of this program makes one.
impl From<serde_json::Error> for ControlError {
    fn from(error: serde_json::Error) -> Self {
        tracing::error!(%error, "a record of the control plane cannot be read");
        Self::service(format!("a record of the control plane cannot be read: {error}"))
    }
}
