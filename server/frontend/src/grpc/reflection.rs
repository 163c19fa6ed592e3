//! Room 8, response: server reflection, v1 and v1alpha, so that ghz and grpcurl need no proto files.

use penstock_proto::DESCRIPTORS;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic_reflection::server::{Builder, v1, v1alpha};

/// The package of the link between our own processes: not for clients.
const OWN_PACKAGE: &str = "penstock.link";
const WHY: &str = "the descriptors were compiled with this program";

/// What clients may ask about: inference and health.
fn descriptors() -> FileDescriptorSet {
    let mut descriptors = FileDescriptorSet::decode(DESCRIPTORS).expect(WHY);
    descriptors.file.retain(|file| file.package() != OWN_PACKAGE);
    descriptors
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_file_descriptor_set(descriptors())
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// `grpc.reflection.v1.ServerReflection`.
pub(super) fn v1() -> v1::ServerReflectionServer<impl v1::ServerReflection> {
    builder().build_v1().expect(WHY)
}

/// `grpc.reflection.v1alpha.ServerReflection`, which older ghz and grpcurl ask for.
pub(super) fn v1alpha() -> v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection> {
    builder().build_v1alpha().expect(WHY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_see_inference_and_health_but_not_the_link() {
        let files = descriptors().file;
        assert!(files.iter().any(|file| file.package() == "inference"));
        assert!(files.iter().all(|file| file.package() != OWN_PACKAGE));
        let _ = (v1(), v1alpha());
    }
}
