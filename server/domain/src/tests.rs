//! The words keep their meaning: tensors are checked, refusals are counted as what they are.

use crate::*;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use smallvec::smallvec;

fn tensor(datatype: Datatype, shape: Shape, data: &[u8]) -> Tensor {
    Tensor { name: "t".into(), datatype, shape, data: Bytes::copy_from_slice(data) }
}

#[test]
fn a_tensor_must_have_exactly_its_bytes() {
    assert_eq!(tensor(Datatype::Fp32, smallvec![2, 1], &[0; 8]).validate(), Ok(()));
    let error = tensor(Datatype::Fp32, smallvec![2, 2], &[0; 8]).validate().unwrap_err();
    assert_eq!(error.to_string(), "tensor 't': expected 16 bytes for FP32 [2, 2], got 8");
    assert!(tensor(Datatype::Int8, smallvec![-1], &[]).validate().is_err());
    assert!(tensor(Datatype::Int8, smallvec![i64::MAX, i64::MAX], &[]).validate().is_err());
    assert!(tensor(Datatype::Int64, smallvec![i64::MAX], &[]).validate().is_err());
}

#[test]
fn bytes_elements_must_fit() {
    let mut data = BytesMut::new();
    encode_bytes_element(&mut data, b"ab");
    encode_bytes_element(&mut data, b"");
    assert_eq!(tensor(Datatype::Bytes, smallvec![2], &data).validate(), Ok(()));
    assert!(tensor(Datatype::Bytes, smallvec![3], &data).validate().is_err());
    assert!(tensor(Datatype::Bytes, smallvec![2], &data[..7]).validate().is_err());
    assert!(tensor(Datatype::Bytes, smallvec![1], &[9, 0, 0, 0, 1]).validate().is_err());
}

#[test]
fn names_of_types_and_reasons_are_read_back() {
    for datatype in Datatype::ALL {
        assert_eq!(Datatype::parse(datatype.name()), Some(datatype));
    }
    for reason in ShedReason::ALL {
        assert_eq!(ShedReason::parse(reason.name()), Some(reason));
        assert_eq!(Refusal::shed(reason, "", None).outcome(), Outcome::Shed(reason));
    }
}

#[test]
fn function_names_keep_routes_and_qualifiers_free() {
    assert!(FunctionName::new("minilm").is_ok());
    assert_eq!(FunctionName::new(""), Err(InvalidName::Empty));
    assert_eq!(FunctionName::new("a/b"), Err(InvalidName::Character('/')));
    assert_eq!(FunctionName::new("a:1"), Err(InvalidName::Character(':')));
}

proptest! {
    #[test]
    fn bytes_elements_never_panic_and_never_pass_the_end(data: Vec<u8>) {
        let read: usize = bytes_elements("t", &data).map_while(Result::ok).map(|e| e.len() + 4).sum();
        prop_assert!(read <= data.len());
    }
}

#[test]
fn every_outcome_has_a_place_of_its_own() {
    let places: Vec<usize> = Outcome::all().map(Outcome::index).collect();
    assert_eq!(places, (0..Outcome::COUNT).collect::<Vec<_>>());
}
