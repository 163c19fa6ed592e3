//! Rooms 1 and 8, Lambda door: the control plane's operations and Invoke, on the paths and in the shapes of Lambda's API.
//!
//! Called by the HTTP door, which merges these routes. A handler reads a body, has the control plane or the house do it, and
//! prints what comes back. Paths carry the date of the API that they belong to, and no two have the same.

mod event_stream;
mod failure;
mod forward;
mod function_error;
mod invoke;
mod operations;
mod packages;
mod payload;
mod query;
mod retries;
mod stream;

pub(crate) use failure::{REQUEST_ID, denied, error_response};

use crate::http::Door;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::StatusCode;
use penstock_control::{ControlError, ControlPlane, ErrorKind};
use penstock_trust::Authority;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What the Lambda door knows beside what every HTTP door does.
pub struct Lambda {
    /// The control plane.
    pub control: Arc<ControlPlane>,
    pub(crate) attempts: retries::Attempts,
    forward: forward::Forward,
}

impl Lambda {
    /// A door to this control plane. `servers` signs for those that share its state, if several do.
    pub fn new(control: Arc<ControlPlane>, servers: Option<Arc<Authority>>) -> Self {
        let attempts = retries::Attempts::new(invoke::Done::is_kept);
        Self { control, attempts, forward: forward::Forward::new(servers) }
    }
}

/// Runs asynchronous invocations, in the background, for as long as the server lives.
pub(crate) fn run_events(door: &Arc<Door>) {
    let Some(control) = door.lambda.as_ref().map(|lambda| lambda.control.clone()) else { return };
    let door = door.clone();
    tokio::spawn(control.run_events(move |named, payload, id| invoke::event(door.clone(), named, payload, id)));
}

/// Whether a path belongs to Lambda's API: it begins with a date.
pub(crate) fn is_lambda(path: &str) -> bool {
    let Some(date) = path.get(1..11).filter(|_| path.as_bytes().get(11).is_none_or(|byte| *byte == b'/')) else {
        return false;
    };
    path.starts_with('/')
        && date
            .bytes()
            .enumerate()
            .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() })
}

/// Operations that are carried out at once: they may go on without their connections, which are bounded elsewhere.
const OPERATIONS_MAX: usize = 256;
/// Where a content of a package is sent.
const CONTENT: &str = "/2026-11-26/packages/{manifest}/contents/{sha256}";

/// The content that a path is for, by its hash in hexadecimal digits.
pub(crate) fn sent_content(path: &str) -> Option<&str> {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", "2026-11-26", "packages", _manifest, "contents", sha256] => Some(sha256),
        _ => None,
    }
}

/// All routes of Lambda's API that are served.
pub(crate) fn routes(door: &Arc<Door>) -> Router<Arc<Door>> {
    let functions = "/2015-03-31/functions";
    let function = |rest: &str| format!("{functions}/{{name}}{rest}");
    let events = "/2019-09-25/functions/{name}/event-invoke-config";
    let providers = "/2025-11-30/capacity-providers";
    let provider = |rest: &str| format!("{providers}/{{name}}{rest}");
    let places = Arc::new(Semaphore::new(OPERATIONS_MAX));
    Router::new()
        .route(functions, post(operations::create_function).get(operations::list_functions))
        .route("/2015-03-31/functions/", post(operations::create_function).get(operations::list_functions))
        .route(&function(""), get(operations::get_function).delete(operations::delete_function))
        .route(&function("/configuration"), get(operations::get_configuration).put(operations::update_configuration))
        .route(&function("/code"), put(operations::update_code).get(operations::get_code))
        .route(&function("/versions"), post(operations::publish_version).get(operations::list_versions))
        .route(&function("/aliases"), post(operations::create_alias).get(operations::list_aliases))
        .route(
            &function("/aliases/{alias}"),
            get(operations::get_alias).put(operations::update_alias).delete(operations::delete_alias),
        )
        .route(
            "/2017-10-31/functions/{name}/concurrency",
            put(operations::put_concurrency).delete(operations::delete_concurrency),
        )
        .route("/2019-09-30/functions/{name}/concurrency", get(operations::get_concurrency))
        .route(
            "/2025-11-30/functions/{name}/function-scaling-config",
            get(operations::get_scaling).put(operations::put_scaling),
        )
        .route(
            events,
            put(operations::put_event_invoke)
                .post(operations::update_event_invoke)
                .get(operations::get_event_invoke)
                .delete(operations::delete_event_invoke),
        )
        .route(&format!("{events}/list"), get(operations::list_event_invoke))
        .route(providers, post(operations::create_provider).get(operations::list_providers))
        .route(
            &provider(""),
            get(operations::get_provider).put(operations::update_provider).delete(operations::delete_provider),
        )
        .route(&provider("/function-versions"), get(operations::versions_by_provider))
        .route(
            "/2017-03-31/tags/{arn}",
            get(operations::list_tags).post(operations::tag).merge(delete(operations::untag)),
        )
        .route("/2026-11-26/functions/{name}/log", get(operations::function_log))
        .route("/2026-11-26/instances", get(operations::instances))
        .route("/2026-11-26/instances/replacement", post(operations::replace_instances))
        .route("/2026-11-26/packages", post(packages::announce))
        .route(CONTENT, put(packages::content))
        .route("/2016-08-19/account-settings", get(operations::account_settings))
        .route("/2016-08-19/account-settings/", get(operations::account_settings))
        .layer(from_fn(move |request, next| to_the_end(places.clone(), request, next)))
        .route(&function("/invocations"), post(invoke::invoke))
        .route("/2021-11-15/functions/{name}/response-streaming-invocations", post(stream::invoke))
        .layer(from_fn_with_state(door.clone(), forward::to_the_leader))
        .layer(DefaultBodyLimit::disable())
}

/// Carries an operation out even if its client leaves: what it has begun to write down it has to finish.
async fn to_the_end(places: Arc<Semaphore>, request: Request, next: Next) -> Response {
    let Ok(place) = places.try_acquire_owned() else {
        let text = format!("Rate Exceeded. {OPERATIONS_MAX} operations are being carried out.");
        return failure::LambdaError::from(ControlError::new(ErrorKind::TooManyRequests, text)).into_response();
    };
    let operation = async move {
        let response = next.run(request).await;
        drop(place);
        response
    };
    match tokio::spawn(operation).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it whoever would read an answer.
            Err(_) => operations::empty(StatusCode::SERVICE_UNAVAILABLE),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::is_lambda;

    #[test]
    fn a_path_of_lambda_begins_with_a_date() {
        for path in ["/2015-03-31/functions", "/2015-03-31", "/2021-11-15/x/y"] {
            assert!(is_lambda(path), "{path}");
        }
        for path in ["/v2/models", "/", "", "/2015-03-3x/functions", "/2015-03-31x", "/201503-311/f", "2015-03-31/x"] {
            assert!(!is_lambda(path), "{path}");
        }
    }
}
