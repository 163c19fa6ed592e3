//! Generates the wire types with protox, so that no protoc is needed on the machine.

use prost::Message;
use std::path::PathBuf;

#[allow(clippy::disallowed_methods)] // cargo tells a build script its folder by a variable
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["grpc_service.proto", "model_config.proto", "link.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
