//! Tensors of the house as values of ONNX Runtime, and back, with a copy only where there is no other way. Called by
//! the session. Inputs are borrowed; large outputs keep ONNX Runtime's own memory alive for as long as they are sent.

use crate::failure;
use crate::{AlignedBuffer, Input};
use bytemuck::{NoUninit, Pod};
use bytes::{Bytes, BytesMut};
use half::{bf16, f16};
use ort::session::SessionInputValue;
use ort::value::{
    DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef, Utf8Data, ValueType,
};
use penstock_domain::{Datatype, Shape, Tensor, bytes_elements, encode_bytes_element};
use penstock_executor::ExecError;
use std::fmt::Debug;

/// Outputs up to this size are copied: cheaper than the allocation and the counter that keep foreign memory alive, and
/// the arena's block is free again at once.
const COPIED_OUTPUT_BYTES_MAX: usize = 16 * 1024;

/// The protocol's name of an element type; `None` for those it does not have.
pub(crate) fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

/// Whether the input's memory can be used as it is.
pub(crate) fn is_aligned(input: &Input<'_>) -> bool {
    // Every element type is aligned to its size; strings are taken apart in any case.
    input.datatype.element_bytes().is_none_or(|size| input.bytes.as_ptr().align_offset(size) == 0)
}

/// Borrows an aligned input. Checks that bytes and shape agree, because ONNX Runtime reads by the shape.
pub(crate) fn to_value<'a>(input: &Input<'a>) -> Result<SessionInputValue<'a>, ExecError> {
    match input.datatype {
        Datatype::Bool => bools(input),
        Datatype::Uint8 => view::<u8>(input),
        Datatype::Uint16 => view::<u16>(input),
        Datatype::Uint32 => view::<u32>(input),
        Datatype::Uint64 => view::<u64>(input),
        Datatype::Int8 => view::<i8>(input),
        Datatype::Int16 => view::<i16>(input),
        Datatype::Int32 => view::<i32>(input),
        Datatype::Int64 => view::<i64>(input),
        Datatype::Fp16 => view::<f16>(input),
        Datatype::Fp32 => view::<f32>(input),
        Datatype::Fp64 => view::<f64>(input),
        Datatype::Bf16 => view::<bf16>(input),
        Datatype::Bytes => owned_strings(input),
    }
}

/// The input in memory of its own, for a binding: the one of ONNX Runtime waits for itself for ever where it binds borrowed memory
/// that need not be copied to a device.
pub(crate) fn to_owned_value(input: &Input<'_>) -> Result<SessionInputValue<'static>, ExecError> {
    fn own<T>(input: &Input<'_>) -> Result<SessionInputValue<'static>, ExecError>
    where
        T: PrimitiveTensorElementType + bytemuck::CheckedBitPattern + NoUninit + Clone + Debug + 'static,
    {
        let elements: Vec<T> = bytemuck::checked::try_cast_slice(input.bytes)
            .map_err(|error| ExecError::Invalid(format!("input '{}': {error}", input.name)))?
            .to_vec();
        check_count(input, elements.len())?;
        let value = OrtTensor::from_array((input.dims, elements)).map_err(|error| failure::of_run(&error))?;
        Ok(value.into())
    }
    match input.datatype {
        Datatype::Bool => own::<bool>(input),
        Datatype::Uint8 => own::<u8>(input),
        Datatype::Uint16 => own::<u16>(input),
        Datatype::Uint32 => own::<u32>(input),
        Datatype::Uint64 => own::<u64>(input),
        Datatype::Int8 => own::<i8>(input),
        Datatype::Int16 => own::<i16>(input),
        Datatype::Int32 => own::<i32>(input),
        Datatype::Int64 => own::<i64>(input),
        Datatype::Fp16 => own::<f16>(input),
        Datatype::Fp32 => own::<f32>(input),
        Datatype::Fp64 => own::<f64>(input),
        Datatype::Bf16 => own::<bf16>(input),
        Datatype::Bytes => owned_strings(input),
    }
}

/// Takes an output. `inputs` and `copies` are what was fed: a graph may hand an input through as an output, and that
/// memory is not ONNX Runtime's to keep.
pub(crate) fn from_value(
    name: &str,
    value: DynValue,
    inputs: &[Input<'_>],
    copies: &[AlignedBuffer],
) -> Result<Tensor, ExecError> {
    let (datatype, shape) = of_tensor(name, &value)?;
    let data = if datatype == Datatype::Bytes {
        string_bytes(name, &value)?
    } else {
        let bytes = elements(&value, datatype).map_err(|error| failure::of_run(&error))?;
        let fed = inputs.iter().map(|input| input.bytes).chain(copies.iter().map(AlignedBuffer::bytes));
        if bytes.len() <= COPIED_OUTPUT_BYTES_MAX || fed.into_iter().any(|memory| overlap(memory, bytes)) {
            Bytes::copy_from_slice(bytes)
        } else {
            Bytes::from_owner(OutputMemory { value, datatype })
        }
    };
    Ok(Tensor { name: name.into(), datatype, shape, data })
}

/// Takes an output that may be an input's memory: what leaves is a copy.
pub(crate) fn copied(name: &str, value: &DynValue) -> Result<Tensor, ExecError> {
    let (datatype, shape) = of_tensor(name, value)?;
    let data = match datatype {
        Datatype::Bytes => string_bytes(name, value)?,
        _ => Bytes::copy_from_slice(elements(value, datatype).map_err(|error| failure::of_run(&error))?),
    };
    Ok(Tensor { name: name.into(), datatype, shape, data })
}

fn of_tensor(name: &str, value: &DynValue) -> Result<(Datatype, Shape), ExecError> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(ExecError::Failed(format!("output '{name}' is not a tensor: {}", value.dtype())));
    };
    let datatype = datatype(*ty).ok_or_else(|| {
        ExecError::Failed(format!("output '{name}' has elements of {ty}, which the protocol does not know"))
    })?;
    Ok((datatype, shape.iter().copied().collect()))
}

/// ONNX Runtime's memory of one output.
struct OutputMemory {
    value: DynValue,
    datatype: Datatype,
}

impl AsRef<[u8]> for OutputMemory {
    fn as_ref(&self) -> &[u8] {
        elements(&self.value, self.datatype).expect("the same call succeeded before the value was moved here")
    }
}

fn overlap(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (a.as_ptr_range(), b.as_ptr_range());
    a.start < b.end && b.start < a.end
}

fn view<'a, T>(input: &Input<'a>) -> Result<SessionInputValue<'a>, ExecError>
where
    T: PrimitiveTensorElementType + Pod + Debug,
{
    let elements: &'a [T] = bytemuck::try_cast_slice(input.bytes).map_err(|error| {
        ExecError::Invalid(format!(
            "input '{}': {} bytes are not a whole number of {} elements ({error})",
            input.name,
            input.bytes.len(),
            input.datatype
        ))
    })?;
    borrowed(input, elements)
}

