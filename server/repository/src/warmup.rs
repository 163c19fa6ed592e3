//! Warm-up requests of a configuration, checked.
//!
//! Called by `settings`. Looks whether files exist, does not read them.

use crate::settings::{SettingsError, datatype, file_within};
use penstock_domain::Datatype;
use penstock_proto::inference::ModelConfig;
use penstock_proto::inference::model_warmup::input::InputDataType;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A request to run before a version counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmupRequest {
    /// For messages.
    pub name: String,
    /// Items; 0 for a model without batch dimension.
    pub batch_size: u32,
    /// How often to run it, 1 or more.
    pub count: u32,
    /// By name.
    pub inputs: BTreeMap<String, WarmupInput>,
}

/// One input of a warm-up request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmupInput {
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions without the batch dimension, 1 or more each.
    pub dims: Vec<i64>,
    /// Its elements.
    pub content: WarmupContent,
}

/// Where a warm-up input's elements come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmupContent {
    /// All zeros (empty strings for BYTES).
    Zero,
    /// Random values.
    Random,
    /// Raw contents of a file, as on the wire.
    File(PathBuf),
}

/// Most runs one warm-up may ask for.
const COUNT_MAX: u32 = 10_000;

/// Reads the warm-up requests. `directory` is the function's; files lie in its folder `warmup`.
pub(crate) fn read(config: &ModelConfig, directory: &Path) -> Result<Vec<WarmupRequest>, SettingsError> {
    let mut requests = Vec::with_capacity(config.model_warmup.len());
    for (index, warmup) in config.model_warmup.iter().enumerate() {
        let at = format!("model_warmup[{index}]");
        if i64::from(warmup.batch_size) > i64::from(config.max_batch_size.max(1)) {
            let message = format!("{} is above max_batch_size {}", warmup.batch_size, config.max_batch_size);
            return Err(SettingsError::new(format!("{at}.batch_size"), message));
        }
        if warmup.count > COUNT_MAX {
            let message = format!("expected at most {COUNT_MAX}, found {}", warmup.count);
            return Err(SettingsError::new(format!("{at}.count"), message));
        }
        let mut inputs = BTreeMap::new();
        for (name, input) in &warmup.inputs {
            let at = format!("{at}.inputs[{name:?}]");
            if let Some(dim) = input.dims.iter().find(|dim| **dim < 1) {
                return Err(SettingsError::new(format!("{at}.dims"), format!("expected 1 or more, found {dim}")));
            }
            let content = match &input.input_data_type {
                Some(InputDataType::RandomData(_)) => WarmupContent::Random,
                Some(InputDataType::InputDataFile(file)) => {
                    let field = format!("{at}.input_data_file");
                    WarmupContent::File(file_within(&directory.join("warmup"), file, &field)?)
                }
                Some(InputDataType::ZeroData(_)) => WarmupContent::Zero,
                None => {
                    let message = "expected one of zero_data, random_data and input_data_file";
                    return Err(SettingsError::new(at, message));
                }
            };
            let datatype = datatype(input.data_type, &format!("{at}.data_type"))?;
            inputs.insert(name.clone(), WarmupInput { datatype, dims: input.dims.clone(), content });
        }
        let count = warmup.count.max(1);
        requests.push(WarmupRequest { name: warmup.name.clone(), batch_size: warmup.batch_size, count, inputs });
    }
    Ok(requests)
}
