//! Schemas as others write them, and what is left of each.

use super::*;

#[test]
fn a_tagged_union_becomes_one_object_with_a_list_of_words() {
    let schema = json!({
        "type": "object", "required": ["intent"], "additionalProperties": false,
        "properties": {"intent": {"$ref": "#/$defs/Intent", "description": "What."}},
        "$defs": {
            "Guest": {"type": "string", "description": "a guest", "minLength": 1},
            "Intent": {"oneOf": [
                {"type": "object", "required": ["do", "guest"], "properties": {
                    "do": {"const": "start", "type": "string"}, "guest": {"$ref": "#/$defs/Guest"}}},
                {"type": "object", "required": ["do", "guest"], "properties": {
                    "do": {"const": "stop", "type": "string"}, "guest": {"$ref": "#/$defs/Guest"},
                    "hard": {"type": ["boolean", "null"], "default": null}}},
                {"type": "object", "required": ["do", "of"], "properties": {
                    "do": {"const": "all", "type": "string"},
                    "of": {"type": "array", "items": {"$ref": "#/$defs/Intent"}}}},
            ]},
        },
    });
    let small = input(Some(&schema));
    let intent = &small.schema["properties"]["intent"];
    assert_eq!(intent["properties"]["do"]["enum"], json!(["start", "stop", "all"]));
    assert_eq!(intent["properties"]["do"]["description"], "start(guest) stop(guest, hard?) all(of)");
    assert_eq!(intent["properties"]["hard"], json!({"type": "boolean"}));
    assert_eq!(intent["required"], json!(["do"]));
    let items = &intent["properties"]["of"]["items"];
    assert_eq!(
        (&items["type"], items.get("properties")),
        (&json!("object"), None),
        "the circle is not gone round"
    );
    let text = Value::from(small.schema).to_string();
    assert!(!text.contains("$ref") && !text.contains("$defs"), "{text}");
}

#[test]
fn of_a_field_that_two_have_in_different_shapes_the_common_is_left() {
    let field = |cups: Value| json!({"cups": cups, "tea": {"type": "string"}});
    let few = json!({"type": "integer", "maximum": 4, "description": "How many."});
    for (other, left) in [
        (json!({"type": "integer", "maximum": 4, "description": "Some."}), few.clone()),
        (json!({"type": "integer", "maximum": 9}), json!({"type": "integer", "description": "How many."})),
        (json!({"type": "array", "items": {"type": "string"}}), json!({"description": "How many."})),
    ] {
        let variant = |word: &str, cups: Value| {
            let mut properties = field(cups);
            properties["do"] = json!({"const": word});
            json!({"type": "object", "properties": properties})
        };
        let union = json!({"oneOf": [variant("pour", few.clone()), variant("list", other.clone())]});
        let union = json!({"type": "object", "properties": {"then": union}});
        let small = input(Some(&union)).schema;
        let fields = &small["properties"]["then"]["properties"];
        assert_eq!((&fields["cups"], &fields["tea"]), (&left, &json!({"type": "string"})), "{other}");
        let member = |cups: Value| object(json!({"type": "object", "properties": field(cups)}));
        let chosen = choice("action", &[("pour", member(few.clone())), ("list", member(other.clone()))]);
        assert_eq!(chosen["properties"]["cups"], left, "{other}");
    }
}

#[test]
fn a_union_is_never_narrower_than_its_variants() {
    let far = json!({"$ref": "https://example.com/a.json"});
    for (variants, small) in [
        (json!([{"const": "a"}, far]), json!({})),
        (json!([{"type": "null"}]), json!({})),
        (json!([{"const": "a"}, {"const": "b"}]), json!({"type": "string", "enum": ["a", "b"]})),
    ] {
        let schema = json!({"type": "object", "properties": {"x": {"anyOf": variants}}});
        assert_eq!(input(Some(&schema)).schema["properties"]["x"], small, "{variants}");
    }
}

#[test]
fn what_is_no_object_is_asked_for_in_a_field() {
    let small = input(Some(&json!({"type": "array", "items": {"type": "string"}})));
    assert!(small.wrapped);
    assert_eq!(small.schema["required"], json!(["body"]));
    let none = input(None);
    assert!(!none.wrapped && none.schema["type"] == "object");
}

