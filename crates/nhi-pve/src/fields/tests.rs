//! Types seen more than one way.

use super::{Fields, as_flag, as_number, as_text, as_whole, split_words};
use serde_json::{Value, json};

#[test]
fn a_whole_number_comes_in_many_clothes() {
    let cases = [
        (json!(103), Some(103)),
        (json!("103"), Some(103)),
        (json!(" 103 "), Some(103)),
        (json!(103.9), Some(103)),
        (json!("103.0"), Some(103)),
        (json!(2.147_483_648e9), Some(2_147_483_648)),
        (json!(true), Some(1)),
        (json!(u64::MAX), Some(u64::MAX)),
        (json!(u64::MAX.to_string()), Some(u64::MAX)),
        (json!(-1), None),
        (json!("-1"), None),
        (json!(1e308), None),
        (json!("1e308"), None),
        (json!("18446744073709551616"), None),
        (json!("nan"), None),
        (json!("inf"), None),
        (json!("0x10"), None),
        (json!("12 apples"), None),
        (json!(""), None),
        (json!(null), None),
        (json!([1]), None),
        (json!({"a": 1}), None),
    ];
    for (value, expected) in cases {
        assert_eq!(as_whole(&value), expected, "{value}");
    }
}

#[test]
fn numbers_flags_and_texts_too() {
    assert_eq!(as_number(&json!("0.25")), Some(0.25));
    assert_eq!(as_number(&json!(1e308)), Some(1e308));
    assert_eq!(as_number(&json!("1e999")), None);
    for value in
        [json!(1), json!("1"), json!(true), json!("true"), json!("on"), json!("Yes"), json!(2), json!(1.0)]
    {
        assert_eq!(as_flag(&value), Some(true), "{value}");
    }
    for value in [json!(0), json!("0"), json!(false), json!("no"), json!("off"), json!(0.0)] {
        assert_eq!(as_flag(&value), Some(false), "{value}");
    }
    for value in [json!(""), json!("maybe"), json!(null), json!([])] {
        assert_eq!(as_flag(&value), None, "{value}");
    }
    assert_eq!(as_text(&json!(9)), Some("9".to_owned()));
    assert_eq!(as_text(&json!("")), None);
    assert_eq!(split_words("a;b, c;;a").into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn what_cannot_be_read_stays_with_the_unknown() {
    let row = json!({"a": {"odd": 1}, "b": "", "c": null, "d": "7", "new": [1], "e": "x"});
    let mut fields = Fields::of(row).unwrap();
    assert_eq!(fields.whole("a"), None);
    assert_eq!(fields.whole("b"), None);
    assert_eq!(fields.whole("c"), None);
    assert_eq!(fields.whole("d"), Some(7));
    assert!(fields.object("e").is_none() && fields.list("e").is_none());
    assert_eq!(Value::Object(fields.rest()), json!({"a": {"odd": 1}, "new": [1], "e": "x"}));
    assert!(Fields::of(json!([1])).is_none());
}
