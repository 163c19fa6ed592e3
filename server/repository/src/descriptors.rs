//! The descriptors of the configuration's messages, decoded once.
//!
//! Called by the readers and printers of this crate. Never touches a file.

use penstock_proto::inference::ModelConfig;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use std::sync::LazyLock;

static MODEL_CONFIG: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    DescriptorPool::decode(penstock_proto::DESCRIPTORS)
        .expect("the descriptors were made by our own build")
        .get_message_by_name("inference.ModelConfig")
        .expect("model_config.proto declares ModelConfig")
});

/// `inference.ModelConfig`.
pub(crate) fn model_config() -> MessageDescriptor {
    MODEL_CONFIG.clone()
}

/// The same content as a generated type.
pub(crate) fn to_config(message: &DynamicMessage) -> ModelConfig {
    message.transcode_to().expect("both sides were made from the same descriptors")
}

/// The same content as a dynamic message.
pub(crate) fn to_dynamic(config: &ModelConfig) -> DynamicMessage {
    DynamicMessage::decode(model_config(), config.encode_to_vec().as_slice())
        .expect("both sides were made from the same descriptors")
}

/// The word of `candidates` that `word` was most likely meant to be, for error messages.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = 1 + word.len() / 4;
    candidates.map(|c| (edits(word, c), c)).filter(|(distance, _)| *distance <= most).min().map(|(_, c)| c)
}

/// Levenshtein's distance, in bytes; words here are short.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