#[test]
fn hostile_schemas_are_contained() {
    let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    assert_eq!(input(Some(&circle)).schema["type"], "object");
    assert_eq!(output(Some(&circle)), None);
    let outside = json!({"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}});
    assert_eq!(input(Some(&outside)).schema["properties"]["a"], json!({}));
    let own = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
    assert_eq!(input(Some(&own)).schema["properties"]["next"], json!({"type": "object"}));
    let wide: Object = (0..500).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
    let small = input(Some(&json!({"type": "object", "properties": wide})));
    assert_eq!(small.schema["properties"].as_object().unwrap().len(), PROPERTIES_MAX);
    assert_eq!(line("a\n\u{7}b   c", 20), "a b c");
}

#[test]
fn what_goes_round_in_variants_comes_to_an_end() {
    let twice = json!({"properties": {}, "anyOf": [{"$ref": "#"}, {"$ref": "#"}]});
    assert_eq!(input(Some(&twice)).schema["type"], "object");
    // A chain of unions of one, deeper than any stack.
    let mut chain: Object = (0..20_000)
        .map(|n| (format!("s{n}"), json!({"oneOf": [{"$ref": format!("#/$defs/s{}", n + 1)}]})))
        .collect();
    chain.insert("s20000".to_owned(), json!({"type": "object"}));
    let chain = json!({"$ref": "#/$defs/s0", "$defs": chain});
    assert_eq!(input(Some(&chain)).schema["type"], "object");
}

#[test]
fn work_and_size_are_bounded() {
    let wide = |n: usize| -> Object {
        (0..64).map(|p| (format!("p{p}"), json!({"$ref": format!("#/$defs/s{}", n + 1)}))).collect()
    };
    let defs: Object = (0..12)
        .map(|n| (format!("s{n}"), json!({"description": "x ".repeat(90), "properties": wide(n)})))
        .collect();
    let bomb = json!({"$ref": "#/$defs/s0", "$defs": defs});
    let lean = Lean::new(&bomb);
    let whole = lean.lean(&bomb, 0);
    assert_eq!(lean.left.get(), 0, "64 to the power of 12 were not looked at");
    assert!(whole.to_string().len() > SCHEMA_BYTES_MAX, "the control: it would be too large");
    let small = Value::from(input(Some(&bomb)).schema);
    assert!(small.to_string().len() <= SCHEMA_BYTES_MAX, "{}", small.to_string().len());
    assert_eq!(small["properties"].as_object().unwrap().len(), 64);
}

#[test]
fn what_is_no_schema_is_left_out() {
    let odd = json!({
        "type": "object", "required": ["a", "a", 7, "not there", "a b"],
        "properties": {
            "a": {"type": "float", "enum": [], "pattern": "[z-a]", "maxLength": -1, "maximum": "x"},
            "b": {"type": ["string", "text"], "enum": ["u", "u", "v"], "exclusiveMinimum": true},
            "c": {"type": "string", "enum": [{"$ref": "#"}], "const": [1]},
            "d": 7, "a b": {"type": "string"}, "": {}, "x\"y": {},
        },
    });
    let (a, b, c) = (json!({}), json!({"enum": ["u", "v"]}), json!({"type": "string"}));
    let fields = json!({"a": a, "b": b, "c": c, "d": {}});
    let small = Value::from(input(Some(&odd)).schema);
    assert_eq!(small, json!({"type": "object", "properties": fields, "required": ["a"]}));
    let answer = Value::from(output(Some(&odd)).unwrap());
    let fields = json!({"a": {}, "b": {}, "c": {"type": "string"}, "d": {}});
    assert_eq!(answer, json!({"type": "object", "properties": fields}));
}

#[test]
fn what_takes_no_object_is_wrapped_and_a_null_that_is_needed_stays() {
    let either =
        json!({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "integer"}}});
    assert!(input(Some(&either)).wrapped);
    let perhaps = json!({"anyOf": [{"type": "string"}, {"type": "object"}]});
    assert!(!input(Some(&perhaps)).wrapped, "the control");
    let text = json!({"type": ["string", "null"]});
    let both = json!({"type": "object", "properties": {"a": text, "b": text}, "required": ["a"]});
    let small = input(Some(&both)).schema;
    assert_eq!(small["properties"], json!({"a": {}, "b": {"type": "string"}}));
    // In a list or a map nothing can be left out either, wherever it stands that it may be null.
    let maybe = json!({"anyOf": [{"$ref": "#/$defs/text"}, {"type": "null"}]});
    let within = |inner: Value| {
        let fields = json!({"l": {"type": "array", "items": inner}, "m": {"type": "object", "additionalProperties": inner}});
        let defs = json!({"text": {"type": "string"}, "maybe": maybe, "nested": {"oneOf": [{"$ref": "#/$defs/maybe"}, {"type": "integer"}]}});
        input(Some(&json!({"type": "object", "properties": fields, "$defs": defs}))).schema["properties"]
            .clone()
    };
    let expect = |inner: Value| json!({"l": {"type": "array", "items": inner}, "m": {"type": "object", "additionalProperties": inner}});
    for nullable in
        [text.clone(), maybe.clone(), json!({"$ref": "#/$defs/maybe"}), json!({"$ref": "#/$defs/nested"})]
    {
        assert_eq!(within(nullable.clone()), expect(json!({})), "{nullable}");
    }
    let plain = json!({"type": "string"});
    assert_eq!(within(json!({"$ref": "#/$defs/text"})), expect(plain), "the control");
    assert_eq!(input(Some(&json!({"type": ["array", "null"]}))).schema["properties"]["body"], json!({}));
}

#[test]
fn an_answer_is_cut_to_its_first_level() {
    let schema = json!({
        "type": "object", "required": ["a"],
        "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"type": ["string", "null"]}, "c": {}},
        "$defs": {"A": {"type": "object", "properties": {"deep": {"type": "integer"}}}},
    });
    let small = Value::from(output(Some(&schema)).unwrap());
    let fields = json!({"a": {"type": "object"}, "b": {"type": ["string", "null"]}, "c": {}});
    assert_eq!(small, json!({"type": "object", "properties": fields}));
    assert_eq!(output(Some(&json!({"type": "array"}))), None);
}
