//! Finds out what runs a version, from its files and its configuration.
//!
//! Called by `repository` for each version. Looks at names and at `config.json`; reads no model.

use crate::encoder;
use crate::function::RuntimeSource;
use crate::identity::IdentityDelays;
use crate::settings::{VersionSettings, file_within};
use penstock_proto::inference::ModelConfig;
use std::path::{Path, PathBuf};

/// What a configuration says about what runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Nothing: the files decide.
    Any,
    Identity,
    Onnx,
    Bert,
}

/// File names that hold pickled Python objects.
const PICKLE_EXTENSIONS: [&str; 5] = ["pt", "pth", "pkl", "pickle", "ckpt"];
const PICKLE_NAME: &str = "pytorch_model.bin";

/// The backend that `backend` and `platform` name; else why it is not served.
pub(crate) fn backend(config: &ModelConfig) -> Result<Backend, String> {
    let by_backend = match config.backend.as_str() {
        "" => None,
        "identity" => Some(Backend::Identity),
        "onnxruntime" => Some(Backend::Onnx),
        "bert" => Some(Backend::Bert),
        other => {
            return Err(format!(
                "backend: expected identity, onnxruntime or bert, found '{other}', which is not served"
            ));
        }
    };
    let by_platform = match config.platform.as_str() {
        "" => None,
        "onnxruntime_onnx" => Some(Backend::Onnx),
        "penstock_bert" => Some(Backend::Bert),
        other => {
            return Err(format!(
                "platform: expected onnxruntime_onnx or penstock_bert, found '{other}', which is not served"
            ));
        }
    };
    match (by_backend, by_platform) {
        (Some(backend), Some(platform)) if backend != platform => Err(format!(
            "platform: '{}' contradicts backend '{}'; leave one of them out",
            config.platform, config.backend
        )),
        (backend, platform) => Ok(backend.or(platform).unwrap_or(Backend::Any)),
    }
}

/// What runs the version whose files are in `folder`; else why it cannot be served.
pub(crate) fn detect(
    folder: &Path,
    config: &ModelConfig,
    backend: Backend,
    settings: &VersionSettings,
) -> Result<RuntimeSource, String> {
    if backend == Backend::Identity {
        let delays = IdentityDelays::from_parameters(&settings.parameters).map_err(|error| error.to_string())?;
        return Ok(RuntimeSource::Identity { delays });
    }
    if !config.default_model_filename.is_empty() && backend != Backend::Bert {
        return named_file(folder, &config.default_model_filename);
    }
    if backend != Backend::Bert
        && let Some(model) = onnx_file(&folder.join("model.onnx"))
    {
        return Ok(RuntimeSource::Onnx { model });
    }
    if backend == Backend::Onnx {
        return Err(format!("there is no {}", folder.join("model.onnx").display()) + &other_onnx(folder));
    }
    if encoder::present(folder) == [true; 3] {
        return encoder::check(folder).map(|()| RuntimeSource::Bert { folder: folder.to_owned() });
    }
    Err(why_nothing(folder))
}

/// Whether a folder holds something that [`detect`] has an opinion on.
pub(crate) fn holds_model(folder: &Path) -> bool {
    encoder::present(folder)[0]
        || list(folder).iter().any(|name| name == "model.onnx" || is_gguf(name) || is_pickle(name))
}

fn named_file(folder: &Path, name: &str) -> Result<RuntimeSource, String> {
    if is_gguf(name) {
        return Err(gguf_reason(&folder.join(name)));
    }
    if is_pickle(name) {
        return Err(pickle_reason(&folder.join(name)));
    }
    // Triton lets the name be that of a directory with the model in it.
    let within = if folder.join(name).is_dir() { format!("{name}/model.onnx") } else { name.to_owned() };
    file_within(folder, &within, "default_model_filename")
        .map(|model| RuntimeSource::Onnx { model })
        .map_err(|error| error.to_string())
}

/// The model at `path`: the file, or `model.onnx` in a directory of that name, beside its external weights.
fn onnx_file(path: &Path) -> Option<PathBuf> {
    [path.to_owned(), path.join("model.onnx")].into_iter().find(|path| path.is_file())
}

fn other_onnx(folder: &Path) -> String {
    match list(folder).into_iter().find(|name| name.ends_with(".onnx")) {
        Some(name) => format!("; there is '{name}': rename it to model.onnx or set default_model_filename"),
        None => String::new(),
    }
}

/// The most helpful reason why nothing in the folder can be served.
fn why_nothing(folder: &Path) -> String {
    let shown = folder.display();
    let names = list(folder);
    if let Some(name) = names.iter().find(|name| is_gguf(name)) {
        return gguf_reason(&folder.join(name));
    }
    if let Some(name) = names.iter().find(|name| is_pickle(name))
        && !names.iter().any(|name| name == "model.safetensors")
    {
        return pickle_reason(&folder.join(name));
    }
    let present = encoder::present(folder);
    if present[0] || present[2] {
        let missing = encoder::FOLDER_FILES.iter().zip(present).filter(|(_, there)| !there).map(|(file, _)| *file);
        let missing = missing.collect::<Vec<_>>().join(" and ");
        let sharded = names.iter().any(|name| name == "model.safetensors.index.json");
        let hint = if sharded { "; weights in several parts are not served: save them as one file" } else { "" };
        return format!("{shown} looks like a Hugging Face folder, but lacks {missing}{hint}");
    }
    format!(
        "nothing to serve in {shown}: looked for model.onnx, for a Hugging Face folder ({}) and for model.gguf{}",
        encoder::FOLDER_FILES.join(", "),
        other_onnx(folder)
    )
}

fn is_gguf(name: &str) -> bool {
    name.ends_with(".gguf")
}

fn is_pickle(name: &str) -> bool {
    name == PICKLE_NAME || PICKLE_EXTENSIONS.iter().any(|e| name.rsplit_once('.').is_some_and(|(_, found)| found == *e))
}

fn gguf_reason(path: &Path) -> String {
    format!("{} is a GGUF model; these are recognised, but not served yet", path.display())
}

fn pickle_reason(path: &Path) -> String {
    format!(
        "{} is a pickle: loading it runs whatever code it contains, so it is refused. Export the model to ONNX \
         (model.onnx), or save its weights as safetensors (model.safetensors, with config.json and tokenizer.json)",
        path.display()
    )
}

/// Names in a folder, sorted; empty if it cannot be read.
fn list(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
