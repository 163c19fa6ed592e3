//! The rules of the house that a test can keep: which crate may know which, who may have which library, file sizes.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Dependencies of each of our crates, by package name.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let root = root();
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().clone();
    let mut all = BTreeMap::new();
    for member in members {
        let file = root.join(member.as_str().unwrap()).join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        all.insert(name, dependencies.keys().cloned().collect());
    }
    all
}

#[test]
fn imports_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("penstock-proto", &[][..]),
        ("penstock-domain", &[]),
        ("penstock-admission", &["penstock-domain"]),
        ("penstock-router", &["penstock-domain"]),
        ("penstock-scaler", &["penstock-domain"]),
        ("penstock-plan", &["penstock-domain", "penstock-scaler"]),
        ("penstock-executor", &["penstock-domain"]),
        ("penstock-inventory", &["penstock-domain"]),
        ("penstock-device", &[]),
        ("penstock-kernels", &["penstock-device"]),
        ("penstock-telemetry", &["penstock-domain"]),
        ("penstock-repository", &["penstock-domain", "penstock-proto"]),
        ("penstock-registry", &["penstock-domain"]),
        ("penstock-etcd", &["penstock-registry"]),
        ("penstock-packages", &["penstock-domain"]),
        ("penstock-authority", &[]),
        ("penstock-trust", &[]),
        ("penstock-remote", &["penstock-packages", "penstock-authority"]),
        (
            "penstock-control",
            &[
                "penstock-domain",
                "penstock-registry",
                "penstock-packages",
                "penstock-repository",
                "penstock-dispatch",
                "penstock-instances",
                "penstock-router",
                "penstock-remote",
                "penstock-telemetry",
            ],
        ),
        ("penstock-environment", &["penstock-domain", "penstock-admission", "penstock-executor", "penstock-proto"]),
        ("penstock-capacity", &["penstock-domain"]),
        (
            "penstock-instances",
            &[
                "penstock-domain",
                "penstock-scaler",
                "penstock-environment",
                "penstock-inventory",
                "penstock-packages",
                "penstock-telemetry",
                "penstock-trust",
            ],
        ),
        ("penstock-ec2", &["penstock-authority", "penstock-remote", "penstock-scaler", "penstock-instances"]),
        (
            "penstock-dispatch",
            &[
                "penstock-capacity",
                "penstock-domain",
                "penstock-admission",
                "penstock-router",
                "penstock-scaler",
                "penstock-environment",
                "penstock-repository",
                "penstock-telemetry",
            ],
        ),
        (
            "penstock-frontend",
            &[
                "penstock-domain",
                "penstock-admission",
                "penstock-proto",
                "penstock-dispatch",
                "penstock-repository",
                "penstock-telemetry",
                "penstock-control",
                "penstock-authority",
                "penstock-trust",
            ],
        ),
        ("penstock-identity", &["penstock-domain", "penstock-executor", "penstock-device"]),
        ("penstock-onnx", &["penstock-domain", "penstock-executor"]),
        (
            "penstock-bert",
            &["penstock-domain", "penstock-executor", "penstock-onnx", "penstock-device", "penstock-kernels"],
        ),
    ]);
    for (name, dependencies) in dependencies() {
        let outside = ["penstock", "penstock-runtimes", "penstock-loadtest", "penstock-sim"];
        let Some(allowed) = allowed.get(name.as_str()) else {
            assert!(outside.contains(&name.as_str()), "{name} has no rule: which of our crates may it know?");
            continue;
        };
        for ours in dependencies.iter().filter(|other| other.starts_with("penstock")) {
            assert!(allowed.contains(&ours.as_str()), "{name} must not depend on {ours}");
        }
    }
}

#[test]
fn all_but_what_wants_protoc_is_built_by_default() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let mut all = manifest["workspace"]["members"].as_array().unwrap().clone();
    all.retain(|member| member.as_str() != Some("server/etcd"));
    assert_eq!(manifest["workspace"]["default-members"].as_array(), Some(&all));
}

