//! What ONNX Runtime's errors mean to the house. It reports most of them with one general code, so the text decides.

use penstock_executor::{ExecError, LoadError};

/// Texts of its CPU and CUDA allocators, and of C++ itself.
const OUT_OF_MEMORY: &[&str] = &[
    "Failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "cudaErrorMemoryAllocation",
    "CUDA failure 2:",
    // The arena has reached the limit that it was given.
    "is smaller than requested bytes",
];

/// CUDA errors after which the context is lost ("sticky" errors).
const DEVICE_LOST: &[&str] = &[
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "illegal instruction",
    "uncorrectable ECC",
    "CUDA failure 700",
    "CUDA failure 719",
];

/// Why a run failed.
pub(crate) fn of_run(error: &ort::Error) -> ExecError {
    let message = error.message();
    if contains(message, OUT_OF_MEMORY) {
        ExecError::OutOfMemory(message.into())
    } else if contains(message, DEVICE_LOST) || error.code() == ort::ErrorCode::DeviceReset {
        ExecError::Broken(message.into())
    } else {
        ExecError::Failed(message.into())
    }
}

/// Why a graph could not be loaded; `name` is how a person knows it.
pub(crate) fn of_load(name: &str, error: &ort::Error) -> LoadError {
    let text = format!("model {name}: {}", error.message());
    if contains(error.message(), OUT_OF_MEMORY) || contains(error.message(), DEVICE_LOST) {
        LoadError::Failed(text)
    } else {
        LoadError::Invalid(text)
    }
}

fn contains(message: &str, texts: &[&str]) -> bool {
    texts.iter().any(|text| message.contains(text))
}
