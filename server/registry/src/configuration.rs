//! What a function is set up as: the members of Lambda's API, by its names, as they are kept and as they are told.
//!
//! Made by the control plane from requests it has checked. Plain values; never judges them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The configuration of a function or of a version. Names and units are those of Lambda's `FunctionConfiguration`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Configuration {
    /// What runs it: `onnx` or `candle`.
    pub runtime: String,
    /// The execution role.
    pub role: String,
    /// Means nothing to a model; kept because clients send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// In words.
    pub description: String,
    /// Longest that an invocation may take, in seconds.
    pub timeout: u32,
    /// Memory of an execution environment, in MiB.
    pub memory_size: u32,
    /// Where its environments run.
    pub capacity_provider_config: CapacityProviderConfig,
    /// The device it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator_config: Option<AcceleratorConfig>,
    /// Always one.
    pub architectures: Vec<String>,
    /// Room in `/tmp`.
    pub ephemeral_storage: EphemeralStorage,
    /// Variables of its processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// How it logs.
    pub logging_config: LoggingConfig,
    /// Kept because clients compare it.
    pub tracing_config: TracingConfig,
}

/// Names a capacity provider, and how much of its instances an environment takes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CapacityProviderConfig {
    /// The only kind there is.
    pub lambda_managed_instances_capacity_provider_config: ManagedInstances,
}

/// A share of a managed instance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManagedInstances {
    /// The provider.
    pub capacity_provider_arn: String,
    /// Invocations in flight in one environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_execution_environment_max_concurrency: Option<u32>,
    /// Memory for each virtual core: the cores of an environment are its memory divided by it.
    #[serde(rename = "ExecutionEnvironmentMemoryGiBPerVCpu")]
    pub execution_environment_memory_gib_per_vcpu: f64,
}

/// The device of an environment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AcceleratorConfig {
    /// Device memory of one environment, in GiB.
    pub accelerator_memory_size: u32,
}

/// Room in `/tmp`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EphemeralStorage {
    /// In MiB.
    pub size: u32,
}

/// Variables of a function's processes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Environment {
    /// By name.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
}

/// How a function logs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LoggingConfig {
    /// Always `JSON`.
    pub log_format: String,
    /// Of the function's own lines.
    pub application_log_level: String,
    /// Of the platform's lines.
    pub system_log_level: String,
    /// A name that clients show.
    pub log_group: String,
}

/// Kept because clients compare it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TracingConfig {
    /// `PassThrough` or `Active`.
    pub mode: String,
}

/// The code of a function: a package in the content store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Code {
    /// SHA-256 of what was uploaded, in base64.
    pub code_sha256: String,
    /// Its bytes.
    pub code_size: u64,
    /// The package's name in the content store: SHA-256 of its manifest, in hex.
    pub manifest_sha256: String,
}
