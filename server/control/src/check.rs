//! Judges what a function is to be set up as, in Lambda's words where it has them, and fills in what is left out.
//!
//! Called by Create and Update. Pure: the provider's existence is looked up elsewhere.

use crate::error::ControlError;
use crate::names::{Account, provider_name};
use crate::requests::{Logging, Settings};
use penstock_domain::Architecture;
use penstock_registry::{
    AcceleratorConfig, CapacityProviderConfig, Configuration, Environment, EphemeralStorage, LoggingConfig,
    ManagedInstances, TracingConfig,
};
use serde_json::Value;

/// The provider of functions that name none.
pub(crate) const LOCAL_PROVIDER: &str = "local";
/// Memory of an environment if nothing is said, and the least, in MiB: Lambda's own for managed instances.
const MEMORY_MIB_LEAST: i64 = 2048;
/// The most, in MiB: a TiB. (Lambda ends at 32 GiB; weights in host memory do not.)
const MEMORY_MIB_MOST: i64 = 1 << 20;
/// Lambda's own for managed instances.
const MEMORY_GIB_PER_VCPU: f64 = 2.0;
/// Longest timeout, in seconds, and the one if nothing is said.
const TIMEOUT_S: (i64, i64) = (5400, 3);
/// Most bytes of all variables together.
const ENVIRONMENT_BYTES_MAX: usize = 4096;
/// Variables with these beginnings are the platform's; all but the first four are read by the loader, the allocator or the device's driver before an environment is isolated.
const RESERVED_VARIABLES: [&str; 10] =
    ["AWS_", "LAMBDA_", "_", "PENSTOCK_", "LD_", "GLIBC_", "MALLOC_", "MIMALLOC_", "CUDA_", "NVIDIA_"];

/// What a new function is set up as.
pub(crate) fn new_configuration(
    settings: Settings,
    name: &str,
    architectures: Option<Vec<String>>,
    account: &Account,
) -> Result<Configuration, ControlError> {
    let Some(role) = settings.role.clone() else { return Err(missing("role")) };
    let Some(runtime) = settings.runtime.clone() else { return Err(missing("runtime")) };
    let blank = Configuration {
        runtime,
        role,
        handler: None,
        description: String::new(),
        timeout: TIMEOUT_S.1 as u32,
        memory_size: MEMORY_MIB_LEAST as u32,
        capacity_provider_config: CapacityProviderConfig {
            lambda_managed_instances_capacity_provider_config: ManagedInstances {
                capacity_provider_arn: account.provider_arn(LOCAL_PROVIDER),
                per_execution_environment_max_concurrency: None,
                execution_environment_memory_gib_per_vcpu: MEMORY_GIB_PER_VCPU,
            },
        },
        accelerator_config: None,
        architectures: architecture(architectures)?.unwrap_or_else(|| vec![Architecture::X86.name().to_owned()]),
        ephemeral_storage: EphemeralStorage { size: 512 },
        environment: None,
        logging_config: LoggingConfig {
            log_format: "JSON".into(),
            application_log_level: "INFO".into(),
            system_log_level: "INFO".into(),
            log_group: format!("/aws/lambda/{name}"),
        },
        tracing_config: TracingConfig { mode: "PassThrough".into() },
    };
    changed_configuration(settings, blank)
}

/// An architecture, alone as Lambda wants it.
pub(crate) fn architecture(given: Option<Vec<String>>) -> Result<Option<Vec<String>>, ControlError> {
    match given.as_deref() {
        None => Ok(None),
        Some([one]) if Architecture::parse(one).is_some() => Ok(given),
        Some(other) => {
            let constraint = "Member must have length 1 and be one of [x86_64, arm64]";
            Err(ControlError::validation(format!("{other:?}"), "architectures", constraint))
        }
    }
}

