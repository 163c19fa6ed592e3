//! Room 1, Lambda door: the control plane's operations. Each handler reads names, query and body, and prints the answer.
//!
//! Never judges: the control plane does.

use super::failure::LambdaError;
use super::query::Query;
use crate::http::{Door, Share, Upload, json_response, off_thread};
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use penstock_control::names::FunctionRef;
use penstock_control::{ControlError, ControlPlane, ErrorKind};
use penstock_domain::ErrorCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::sync::Arc;

type Told = Result<Response, LambdaError>;

/// Largest body of an operation, in bytes: Lambda's own, which holds a ZIP of 50 MiB in base64.
const BODY_BYTES_MAX: usize = 70_167_211;

pub(super) fn control(door: &Door) -> Result<&Arc<ControlPlane>, ControlError> {
    let none = || ControlError::new(ErrorKind::UnknownOperation, "This server has no control plane.");
    door.lambda.as_ref().map(|lambda| &lambda.control).ok_or_else(none)
}

/// A part of the path, decoded.
pub(super) fn param<'a>(params: &'a RawPathParams, name: &str) -> &'a str {
    params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

/// The function that the path names, with the query's qualifier.
pub(super) fn function(door: &Door, params: &RawPathParams, uri: &Uri) -> Result<FunctionRef, ControlError> {
    FunctionRef::parse(param(params, "name"), Query::read(uri.query()).get("Qualifier"), control(door)?.account())
}

/// The function that the path names, whole.
fn whole(door: &Door, params: &RawPathParams) -> Result<String, ControlError> {
    FunctionRef::parse(param(params, "name"), None, control(door)?.account())?.unqualified()
}

/// Reads a body of JSON; an empty one is `{}`. Of what it takes of the memory budget it gives back what is read.
async fn read<T: DeserializeOwned + Send + 'static>(door: &Door, request: Request) -> Result<T, LambdaError> {
    read_with_share(door, request).await.map(|(read, _)| read)
}

/// The same for a body that may hold a package: its share stays with what is made of it.
async fn read_with_share<T: DeserializeOwned + Send + 'static>(
    door: &Door,
    request: Request,
) -> Result<(T, Share), LambdaError> {
    let (head, body) = request.into_parts();
    let limits = crate::http::BodyLimits { bytes_max: BODY_BYTES_MAX, ..door.options.body_limits() };
    let mut share = Share::new(&door.options.budget);
    let read = Upload::new(&head.headers, body).read(&head.headers, limits, &mut share).await;
    let body = read.map_err(|failure| match failure.refusal.code {
        ErrorCode::TooLarge => {
            let operation = if head.method == Method::POST { "CreateFunction" } else { "UpdateFunctionCode" };
            let text = format!("Request must be smaller than {BODY_BYTES_MAX} bytes for the {operation} operation");
            ControlError::new(ErrorKind::RequestEntityTooLarge, text).into()
        }
        _ => LambdaError::from(failure),
    })?;
    let parsed = off_thread(body.len(), move || match &body[..] {
        [] => serde_json::from_slice(b"{}"),
        bytes => serde_json::from_slice(bytes),
    });
    let wrong =
        |error: serde_json::Error| ControlError::new(ErrorKind::Serialization, format!("request body: {error}"));
    Ok((parsed.await?.map_err(wrong)?, share))
}

