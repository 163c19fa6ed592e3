//! ONNX Runtime's shared library, opened once per process. Called by whoever loads a model; never searches for it.

use parking_lot::Mutex;
use penstock_executor::LoadError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The library, opened, with its one environment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Library {
    pub(crate) environment: ort::environment::Environment,
    path: Arc<Path>,
}

/// ONNX Runtime allows one library and one environment in a process, and neither can be closed safely while a tensor
/// of it may live: so the first one stays.
static OPENED: Mutex<Option<Library>> = Mutex::new(None);

impl Library {
    /// Opens `path` (`libonnxruntime.so`). Again with the same file gives the same library; another file is refused.
    pub fn open(path: &Path) -> Result<Library, LoadError> {
        let path = path.canonicalize().map_err(|error| missing(path, &error.to_string()))?;
        let mut opened = OPENED.lock();
        match opened.as_ref() {
            Some(library) if *library.path == *path => return Ok(library.clone()),
            Some(library) => {
                return Err(LoadError::Invalid(format!(
                    "cannot open ONNX Runtime from {}: this process already uses {}, and it can use only one",
                    path.display(),
                    library.path.display()
                )));
            }
            None => {}
        }
        let environment = ort::init_from(&path)
            .map_err(|error| missing(&path, &error.to_string()))?
            .with_name("penstock")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(|error| LoadError::Failed(format!("ONNX Runtime ({}): {error}", path.display())))?;
        // A custom logger begins at the most verbose level, and would format a line for every node.
        environment.set_log_level(ort::logging::LogLevel::Warning);
        tracing::debug!(path = %path.display(), build = ort::info(), "opened ONNX Runtime");
        let library = Library { environment, path: path.into() };
        *opened = Some(library.clone());
        Ok(library)
    }

    /// The file that was opened, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn missing(path: &Path, reason: &str) -> LoadError {
    let path: PathBuf = path.into();
    LoadError::Failed(format!(
        "cannot open ONNX Runtime from {}: {reason}. `make run` and `make test` fetch it (models/catalog/fetch.py); an \
         installed one of version 1.{} or newer may be named instead",
        path.display(),
        ort::MINOR_VERSION
    ))
}

/// Every failure also comes back as an error, which its receiver logs: here it is only detail.
fn log(_level: ort::logging::LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    tracing::debug!(target: "onnxruntime", category, location, "{message}");
}
