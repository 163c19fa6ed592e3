//! Where each weight lies in `model.safetensors`. Called by the folder, and by the engines to find their weights.
//! Reads the header; the tensors themselves are left to the engine, which maps or reads them.

use crate::folder::FolderError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The file, as errors name it and as the graph refers to it.
pub(crate) const FILE: &str = "model.safetensors";

/// Longest header accepted, in bytes: the limit of the reference implementation of the format.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Element types a weight may have. All are computed in F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightType {
    F32,
    F16,
    Bf16,
}

impl WeightType {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(WeightType::F32),
            "F16" => Some(WeightType::F16),
            "BF16" => Some(WeightType::Bf16),
            _ => None,
        }
    }

    fn bytes(self) -> u64 {
        match self {
            WeightType::F32 => 4,
            WeightType::F16 | WeightType::Bf16 => 2,
        }
    }
}

/// One weight: what it is and where it lies in the file.
#[derive(Debug, Clone)]
pub(crate) struct Weight {
    pub(crate) element: WeightType,
    pub(crate) shape: Vec<usize>,
    /// First byte, from the beginning of the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u64,
}

/// An entry of the header, as the format has it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    /// From the end of the header.
    data_offsets: (u64, u64),
}

/// The header of `model.safetensors`.
#[derive(Debug)]
pub(crate) struct Weights {
    /// Links followed.
    path: PathBuf,
    /// `bert.` where the checkpoint was saved with a head, else empty.
    prefix: &'static str,
    header: BTreeMap<String, (String, Vec<usize>, u64, u64)>,
}

impl Weights {
    /// Reads the header and checks that the file holds what it promises.
    pub(crate) fn open(folder: &Path) -> Result<Weights, FolderError> {
        let path = folder.join(FILE);
        let io = |error: std::io::Error| FolderError::Read { file: FILE.into(), reason: error.to_string() };
        let broken = |found: String, right: String| FolderError::Field {
            file: FILE.into(),
            field: "header".into(),
            found,
            right,
        };
        // Caches link to the file that holds the bytes, and ONNX Runtime takes weights only from where they really are.
        let path = path.canonicalize().map_err(io)?;
        let mut file = File::open(&path).map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        let mut length = [0u8; 8];
        if file_bytes < 8 {
            return Err(broken(
                format!("a file of {file_bytes} bytes"),
                "8 bytes of header length at the least".into(),
            ));
        }
        file.read_exact(&mut length).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || 8 + length > file_bytes {
            return Err(broken(
                format!("a length of {length} bytes in a file of {file_bytes}"),
                format!("a header that ends within the file, {HEADER_BYTES_MAX} bytes at most"),
            ));
        }
        let mut text = vec![0u8; length as usize];
        file.read_exact(&mut text).map_err(io)?;
        let raw: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text)
            .map_err(|error| broken(format!("not a JSON object ({error})"), "a JSON object of tensors".into()))?;
        let data_start = 8 + length;
        let mut header = BTreeMap::new();
        for (name, value) in raw {
            if name == "__metadata__" {
                continue;
            }
            let entry: Entry = serde_json::from_value(value).map_err(|error| FolderError::Field {
                file: FILE.into(),
                field: name.clone(),
                found: error.to_string(),
                right: "dtype, shape and data_offsets".into(),
            })?;
            let (begin, end) = entry.data_offsets;
            let end_in_file = data_start.checked_add(end).filter(|end| *end <= file_bytes);
            if begin > end || end_in_file.is_none() {
                return Err(FolderError::Field {
                    file: FILE.into(),
                    field: name,
                    found: format!("bytes {begin} to {end} of the data, in a file with {}", file_bytes - data_start),
                    right: "a range within the file (was it downloaded completely?)".into(),
                });
            }
            header.insert(name, (entry.dtype, entry.shape, data_start + begin, end - begin));
        }
        let prefix = if header.contains_key("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        Ok(Weights { path, prefix, header })
    }

    /// The folder in which the file really is, and its name there.
    pub(crate) fn place(&self) -> (&Path, String) {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (self.path.parent().unwrap_or(Path::new("/")), name)
    }

    /// The weight `name` (without prefix), which must have `shape`.
    pub(crate) fn get(&self, name: &str, shape: &[usize]) -> Result<Weight, FolderError> {
        let name = format!("{}{name}", self.prefix);
        let wrong =
            |found: String, right: String| FolderError::Field { file: FILE.into(), field: name.clone(), found, right };
        let Some((dtype, found_shape, offset, length)) = self.header.get(&name) else {
            return Err(wrong("no such tensor".into(), format!("a tensor of shape {shape:?}")));
        };
        if found_shape != shape {
            return Err(wrong(format!("shape {found_shape:?}"), format!("{shape:?}, as config.json has it")));
        }
        let element = WeightType::parse(dtype).ok_or_else(|| wrong(dtype.clone(), "F32, F16 or BF16".into()))?;
        let right = shape.iter().map(|dim| *dim as u64).product::<u64>() * element.bytes();
        if *length != right {
            return Err(wrong(format!("{length} bytes"), format!("{right} bytes for {dtype} {shape:?}")));
        }
        Ok(Weight { element, shape: found_shape.clone(), offset: *offset, length: *length })
    }

    /// Reads a weight's bytes, as they lie in the file.
    pub(crate) fn read(&self, weight: &Weight) -> Result<Vec<u8>, FolderError> {
        let io = |error: std::io::Error| FolderError::Read { file: FILE.into(), reason: error.to_string() };
        let mut file = File::open(&self.path).map_err(io)?;
        file.seek(SeekFrom::Start(weight.offset)).map_err(io)?;
        let mut bytes = vec![0u8; weight.length as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }
}
