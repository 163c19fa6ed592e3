//! Why a call failed, and by that what is done about it.
//!
//! Made of the code of an answer, whatever its HTTP status: AWS sends the same codes with several.

use std::io;

/// Most bytes of a message that are kept.
const MESSAGE_BYTES_MAX: usize = 600;

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Too many calls: once more, later.
    Throttled,
    /// A type cannot be had in a zone, or may not: another type, another zone.
    NoCapacity,
    /// The credentials are past their time or were taken back: others, and once more.
    Expired,
    /// It was made a moment ago and is not known everywhere yet, or is gone: once more, for a while.
    NotFound,
    /// The service fails: once more, later.
    Unavailable,
    /// No answer came: it may have been done or not. The same call once more.
    Lost,
    /// The credentials may not do this: somebody has to allow it.
    Denied,
    /// The call is wrong; another time it is as wrong.
    Wrong,
}

/// A failed call. Its words name the call and the service's own code and words; never a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {}{}{message}", code, if code.is_empty() { "" } else { ": " })]
pub struct ApiError {
    /// The service and the action.
    pub call: String,
    /// What it calls for.
    pub fault: Fault,
    /// The service's code; empty if it sent none.
    pub code: String,
    /// The service's words.
    pub message: String,
}

impl ApiError {
    pub(crate) fn new(call: &str, fault: Fault, message: impl ToString) -> Self {
        Self { call: call.to_owned(), fault, code: String::new(), message: shortened(message.to_string()) }
    }

    /// Of an answer with a code.
    pub(crate) fn refused(call: &str, code: &str, message: &str, status: u16) -> Self {
        let message = shortened(message.to_owned());
        Self { call: call.to_owned(), fault: fault(code, status), code: code.to_owned(), message }
    }
}

impl From<ApiError> for io::Error {
    fn from(error: ApiError) -> Self {
        let kind = match error.fault {
            Fault::Denied | Fault::Expired => io::ErrorKind::PermissionDenied,
            Fault::NotFound => io::ErrorKind::NotFound,
            Fault::Lost => io::ErrorKind::TimedOut,
            Fault::Wrong => io::ErrorKind::InvalidInput,
            Fault::Throttled | Fault::NoCapacity | Fault::Unavailable => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// By the code; by the HTTP status only where there is none that is known.
pub(crate) fn fault(code: &str, status: u16) -> Fault {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded"
        | "SlowDown" => Fault::Throttled,
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientCapacityOnHost"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientVolumeCapacity"
        | "UnfulfillableCapacity"
        | "Unsupported"
        | "InvalidInstanceType"
        | "MaxSpotInstanceCountExceeded"
        | "MaxSpotFleetRequestCountExceeded"
        | "SpotMaxPriceTooLow"
        | "VcpuLimitExceeded"
        | "InstanceLimitExceeded" => Fault::NoCapacity,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException" => Fault::Expired,
        "InvalidInstanceID.NotFound"
        | "InvalidLaunchTemplateId.NotFound"
        | "InvalidLaunchTemplateId.VersionNotFound"
        | "InvalidLaunchTemplateName.NotFoundException"
        | "ParameterNotFound" => Fault::NotFound,
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalServiceError"
        | "ServerInternal"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "Unavailable"
        | "RequestTimeout" => Fault::Unavailable,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "OptInRequired"
        | "Blocked"
        | "PendingVerification" => Fault::Denied,
        "" if status == 429 => Fault::Throttled,
        _ if status >= 500 => Fault::Unavailable,
        "" if status == 401 || status == 403 => Fault::Denied,
        _ => Fault::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_counts_and_not_the_status() {
        for (code, status, expected) in [
            ("RequestLimitExceeded", 503, Fault::Throttled),
            ("RequestLimitExceeded", 400, Fault::Throttled),
            ("InsufficientInstanceCapacity", 400, Fault::NoCapacity),
            ("InsufficientInstanceCapacity", 500, Fault::NoCapacity),
            ("VcpuLimitExceeded", 400, Fault::NoCapacity),
            ("ExpiredToken", 403, Fault::Expired),
            ("AuthFailure", 401, Fault::Expired),
            ("InvalidInstanceID.NotFound", 400, Fault::NotFound),
            ("InternalError", 500, Fault::Unavailable),
            ("UnauthorizedOperation", 403, Fault::Denied),
            ("InvalidParameterValue", 400, Fault::Wrong),
            ("SomethingNew", 500, Fault::Unavailable),
            ("SomethingNew", 400, Fault::Wrong),
            ("", 502, Fault::Unavailable),
            ("", 429, Fault::Throttled),
            ("", 404, Fault::Wrong),
        ] {
            assert_eq!(fault(code, status), expected, "{code} {status}");
        }
    }

    #[test]
    fn words_are_bounded() {
        let error = ApiError::refused("EC2 CreateFleet", "UnauthorizedOperation", &"ü".repeat(2000), 403);
        assert!(error.to_string().starts_with("EC2 CreateFleet: UnauthorizedOperation: üü"));
        assert!(error.message.len() <= MESSAGE_BYTES_MAX + 3);
        assert_eq!(ApiError::new("EC2 X", Fault::Lost, "no answer").to_string(), "EC2 X: no answer");
    }
}