/// `old` with what is said put in its place, checked as a whole.
pub(crate) fn changed_configuration(settings: Settings, old: Configuration) -> Result<Configuration, ControlError> {
    not_offered(&settings)?;
    let mut new = old;
    if let Some(runtime) = settings.runtime {
        check_runtime(&runtime)?;
        new.runtime = runtime;
    }
    check_runtime(&new.runtime)?;
    if let Some(role) = settings.role {
        check_role(&role)?;
        new.role = role;
    }
    check_role(&new.role)?;
    new.handler = settings.handler.or(new.handler);
    if new.handler.as_ref().is_some_and(|handler| handler.len() > 128 || handler.contains(char::is_whitespace)) {
        return Err(ControlError::validation(
            new.handler.unwrap_or_default(),
            "handler",
            "Member must match [^\\s]{0,128}",
        ));
    }
    if let Some(description) = settings.description {
        check_description(&description)?;
        new.description = description;
    }
    if let Some(timeout) = settings.timeout {
        new.timeout = between("timeout", timeout, 1, TIMEOUT_S.0)?;
    }
    if let Some(memory) = settings.memory_size {
        new.memory_size = between("memorySize", memory, 128, MEMORY_MIB_MOST)?;
    }
    if let Some(provider) = settings.capacity_provider_config {
        new.capacity_provider_config = provider_config(provider)?;
    }
    if let Some(storage) = settings.ephemeral_storage {
        let most =
            if settings.accelerator_config.is_some() || new.accelerator_config.is_some() { 32_768 } else { 10_240 };
        new.ephemeral_storage.size = between("ephemeralStorage.size", i64::from(storage.size), 512, most)?;
    }
    if let Some(AcceleratorConfig { accelerator_memory_size }) = settings.accelerator_config {
        let size = between("acceleratorConfig.acceleratorMemorySize", i64::from(accelerator_memory_size), 0, 1 << 20)?;
        // 0 takes it back, which Lambda has no way to say.
        new.accelerator_config = (size > 0).then_some(AcceleratorConfig { accelerator_memory_size: size });
    }
    if let Some(environment) = settings.environment {
        check_environment(&environment)?;
        new.environment = (!environment.variables.is_empty()).then_some(environment);
    }
    if let Some(logging) = settings.logging_config {
        put_logging(logging, &mut new.logging_config)?;
    }
    if let Some(tracing) = settings.tracing_config {
        one_of("tracingConfig.mode", &tracing.mode, &["Active", "PassThrough"])?;
        new.tracing_config = tracing;
    }
    check_memory(&new)?;
    Ok(new)
}

fn missing(member: &str) -> ControlError {
    ControlError::validation("null", member, "Member must not be null")
}

/// A number within both bounds.
pub(crate) fn between(member: &str, value: i64, least: i64, most: i64) -> Result<u32, ControlError> {
    if value < least {
        let constraint = format!("Member must have value greater than or equal to {least}");
        return Err(ControlError::validation(value, member, constraint));
    }
    u32::try_from(value).ok().filter(|_| value <= most).ok_or_else(|| {
        let constraint = format!("Member must have value less than or equal to {most}");
        ControlError::validation(value, member, constraint)
    })
}

fn one_of(member: &str, value: &str, right: &[&str]) -> Result<(), ControlError> {
    if right.contains(&value) {
        return Ok(());
    }
    let constraint = format!("Member must satisfy enum value set: [{}]", right.join(", "));
    Err(ControlError::validation(value, member, constraint))
}

/// A description is short.
pub(crate) fn check_description(description: &str) -> Result<(), ControlError> {
    if description.chars().count() > 256 {
        let constraint = "Member must have length less than or equal to 256";
        return Err(ControlError::validation(description, "description", constraint));
    }
    Ok(())
}

fn check_runtime(runtime: &str) -> Result<(), ControlError> {
    if matches!(runtime, "onnx" | "candle") {
        return Ok(());
    }
    let lambdas = ["python", "nodejs", "java", "dotnet", "ruby", "go1", "provided", "custom"];
    if lambdas.iter().any(|known| runtime.starts_with(known)) {
        return Err(ControlError::invalid(format!(
            "The runtime {runtime} runs code of your own, which this server does not do yet. Use onnx (model.onnx, or a \
             Hugging Face folder of an encoder) or candle (such a folder) with a package that holds a model."
        )));
    }
    let constraint = "Member must satisfy enum value set: [onnx, candle]";
    Err(ControlError::validation(runtime, "runtime", constraint))
}

fn check_role(role: &str) -> Result<(), ControlError> {
    let mut parts = role.splitn(6, ':');
    let mut next = || parts.next().unwrap_or_default();
    let right = next() == "arn" && next().starts_with("aws") && next() == "iam" && next().is_empty() && {
        let account = next();
        account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) && next().starts_with("role/")
    };
    if right && role.len() <= 512 {
        return Ok(());
    }
    let constraint = "Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\\d{12}:role/?[a-zA-Z_0-9+=,.@\\-_/]+";
    Err(ControlError::validation(role, "role", constraint))
}

/// A null or empty member asks for nothing.
fn asks(value: &Option<Value>) -> bool {
    fn says(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => members.values().any(says),
            Value::String(text) => !text.is_empty() && text != "None",
            Value::Bool(_) | Value::Number(_) => true,
        }
    }
    value.as_ref().is_some_and(says)
}

fn not_offered(settings: &Settings) -> Result<(), ControlError> {
    let refused = [
        (asks(&settings.layers), "Layers: put all files into one package"),
        (asks(&settings.vpc_config), "VpcConfig: the network of a function is that of its capacity provider"),
        (asks(&settings.file_system_configs), "FileSystemConfigs: put the files into the package"),
        (asks(&settings.image_config), "ImageConfig: functions are packages of type Zip"),
        (asks(&settings.snap_start), "SnapStart: environments stay warm"),
        (asks(&settings.dead_letter_config), "DeadLetterConfig: use an event invoke configuration with OnFailure"),
        (
            settings.kms_key_arn.as_ref().is_some_and(|arn| !arn.is_empty()),
            "KMSKeyArn: encrypt the data directory's disk",
        ),
        (asks(&settings.durable_config), "DurableConfig"),
        (asks(&settings.tenancy_config), "TenancyConfig: use a function for each tenant"),
        (asks(&settings.runtime_config), "RuntimeConfig: use Runtime"),
    ];
    match refused.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(ControlError::invalid(format!("Not supported here: {what}."))),
        None => Ok(()),
    }
}

