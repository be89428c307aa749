//! Owns how two requests are told apart. Refuses to interpret either: it sees bytes.

use axum::http::{Method, Uri};
use sha2::{Digest, Sha256};

/// SHA-256 over method, full path, query and raw body, each with its length before it, so that no
/// byte can move from one part to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// `uri` as the client sent it, before any router has cut it.
    pub fn of(method: &Method, uri: &Uri, body: &[u8]) -> Self {
        let query = uri.query().unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [method.as_str().as_bytes(), uri.path().as_bytes(), query.as_bytes(), body] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Fingerprint {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, uri: &'static str, body: &str) -> Fingerprint {
        Fingerprint::of(method, &Uri::from_static(uri), body.as_bytes())
    }

    #[test]
    fn any_difference_is_another_request() {
        let first = of(&Method::POST, "/v1/orders/a/cancel?x=1", "{}");
        assert_eq!(first, of(&Method::POST, "/v1/orders/a/cancel?x=1", "{}"));
        assert_eq!(first, Fingerprint::from(*first.as_bytes()));
        for other in [
            of(&Method::PUT, "/v1/orders/a/cancel?x=1", "{}"),
            of(&Method::POST, "/v1/orders/b/cancel?x=1", "{}"),
            of(&Method::POST, "/v1/orders/a/cancel?x=2", "{}"),
            of(&Method::POST, "/v1/orders/a/cancel?x=1", "{} "),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn bytes_cannot_move_from_one_part_to_the_next() {
        assert_ne!(of(&Method::POST, "/a?bc", "d"), of(&Method::POST, "/a?b", "cd"));
        assert_ne!(of(&Method::POST, "/a", "b"), of(&Method::POST, "/a?b", ""));
    }
}
