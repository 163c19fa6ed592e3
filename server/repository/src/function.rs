//! What a model repository holds, judged: functions, their versions, and why something cannot be served.
//!
//! Made by `repository`, compared by `control`, read by the composition root (which starts environments) and by the
//! front end (index, config). Plain values, never changed once made.

use crate::identity::IdentityDelays;
use crate::revision::ContentRevision;
use crate::settings::VersionSettings;
use penstock_domain::{FunctionName, VersionNumber};
use penstock_proto::inference::ModelConfig;
use std::path::PathBuf;
use std::sync::Arc;

/// Who says what a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// A model repository: it changes only when its files do.
    #[default]
    Repository,
    /// The control plane.
    Deployed,
}

/// A function and what is served of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionSource {
    /// The directory's name.
    pub name: FunctionName,
    /// Who says so.
    pub origin: Origin,
    /// Requests in flight of all its versions together, kept for it; of one that was deployed. (Those of a repository
    /// reserve by version.)
    pub reserved_concurrency: Option<u32>,
    /// `DIR/<name>`; empty for one that was deployed.
    pub directory: PathBuf,
    /// As written, with what can be told without loading filled in: name, backend, platform, version policy.
    pub config: Arc<ModelConfig>,
    /// What the version policy chose and can be loaded, ascending.
    pub versions: Vec<VersionSource>,
    /// What the version policy chose and cannot be loaded, ascending.
    pub unavailable_versions: Vec<UnavailableVersion>,
    /// Why nothing of this function can be loaded as it is on disk now. In a scan it is set exactly when `versions` is
    /// empty; after [`settle`](crate::settle), `versions` may hold what is still served from before.
    pub unavailable: Option<String>,
}

/// A version that can be loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionSource {
    /// The directory's number.
    pub number: VersionNumber,
    /// Where its files are: `DIR/<name>/<number>`, or `DIR/<name>` where there are no numbered directories.
    pub directory: PathBuf,
    /// What runs it.
    pub runtime: RuntimeSource,
    /// How it is run.
    pub settings: Arc<VersionSettings>,
    /// Changes when its files or its configuration do.
    pub revision: ContentRevision,
    /// Its own configuration, where its versions have different ones; else the function's holds.
    pub config: Option<Arc<ModelConfig>>,
    /// Real paths of linked files and directories outside `directory`, which the environment must be able to read.
    pub linked_paths: Vec<PathBuf>,
}

/// A version that cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnavailableVersion {
    /// The directory's number.
    pub number: VersionNumber,
    /// What was found and what would be right.
    pub reason: String,
}

/// What runs a version, and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeSource {
    /// Echoes its inputs; has no files.
    Identity {
        /// What a batch costs.
        delays: IdentityDelays,
    },
    /// An ONNX model.
    Onnx {
        /// The model; weights kept apart lie beside it.
        model: PathBuf,
    },
    /// A text encoder of the BERT family.
    Bert {
        /// Has `config.json`, `tokenizer.json` and `model.safetensors`.
        folder: PathBuf,
    },
}

impl RuntimeSource {
    /// The backend as Triton's configuration names it.
    pub fn backend(&self) -> &'static str {
        match self {
            RuntimeSource::Identity { .. } => "identity",
            RuntimeSource::Onnx { .. } => "onnxruntime",
            RuntimeSource::Bert { .. } => "bert",
        }
    }

    /// The platform as Triton's clients know it; empty for backends that have none.
    pub fn platform(&self) -> &'static str {
        match self {
            RuntimeSource::Identity { .. } => "",
            RuntimeSource::Onnx { .. } => "onnxruntime_onnx",
            RuntimeSource::Bert { .. } => "penstock_bert",
        }
    }
}
