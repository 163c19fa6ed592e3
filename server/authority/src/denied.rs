//! Denials: what a caller is told when it may not pass.
//!
//! Made by every judgement here, turned into an answer by the front end. A message never repeats a secret, a token or a
//! header whole; what it quotes is escaped and cut.

use http::StatusCode;

/// Why a caller may not pass. The names are AWS's; the last two are those of the bearer doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeniedCode {
    /// No signature at all.
    MissingAuthenticationToken,
    /// A signature with parts missing or unreadable.
    IncompleteSignature,
    /// An access key id that is not known.
    UnrecognizedClient,
    /// A signature that is wrong, out of date, or made for something else.
    InvalidSignature,
    /// A signed request whose key has not the scope.
    AccessDenied,
    /// No bearer token, or one that is not known.
    Unauthenticated,
    /// A bearer token that has not the scope.
    Forbidden,
}

impl DeniedCode {
    /// The name on the wire (`x-amzn-ErrorType`, `__type`).
    pub fn name(self) -> &'static str {
        match self {
            Self::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Self::IncompleteSignature => "IncompleteSignatureException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::InvalidSignature => "InvalidSignatureException",
            Self::AccessDenied => "AccessDeniedException",
            Self::Unauthenticated => "Unauthenticated",
            Self::Forbidden => "Forbidden",
        }
    }

    /// 401 where a token was expected and there is no good one, else 403.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            _ => StatusCode::FORBIDDEN,
        }
    }
}

/// A denial: the code, and a text for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Denied {
    /// Which denial.
    pub code: DeniedCode,
    /// What was expected; safe to send.
    pub message: String,
}

impl Denied {
    pub(crate) fn new(code: DeniedCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a caller sent, fit to be quoted in a message: escaped, at most 64 characters of it.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        short.push('…');
    }
    format!("'{short}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_names_and_codes() {
        let table = [
            (DeniedCode::MissingAuthenticationToken, "MissingAuthenticationTokenException", 403),
            (DeniedCode::IncompleteSignature, "IncompleteSignatureException", 403),
            (DeniedCode::UnrecognizedClient, "UnrecognizedClientException", 403),
            (DeniedCode::InvalidSignature, "InvalidSignatureException", 403),
            (DeniedCode::AccessDenied, "AccessDeniedException", 403),
            (DeniedCode::Unauthenticated, "Unauthenticated", 401),
            (DeniedCode::Forbidden, "Forbidden", 403),
        ];
        for (code, name, status) in table {
            assert_eq!((code.name(), code.http_status().as_u16()), (name, status));
        }
    }

    #[test]
    fn what_is_quoted_is_escaped_and_short() {
        assert_eq!(quoted("us-east-1"), "'us-east-1'");
        assert_eq!(quoted("a\r\nb\0"), r"'a\r\nb\0'");
        assert_eq!(quoted(&"x".repeat(65)), format!("'{}…'", "x".repeat(64)));
    }
}
