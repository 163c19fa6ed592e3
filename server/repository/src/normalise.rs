//! Fills in what a configuration leaves open, as Triton answers it over its API.
//!
//! Called by `repository` with what the files tell, and by the front end with what the loaded model told. Pure.

use crate::function::RuntimeSource;
use penstock_domain::{Datatype, FunctionName, Signature, TensorSpec};
use penstock_proto::inference::model_config::SchedulingChoice;
use penstock_proto::inference::model_version_policy::{Latest, PolicyChoice};
use penstock_proto::inference::{
    DataType, ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput, ModelVersionPolicy,
};

/// What can be told without loading: name, version policy, instance groups.
pub(crate) fn normalise(config: &mut ModelConfig, name: &FunctionName) {
    config.name = name.to_string();
    let policy = config.version_policy.get_or_insert_with(ModelVersionPolicy::default);
    policy.policy_choice.get_or_insert(PolicyChoice::Latest(Latest { num_versions: 1 }));
    if config.instance_group.is_empty() {
        config.instance_group.push(ModelInstanceGroup { name: name.to_string(), ..ModelInstanceGroup::default() });
    }
    for (index, group) in config.instance_group.iter_mut().enumerate() {
        if group.name.is_empty() {
            group.name = format!("{name}_{index}");
        }
        if group.count == 0 {
            group.count = 1;
        }
    }
    fill_preferred_batch_size(config);
}

/// Without preferred sizes, the largest batch is the preferred one.
fn fill_preferred_batch_size(config: &mut ModelConfig) {
    let most = config.max_batch_size;
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &mut config.scheduling_choice
        && batching.preferred_batch_size.is_empty()
        && most > 0
    {
        batching.preferred_batch_size.push(most);
    }
}

/// What runs it, as far as it was left open.
pub(crate) fn fill_runtime(config: &mut ModelConfig, runtime: &RuntimeSource) {
    if config.backend.is_empty() {
        config.backend = runtime.backend().to_owned();
    }
    if config.platform.is_empty() {
        config.platform = runtime.platform().to_owned();
    }
    if let RuntimeSource::Onnx { model } = runtime
        && config.default_model_filename.is_empty()
        && let Some(file) = model.file_name().and_then(|file| file.to_str())
    {
        config.default_model_filename = file.to_owned();
    }
}

/// The configuration with what only the loaded model could tell: tensors and batch size, where they were left open.
pub fn with_signature(config: &ModelConfig, signature: &Signature) -> ModelConfig {
    let mut config = config.clone();
    if config.input.is_empty() && config.output.is_empty() && config.max_batch_size == 0 {
        config.max_batch_size = i32::try_from(signature.max_batch_size).unwrap_or(i32::MAX);
    }
    if config.platform.is_empty() {
        config.platform.clone_from(&signature.platform);
    }
    if config.input.is_empty() {
        config.input = signature.inputs.iter().map(input).collect();
    }
    if config.output.is_empty() {
        config.output = signature.outputs.iter().map(output).collect();
    }
    fill_preferred_batch_size(&mut config);
    config
}

fn input(spec: &TensorSpec) -> ModelInput {
    ModelInput {
        name: spec.name.clone(),
        data_type: data_type(spec.datatype).into(),
        dims: spec.shape.clone(),
        optional: spec.optional,
        ..ModelInput::default()
    }
}

fn output(spec: &TensorSpec) -> ModelOutput {
    ModelOutput {
        name: spec.name.clone(),
        data_type: data_type(spec.datatype).into(),
        dims: spec.shape.clone(),
        ..ModelOutput::default()
    }
}

fn data_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bool => DataType::TypeBool,
        Datatype::Uint8 => DataType::TypeUint8,
        Datatype::Uint16 => DataType::TypeUint16,
        Datatype::Uint32 => DataType::TypeUint32,
        Datatype::Uint64 => DataType::TypeUint64,
        Datatype::Int8 => DataType::TypeInt8,
        Datatype::Int16 => DataType::TypeInt16,
        Datatype::Int32 => DataType::TypeInt32,
        Datatype::Int64 => DataType::TypeInt64,
        Datatype::Fp16 => DataType::TypeFp16,
        Datatype::Fp32 => DataType::TypeFp32,
        Datatype::Fp64 => DataType::TypeFp64,
        Datatype::Bf16 => DataType::TypeBf16,
        Datatype::Bytes => DataType::TypeString,
    }
}