fn bools<'a>(input: &Input<'a>) -> Result<SessionInputValue<'a>, ExecError> {
    let elements: &'a [bool] = bytemuck::checked::try_cast_slice(input.bytes).map_err(|_| {
        ExecError::Invalid(format!("input '{}': BOOL elements must be the bytes 0 or 1, found another", input.name))
    })?;
    borrowed(input, elements)
}

fn borrowed<'a, T>(input: &Input<'a>, elements: &'a [T]) -> Result<SessionInputValue<'a>, ExecError>
where
    T: PrimitiveTensorElementType + Clone + Debug + 'static,
{
    check_count(input, elements.len())?;
    let value = TensorRef::from_array_view((input.dims, elements)).map_err(|error| failure::of_run(&error))?;
    Ok(value.into())
}

/// The shape's element count, checked here because a wrong one is memory read past its end.
fn check_count(input: &Input<'_>, found: usize) -> Result<(), ExecError> {
    let expected = input
        .dims
        .iter()
        .try_fold(1usize, |product, &dim| usize::try_from(dim).ok().and_then(|dim| product.checked_mul(dim)));
    if expected == Some(found) {
        return Ok(());
    }
    let (name, dims, datatype) = (input.name, input.dims, input.datatype);
    Err(ExecError::Invalid(format!("input '{name}': found {found} {datatype} elements for shape {dims:?}")))
}

/// A string element, passed on byte for byte: ONNX does not say that strings are UTF-8. Owned because the binding asks
/// for elements without a lifetime; it copies each once more, into a C string.
#[derive(Clone)]
struct Element(Vec<u8>);

impl Utf8Data for Element {
    fn as_utf8_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn owned_strings(input: &Input<'_>) -> Result<SessionInputValue<'static>, ExecError> {
    let mut elements = Vec::new();
    for (index, element) in bytes_elements(input.name, input.bytes).enumerate() {
        let element = element.map_err(|error| ExecError::Invalid(error.to_string()))?;
        if element.contains(&0) {
            return Err(ExecError::Invalid(format!(
                "input '{}': BYTES element {index} contains a zero byte, which a string tensor of a graph cannot hold",
                input.name
            )));
        }
        elements.push(Element(element.to_vec()));
    }
    check_count(input, elements.len())?;
    let value = OrtTensor::from_string_array((input.dims, elements.as_slice())).map_err(|e| failure::of_run(&e))?;
    Ok(value.into())
}

fn string_bytes(name: &str, value: &DynValue) -> Result<Bytes, ExecError> {
    let (_, strings) = value.try_extract_strings().map_err(|error| {
        ExecError::Failed(format!("output '{name}': its strings cannot be read (they must be UTF-8): {error}"))
    })?;
    let mut data = BytesMut::with_capacity(strings.iter().map(|text| 4 + text.len()).sum());
    for text in &strings {
        encode_bytes_element(&mut data, text.as_bytes());
    }
    Ok(data.freeze())
}

fn elements(value: &DynValue, datatype: Datatype) -> Result<&[u8], ort::Error> {
    fn of<T: PrimitiveTensorElementType + NoUninit>(value: &DynValue) -> Result<&[u8], ort::Error> {
        Ok(bytemuck::cast_slice(value.try_extract_tensor::<T>()?.1))
    }
    match datatype {
        Datatype::Bool => of::<bool>(value),
        Datatype::Uint8 => of::<u8>(value),
        Datatype::Uint16 => of::<u16>(value),
        Datatype::Uint32 => of::<u32>(value),
        Datatype::Uint64 => of::<u64>(value),
        Datatype::Int8 => of::<i8>(value),
        Datatype::Int16 => of::<i16>(value),
        Datatype::Int32 => of::<i32>(value),
        Datatype::Int64 => of::<i64>(value),
        Datatype::Fp16 => of::<f16>(value),
        Datatype::Fp32 => of::<f32>(value),
        Datatype::Fp64 => of::<f64>(value),
        Datatype::Bf16 => of::<bf16>(value),
        Datatype::Bytes => Err(ort::Error::new("strings have no bytes to view")),
    }
}
