//! The reader agrees with serde_json on what is JSON, and says where a text stops being it.

use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<(), JsonError> {
    let mut cursor = Cursor::new(text, 0);
    cursor.skip().and_then(|()| cursor.end())
}

#[test]
fn what_is_json_and_what_is_not() {
    for good in ["{}", "[]", " [1, -0.5e+3, \"a\\u00e9\", {\"k\": [null, true, false]}] ", "0", "\"\"", "1E2"] {
        assert_eq!(read(good), Ok(()), "{good}");
    }
    for bad in ["", "{", "[1,]", "[1 2]", "{\"a\" 1}", "{a:1}", "01", "1.", ".5", "+1", "-", "1e", "\"a", "tru", "[}"] {
        assert!(read(bad).is_err(), "{bad}");
    }
    for bad in ["\"\n\"", "\"\\x\"", "\"\\ud800\"", "\"\\", "nul", "{} {}", "\"\\u12\""] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_error_names_line_and_column() {
    let text = "{\n  \"a\": oops\n}";
    let refusal = ReadError::from(read(text).unwrap_err()).into_refusal(text);
    assert_eq!(refusal.message, "request body, line 2 column 8: expected a value, found `oops`");
    let text = "[1,";
    let refusal = ReadError::from(read(text).unwrap_err()).into_refusal(text);
    assert_eq!(refusal.message, "request body, line 1 column 4: expected a value, found the end");
}

#[test]
fn depth_is_bounded() {
    assert!(read(&"[".repeat(1_000_000)).is_err());
    let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
    assert_eq!(read(&deep), Ok(()));
}

#[test]
fn strings_are_borrowed_when_they_can_be() {
    let text = r#"["plain é", "tab\t", "\ud83d\ude00"]"#;
    let mut seen = Vec::new();
    let mut cursor = Cursor::new(text, 0);
    cursor
        .array::<JsonError>("an array", |cursor| {
            seen.push(cursor.string("a string")?);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, ["plain é", "tab\t", "😀"]);
    assert!(matches!(seen[0], Cow::Borrowed(_)));
}

#[test]
fn numbers_that_are_not_finite_are_read_where_allowed() {
    for text in ["NaN", "-Infinity", "\"Infinity\""] {
        let number = Cursor::new(text, 0).number(|| "a number".into(), true).unwrap();
        assert_eq!(number, text.trim_matches('"'));
        assert!(Cursor::new(text, 0).number(|| "a number".into(), false).is_err());
    }
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC{0,60}") {
        let _ = read(&text);
    }

    #[test]
    fn near_json_is_judged_as_serde_json_judges_it(text in "[\\[\\]{}:,\" 0-9.eE+\\-ntu\\\\a]{0,24}") {
        let ours = read(&text).is_ok();
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        // serde_json skips strings without looking at surrogate pairs; nothing else may differ.
        prop_assert!(ours == theirs || (text.contains("\\u") && theirs), "{text:?}: {ours} {theirs}");
    }

    #[test]
    fn every_value_serde_json_writes_is_read(value in json_value()) {
        prop_assert_eq!(read(&value.to_string()), Ok(()));
        prop_assert_eq!(read(&serde_json::to_string_pretty(&value).unwrap()), Ok(()));
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,8}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::vec((".{0,4}", inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}
