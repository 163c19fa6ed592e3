//! Tensors as they travel: a datatype, a shape and row-major little-endian bytes, never copied on the way.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;
use std::fmt;

/// Dimensions, outermost first. Inline up to four, which covers images and token matrices without an allocation.
pub type Shape = SmallVec<[i64; 4]>;

/// Element types of the Open Inference Protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // the names are the documentation
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bf16,
    /// Variable-length elements, each a 4-byte little-endian length and its bytes.
    Bytes,
}

impl Datatype {
    /// All of them, in the protocol's order.
    pub const ALL: [Datatype; 14] = [
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint16,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int16,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Fp32,
        Datatype::Fp64,
        Datatype::Bf16,
        Datatype::Bytes,
    ];

    /// The name on the wire, such as `FP32`.
    pub const fn name(self) -> &'static str {
        match self {
            Datatype::Bool => "BOOL",
            Datatype::Uint8 => "UINT8",
            Datatype::Uint16 => "UINT16",
            Datatype::Uint32 => "UINT32",
            Datatype::Uint64 => "UINT64",
            Datatype::Int8 => "INT8",
            Datatype::Int16 => "INT16",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Fp16 => "FP16",
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
            Datatype::Bf16 => "BF16",
            Datatype::Bytes => "BYTES",
        }
    }

    /// The type of a wire name; `None` if there is no such type.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    /// Bytes of one element; `None` for [`Datatype::Bytes`], whose elements vary.
    pub const fn element_bytes(self) -> Option<usize> {
        match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => Some(1),
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => Some(2),
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => Some(4),
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => Some(8),
            Datatype::Bytes => None,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can be wrong with a tensor; each names the tensor, what was found and what would be right.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are in the messages
pub enum TensorError {
    /// A dimension below zero, or a product that does not fit.
    #[error(
        "tensor '{name}': shape {shape:?} is not valid: every dimension must be 0 or more and their product must fit 63 bits"
    )]
    Shape { name: String, shape: Shape },
    /// The bytes do not fit the shape.
    #[error("tensor '{name}': expected {expected} bytes for {datatype} {shape:?}, got {got}")]
    ByteCount { name: String, datatype: Datatype, shape: Shape, expected: u64, got: u64 },
    /// The element count of a BYTES tensor does not fit the shape.
    #[error("tensor '{name}': expected {expected} BYTES elements for shape {shape:?}, got {got}")]
    ElementCount { name: String, shape: Shape, expected: u64, got: u64 },
    /// A BYTES element runs past the end of the data.
    #[error("tensor '{name}': BYTES element {index} says {length} bytes, but only {left} are left")]
    Element { name: String, index: u64, length: u64, left: u64 },
}

/// One named tensor. `data` is row-major and little-endian, without padding; BYTES elements are length-prefixed.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// The name in the function's signature.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, outermost first; dimension 0 is the batch where the function batches.
    pub shape: Shape,
    /// The elements.
    pub data: Bytes,
}

impl Tensor {
    /// Number of elements, the product of the dimensions. Errors on a negative dimension or an overflow.
    pub fn element_count(&self) -> Result<u64, TensorError> {
        let invalid = || TensorError::Shape { name: self.name.clone(), shape: self.shape.clone() };
        self.shape.iter().try_fold(1u64, |product, &dimension| {
            let dimension = u64::try_from(dimension).map_err(|_| invalid())?;
            product.checked_mul(dimension).filter(|p| i64::try_from(*p).is_ok()).ok_or_else(invalid)
        })
    }

    /// Checks that `data` is exactly what the datatype and the shape ask for.
    pub fn validate(&self) -> Result<(), TensorError> {
        let expected = self.element_count()?;
        let got = self.data.len() as u64;
        match self.datatype.element_bytes() {
            Some(size) => {
                let expected = expected
                    .checked_mul(size as u64)
                    .ok_or_else(|| TensorError::Shape { name: self.name.clone(), shape: self.shape.clone() })?;
                if expected == got {
                    return Ok(());
                }
                Err(TensorError::ByteCount {
                    name: self.name.clone(),
                    datatype: self.datatype,
                    shape: self.shape.clone(),
                    expected,
                    got,
                })
            }
            None => {
                let mut count = 0;
                for element in bytes_elements(&self.name, &self.data) {
                    element?;
                    count += 1;
                }
                if count == expected {
                    return Ok(());
                }
                Err(TensorError::ElementCount {
                    name: self.name.clone(),
                    shape: self.shape.clone(),
                    expected,
                    got: count,
                })
            }
        }
    }
}

/// Walks the elements of a BYTES tensor. `name` is used in errors. Stops after the first error.
pub fn bytes_elements<'a>(name: &'a str, data: &'a [u8]) -> impl Iterator<Item = Result<&'a [u8], TensorError>> {
    let mut rest = data;
    let mut index = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let broken = |length: u64, left: usize| {
            Some(Err(TensorError::Element { name: name.to_owned(), index, length, left: left as u64 }))
        };
        let Some((head, tail)) = rest.split_first_chunk::<4>() else {
            let left = rest.len();
            rest = &[];
            return broken(4, left);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > tail.len() {
            rest = &[];
            return broken(length as u64, tail.len());
        }
        let (element, after) = tail.split_at(length);
        rest = after;
        index += 1;
        Some(Ok(element))
    })
}

/// Appends one BYTES element: 4-byte little-endian length, then the bytes. The caller keeps elements under 4 GiB.
pub fn encode_bytes_element(out: &mut BytesMut, element: &[u8]) {
    out.reserve(4 + element.len());
    out.put_u32_le(element.len() as u32);
    out.put_slice(element);
}
