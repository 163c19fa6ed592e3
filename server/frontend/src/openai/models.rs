//! Rooms 1 and 8, OpenAI door: the models that are ready.

use crate::http::{Door, Failure, Target, json_response};
use axum::extract::{RawPathParams, State};
use axum::response::Response;
use http::StatusCode;
use penstock_dispatch::ServedFunction;
use penstock_domain::{ErrorCode, Qualifier, Refusal};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v1/models`
pub(crate) async fn list(State(door): State<Arc<Door>>) -> Response {
    let functions = door.house.functions();
    let ready = functions.values().filter(|function| is_ready(function));
    let models: Vec<Value> = ready.map(|function| model(function.name.as_str(), &door)).collect();
    json_response(StatusCode::OK, &json!({ "object": "list", "data": models }))
}

/// `GET /v1/models/{model}`
pub(crate) async fn one(State(door): State<Arc<Door>>, params: RawPathParams) -> Result<Response, Failure> {
    let asked = params.iter().find(|(key, _)| *key == "model").map_or("", |(_, value)| value);
    let version = Target::parse(asked, "")
        .and_then(|target| door.house.resolve(target.function.as_str(), &target.qualifier))
        .map_err(|_| model_not_found(asked))?;
    if !version.state().is_ready() {
        return Err(model_not_found(asked));
    }
    Ok(json_response(StatusCode::OK, &model(asked, &door)))
}

/// 404 in OpenAI's words, which the SDK's users look for.
pub(crate) fn model_not_found(model: &str) -> Failure {
    let refusal = Refusal::new(ErrorCode::NotFound, format!("The model `{model}` does not exist or is not ready"));
    Failure::from(refusal).with_param("model").with_code("model_not_found")
}

fn is_ready(function: &ServedFunction) -> bool {
    function.version(&Qualifier::Unnamed, u64::MAX).is_some_and(|version| version.state().is_ready())
}

fn model(id: &str, door: &Door) -> Value {
    json!({ "id": id, "object": "model", "created": door.options.started_unix_s, "owned_by": "penstock" })
}
