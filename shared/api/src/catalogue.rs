//! Owns the catalogue of failures: every name, status and text that a client may see. Refuses free
//! text.

use axum::http::StatusCode;
use serde::{Serialize, Serializer};

/// The least time to wait where time heals; whoever knows better says so on the problem.
const LATER_SECONDS: u32 = 1;

/// One row per code: variant, name on the wire, status, whether the same key and the same body may
/// succeed later, title, detail.
macro_rules! catalogue {
    (@retry never) => { None };
    (@retry later) => { Some(LATER_SECONDS) };
    ($(
        $name:ident $code:literal $status:ident $retry:ident:
            $title:literal, $detail:literal;
    )+) => {
        /// Why a request failed. The whole catalogue: nothing else ever reaches a client.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($name),+ }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            const fn entry(self) -> Entry {
                match self {
                    $(Self::$name => Entry {
                        code: $code,
                        status: StatusCode::$status,
                        title: $title,
                        detail: $detail,
                        retry_after_seconds: catalogue!(@retry $retry),
                    }),+
                }
            }
        }
    };
}

struct Entry {
    code: &'static str,
    status: StatusCode,
    title: &'static str,
    detail: &'static str,
    retry_after_seconds: Option<u32>,
}

catalogue! {
    IdempotencyKeyMissing "IDEMPOTENCY_KEY_MISSING" BAD_REQUEST never:
        "Idempotency-Key is missing",
        "This request needs an Idempotency-Key header.";
    IdempotencyKeyInvalid "IDEMPOTENCY_KEY_INVALID" BAD_REQUEST never:
        "Idempotency-Key is invalid",
        "Send the header once, with 1 to 255 visible ASCII characters.";
    IdempotencyKeyReused "IDEMPOTENCY_KEY_REUSED" UNPROCESSABLE_ENTITY never:
        "Idempotency-Key was used for another request",
        "A new request needs a new key. Nothing was changed.";
    IdempotencyKeyInUse "IDEMPOTENCY_KEY_IN_USE" CONFLICT later:
        "The first request with this key is still running",
        "Ask again with the same key to get its answer.";
    MalformedJson "MALFORMED_JSON" BAD_REQUEST never:
        "The body is not JSON",
        "The body must be one JSON document in UTF-8, without a byte order mark.";
    ValidationFailed "VALIDATION_FAILED" UNPROCESSABLE_ENTITY never:
        "The request has invalid fields",
        "Each entry of errors points at one field.";
    TooLarge "TOO_LARGE" PAYLOAD_TOO_LARGE never:
        "The body is too large",
        "A body may have up to 64 KiB.";
    UnsupportedMediaType "UNSUPPORTED_MEDIA_TYPE" UNSUPPORTED_MEDIA_TYPE never:
        "The body has the wrong type",
        "Send application/json without a content encoding.";
    RequestTimeout "REQUEST_TIMEOUT" REQUEST_TIMEOUT later:
        "The body came too slowly",
        "The whole body must arrive within 10 seconds.";
    NotFound "NOT_FOUND" NOT_FOUND never:
        "There is nothing here",
        "Nothing is known under this address.";
    MethodNotAllowed "METHOD_NOT_ALLOWED" METHOD_NOT_ALLOWED never:
        "This method is not allowed here",
        "The Allow header names the methods that are.";
    RateLimited "RATE_LIMITED" TOO_MANY_REQUESTS later:
        "Too many requests",
        "Ask again with the same key after the time in Retry-After.";
    Unavailable "UNAVAILABLE" SERVICE_UNAVAILABLE later:
        "There is no room for this request now",
        "Ask again with the same key after the time in Retry-After.";
    Internal "INTERNAL" INTERNAL_SERVER_ERROR never:
        "The request could not be handled",
        "The fault is ours and has been recorded under trace_id.";
}

impl Code {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        self.entry().code
    }

    pub const fn status(self) -> StatusCode {
        self.entry().status
    }

    pub const fn title(self) -> &'static str {
        self.entry().title
    }

    pub const fn detail(self) -> &'static str {
        self.entry().detail
    }

    /// When the same request may succeed, if ever.
    pub const fn retry_after_seconds(self) -> Option<u32> {
        self.entry().retry_after_seconds
    }

    /// Whether the same key and the same body may succeed later.
    pub const fn retryable(self) -> bool {
        self.retry_after_seconds().is_some()
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own_and_a_failing_status() {
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.status().as_u16() >= 400));
    }

    #[test]
    fn the_readme_shows_the_catalogue_as_it_is() {
        let rows = Code::ALL.iter().map(|code| {
            let later = if code.retryable() { "yes" } else { "no" };
            format!(
                "| `{}` | {} | {later} | {} |",
                code.as_str(),
                code.status().as_u16(),
                code.title()
            )
        });
        let rows: Vec<_> = rows.collect();
        assert!(include_str!("../README.md").contains(&rows.join("\n")), "{}", rows.join("\n"));
    }
}
