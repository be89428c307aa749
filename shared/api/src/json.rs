//! Owns which JSON is accepted. Refuses to guess: what two readers could read differently
//! (duplicate members, trailing bytes, NUL) never becomes a value.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::{Path, Segment};

use crate::problem::FIELD_ERRORS_MAX;
use crate::{Code, FieldCode, FieldError, Problem};

/// How many arrays and objects may lie inside each other.
pub const NESTING_MAX: usize = 32;

/// Reads one JSON document. Unknown members are refused where `T` says `deny_unknown_fields`.
///
/// What is no JSON is `MALFORMED_JSON`; JSON that does not fit is `VALIDATION_FAILED` with
/// pointers. A document nested so deeply that the parser gives up counts as malformed.
pub fn strict<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| Code::MalformedJson)?;
    inspect(text)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| Problem::invalid([fault(error.path(), &error.inner().to_string())]))
}

/// Reads the whole document once for what serde's derive does not see.
fn inspect(text: &str) -> Result<(), Problem> {
    let mut walk = Walk::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let walked = Node(&mut walk).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    if let Err(error) = walked {
        // The parser calls it a syntax error, but `1e400` is JSON: only nothing here can hold it.
        if !error.to_string().starts_with("number out of range") {
            return Err(Code::MalformedJson.into());
        }
        walk.found(FieldCode::OutOfRange);
    }
    if walk.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(walk.errors)) }
}

/// Where we are in the document, as a pointer, and what was found so far.
#[derive(Default)]
struct Walk {
    pointer: String,
    nesting: usize,
    errors: Vec<FieldError>,
}

impl Walk {
    fn found(&mut self, code: FieldCode) {
        if self.errors.len() < FIELD_ERRORS_MAX {
            self.errors.push(FieldError::new(self.pointer.clone(), code));
        }
    }

    fn text(&mut self, text: &str) {
        if text.contains('\0') {
            self.found(FieldCode::NulCharacter);
        }
    }

    fn open(&mut self) {
        self.nesting += 1;
        if self.nesting == NESTING_MAX + 1 {
            self.found(FieldCode::TooDeep);
        }
    }
}

/// One value of any type. On an error the pointer stays where the error is.
struct Node<'a>(&'a mut Walk);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let walk = self.0;
        walk.open();
        let length = walk.pointer.len();
        for index in 0_usize.. {
            push(&mut walk.pointer, &index.to_string());
            let more = items.next_element_seed(Node(walk))?.is_some();
            walk.pointer.truncate(length);
            if !more {
                break;
            }
        }
        walk.nesting -= 1;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let walk = self.0;
        walk.open();
        let length = walk.pointer.len();
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            push(&mut walk.pointer, &name);
            walk.text(&name);
            if !names.insert(name) {
                walk.found(FieldCode::DuplicateMember);
            }
            members.next_value_seed(Node(walk))?;
            walk.pointer.truncate(length);
        }
        walk.nesting -= 1;
        Ok(())
    }
}

/// What serde says about the one field at which it stopped.
fn fault(path: &Path, message: &str) -> FieldError {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push(&mut pointer, &index.to_string()),
            Segment::Map { key } => push(&mut pointer, key),
            Segment::Enum { variant } => push(&mut pointer, variant),
            Segment::Unknown => {}
        }
    }
    if let Some(rest) = message.strip_prefix("missing field `") {
        push(&mut pointer, rest.split('`').next().unwrap_or_default());
        return FieldError::new(pointer, FieldCode::Missing);
    }
    let code = if message.starts_with("unknown field") {
        FieldCode::UnknownMember
    } else if message.starts_with("invalid type") {
        FieldCode::WrongType
    } else {
        FieldCode::Invalid
    };
    FieldError::new(pointer, code)
}

