//! Declared inputs and outputs, and their labels.
//!
//! Called by `settings`. Reads label files.

use super::{SettingsError, file_within};
use penstock_domain::{Datatype, TensorSpec};
use penstock_proto::inference::{DataType, ModelConfig};
use std::collections::BTreeSet;
use std::path::Path;

/// Largest label file read.
const LABEL_FILE_BYTES_MAX: u64 = 16 << 20;
/// Most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 32;

/// Inputs; `None` if none is declared, so that they are taken from the loaded model.
pub(super) fn inputs(config: &ModelConfig) -> Result<Option<Vec<TensorSpec>>, SettingsError> {
    let mut names = BTreeSet::new();
    let mut specs = Vec::with_capacity(config.input.len());
    for (index, input) in config.input.iter().enumerate() {
        let mut spec = spec(&format!("input[{index}]"), &input.name, input.data_type, &input.dims, &mut names)?;
        spec.optional = input.optional;
        specs.push(spec);
    }
    Ok(Some(specs).filter(|specs| !specs.is_empty()))
}

/// Outputs with labels; `None` if none is declared. Label files lie in `directory`.
pub(super) fn outputs(config: &ModelConfig, directory: &Path) -> Result<Option<Vec<TensorSpec>>, SettingsError> {
    let mut names = BTreeSet::new();
    let mut specs = Vec::with_capacity(config.output.len());
    for (index, output) in config.output.iter().enumerate() {
        let at = format!("output[{index}]");
        let mut spec = spec(&at, &output.name, output.data_type, &output.dims, &mut names)?;
        if !output.label_filename.is_empty() {
            spec.labels = labels(directory, &output.label_filename, &format!("{at}.label_filename"))?;
        }
        specs.push(spec);
    }
    Ok(Some(specs).filter(|specs| !specs.is_empty()))
}

fn spec(
    at: &str,
    name: &str,
    data_type: i32,
    dims: &[i64],
    names: &mut BTreeSet<String>,
) -> Result<TensorSpec, SettingsError> {
    if name.is_empty() {
        return Err(SettingsError::new(format!("{at}.name"), "every tensor needs a name"));
    }
    if !names.insert(name.to_owned()) {
        return Err(SettingsError::new(format!("{at}.name"), format!("'{name}' is declared twice")));
    }
    let datatype = datatype(data_type, &format!("{at}.data_type"))?;
    if dims.is_empty() {
        let message = "expected at least one dimension, without the batch dimension where max_batch_size is above 0";
        return Err(SettingsError::new(format!("{at}.dims"), message));
    }
    if dims.len() > DIMENSIONS_MAX {
        let message = format!("expected at most {DIMENSIONS_MAX} dimensions, found {}", dims.len());
        return Err(SettingsError::new(format!("{at}.dims"), message));
    }
    for (index, dim) in dims.iter().enumerate() {
        if *dim != -1 && *dim < 1 {
            let message = format!("expected 1 or more, or -1 for any size, found {dim}");
            return Err(SettingsError::new(format!("{at}.dims[{index}]"), message));
        }
    }
    Ok(TensorSpec::new(name, datatype, dims))
}

/// An element type, which must be set.
pub(crate) fn datatype(number: i32, field: &str) -> Result<Datatype, SettingsError> {
    Ok(match DataType::try_from(number) {
        Ok(DataType::TypeBool) => Datatype::Bool,
        Ok(DataType::TypeUint8) => Datatype::Uint8,
        Ok(DataType::TypeUint16) => Datatype::Uint16,
        Ok(DataType::TypeUint32) => Datatype::Uint32,
        Ok(DataType::TypeUint64) => Datatype::Uint64,
        Ok(DataType::TypeInt8) => Datatype::Int8,
        Ok(DataType::TypeInt16) => Datatype::Int16,
        Ok(DataType::TypeInt32) => Datatype::Int32,
        Ok(DataType::TypeInt64) => Datatype::Int64,
        Ok(DataType::TypeFp16) => Datatype::Fp16,
        Ok(DataType::TypeFp32) => Datatype::Fp32,
        Ok(DataType::TypeFp64) => Datatype::Fp64,
        Ok(DataType::TypeString) => Datatype::Bytes,
        Ok(DataType::TypeBf16) => Datatype::Bf16,
        Ok(DataType::TypeInvalid) => {
            return Err(SettingsError::new(field, "expected a type such as TYPE_FP32, found none"));
        }
        Err(_) => return Err(SettingsError::new(field, format!("there is no element type with number {number}"))),
    })
}

fn labels(directory: &Path, file: &str, field: &str) -> Result<Vec<String>, SettingsError> {
    let path = file_within(directory, file, field)?;
    let unreadable = |error: std::io::Error| SettingsError::new(field, format!("{}: {error}", path.display()));
    let length = std::fs::metadata(&path).map_err(unreadable)?.len();
    if length > LABEL_FILE_BYTES_MAX {
        let message = format!("{} has {length} bytes, more than {LABEL_FILE_BYTES_MAX}", path.display());
        return Err(SettingsError::new(field, message));
    }
    let text = std::fs::read_to_string(&path).map_err(unreadable)?;
    Ok(text.lines().map(str::to_owned).collect())
}
