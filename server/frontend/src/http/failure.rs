//! Room 8, response: a refusal on its way out by an HTTP door, in the shape of the API it was asked in.
//!
//! Called by every HTTP handler: it returns a [`Failure`], which rides in the response's extensions until the
//! outermost layer (`finish`) prints it, so that one place knows the shapes, the overload codes and the headers. The
//! status comes from the table in `status`, but for what only HTTP knows (405, 408, 415).

use crate::status::{OverloadCodes, RETRY_AFTER_MS, http_status, refusal_headers};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use penstock_domain::{ErrorCode, Refusal};

/// The wait in milliseconds where the `openai` SDK looks first, before `Retry-After`.
const OPENAI_RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Code, words, shed reason and wait.
    pub(crate) refusal: Refusal,
    /// A status of HTTP itself, instead of the table's.
    pub(crate) status: Option<StatusCode>,
    /// The request's member that is wrong (OpenAI's `param`).
    pub(crate) param: Option<&'static str>,
    /// OpenAI's `code`, where it has one of its own.
    pub(crate) code: Option<&'static str>,
    /// It names no route.
    no_route: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, status: None, param: None, code: None, no_route: false }
    }
}

impl Failure {
    /// There is no such route, or not by this method.
    pub(crate) fn is_no_route(&self) -> bool {
        self.no_route
    }

    /// With a status only HTTP knows.
    pub(crate) fn http(status: StatusCode, refusal: Refusal) -> Self {
        Self { status: Some(status), ..Self::from(refusal) }
    }

    /// Names the member of an OpenAI request that is wrong.
    #[must_use]
    pub(crate) fn with_param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Sets OpenAI's `code`.
    #[must_use]
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The response, in the shape of `api`.
    pub(crate) fn render(&self, api: Api, overload: OverloadCodes) -> Response {
        let status = self.status.unwrap_or_else(|| http_status(self.refusal.code, overload));
        let body = match api {
            Api::OpenInference => serde_json::json!({ "error": self.refusal.message }),
            Api::OpenAi => crate::openai::error_body(self, status),
            Api::Lambda => return crate::lambda::error_response(self),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(refusal_headers(&self.refusal));
        if let (Api::OpenAi, Some(wait)) = (api, response.headers().get(&RETRY_AFTER_MS).cloned()) {
            response.headers_mut().insert(OPENAI_RETRY_AFTER_MS, wait);
        }
        response
    }
}

/// Leaves the printing to `finish`.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

/// Which API a path belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Api {
    /// Everything else.
    OpenInference,
    /// `/v1`.
    OpenAi,
    /// What begins with a date.
    Lambda,
}

impl Api {
    /// The API of a path.
    pub(crate) fn of(path: &str) -> Self {
        match path.strip_prefix("/v1") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Api::OpenAi,
            _ if crate::lambda::is_lambda(path) => Api::Lambda,
            _ => Api::OpenInference,
        }
    }
}

/// The route of no handler.
pub(crate) async fn unknown_route(method: http::Method, uri: http::Uri) -> Failure {
    let refusal = Refusal::new(ErrorCode::NotFound, format!("there is no route {method} {}", uri.path()));
    Failure { no_route: true, ..refusal.into() }
}

/// A route, but not by this method.
pub(crate) async fn wrong_method(method: http::Method, uri: http::Uri) -> Failure {
    let message = format!("{} does not take the method {method}", uri.path());
    Failure { no_route: true, ..Failure::http(StatusCode::METHOD_NOT_ALLOWED, Refusal::invalid(message)) }
}
