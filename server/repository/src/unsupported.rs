//! Configuration that is valid for Triton, but not honoured here: refused if ignoring it would change answers.
//!
//! Called once per function by `settings`, which notes what is harmless to ignore. Pure.

use crate::settings::SettingsError;
use penstock_proto::inference::ModelConfig;
use penstock_proto::inference::model_config::SchedulingChoice;

/// Refuses what would change answers.
pub(crate) fn check(config: &ModelConfig) -> Result<(), SettingsError> {
    match &config.scheduling_choice {
        Some(SchedulingChoice::SequenceBatching(_)) => {
            return refuse("sequence_batching", "sequences with state are not served; remove it for a stateless model");
        }
        Some(SchedulingChoice::EnsembleScheduling(_)) => {
            return refuse(
                "ensemble_scheduling",
                "pipelines of models are not served; serve each step and chain them in the client",
            );
        }
        Some(SchedulingChoice::DynamicBatching(_)) | None => {}
    }
    if config.model_transaction_policy.is_some_and(|policy| policy.decoupled) {
        return refuse("model_transaction_policy.decoupled", "functions answer each request once; set it to false");
    }
    if !config.batch_input.is_empty() {
        return refuse("batch_input", "inputs computed from the make-up of a batch are not served");
    }
    if !config.batch_output.is_empty() {
        return refuse("batch_output", "outputs cut by the shape of an input are not served");
    }
    if config.model_operations.as_ref().is_some_and(|operations| !operations.op_library_filename.is_empty()) {
        return refuse("model_operations.op_library_filename", "libraries with custom operations are not loaded");
    }
    if config.model_repository_agents.as_ref().is_some_and(|agents| !agents.agents.is_empty()) {
        return refuse("model_repository_agents", "repository agents are not run");
    }
    for (index, input) in config.input.iter().enumerate() {
        let field = |name: &str| format!("input[{index}].{name}");
        if input.reshape.is_some() {
            return refuse(&field("reshape"), "tensors are not reshaped; declare the shape the model itself has");
        }
        if input.is_shape_tensor {
            return refuse(&field("is_shape_tensor"), "shape tensors are not served");
        }
        if input.allow_ragged_batch {
            return refuse(
                &field("allow_ragged_batch"),
                "ragged batches are not served; pad in the client or leave it out",
            );
        }
        if input.is_non_linear_format_io {
            return refuse(&field("is_non_linear_format_io"), "tensors are always linear here");
        }
    }
    for (index, output) in config.output.iter().enumerate() {
        let field = |name: &str| format!("output[{index}].{name}");
        if output.reshape.is_some() {
            return refuse(&field("reshape"), "tensors are not reshaped; declare the shape the model itself has");
        }
        if output.is_shape_tensor {
            return refuse(&field("is_shape_tensor"), "shape tensors are not served");
        }
        if output.is_non_linear_format_io {
            return refuse(&field("is_non_linear_format_io"), "tensors are always linear here");
        }
    }
    Ok(())
}

fn refuse(field: &str, reason: &str) -> Result<(), SettingsError> {
    Err(SettingsError::new(field, reason))
}
