//! Hugging Face folders: which of them hold a text encoder we serve.
//!
//! Called by `runtime`. Reads `config.json`; the weights and the tokenizer are read by the environment.

use std::path::Path;

/// `model_type` of `config.json` that can be served as a text encoder: what the crate penstock-bert loads.
pub const ENCODER_MODEL_TYPES: &[&str] = &["bert"];

/// Files that make a Hugging Face folder.
pub(crate) const FOLDER_FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// Largest `config.json` read.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Which of the three files are there.
pub(crate) fn present(folder: &Path) -> [bool; 3] {
    FOLDER_FILES.map(|file| folder.join(file).is_file())
}

/// Checks that the folder's architecture is served; else why not.
pub(crate) fn check(folder: &Path) -> Result<(), String> {
    let path = folder.join(FOLDER_FILES[0]);
    let shown = path.display();
    let length = std::fs::metadata(&path).map_err(|error| format!("{shown}: {error}"))?.len();
    if length > CONFIG_BYTES_MAX {
        return Err(format!("{shown} has {length} bytes, more than {CONFIG_BYTES_MAX}"));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{shown}: {error}"))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{shown} is not valid JSON: {error}"))?;
    let model_type = json.get("model_type").and_then(serde_json::Value::as_str);
    let architecture = json.pointer("/architectures/0").and_then(serde_json::Value::as_str);
    if model_type.is_some_and(|model_type| ENCODER_MODEL_TYPES.contains(&model_type)) {
        return Ok(());
    }
    let found = match (model_type, architecture) {
        (Some(model_type), Some(class)) => format!("model_type '{model_type}' ({class})"),
        (Some(model_type), None) => format!("model_type '{model_type}'"),
        (None, Some(class)) => format!("architecture '{class}'"),
        (None, None) => "neither model_type nor architectures".to_owned(),
    };
    let served = ENCODER_MODEL_TYPES.join(", ");
    Err(format!(
        "{shown} says {found}; served from Hugging Face folders are text encoders of model_type {served}. \
                 Other models can be served after export to ONNX"
    ))
}
