//! The parsers promise: however bytes are cut into pieces, the events are the same, and so is the place where they break.

use nhi_llm::{
    lines::{Broken, Event},
    ndjson, sse,
};
use proptest::{collection::vec, prelude::*};

const BYTES_MAX: usize = 64;

type Parsed = (Vec<Event>, Result<(), Broken>);

fn parse_sse(pieces: &[&[u8]]) -> Parsed {
    let mut parser = sse::Parser::new(BYTES_MAX);
    let mut events = Vec::new();
    let parsed = pieces.iter().try_for_each(|piece| parser.push(piece, &mut events));
    let parsed = parsed.and_then(|()| parser.finish(&mut events));
    (events, parsed)
}

fn parse_ndjson(pieces: &[&[u8]]) -> Parsed {
    let mut parser = ndjson::Parser::new(BYTES_MAX);
    let mut events = Vec::new();
    let parsed = pieces.iter().try_for_each(|piece| parser.push(piece, &mut events));
    let parsed = parsed.and_then(|()| parser.finish(&mut events));
    (events, parsed)
}

fn cut<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn wire() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        3 => Just(b"data: ".to_vec()),
        2 => Just(b"event:".to_vec()),
        1 => Just(b"error: ".to_vec()),
        1 => Just(b": remark".to_vec()),
        3 => Just(b"\n".to_vec()),
        2 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        2 => Just(b"\n\n".to_vec()),
        2 => Just("{\"text\":\"żółw 🐢\"}".as_bytes().to_vec()),
        1 => Just("\u{feff}".as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..3),
        1 => Just(vec![b'x'; 40]),
    ];
    vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn any_pieces_give_the_same_events(bytes in wire(), sizes in vec(1_usize..9, 1..6)) {
        let pieces = cut(&bytes, &sizes);
        prop_assert_eq!(parse_sse(&pieces), parse_sse(&[&bytes]));
        prop_assert_eq!(parse_ndjson(&pieces), parse_ndjson(&[&bytes]));
    }

    #[test]
    fn what_was_said_is_what_is_heard(texts in vec("[^\r\n]{1,15}", 0..6), sizes in vec(1_usize..9, 1..6)) {
        let wire: String = texts.iter().map(|text| format!("data: {text}\n\n")).collect();
        let (events, parsed) = parse_sse(&cut(wire.as_bytes(), &sizes));
        prop_assert_eq!(parsed, Ok(()));
        let heard: Vec<String> = events.into_iter().map(|event| event.data).collect();
        prop_assert_eq!(heard, texts);
    }

    #[test]
    fn nothing_longer_than_allowed_is_kept(bytes in vec(any::<u8>(), 0..400)) {
        let (events, _) = parse_sse(&[&bytes]);
        prop_assert!(events.iter().all(|event| event.data.len() <= BYTES_MAX + 64));
        let (events, _) = parse_ndjson(&[&bytes]);
        prop_assert!(events.iter().all(|event| event.data.len() <= BYTES_MAX));
    }
}

#[test]
fn events_are_read_as_the_standard_has_them() {
    let wire = "\u{feff}: remark\r\nevent: x\rdata: a\ndata:b\r\n\r\nid: 3\n\ndata\n\ndata:  two\n\nerror: {}\n\ndata: open";
    let (events, parsed) = parse_sse(&[wire.as_bytes()]);
    let event =
        |name: Option<&str>, data: &str| Event { name: name.map(str::to_owned), data: data.to_owned() };
    let expected = [
        event(Some("x"), "a\nb"),
        event(None, ""),
        event(None, " two"),
        event(Some("error"), "{}"),
        event(None, "open"),
    ];
    assert_eq!((events.as_slice(), parsed), (expected.as_slice(), Ok(())));
}

#[test]
fn broken_text_and_endless_lines_break_after_what_was_whole() {
    let good = Event { name: None, data: "a".to_owned() };
    let not_text = parse_sse(&[b"data: a\n\ndata: \xff\n\ndata: b\n\n"]);
    assert_eq!(not_text, (vec![good.clone()], Err(Broken::NotText)));
    let long = format!("data: a\n\ndata: {}", "x".repeat(BYTES_MAX));
    assert_eq!(parse_sse(&[long.as_bytes()]), (vec![good], Err(Broken::TooLarge { bytes_max: BYTES_MAX })));
    // Many short lines of one event count together.
    let many = "data: 0123456789\n".repeat(7);
    assert_eq!(parse_sse(&[many.as_bytes()]).1, Err(Broken::TooLarge { bytes_max: BYTES_MAX }));
}
