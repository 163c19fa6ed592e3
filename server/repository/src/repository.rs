//! Walks model repositories into [`FunctionSource`]s.
//!
//! Called at start, on every poll and by the load API. Reads directories, `config.pbtxt`, label files and
//! `config.json`; never a model. Only a repository that cannot be listed is an error, so that a file system that is
//! away for a moment does not look like one where every function was deleted. Links are followed, as Triton does.

use crate::function::{FunctionSource, Origin, UnavailableVersion, VersionSource};
use crate::json::{JsonError, parse_config_json};
use crate::normalise::{fill_runtime, normalise};
use crate::revision::fingerprint;
use crate::runtime::{self, Backend};
use crate::settings::VersionSettings;
use crate::text_format::{Document, parse_document};
use penstock_domain::{ErrorCode, FunctionName, VersionNumber};
use penstock_proto::inference::model_version_policy::PolicyChoice;
use penstock_proto::inference::model_warmup::input::InputDataType;
use penstock_proto::inference::{ModelConfig, ModelVersionPolicy};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest `config.pbtxt` read.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// What repositories hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scan {
    /// By name.
    pub functions: Vec<FunctionSource>,
    /// Directories that cannot be functions, by path.
    pub rejected: Vec<Rejected>,
}

/// A directory that cannot be a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejected {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with its name.
    pub reason: String,
}

/// Why nothing at all can be said about a repository, or about a configuration handed in for it.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The repository's directory cannot be listed.
    #[error("model repository {path}: {source}", path = path.display())]
    List {
        /// The repository.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No repository has a directory of this name.
    #[error("no model repository has a directory '{0}'")]
    NoSuchFunction(FunctionName),
    /// The configuration handed in is wrong.
    #[error("function '{name}': {source}")]
    Config {
        /// The function.
        name: FunctionName,
        /// Why.
        source: JsonError,
    },
}

impl RepositoryError {
    /// The kind of error.
    pub fn code(&self) -> ErrorCode {
        match self {
            RepositoryError::List { .. } => ErrorCode::Unavailable,
            RepositoryError::NoSuchFunction(_) => ErrorCode::NotFound,
            RepositoryError::Config { source, .. } => source.code(),
        }
    }
}

/// Reads whole repositories. A name that two of them have is unavailable, with a reason that names both.
pub fn scan(repositories: &[PathBuf]) -> Result<Scan, RepositoryError> {
    let mut rejected = Vec::new();
    let mut found: BTreeMap<FunctionName, Vec<PathBuf>> = BTreeMap::new();
    for repository in distinct(repositories) {
        let failed = |source| RepositoryError::List { path: repository.clone(), source };
        for entry in repository.read_dir().map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default();
            // Hidden directories (.git, .cache) are never functions; files beside functions are of no interest.
            if name.as_encoded_bytes().starts_with(b".") || !path.is_dir() {
                continue;
            }
            let name = name.to_str().ok_or_else(|| "the directory's name is not UTF-8".to_owned());
            match name.and_then(|name| FunctionName::new(name).map_err(|error| error.to_string())) {
                Ok(name) => found.entry(name).or_default().push(path),
                Err(reason) => rejected.push(Rejected { path, reason }),
            }
        }
    }
    rejected.sort_unstable();
    let functions = found.into_iter().map(|(name, directories)| one_of(name, &directories, None)).collect();
    Ok(Scan { functions, rejected })
}

/// Reads one function of the repositories; `None` if none of them has it.
pub fn find_function(repositories: &[PathBuf], name: &FunctionName) -> Option<FunctionSource> {
    let directories = directories_of(repositories, name);
    (!directories.is_empty()).then(|| one_of(name.clone(), &directories, None))
}

/// Reads the function in `directory`.
pub fn scan_function(directory: &Path, name: &FunctionName) -> FunctionSource {
    match read_config(directory) {
        Ok(document) => judge(directory, name, document),
        Err(reason) => unavailable(name.clone(), directory, ModelConfig::default(), reason),
    }
}

/// Reads one function of the repositories with a configuration in JSON in place of its `config.pbtxt`.
pub fn with_config_json(
    repositories: &[PathBuf],
    name: &FunctionName,
    json: &str,
) -> Result<FunctionSource, RepositoryError> {
    let document = parse_config_json(json).map_err(|source| RepositoryError::Config { name: name.clone(), source })?;
    let directories = directories_of(repositories, name);
    if directories.is_empty() {
        return Err(RepositoryError::NoSuchFunction(name.clone()));
    }
    Ok(one_of(name.clone(), &directories, Some(document)))
}

