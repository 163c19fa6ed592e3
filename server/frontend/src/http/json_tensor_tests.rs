//! Tensors survive JSON bit by bit, and what does not fit its type is refused with words that help.

use super::*;
use proptest::prelude::*;
use smallvec::smallvec;

fn read(datatype: Datatype, text: &str) -> Result<(Bytes, u64), JsonError> {
    let mut cursor = Cursor::new(text, 0);
    let read = read_elements(&mut cursor, "x", datatype, 8, text.len())?;
    cursor.end()?;
    Ok(read)
}

fn write(datatype: Datatype, data: Bytes) -> Result<String, Refusal> {
    let mut out = Vec::new();
    write_elements(&mut out, &Tensor { name: "x".into(), datatype, shape: smallvec![1], data })?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn numbers_become_little_endian_bytes() {
    let table: &[(Datatype, &str, &[u8])] = &[
        (Datatype::Bool, "[true, [false, 1, 0]]", &[1, 0, 1, 0]),
        (Datatype::Uint8, "[0, 255, -0]", &[0, 255, 0]),
        (Datatype::Int8, "[-128, 127]", &[0x80, 0x7f]),
        (Datatype::Uint16, "[[[258]]]", &[2, 1]),
        (Datatype::Int16, "[-2]", &[0xfe, 0xff]),
        (Datatype::Uint32, "[4294967295]", &[255; 4]),
        (Datatype::Int32, "[ -1 , 1 ]", &[255, 255, 255, 255, 1, 0, 0, 0]),
        (Datatype::Uint64, "[18446744073709551615]", &[255; 8]),
        (Datatype::Int64, "[-9223372036854775808]", &[0, 0, 0, 0, 0, 0, 0, 0x80]),
        (Datatype::Fp16, "[1, -2.5]", &[0, 0x3c, 0, 0xc1]),
        (Datatype::Bf16, "[1.0]", &[0x80, 0x3f]),
        (Datatype::Fp32, "[1.5e0, -0]", &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0x80]),
        (Datatype::Fp32, "[Infinity, \"-Infinity\"]", &[0, 0, 0x80, 0x7f, 0, 0, 0x80, 0xff]),
        (Datatype::Fp64, "[1]", &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
        (Datatype::Bytes, r#"["ab", "", "\u00e9"]"#, b"\x02\0\0\0ab\0\0\0\0\x02\0\0\0\xc3\xa9"),
        (Datatype::Fp32, "[]", &[]),
        (Datatype::Fp32, "[[], []]", &[]),
    ];
    for (datatype, text, bytes) in table {
        assert_eq!(&read(*datatype, text).unwrap().0[..], *bytes, "{datatype} {text}");
    }
    let (nan, _) = read(Datatype::Fp64, "[NaN]").unwrap();
    assert!(f64::from_le_bytes(nan[..].try_into().unwrap()).is_nan());
}

#[test]
fn what_does_not_fit_is_named() {
    let table = [
        (Datatype::Uint8, "[1, 256]", "expected an integer from 0 to 255 (UINT8) in `data` of input 'x', found `256`"),
        (
            Datatype::Int32,
            "[1.0]",
            "expected an integer from -2147483648 to 2147483647 (INT32) in `data` of input 'x', found `1.0`",
        ),
        (Datatype::Uint64, "[-1]", "found `-1`"),
        (Datatype::Int64, "[\"1\"]", "found `\"1\"`"),
        (Datatype::Int64, "[NaN]", "found `NaN`"),
        (Datatype::Fp32, "[1e39]", "expected a number that FP32 can hold in `data` of input 'x', found `1e39`"),
        (Datatype::Fp16, "[70000]", "FP16"),
        (Datatype::Fp64, "[1e400]", "FP64"),
        (Datatype::Fp32, "[null]", "found `null`"),
        (Datatype::Bool, "[2]", "true or false"),
        (Datatype::Bytes, "[1]", "expected a string (BYTES) in `data` of input 'x', found `1`"),
        (Datatype::Fp32, "5", "expected an array as `data` of input 'x', found `5`"),
        (Datatype::Fp32, "[1 2]", "expected `,` or `]`"),
        (Datatype::Fp32, "[1,]", "found `]`"),
        (Datatype::Fp32, "[,1]", "found `,1`"),
        (Datatype::Fp32, "[1", "found the end"),
        (Datatype::Fp32, "[1,2,3,4,5,6,7,8,9]", "its shape has 8 elements, but `data` has more"),
    ];
    for (datatype, text, words) in table {
        let error = read(datatype, text).unwrap_err();
        assert!(error.message.contains(words), "{datatype} {text}: {}", error.message);
    }
}

#[test]
fn a_huge_shape_reserves_no_more_than_the_text_can_hold() {
    let mut cursor = Cursor::new("[1]", 0);
    assert_eq!(read_elements(&mut cursor, "x", Datatype::Fp64, u64::MAX, 3).unwrap().1, 1);
}

#[test]
fn floats_are_written_with_the_fewest_digits() {
    let floats = [0.1f32, -1.0, f32::MAX, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let data: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
    let text = write(Datatype::Fp32, data.into()).unwrap();
    assert_eq!(text, r#"[0.1,-1.0,3.4028235e38,"NaN","Infinity","-Infinity"]"#.replace("e38", "e+38"));
}

#[test]
fn bytes_that_are_not_text_ask_for_binary() {
    let refusal = write(Datatype::Bytes, Bytes::from_static(&[1, 0, 0, 0, 0xff])).unwrap_err();
    assert!(refusal.message.contains("element 0 is not UTF-8 text"), "{}", refusal.message);
}

/// Bits that JSON keeps: any but the payloads of NaN.
fn canonical(datatype: Datatype, data: &mut [u8]) {
    match datatype {
        Datatype::Bool => data.iter_mut().for_each(|b| *b &= 1),
        Datatype::Fp16 => map(data, |b| f16::from_le_bytes(b).is_nan().then(|| f16::NAN.to_le_bytes())),
        Datatype::Bf16 => map(data, |b| bf16::from_le_bytes(b).is_nan().then(|| bf16::NAN.to_le_bytes())),
        Datatype::Fp32 => map(data, |b| f32::from_le_bytes(b).is_nan().then(|| f32::NAN.to_le_bytes())),
        Datatype::Fp64 => map(data, |b| f64::from_le_bytes(b).is_nan().then(|| f64::NAN.to_le_bytes())),
        _ => {}
    }
}

fn map<const N: usize>(data: &mut [u8], change: impl Fn([u8; N]) -> Option<[u8; N]>) {
    for element in data.as_chunks_mut::<N>().0 {
        *element = change(*element).unwrap_or(*element);
    }
}

proptest! {
    #[test]
    fn every_fixed_size_type_survives_the_round_trip(
        datatype in prop::sample::select(&Datatype::ALL[..13]),
        mut data in proptest::collection::vec(any::<u8>(), 64),
    ) {
        canonical(datatype, &mut data);
        let text = write(datatype, data.clone().into()).unwrap();
        let mut cursor = Cursor::new(&text, 0);
        let (read, _) = read_elements(&mut cursor, "x", datatype, 64, text.len()).unwrap();
        let mut read = read.to_vec();
        canonical(datatype, &mut read);
        prop_assert_eq!(read, data, "{}", text);
    }

    #[test]
    fn texts_survive_the_round_trip(texts in proptest::collection::vec(".*", 0..6)) {
        let mut data = BytesMut::new();
        texts.iter().for_each(|text| encode_bytes_element(&mut data, text.as_bytes()));
        let text = write(Datatype::Bytes, data.clone().freeze()).unwrap();
        prop_assert_eq!(read(Datatype::Bytes, &text).unwrap().0, data);
        prop_assert!(serde_json::from_str::<Vec<String>>(&text).is_ok());
    }

    #[test]
    fn any_text_is_read_without_a_panic(
        datatype in prop::sample::select(&Datatype::ALL[..]),
        text in "[\\[\\], 0-9.eE+\\-\"trufalsNI]{0,30}",
    ) {
        let _ = read(datatype, &text);
    }
}
