//! What Lambda's operations take, as types. Read from JSON; members that this server has no use for are named where they
//! are refused.
//!
//! Made by the front end from request bodies, judged by `check`. Plain values.

use penstock_registry::{AcceleratorConfig, Environment, EphemeralStorage, TracingConfig};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where code comes from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Lambda's
pub struct CodeSource {
    pub zip_file: Option<String>,
    pub s3_bucket: Option<String>,
    pub s3_key: Option<String>,
    pub s3_object_version: Option<String>,
    pub s3_object_storage_mode: Option<String>,
    pub image_uri: Option<String>,
    /// Not Lambda's: the name of a package that was announced, all of whose files have been sent.
    pub manifest: Option<String>,
}

/// The members of a configuration that Create and Update share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Settings {
    pub runtime: Option<String>,
    pub role: Option<String>,
    pub handler: Option<String>,
    pub description: Option<String>,
    pub timeout: Option<i64>,
    pub memory_size: Option<i64>,
    pub capacity_provider_config: Option<Value>,
    pub accelerator_config: Option<AcceleratorConfig>,
    pub ephemeral_storage: Option<EphemeralStorage>,
    pub environment: Option<Environment>,
    pub logging_config: Option<Logging>,
    pub tracing_config: Option<TracingConfig>,
    // What is not offered.
    pub layers: Option<Value>,
    pub vpc_config: Option<Value>,
    pub file_system_configs: Option<Value>,
    pub image_config: Option<Value>,
    pub snap_start: Option<Value>,
    pub dead_letter_config: Option<Value>,
    #[serde(rename = "KMSKeyArn")]
    pub kms_key_arn: Option<String>,
    pub durable_config: Option<Value>,
    pub tenancy_config: Option<Value>,
    pub runtime_config: Option<Value>,
}

/// How a function is to log.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Logging {
    pub log_format: Option<String>,
    pub application_log_level: Option<String>,
    pub system_log_level: Option<String>,
    pub log_group: Option<String>,
}

/// CreateFunction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct CreateFunction {
    pub function_name: String,
    pub code: CodeSource,
    pub package_type: Option<String>,
    pub architectures: Option<Vec<String>>,
    #[serde(default)]
    pub publish: bool,
    pub publish_to: Option<String>,
    pub tags: Option<BTreeMap<String, String>>,
    pub code_signing_config_arn: Option<String>,
    #[serde(flatten)]
    pub settings: Settings,
}

/// UpdateFunctionCode.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct UpdateCode {
    #[serde(flatten)]
    pub code: CodeSource,
    pub architectures: Option<Vec<String>>,
    #[serde(default)]
    pub publish: bool,
    pub publish_to: Option<String>,
    #[serde(default)]
    pub dry_run: bool,
    pub revision_id: Option<String>,
}

/// UpdateFunctionConfiguration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct UpdateConfiguration {
    pub revision_id: Option<String>,
    #[serde(flatten)]
    pub settings: Settings,
}

/// PublishVersion.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Publish {
    #[serde(rename = "CodeSha256")]
    pub code_sha256: Option<String>,
    pub description: Option<String>,
    pub revision_id: Option<String>,
    pub publish_to: Option<String>,
}

/// CreateAlias and UpdateAlias.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct AliasRequest {
    pub name: Option<String>,
    pub function_version: Option<String>,
    pub description: Option<String>,
    pub routing_config: Option<RoutingConfig>,
    pub revision_id: Option<String>,
}

/// The weights of an alias.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct RoutingConfig {
    pub additional_version_weights: Option<BTreeMap<String, f64>>,
}

/// PutFunctionEventInvokeConfig and its update.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct EventInvokeRequest {
    pub maximum_retry_attempts: Option<i64>,
    pub maximum_event_age_in_seconds: Option<i64>,
    pub destination_config: Option<DestinationConfig>,
}

/// Where asynchronous invocations are told.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct DestinationConfig {
    pub on_success: Option<Destination>,
    pub on_failure: Option<Destination>,
}

/// One of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Destination {
    pub destination: Option<String>,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Where the last page ended.
    pub marker: Option<String>,
    /// Most entries.
    pub max_items: Option<usize>,
}
