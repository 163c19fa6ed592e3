//! Rooms 1 and 8, HTTP door: the model repository extension: index, load, unload.
//!
//! There is one repository; a `{repository}` in the route is accepted and means that one.

use super::json::{Cursor, ReadError, utf8};
use super::parameters::{EXPECTED, read_value};
use super::{Door, Failure, Share, Target, Upload, json_response};
use axum::extract::{RawPathParams, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use penstock_dispatch::LoadOverride;
use penstock_domain::{ErrorCode, ParameterValue, Refusal};
use penstock_proto::inference::RepositoryIndexRequest;
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /v2/repository[/{repository}]/index`, optionally `{"ready": true}`: only what can be served now.
pub(crate) async fn index(State(door): State<Arc<Door>>, request: Request) -> Result<Response, Failure> {
    let body = read_small(&door, request).await?;
    let only_ready = read_object(&body, |cursor, key| match key {
        "ready" => Ok(Some(cursor.boolean("true or false as `ready`")?)),
        _ => Ok(cursor.skip().map(|()| None)?),
    })?;
    let only_ready = only_ready.into_iter().flatten().next_back().unwrap_or(false);
    let request = RepositoryIndexRequest { ready: only_ready, ..RepositoryIndexRequest::default() };
    let entries: Vec<Value> = crate::grpc::index(&door.house, &request)
        .await?
        .models
        .into_iter()
        .map(|model| {
            let mut entry = json!({ "name": model.name, "version": model.version, "state": model.state });
            if !model.reason.is_empty() {
                entry["reason"] = model.reason.into();
            }
            entry
        })
        .collect();
    Ok(json_response(StatusCode::OK, &entries))
}

/// `POST /v2/repository[/{repository}]/models/{model}/load`, optionally `{"parameters": {"config": "{…}"}}`.
pub(crate) async fn load(
    State(door): State<Arc<Door>>,
    params: RawPathParams,
    request: Request,
) -> Result<Response, Failure> {
    let target = Target::of_route(&params)?;
    let body = read_small(&door, request).await?;
    let load = load_override(&body)?;
    door.house.load(target.function.as_str(), load).await?;
    Ok(json_response(StatusCode::OK, &json!({ "name": target.function.as_str(), "load": true })))
}

/// `POST /v2/repository[/{repository}]/models/{model}/unload`; its parameters (`unload_dependents`) change nothing,
/// since no function depends on another.
pub(crate) async fn unload(
    State(door): State<Arc<Door>>,
    params: RawPathParams,
    request: Request,
) -> Result<Response, Failure> {
    let target = Target::of_route(&params)?;
    let body = read_small(&door, request).await?;
    read_object(&body, |cursor, _| Ok(cursor.skip()?))?;
    door.house.unload(target.function.as_str()).await?;
    Ok(json_response(StatusCode::OK, &json!({ "name": target.function.as_str(), "unload": true })))
}

async fn read_small(door: &Door, request: Request) -> Result<Bytes, Failure> {
    let (head, body) = request.into_parts();
    let mut share = Share::new(&door.options.budget);
    Upload::new(&head.headers, body).read(&head.headers, door.options.body_limits(), &mut share).await
}

/// Reads the members of an object that may be missing altogether.
fn read_object<T>(
    body: &[u8],
    mut member: impl FnMut(&mut Cursor<'_>, &str) -> Result<T, ReadError>,
) -> Result<Vec<T>, Refusal> {
    let text = utf8(body)?;
    let mut cursor = Cursor::new(text, 0);
    let mut members = Vec::new();
    if cursor.peek().is_none() {
        return Ok(members);
    }
    let read = cursor.object::<ReadError>("a JSON object, or no body", |cursor, key| {
        members.push(member(cursor, key)?);
        Ok(())
    });
    read.and_then(|()| Ok(cursor.end()?)).map_err(|error| error.into_refusal(text))?;
    Ok(members)
}

fn load_override(body: &[u8]) -> Result<LoadOverride, Refusal> {
    let mut load = LoadOverride::default();
    read_object(body, |cursor, key| match key {
        "parameters" if !cursor.null() => cursor.object::<ReadError>(EXPECTED, |cursor, key| {
            match (key, read_value(cursor, key)?) {
                ("config", ParameterValue::String(config)) => load.config_json = Some(config),
                ("config", _) => {
                    let words = "parameter 'config': expected the model configuration as JSON in a string";
                    return Err(Refusal::invalid(words).into());
                }
                (file, _) if file.starts_with("file:") => {
                    let words = format!("parameter '{file}': files come from the repository, not with the request");
                    return Err(Refusal::new(ErrorCode::Unsupported, words).into());
                }
                (other, _) => {
                    let words = format!("parameter '{other}' is not known: only `config` can be given to load");
                    return Err(Refusal::invalid(words).into());
                }
            }
            Ok(())
        }),
        "parameters" => Ok(()),
        _ => Ok(cursor.skip()?),
    })?;
    Ok(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_load_request_may_carry() {
        assert_eq!(load_override(b"").unwrap().config_json, None);
        let body = br#"{"parameters": {"config": "{\"max_batch_size\": 8}"}}"#;
        assert_eq!(load_override(body).unwrap().config_json.as_deref(), Some("{\"max_batch_size\": 8}"));
        let file = load_override(br#"{"parameters": {"file:1/model.onnx": "AAAA"}}"#).unwrap_err();
        assert_eq!(file.code, ErrorCode::Unsupported);
        for bad in [&b"{"[..], b"[]", br#"{"parameters": {"config": 1}}"#, br#"{"parameters": {"x": 1}}"#] {
            assert_eq!(load_override(bad).unwrap_err().code, ErrorCode::InvalidArgument);
        }
    }
}
