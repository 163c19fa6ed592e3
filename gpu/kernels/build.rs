//! Compiles the kernels, where they are wanted: with the feature `cuda`, by the nvcc that CUDA_HOME names or PATH has.

#![allow(clippy::disallowed_methods)] // cargo tells a build by its variables

use std::path::PathBuf;
use std::process::Command;

/// What they are compiled for: the generation that is asked for, those that are most common, and PTX for later ones.
fn targets() -> Vec<String> {
    let asked = std::env::var("CUDA_COMPUTE_CAP").ok();
    let mut known: Vec<&str> = vec!["80", "86", "89", "90"];
    known.extend(asked.as_deref().filter(|asked| !["80", "86", "89", "90"].contains(asked)));
    let mut targets: Vec<String> =
        known.iter().map(|cap| format!("-gencode=arch=compute_{cap},code=sm_{cap}")).collect();
    targets.push("-gencode=arch=compute_90,code=compute_90".into());
    targets
}

fn main() {
    println!("cargo::rerun-if-changed=src/encoder.cu");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let nvcc = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let nvcc = nvcc.filter(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into());
    let image = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where")).join("encoder.fatbin");
    let mut command = Command::new(&nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17"]).args(targets()).arg("src/encoder.cu").arg("-o").arg(&image);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{}: {status}", nvcc.display()),
        Err(error) => panic!("{}: {error}; `make cuda` fetches it", nvcc.display()),
    }
}