fn push(pointer: &mut String, name: &str) {
    pointer.push('/');
    for char in name.chars() {
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        name: String,
        lines: Vec<Line>,
        note: Option<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        amount: i64,
    }

    fn refusal(body: &[u8]) -> (Code, Vec<(String, FieldCode)>) {
        let problem = strict::<Order>(body).expect_err("this body is refused");
        let errors = problem.errors().iter().map(|error| (error.pointer.clone(), error.code));
        (problem.code(), errors.collect())
    }

    #[test]
    fn a_good_document_is_read_to_the_unit_and_the_byte() {
        let body = "{\"name\":\"\u{202e}é\u{200b}🚂\",\
                    \"lines\":[{\"amount\":9007199254740993}],\"note\":null}";
        let order: Order = strict(body.as_bytes()).expect("nothing is wrong with it");
        assert_eq!(order.name, "\u{202e}é\u{200b}🚂");
        assert_eq!(order.lines, [Line { amount: 9_007_199_254_740_993 }]);
        assert!(strict::<Order>(b" {\"name\":\"a\",\"lines\":[]} \n").is_ok());
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = "[".repeat(10_000);
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let bad: [&[u8]; 14] = [
            b"",
            b"hello",
            b"{\"name\":\"a\"",
            b"{\"name\":\"a\",\"lines\":[]}x",
            b"{\"name\":\"a\",\"lines\":[]}{}",
            b"\xef\xbb\xbf{\"name\":\"a\",\"lines\":[]}",
            &utf16,
            b"{\"name\":\"\xff\",\"lines\":[]}",
            br#"{"name":"\ud800","lines":[]}"#,
            b"{\"name\":\"a\nb\",\"lines\":[]}",
            b"{'name':'a'}",
            b"{\"name\":\"a\",\"lines\":[],}",
            b"{\"name\":NaN}",
            deep.as_bytes(),
        ];
        for body in bad {
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!(refusal(body), (Code::MalformedJson, Vec::new()), "{shown}");
        }
    }

    #[test]
    fn json_that_does_not_fit_is_pointed_at() {
        use FieldCode::*;
        let table: [(&str, &str, FieldCode); 15] = [
            (r#"{"name":"a\u0000","lines":[]}"#, "/name", NulCharacter),
            (r#"{"name":"a","lines":[],"\u0000":1}"#, "/\0", NulCharacter),
            (r#"{"name":"a","name":"b","lines":[]}"#, "/name", DuplicateMember),
            (r#"{"name":"a","n\u0061me":"b","lines":[]}"#, "/name", DuplicateMember),
            (r#"{"name":"a","lines":[],"extra":1}"#, "/extra", UnknownMember),
            (r#"{"name":"a","lines":[{"amount":1,"a/b~c":1}]}"#, "/lines/0/a~1b~0c", UnknownMember),
            (r#"{"name":null,"lines":[]}"#, "/name", WrongType),
            (r#"{"name":"a","lines":{}}"#, "/lines", WrongType),
            (r#"{"name":"a","lines":[{"amount":"12.30"}]}"#, "/lines/0/amount", WrongType),
            (r#"{"name":"a","lines":[{"amount":0.001}]}"#, "/lines/0/amount", WrongType),
            (r#"{"name":"a","lines":[{"amount":1e400}]}"#, "/lines/0/amount", OutOfRange),
            (
                r#"{"name":"a","lines":[{"amount":9223372036854775808}]}"#,
                "/lines/0/amount",
                Invalid,
            ),
            (r#"{"name":"a"}"#, "/lines", Missing),
            (r#"{"name":"a","lines":[{"amount":1},{}]}"#, "/lines/1/amount", Missing),
            ("7", "", WrongType),
        ];
        for (body, pointer, code) in table {
            let expected = (Code::ValidationFailed, vec![(pointer.to_owned(), code)]);
            assert_eq!(refusal(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn nesting_over_the_limit_is_refused_and_at_the_limit_is_not() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(strict::<serde_json::Value>(nested(NESTING_MAX).as_bytes()).is_ok());
        let (code, errors) = refusal(nested(NESTING_MAX + 1).as_bytes());
        assert_eq!(code, Code::ValidationFailed);
        assert_eq!(errors, [("/0".repeat(NESTING_MAX), FieldCode::TooDeep)]);
    }

    #[test]
    fn all_duplicates_are_named_up_to_the_bound() {
        let body = format!("{{{}\"a\":0}}", "\"a\":0,".repeat(100));
        assert_eq!(refusal(body.as_bytes()).1.len(), FIELD_ERRORS_MAX);
    }
}