fn told(status: StatusCode, answer: &impl serde::Serialize) -> Told {
    Ok(json_response(status, answer))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

pub(super) async fn create_function(State(door): State<Arc<Door>>, request: Request) -> Told {
    let (request, _share) = read_with_share(&door, request).await?;
    told(StatusCode::CREATED, &control(&door)?.create_function(request).await?)
}

pub(super) async fn list_functions(State(door): State<Arc<Door>>, uri: Uri) -> Told {
    let query = Query::read(uri.query());
    let all = query.get("FunctionVersion") == Some("ALL");
    told(StatusCode::OK, &control(&door)?.list_functions(&query.page()?, all).await?)
}

pub(super) async fn get_function(
    State(door): State<Arc<Door>>,
    params: RawPathParams,
    uri: Uri,
    headers: HeaderMap,
) -> Told {
    let named = function(&door, &params, &uri)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let qualifier = named.qualifier.as_ref().map(|qualifier| format!("?Qualifier={}", qualifier.replace('$', "%24")));
    let location = format!("http://{host}/2015-03-31/functions/{}/code{}", named.name, qualifier.unwrap_or_default());
    told(StatusCode::OK, &control(&door)?.get_function(&named, &location).await?)
}

pub(super) async fn function_log(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let after = Query::read(uri.query()).get("After").map_or(Ok(0), str::parse);
    let after = after.map_err(|_| ControlError::invalid("After: expected the number of a line"))?;
    told(StatusCode::OK, &control(&door)?.function_log(&function(&door, &params, &uri)?, after).await?)
}

/// Where instances stand.
pub(super) async fn instances(State(door): State<Arc<Door>>) -> Told {
    told(StatusCode::OK, &control(&door)?.instances())
}

/// All instances are to be replaced.
pub(super) async fn replace_instances(State(door): State<Arc<Door>>) -> Told {
    told(StatusCode::ACCEPTED, &control(&door)?.replace_instances()?)
}

/// What GetFunction's `Location` leads to: the package as a ZIP.
pub(super) async fn get_code(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let zip = control(&door)?.export_code(&function(&door, &params, &uri)?).await?;
    let mut response = Response::new(Body::from(zip));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    Ok(response)
}

pub(super) async fn get_configuration(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let named = function(&door, &params, &uri)?;
    told(StatusCode::OK, &control(&door)?.get_configuration(&named).await?)
}

pub(super) async fn update_configuration(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let (name, request) = (whole(&door, &params)?, read(&door, body).await?);
    told(StatusCode::OK, &control(&door)?.update_configuration(&name, request).await?)
}

pub(super) async fn update_code(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let (name, (request, _share)) = (whole(&door, &params)?, read_with_share(&door, body).await?);
    told(StatusCode::OK, &control(&door)?.update_code(&name, request).await?)
}

pub(super) async fn delete_function(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let named = function(&door, &params, &uri)?;
    control(&door)?.delete_function(&named).await?;
    told(StatusCode::ACCEPTED, &serde_json::json!({ "StatusCode": StatusCode::ACCEPTED.as_u16() }))
}

pub(super) async fn publish_version(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let (name, request) = (whole(&door, &params)?, read(&door, body).await?);
    told(StatusCode::CREATED, &control(&door)?.publish_version(&name, request).await?)
}

pub(super) async fn list_versions(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let (name, page) = (whole(&door, &params)?, Query::read(uri.query()).page()?);
    told(StatusCode::OK, &control(&door)?.list_versions(&name, &page).await?)
}

pub(super) async fn create_alias(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let (name, request) = (whole(&door, &params)?, read(&door, body).await?);
    told(StatusCode::CREATED, &control(&door)?.create_alias(&name, request).await?)
}

pub(super) async fn list_aliases(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let (name, query) = (whole(&door, &params)?, Query::read(uri.query()));
    let of = query.get("FunctionVersion");
    told(StatusCode::OK, &control(&door)?.list_aliases(&name, of, &query.page()?).await?)
}

pub(super) async fn get_alias(State(door): State<Arc<Door>>, params: RawPathParams) -> Told {
    let name = whole(&door, &params)?;
    told(StatusCode::OK, &control(&door)?.get_alias(&name, param(&params, "alias")).await?)
}

pub(super) async fn update_alias(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let (name, request) = (whole(&door, &params)?, read(&door, body).await?);
    told(StatusCode::OK, &control(&door)?.update_alias(&name, param(&params, "alias"), request).await?)
}

pub(super) async fn delete_alias(State(door): State<Arc<Door>>, params: RawPathParams) -> Told {
    let name = whole(&door, &params)?;
    control(&door)?.delete_alias(&name, param(&params, "alias")).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(super) async fn put_concurrency(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let (name, request) = (whole(&door, &params)?, read::<Value>(&door, body).await?);
    let Some(reserved) = request["ReservedConcurrentExecutions"].as_i64() else {
        return Err(ControlError::validation("null", "reservedConcurrentExecutions", "Member must not be null").into());
    };
    told(StatusCode::OK, &control(&door)?.put_concurrency(&name, Some(reserved)).await?)
}

pub(super) async fn get_concurrency(State(door): State<Arc<Door>>, params: RawPathParams) -> Told {
    told(StatusCode::OK, &control(&door)?.get_concurrency(&whole(&door, &params)?).await?)
}

pub(super) async fn delete_concurrency(State(door): State<Arc<Door>>, params: RawPathParams) -> Told {
    control(&door)?.put_concurrency(&whole(&door, &params)?, None).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(super) async fn get_scaling(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    told(StatusCode::OK, &control(&door)?.get_scaling(&function(&door, &params, &uri)?).await?)
}

pub(super) async fn put_scaling(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri, body: Request) -> Told {
    let (named, request) = (function(&door, &params, &uri)?, read::<Value>(&door, body).await?);
    let config = &request["FunctionScalingConfig"];
    let of = |key: &str| config[key].as_i64();
    let (least, most) = (of("MinExecutionEnvironments"), of("MaxExecutionEnvironments"));
    told(StatusCode::ACCEPTED, &control(&door)?.put_scaling(&named, least, most).await?)
}

pub(super) async fn put_event_invoke(
    State(door): State<Arc<Door>>,
    params: RawPathParams,
    uri: Uri,
    body: Request,
) -> Told {
    let (named, request) = (function(&door, &params, &uri)?, read(&door, body).await?);
    told(StatusCode::OK, &control(&door)?.put_event_invoke(&named, request, false).await?)
}

pub(super) async fn update_event_invoke(
    State(door): State<Arc<Door>>,
    params: RawPathParams,
    uri: Uri,
    body: Request,
) -> Told {
    let (named, request) = (function(&door, &params, &uri)?, read(&door, body).await?);
    told(StatusCode::OK, &control(&door)?.put_event_invoke(&named, request, true).await?)
}

pub(super) async fn get_event_invoke(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    told(StatusCode::OK, &control(&door)?.get_event_invoke(&function(&door, &params, &uri)?).await?)
}

pub(super) async fn delete_event_invoke(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    control(&door)?.delete_event_invoke(&function(&door, &params, &uri)?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(super) async fn list_event_invoke(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let (name, page) = (whole(&door, &params)?, Query::read(uri.query()).page()?);
    told(StatusCode::OK, &control(&door)?.list_event_invoke(&name, &page).await?)
}

pub(super) async fn create_provider(State(door): State<Arc<Door>>, body: Request) -> Told {
    let request = read::<Map<String, Value>>(&door, body).await?;
    told(StatusCode::ACCEPTED, &control(&door)?.create_provider(request).await?)
}

pub(super) async fn list_providers(State(door): State<Arc<Door>>, uri: Uri) -> Told {
    let query = Query::read(uri.query());
    told(StatusCode::OK, &control(&door)?.list_providers(query.get("State"), &query.page()?).await?)
}

pub(super) async fn get_provider(State(door): State<Arc<Door>>, params: RawPathParams) -> Told {
    told(StatusCode::OK, &control(&door)?.get_provider(param(&params, "name")).await?)
}

pub(super) async fn update_provider(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let request = read::<Map<String, Value>>(&door, body).await?;
    told(StatusCode::ACCEPTED, &control(&door)?.update_provider(param(&params, "name"), &request).await?)
}

pub(super) async fn delete_provider(State(door): State<Arc<Door>>, params: RawPathParams) -> Told {
    told(StatusCode::ACCEPTED, &control(&door)?.delete_provider(param(&params, "name")).await?)
}

pub(super) async fn versions_by_provider(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let page = Query::read(uri.query()).page()?;
    told(StatusCode::OK, &control(&door)?.versions_by_provider(param(&params, "name"), &page).await?)
}

pub(super) async fn list_tags(State(door): State<Arc<Door>>, params: RawPathParams) -> Told {
    told(StatusCode::OK, &control(&door)?.list_tags(param(&params, "arn")).await?)
}

pub(super) async fn tag(State(door): State<Arc<Door>>, params: RawPathParams, body: Request) -> Told {
    let request = read::<Value>(&door, body).await?;
    let tags = serde_json::from_value(request["Tags"].clone())
        .map_err(|_| ControlError::validation(&request["Tags"], "tags", "Member must be a map of strings"))?;
    control(&door)?.tag(param(&params, "arn"), tags).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(super) async fn untag(State(door): State<Arc<Door>>, params: RawPathParams, uri: Uri) -> Told {
    let query = Query::read(uri.query());
    let keys: Vec<String> = query.all("tagKeys").map(str::to_owned).collect();
    control(&door)?.untag(param(&params, "arn"), &keys).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(super) async fn account_settings(State(door): State<Arc<Door>>) -> Told {
    told(StatusCode::OK, &control(&door)?.account_settings().await?)
}
