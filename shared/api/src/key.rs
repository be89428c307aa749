//! Owns what an `Idempotency-Key` is. Refuses to know what is stored under it.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};

use crate::{Code, Problem};

/// The longest key.
pub const KEY_CHARS_MAX: usize = 255;

const HEADER: &str = "idempotency-key";

/// A client's own name for one request: 1 to 255 visible ASCII characters.
///
/// Quoted (a structured-field string, as the draft has it) and bare are the same key. It may be a
/// secret of the client's, so its `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The one key of a request.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(HEADER).iter();
        match (values.next(), values.next()) {
            (None, _) => Err(Code::IdempotencyKeyMissing.into()),
            (Some(value), None) => {
                Self::parse(value).ok_or_else(|| Code::IdempotencyKeyInvalid.into())
            }
            (Some(_), Some(_)) => Err(Code::IdempotencyKeyInvalid.into()),
        }
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let key = match text.strip_prefix('"') {
            Some(quoted) => unescape(quoted.strip_suffix('"')?)?,
            None => text.to_owned(),
        };
        let fits = (1..=KEY_CHARS_MAX).contains(&key.len());
        (fits && key.bytes().all(|byte| byte.is_ascii_graphic())).then_some(Self(key))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(..)")
    }
}

/// The inside of a structured-field string (RFC 9651): only `\"` and `\\` are escaped.
fn unescape(quoted: &str) -> Option<String> {
    let mut key = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => key.push(chars.next().filter(|next| matches!(next, '"' | '\\'))?),
            '"' => return None,
            other => key.push(other),
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&[u8]]) -> Result<String, Code> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).expect("a legal header value"));
        }
        let key = IdempotencyKey::from_headers(&headers);
        key.map(|key| key.as_str().to_owned()).map_err(|problem| problem.code())
    }

    #[test]
    fn quoted_and_bare_are_the_same_key() {
        assert_eq!(key(&[b"a-1"]), Ok("a-1".into()));
        assert_eq!(key(&[b"\"a-1\""]), Ok("a-1".into()));
        assert_eq!(key(&[br#""a\"b\\c""#]), Ok(r#"a"b\c"#.into()));
        assert_eq!(key(&[&[b'k'; KEY_CHARS_MAX]]), Ok("k".repeat(KEY_CHARS_MAX)));
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(key(&[]), Err(Code::IdempotencyKeyMissing));
        let bad: [&[&[u8]]; 13] = [
            &[b""],
            &[b"\"\""],
            &[b"\""],
            &[b"\"a"],
            &[b"\"a\"b\""],
            &[br#""a\b""#],
            &[br#""a\""#],
            &[b"\"a\";p=1"],
            &[b"two words"],
            &[b"tab\there"],
            &["schlüssel".as_bytes()],
            &[&[b'k'; 10 * 1024]],
            &[b"twice", b"twice"],
        ];
        for values in bad {
            assert_eq!(key(values), Err(Code::IdempotencyKeyInvalid), "{values:?}");
        }
        assert_eq!(key(&[&[b'k'; KEY_CHARS_MAX + 1]]), Err(Code::IdempotencyKeyInvalid));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let key = IdempotencyKey("hidden".into());
        assert_eq!(format!("{key:?}"), "IdempotencyKey(..)");
    }
}
