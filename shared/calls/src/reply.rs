//! Owns what a reply means. Refuses to send anything, and to take nonsense for an answer.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use saga::{LookUp, Outcome};
use serde_json::Value;

/// What a destination's refusals look like: HTTP status and `code` of the JSON body.
pub type Refusals = &'static [(u16, &'static str)];

/// A longer reference is no reference: it would be stored, and passed on, for ever.
const REFERENCE_CHARS_MAX: usize = 255;
/// The bounds of what a `Retry-After` may ask for.
const RETRY_AFTER_MS_MIN: u64 = 1_000;
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;

const UNINTELLIGIBLE: &str = "unintelligible";

/// One HTTP reply, read to its end or given up.
#[derive(Debug)]
pub(crate) struct Reply {
    status: u16,
    retry_after_ms: Option<u64>,
    /// The body, or why there is none.
    json: Result<Value, &'static str>,
}

impl Reply {
    pub(crate) fn new(
        status: u16,
        headers: &HeaderMap,
        body: Result<Vec<u8>, &'static str>,
    ) -> Self {
        // Elsewhere than on these two it is no request to be left alone (a 301 may carry one).
        let retry_after_ms = matches!(status, 429 | 503).then(|| retry_after_ms(headers)).flatten();
        let json = body.and_then(|body| serde_json::from_slice(&body).map_err(|_| UNINTELLIGIBLE));
        Self { status, retry_after_ms, json }
    }

    /// What the reply to a call says about its effect.
    pub(crate) fn outcome(
        &self,
        refusals: Refusals,
        understand: impl FnOnce(&Value) -> Option<String>,
    ) -> Outcome {
        match (self.status, &self.json) {
            (200..=299, Ok(json)) => match understand(json).filter(|it| is_reference(it)) {
                Some(reference) => Outcome::Done { reference },
                None => self.unknown_outcome(UNINTELLIGIBLE.to_owned()),
            },
            (200..=299, Err(code)) => self.unknown_outcome((*code).to_owned()),
            (status, Ok(json)) => match code(json) {
                Some(code) if refusals.contains(&(status, code)) => {
                    Outcome::Refused { code: code.to_owned() }
                }
                _ => self.unknown_outcome(format!("http_{status}")),
            },
            (status, Err(_)) => self.unknown_outcome(format!("http_{status}")),
        }
    }

    /// What the reply to a look-up says about the call. Only a 404 that says so itself means that
    /// nothing is recorded: any other 404 is a wrong address.
    pub(crate) fn look_up(
        &self,
        refusals: Refusals,
        understand: impl FnOnce(&Value) -> Option<String>,
    ) -> LookUp {
        let json = match (self.status, &self.json) {
            (200..=299, Ok(json)) => json,
            (200..=299, Err(code)) => return self.unknown_look_up((*code).to_owned()),
            (404, Ok(json)) if code(json) == Some("nothing_recorded") => return LookUp::Nothing,
            (status, _) => return self.unknown_look_up(format!("http_{status}")),
        };
        match json.get("status").and_then(Value::as_str) {
            Some("done") => {
                if let Some(reference) = understand(json).filter(|it| is_reference(it)) {
                    return LookUp::Done { reference };
                }
            }
            Some("refused") => {
                let known = |code: &&str| refusals.iter().any(|(_, listed)| listed == code);
                if let Some(code) = code(json).filter(known) {
                    return LookUp::Refused { code: code.to_owned() };
                }
            }
            _ => {}
        }
        self.unknown_look_up(UNINTELLIGIBLE.to_owned())
    }

    fn unknown_outcome(&self, code: String) -> Outcome {
        Outcome::Unknown { code, retry_after_ms: self.retry_after_ms }
    }

    fn unknown_look_up(&self, code: String) -> LookUp {
        LookUp::Unknown { code, retry_after_ms: self.retry_after_ms }
    }
}

fn code(json: &Value) -> Option<&str> {
    json.get("code").and_then(Value::as_str)
}

fn is_reference(text: &str) -> bool {
    let chars = text.chars().count();
    (1..=REFERENCE_CHARS_MAX).contains(&chars) && !text.chars().any(char::is_control)
}