#[test]
fn heavy_libraries_stay_in_their_crates() {
    let owners: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("axum", &["penstock-frontend"][..]),
        ("tonic", &["penstock-frontend", "penstock-proto", "penstock-loadtest"]),
        ("tonic-health", &["penstock-frontend"]),
        ("tonic-reflection", &["penstock-frontend"]),
        ("ort", &["penstock-onnx", "penstock-bert"]),
        ("candle-core", &["penstock-bert"]),
        ("nvml-wrapper", &["penstock-inventory"]),
        ("cudarc", &["penstock-device"]),
        ("tokenizers", &["penstock-bert"]),
        ("seccompiler", &["penstock-environment"]),
        ("landlock", &["penstock-environment"]),
        ("redb", &["penstock-registry"]),
        ("etcd-client", &["penstock-etcd"]),
        ("zip", &["penstock-packages"]),
        ("hmac", &["penstock-authority"]),
        ("object_store", &["penstock-remote"]),
        ("quick-xml", &["penstock-ec2"]),
        ("reqwest", &["penstock-remote", "penstock-ec2", "penstock"]),
        ("rustls", &["penstock-remote", "penstock-instances", "penstock-trust", "penstock-frontend", "penstock"]),
        ("rcgen", &["penstock-trust"]),
        ("clap", &["penstock", "penstock-loadtest", "penstock-sim"]),
    ]);
    for (name, dependencies) in dependencies() {
        for (library, owners) in &owners {
            let has = dependencies.iter().any(|dependency| dependency == library);
            assert!(!has || owners.contains(&name.as_str()), "{name} must not depend on {library}");
        }
        let pure = [
            "penstock-domain",
            "penstock-admission",
            "penstock-router",
            "penstock-scaler",
            "penstock-plan",
            "penstock-executor",
        ];
        if pure.contains(&name.as_str()) {
            assert!(!dependencies.iter().any(|dependency| dependency.starts_with("tokio")), "{name} is pure");
        }
    }
}

/// Generated code uses these; nothing that we wrote does.
const OF_GENERATED_CODE: [(&str, &str); 2] = [("penstock-proto", "prost-types"), ("penstock-proto", "tonic-prost")];

#[test]
fn no_dependency_is_carried_for_nothing() {
    let root = root();
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let mut unused = Vec::new();
    for member in manifest["workspace"]["members"].as_array().unwrap() {
        let folder = root.join(member.as_str().unwrap());
        let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap();
        let mut sources = rust_files(&folder.join("src"));
        sources.push(folder.join("build.rs"));
        let text: String = sources.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        for dependency in dependencies.keys() {
            let word = dependency.replace('-', "_");
            let used = text.contains(&format!("{word}::")) || text.contains(&format!("use {word}"));
            let generated = OF_GENERATED_CODE.contains(&(name, dependency));
            if !used && !generated {
                unused.push(format!("{name} on {dependency}"));
            }
        }
    }
    assert!(unused.is_empty(), "depend and do not use: {unused:?}");
}

/// All Rust files below a folder; build outputs and hidden folders left out.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(rust_files(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn unsafe_code_is_for_devices_alone() {
    let root = root();
    for path in rust_files(&root) {
        let own = ["gpu/device/", "gpu/kernels/"].iter().any(|folder| path.starts_with(root.join(folder)));
        let text = std::fs::read_to_string(&path).unwrap();
        let allows = text.contains(concat!("unsafe", "_code)")) || text.contains(concat!("unsafe", "_code,"));
        assert!(own || !allows, "{}: `unsafe` is for gpu/device and gpu/kernels", path.display());
    }
}

#[test]
fn files_open_with_their_room_and_stay_readable() {
    let files = rust_files(&root());
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("//!"), "{}: a file opens with `//!`: which room it is", path.display());
        let lines = text.lines().count();
        assert!(lines <= 500, "{}: {lines} lines, over 500 wants a split", path.display());
    }
    assert!(files.len() > 100, "only {} files were looked at", files.len());
}