fn provider_config(given: Value) -> Result<CapacityProviderConfig, ControlError> {
    const MEMBER: &str = "capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig";
    let block = &given["LambdaManagedInstancesCapacityProviderConfig"];
    if block.is_null() {
        return Err(missing(MEMBER));
    }
    let Some(arn) = block["CapacityProviderArn"].as_str() else {
        return Err(missing(&format!("{MEMBER}.capacityProviderArn")));
    };
    provider_name(arn)?;
    let number = |key: &str, member: &str, least, most| match &block[key] {
        Value::Null => Ok(None),
        value => {
            let number =
                value.as_i64().ok_or_else(|| ControlError::validation(value, member, "Member must be an integer"))?;
            between(&format!("{MEMBER}.{member}"), number, least, most).map(Some)
        }
    };
    let concurrency =
        number("PerExecutionEnvironmentMaxConcurrency", "perExecutionEnvironmentMaxConcurrency", 1, 1600)?;
    let ratio = match &block["ExecutionEnvironmentMemoryGiBPerVCpu"] {
        Value::Null => MEMORY_GIB_PER_VCPU,
        value => value.as_f64().filter(|ratio| (2.0..=8.0).contains(ratio)).ok_or_else(|| {
            let member = format!("{MEMBER}.executionEnvironmentMemoryGiBPerVCpu");
            ControlError::validation(value, &member, "Member must have value between 2 and 8")
        })?,
    };
    Ok(CapacityProviderConfig {
        lambda_managed_instances_capacity_provider_config: ManagedInstances {
            capacity_provider_arn: arn.to_owned(),
            per_execution_environment_max_concurrency: concurrency,
            execution_environment_memory_gib_per_vcpu: ratio,
        },
    })
}

fn check_memory(new: &Configuration) -> Result<(), ControlError> {
    let memory = i64::from(new.memory_size);
    if memory < MEMORY_MIB_LEAST {
        return Err(ControlError::invalid(format!(
            "MemorySize must be {MEMORY_MIB_LEAST} MB or more for functions on a capacity provider, found {memory}."
        )));
    }
    let instances = &new.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
    let per_core_mib = instances.execution_environment_memory_gib_per_vcpu * 1024.0;
    if (memory as f64 / per_core_mib).fract() != 0.0 {
        return Err(ControlError::invalid(format!(
            "MemorySize must be a multiple of ExecutionEnvironmentMemoryGiBPerVCpu ({} GiB), found {memory} MB.",
            instances.execution_environment_memory_gib_per_vcpu
        )));
    }
    Ok(())
}

fn check_environment(environment: &Environment) -> Result<(), ControlError> {
    let bytes: usize = environment.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ENVIRONMENT_BYTES_MAX {
        return Err(ControlError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided \
             exceeded the 4KB limit: they have {bytes} bytes."
        )));
    }
    for name in environment.variables.keys() {
        let mut letters = name.chars();
        let first = letters.next().is_some_and(|c| c.is_ascii_alphabetic());
        if RESERVED_VARIABLES.iter().any(|reserved| name.starts_with(reserved)) {
            return Err(ControlError::invalid(format!(
                "Lambda was unable to configure your environment variables because the environment variables you have \
                 provided contains reserved keys that are currently not supported for modification. Reserved keys used in \
                 this request: {name}"
            )));
        }
        if !first || name.len() < 2 || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let constraint = "Map keys must satisfy constraint: [Member must satisfy regular expression pattern: \
                              [a-zA-Z]([a-zA-Z0-9_])+]";
            return Err(ControlError::validation(name, "environment.variables", constraint));
        }
    }
    Ok(())
}

fn put_logging(given: Logging, logging: &mut LoggingConfig) -> Result<(), ControlError> {
    if let Some(format) = given.log_format
        && format != "JSON"
    {
        one_of("loggingConfig.logFormat", &format, &["JSON", "Text"])?;
        return Err(ControlError::invalid(
            "LogLevel is not supported when LogFormat is set to \"Text\". Remove LogLevel from your request or change the \
             LogFormat to \"JSON\" and try again.",
        ));
    }
    if let Some(level) = given.application_log_level {
        let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
        one_of("loggingConfig.applicationLogLevel", &level, &levels)?;
        logging.application_log_level = level;
    }
    if let Some(level) = given.system_log_level {
        one_of("loggingConfig.systemLogLevel", &level, &["DEBUG", "INFO", "WARN"])?;
        logging.system_log_level = level;
    }
    logging.log_group = given.log_group.unwrap_or_else(|| logging.log_group.clone());
    Ok(())
}