/// The same directory, given twice, is one repository.
fn distinct(repositories: &[PathBuf]) -> Vec<&PathBuf> {
    let mut seen = Vec::new();
    let mut distinct = Vec::new();
    for repository in repositories {
        let real = repository.canonicalize().unwrap_or_else(|_| repository.clone());
        if !seen.contains(&real) {
            seen.push(real);
            distinct.push(repository);
        }
    }
    distinct
}

fn directories_of(repositories: &[PathBuf], name: &FunctionName) -> Vec<PathBuf> {
    if name.as_str().starts_with('.') {
        return Vec::new();
    }
    let directories = distinct(repositories).into_iter().map(|repository| repository.join(name.as_str()));
    directories.filter(|directory| directory.is_dir()).collect()
}

fn one_of(name: FunctionName, directories: &[PathBuf], document: Option<Document>) -> FunctionSource {
    match (directories, document) {
        ([directory], Some(document)) => judge(directory, &name, document),
        ([directory], None) => scan_function(directory, &name),
        (directories, _) => {
            let all: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
            let reason = format!("more than one model repository has '{name}': {}; keep one", all.join(" and "));
            unavailable(name, &directories[0], ModelConfig::default(), reason)
        }
    }
}

fn unavailable(name: FunctionName, directory: &Path, mut config: ModelConfig, reason: String) -> FunctionSource {
    config.name = name.to_string();
    FunctionSource {
        name,
        origin: Origin::Repository,
        reserved_concurrency: None,
        directory: directory.to_owned(),
        config: Arc::new(config),
        versions: Vec::new(),
        unavailable_versions: Vec::new(),
        unavailable: Some(reason),
    }
}

/// The configuration file's content; an absent file leaves everything to be derived.
fn read_config(directory: &Path) -> Result<Document, String> {
    let path = directory.join("config.pbtxt");
    let shown = path.display();
    match path.metadata() {
        Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
            return Err(format!("{shown} has {} bytes, more than {CONFIG_BYTES_MAX}", metadata.len()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
        Err(error) => return Err(format!("{shown}: {error}")),
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{shown}: {error}"))?;
    parse_document(&shown.to_string(), &text).map_err(|error| error.to_string())
}

/// Everything about a function that follows from its configuration and its files.
fn judge(directory: &Path, name: &FunctionName, document: Document) -> FunctionSource {
    let written = document.config.clone();
    if !written.name.is_empty() && written.name != name.as_str() {
        let reason = format!("name: expected '{name}', the directory's name, or nothing; found '{}'", written.name);
        return unavailable(name.clone(), directory, written, reason);
    }
    match versions_of(directory, &document) {
        Ok((mut config, versions, unavailable_versions)) => {
            normalise(&mut config, name);
            if let Some(highest) = versions.last() {
                fill_runtime(&mut config, &highest.runtime);
            }
            let unavailable = match (versions.as_slice(), unavailable_versions.as_slice()) {
                ([], [only]) => Some(only.reason.clone()),
                ([], several) => {
                    let reasons =
                        several.iter().map(|version| format!("version {}: {}", version.number, version.reason));
                    Some(reasons.collect::<Vec<_>>().join("; "))
                }
                _ => None,
            };
            FunctionSource {
                name: name.clone(),
                origin: Origin::Repository,
                reserved_concurrency: None,
                directory: directory.to_owned(),
                config: Arc::new(config),
                versions,
                unavailable_versions,
                unavailable,
            }
        }
        Err(reason) => unavailable(name.clone(), directory, written, reason),
    }
}

type Versions = (ModelConfig, Vec<VersionSource>, Vec<UnavailableVersion>);

fn versions_of(directory: &Path, document: &Document) -> Result<Versions, String> {
    let config = &document.config;
    let backend = match runtime::backend(config) {
        // Pipelines and others have no backend of ours, but a better reason than that.
        Err(reason) => return Err(crate::unsupported::check(config).err().map_or(reason, |error| error.to_string())),
        Ok(backend) => backend,
    };
    let settings = Arc::new(VersionSettings::from_document(document, directory).map_err(|error| error.to_string())?);
    let there = version_directories(directory, backend)?;
    let also = files_beside(directory, config);
    let mut versions = Vec::new();
    let mut unavailable = Vec::new();
    for (number, folder) in chosen(config.version_policy.as_ref(), there, directory)? {
        let version = runtime::detect(&folder, config, backend, &settings).and_then(|runtime| {
            let found =
                fingerprint(&folder, config, &also).map_err(|error| format!("{}: {error}", folder.display()))?;
            Ok(VersionSource {
                number,
                directory: folder.clone(),
                runtime,
                settings: settings.clone(),
                revision: found.revision,
                config: None,
                linked_paths: found.linked_paths,
            })
        });
        match version {
            Ok(version) => versions.push(version),
            Err(reason) => unavailable.push(UnavailableVersion { number, reason }),
        }
    }
    Ok((config.clone(), versions, unavailable))
}

/// Reads the one version in a package's folder, which is laid out as a function's in a repository: a model, or a numbered
/// folder with one (of several the highest), and perhaps a `config.pbtxt`, whose name counts for nothing. Errors: what is
/// wrong with it.
pub fn read_package(folder: &Path, number: VersionNumber) -> Result<VersionSource, String> {
    let inside = |reason: String| {
        reason.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "the package")
    };
    let mut document = read_config(folder).map_err(inside)?;
    document.config.name.clear();
    let (mut config, mut versions, unavailable) = versions_of(folder, &document).map_err(inside)?;
    let Some(source) = versions.pop() else {
        let reasons: Vec<String> = unavailable.into_iter().map(|version| version.reason).collect();
        return Err(inside(reasons.join("; ")));
    };
    fill_runtime(&mut config, &source.runtime);
    Ok(VersionSource { number, config: Some(Arc::new(config)), ..source })
}

/// Numbered directories, ascending. Names that do not start with 1 to 9 or are not all digits are passed over, as
/// Triton does. Where there are none, what lies in the function's own directory is version 1.
fn version_directories(directory: &Path, backend: Backend) -> Result<Vec<(VersionNumber, PathBuf)>, String> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    let mut there = Vec::new();
    for entry in directory.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(version_number);
        if let Some(number) = number.filter(|_| path.is_dir()) {
            there.push((number, path));
        }
    }
    there.sort_unstable();
    if there.is_empty() && (backend == Backend::Identity || runtime::holds_model(directory)) {
        there.push((VersionNumber(1), directory.to_owned()));
    }
    if there.is_empty() {
        return Err(format!(
            "{shown} has no version: expected a numbered directory with a model, such as {shown}/1/model.onnx, or a \
             Hugging Face folder ({})",
            crate::encoder::FOLDER_FILES.join(", "),
            shown = directory.display(),
        ));
    }
    Ok(there)
}