/// Seconds, or a date, which is measured against the reply's own `Date`: two clocks that disagree
/// then do no harm, and no clock is read here.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wanted_ms = match text.strip_prefix('-').unwrap_or(text) {
        digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let seconds = if digits.len() == text.len() { digits.parse().ok() } else { Some(0) };
            seconds.unwrap_or(u64::MAX).saturating_mul(1_000)
        }
        _ => {
            let until = httpdate::parse_http_date(text).ok()?;
            let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
            let wait = until.duration_since(now).unwrap_or(Duration::ZERO);
            u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
        }
    };
    Some(wanted_ms.clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    const REFUSALS: Refusals = &[(402, "card_declined")];

    fn reply(status: u16, body: &str) -> Reply {
        Reply::new(status, &HeaderMap::new(), Ok(body.as_bytes().to_vec()))
    }

    /// Believes every body that names a reference.
    fn reference(json: &Value) -> Option<String> {
        json.get("reference").and_then(Value::as_str).map(str::to_owned)
    }

    fn outcome(status: u16, body: &str) -> Outcome {
        reply(status, body).outcome(REFUSALS, reference)
    }

    fn look_up(status: u16, body: &str) -> LookUp {
        reply(status, body).look_up(REFUSALS, reference)
    }

    fn unknown(code: &str) -> Outcome {
        Outcome::Unknown { code: code.into(), retry_after_ms: None }
    }

    fn not_found_out(code: &str) -> LookUp {
        LookUp::Unknown { code: code.into(), retry_after_ms: None }
    }

    #[test]
    fn only_an_understood_success_is_done() {
        let done = Outcome::Done { reference: "cap_1".into() };
        assert_eq!(outcome(200, r#"{"reference":"cap_1"}"#), done);
        assert_eq!(outcome(201, r#"{"reference":"cap_1"}"#), done);
        for body in ["", "<html>welcome</html>", "{}", r#"{"reference":""}"#, "null", "[1]"] {
            assert_eq!(outcome(200, body), unknown("unintelligible"), "{body}");
        }
        let long = format!(r#"{{"reference":"{}"}}"#, "x".repeat(256));
        assert_eq!(outcome(200, &long), unknown("unintelligible"));
        assert_eq!(outcome(200, r#"{"reference":"a\u0000b"}"#), unknown("unintelligible"));
    }

    #[test]
    fn only_the_allow_list_refuses() {
        let refused = Outcome::Refused { code: "card_declined".into() };
        assert_eq!(outcome(402, r#"{"code":"card_declined"}"#), refused);
        assert_eq!(outcome(402, r#"{"code":"account_suspended"}"#), unknown("http_402"));
        assert_eq!(outcome(422, r#"{"code":"card_declined"}"#), unknown("http_422"));
        assert_eq!(outcome(402, "card_declined"), unknown("http_402"));
    }

    #[test]
    fn our_own_faults_and_theirs_are_unknown() {
        for status in [301, 302, 400, 401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503, 504] {
            let code = format!("http_{status}");
            assert_eq!(outcome(status, r#"{"code":"nothing_recorded"}"#), unknown(&code));
        }
    }

    #[test]
    fn a_reply_that_broke_off_is_unknown_unless_its_status_says_more() {
        let broken = |status| Reply::new(status, &HeaderMap::new(), Err("connection"));
        assert_eq!(broken(200).outcome(REFUSALS, reference), unknown("connection"));
        assert_eq!(broken(402).outcome(REFUSALS, reference), unknown("http_402"));
        assert_eq!(broken(200).look_up(REFUSALS, reference), not_found_out("connection"));
        assert_eq!(broken(404).look_up(REFUSALS, reference), not_found_out("http_404"));
    }

    #[test]
    fn a_look_up_finds_what_is_recorded() {
        assert_eq!(
            look_up(200, r#"{"status":"done","reference":"cap_1"}"#),
            LookUp::Done { reference: "cap_1".into() }
        );
        assert_eq!(
            look_up(200, r#"{"status":"refused","code":"card_declined"}"#),
            LookUp::Refused { code: "card_declined".into() }
        );
        for body in [
            r#"{"status":"done"}"#,
            r#"{"status":"refused","code":"never_heard_of"}"#,
            r#"{"status":"pending","reference":"cap_1"}"#,
            r#"{"reference":"cap_1"}"#,
            "<html/>",
        ] {
            assert_eq!(look_up(200, body), not_found_out("unintelligible"), "{body}");
        }
    }

    #[test]
    fn nothing_is_recorded_only_where_the_other_side_says_so() {
        assert_eq!(look_up(404, r#"{"code":"nothing_recorded"}"#), LookUp::Nothing);
        assert_eq!(look_up(404, "<html>not found</html>"), not_found_out("http_404"));
        assert_eq!(look_up(404, r#"{"code":"no_such_route"}"#), not_found_out("http_404"));
        assert_eq!(look_up(410, r#"{"code":"nothing_recorded"}"#), not_found_out("http_410"));
        assert_eq!(look_up(402, r#"{"code":"card_declined"}"#), not_found_out("http_402"));
    }

    fn waits(status: u16, retry_after: &'static str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
        match Reply::new(status, &headers, Ok(Vec::new())).outcome(REFUSALS, reference) {
            Outcome::Unknown { retry_after_ms, .. } => retry_after_ms,
            definite => panic!("{definite:?}"),
        }
    }

    #[test]
    fn a_retry_after_is_clamped_to_a_second_and_an_hour() {
        for (text, wait_ms) in [
            ("7", Some(7_000)),
            ("0", Some(1_000)),
            ("-1", Some(1_000)),
            ("1000000000", Some(3_600_000)),
            ("99999999999999999999999999", Some(3_600_000)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(1_000)),
            ("Wed, 21 Oct 2099 07:27:00 GMT", Some(3_600_000)),
            ("soon", None),
            ("1.5", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(waits(503, text), wait_ms, "{text}");
            assert_eq!(waits(429, text), wait_ms, "{text}");
            assert_eq!(waits(500, text), None, "{text}");
        }
    }

    #[test]
    fn a_date_without_the_reply_s_own_date_is_no_retry_after() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:30 GMT"));
        assert_eq!(retry_after_ms(&headers), None);
    }
}
