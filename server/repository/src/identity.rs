//! The identity runtime's parameters.
//!
//! Called by `runtime`. Pure.

use crate::settings::{SettingsError, parameter};
use std::collections::BTreeMap;

/// What a batch of the identity runtime costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdentityDelays {
    /// Microseconds a batch.
    pub execute_delay_us: u64,
    /// Microseconds more for each item.
    pub execute_delay_us_per_item: u64,
    /// How the time passes.
    pub kind: DelayKind,
    /// For tests of faults: the first byte of a tensor that ends the environment's process when its batch has run.
    pub crash_on_first_byte: Option<u8>,
    /// For tests of faults: the first byte of a tensor that breaks the device context of its process.
    pub device_fault_on_first_byte: Option<u8>,
    /// For tests of placement: the device memory that it says it takes, in bytes.
    pub device_memory_bytes: Option<u64>,
}

/// How an identity batch spends its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DelayKind {
    /// As on a busy device: the core is free.
    #[default]
    Sleep,
    /// The core is taken.
    Spin,
}

impl IdentityDelays {
    /// Longest delay accepted, a minute: more is a mistake in the unit.
    pub const EXECUTE_DELAY_US_MAX: u64 = 60_000_000;

    /// Reads them out of a configuration's parameters. `execute_delay_ms`, which Triton's identity backend knows, is
    /// taken where `execute_delay_us` is absent.
    pub fn from_parameters(parameters: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        let delay_us = |key| parameter(parameters, key, 0, Self::EXECUTE_DELAY_US_MAX);
        let in_ms = parameter(parameters, "execute_delay_ms", 0, Self::EXECUTE_DELAY_US_MAX / 1000)?;
        let kind = match parameters.get("delay_kind").map(String::as_str) {
            None | Some("sleep") => DelayKind::Sleep,
            Some("spin") => DelayKind::Spin,
            Some(other) => {
                let message = format!("expected 'sleep' or 'spin', found '{other}'");
                return Err(SettingsError::new("parameters[\"delay_kind\"]", message));
            }
        };
        Ok(Self {
            execute_delay_us: delay_us("execute_delay_us")?.or(in_ms.map(|ms| ms * 1000)).unwrap_or(0),
            execute_delay_us_per_item: delay_us("execute_delay_us_per_item")?.unwrap_or(0),
            kind,
            crash_on_first_byte: parameter(parameters, "crash_on_first_byte", 0, u8::MAX.into())?
                .map(|value| value as u8),
            device_fault_on_first_byte: parameter(parameters, "device_fault_on_first_byte", 0, u8::MAX.into())?
                .map(|value| value as u8),
            device_memory_bytes: parameter(parameters, "device_memory_bytes", 0, 1 << 50)?,
        })
    }
}
