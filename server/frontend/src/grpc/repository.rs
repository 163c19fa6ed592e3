//! Rooms 1 and 8: the model repository extension: what there is, load, unload.

use penstock_dispatch::{Cause, House, LoadOverride, ServedFunction, Unavailable, VersionState};
use penstock_domain::{ErrorCode, Refusal};
use penstock_proto::inference::model_repository_parameter::ParameterChoice;
use penstock_proto::inference::repository_index_response::ModelIndex;
use penstock_proto::inference::{
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
};

/// Every version with its state, and the reason of what cannot be served. The HTTP door tells the same.
pub(crate) async fn index(house: &House, request: &RepositoryIndexRequest) -> Result<RepositoryIndexResponse, Refusal> {
    // What is ready has been loaded: no need to look at the files.
    let functions = if request.ready { house.functions() } else { house.index().await? };
    let models = functions.values().flat_map(|function| entries(function));
    let models = models.filter(|model| !request.ready || model.state == "READY").collect();
    Ok(RepositoryIndexResponse { models })
}

fn unavailable(reason: &str) -> VersionState {
    VersionState::Unavailable(Unavailable { cause: Cause::Configuration, reason: reason.to_owned() })
}

/// One entry for each version; one without a version if there is none at all.
fn entries(function: &ServedFunction) -> Vec<ModelIndex> {
    let entry = |version: String, state: &VersionState| ModelIndex {
        name: function.name.as_str().to_owned(),
        version,
        state: state.name().to_owned(),
        reason: state.reason().to_owned(),
    };
    let mut entries: Vec<_> =
        function.versions.values().map(|version| entry(version.number.to_string(), &version.state())).collect();
    for version in &function.source.unavailable_versions {
        if !function.versions.contains_key(&version.number) {
            entries.push(entry(version.number.to_string(), &unavailable(&version.reason)));
        }
    }
    if entries.is_empty() {
        let reason = function.source.unavailable.clone().unwrap_or_else(|| "unloaded".to_owned());
        entries.push(entry(String::new(), &unavailable(&reason)));
    }
    entries
}

/// Loads or reloads; answers when it is ready, or with the reason why not.
pub(super) async fn load(
    house: &House,
    request: RepositoryModelLoadRequest,
) -> Result<RepositoryModelLoadResponse, Refusal> {
    let mut load = LoadOverride::default();
    for (key, value) in request.parameters {
        match (key.as_str(), value.parameter_choice) {
            ("config", Some(ParameterChoice::StringParam(json))) => load.config_json = Some(json),
            ("config", _) => return Err(Refusal::invalid("parameter 'config' must be a configuration as JSON text")),
            (file, _) if file.starts_with("file:") => {
                return Err(Refusal::new(
                    ErrorCode::Unsupported,
                    format!(
                        "parameter '{file}': files in a load request are not offered; put them into the repository"
                    ),
                ));
            }
            (other, _) => {
                return Err(Refusal::invalid(format!("parameter '{other}' is not known; only 'config' may be sent")));
            }
        }
    }
    house.load(&request.model_name, load).await.map(|()| RepositoryModelLoadResponse {})
}

/// Unloads; what is not loaded is fine. `unload_dependents` has nothing to do: nothing is loaded on another's account.
pub(super) async fn unload(
    house: &House,
    request: RepositoryModelUnloadRequest,
) -> Result<RepositoryModelUnloadResponse, Refusal> {
    house.unload(&request.model_name).await.map(|()| RepositoryModelUnloadResponse {})
}