/// The number that a directory's name stands for: 1 to 2^63 - 1, without leading zeros.
fn version_number(name: &str) -> Option<VersionNumber> {
    let plain = name.bytes().all(|b| b.is_ascii_digit()) && !name.starts_with('0');
    name.parse::<i64>().ok().filter(|_| plain).and_then(|number| u64::try_from(number).ok()).map(VersionNumber)
}

/// What the version policy chooses of the versions that are there.
fn chosen(
    policy: Option<&ModelVersionPolicy>,
    mut there: Vec<(VersionNumber, PathBuf)>,
    directory: &Path,
) -> Result<Vec<(VersionNumber, PathBuf)>, String> {
    let latest = |there: &mut Vec<_>, count: usize| there.drain(..there.len().saturating_sub(count)).for_each(drop);
    match policy.and_then(|policy| policy.policy_choice.as_ref()) {
        None => latest(&mut there, 1),
        Some(PolicyChoice::Latest(policy)) if policy.num_versions == 0 => {
            return Err("version_policy.latest.num_versions: expected 1 or more, found 0".to_owned());
        }
        Some(PolicyChoice::Latest(policy)) => latest(&mut there, policy.num_versions as usize),
        Some(PolicyChoice::All(_)) => {}
        Some(PolicyChoice::Specific(policy)) => {
            let wanted = |number: u64| policy.versions.iter().any(|wanted| u64::try_from(*wanted) == Ok(number));
            let numbers: Vec<String> = there.iter().map(|(number, _)| number.to_string()).collect();
            there.retain(|(number, _)| wanted(number.0));
            if there.is_empty() {
                return Err(format!(
                    "version_policy.specific.versions: at least one version must be available; found {:?}, but {} has {}",
                    policy.versions,
                    directory.display(),
                    numbers.join(", ")
                ));
            }
        }
    }
    Ok(there)
}

/// Label and warm-up files, which lie outside the versions' directories.
fn files_beside(directory: &Path, config: &ModelConfig) -> Vec<PathBuf> {
    let labels = config.output.iter().map(|output| output.label_filename.as_str()).filter(|file| !file.is_empty());
    let mut files: Vec<PathBuf> = labels.map(|file| directory.join(file)).collect();
    for input in config.model_warmup.iter().flat_map(|warmup| warmup.inputs.values()) {
        if let Some(InputDataType::InputDataFile(file)) = &input.input_data_type {
            files.push(directory.join("warmup").join(file));
        }
    }
    files.sort_unstable();
    files.dedup();
    files
}
