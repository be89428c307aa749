//! Owns the fate of a failed transaction. Refuses to guess: what is not listed waits.

use sqlx::error::DatabaseError;

/// Why a transaction failed, told as what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else was faster: run the whole batch again.
    #[error("run again: {0}")]
    Rerun(String),
    /// Infrastructure: back off, lose nothing, run again.
    #[error("wait: {0}")]
    Wait(String),
    /// The reply to COMMIT was lost: wait, then run again under a new boot number. The inbox and
    /// the key rows tell what happened.
    #[error("the reply to COMMIT was lost: {0}")]
    CommitLost(String),
    /// One of the inputs can never be stored.
    #[error("poison: {0}")]
    Poison(String),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(cause) => {
                let code = cause.code().unwrap_or_default();
                fate(&code, cause.constraint(), describe(cause.as_ref()))
            }
            _ => Self::Wait(error.to_string()),
        }
    }
}

/// An outage taken for poison would set healthy inputs aside, so poison is a closed list.
fn fate(code: &str, constraint: Option<&str>, text: String) -> Error {
    match (code, constraint) {
        ("40001" | "40P01", _) => Error::Rerun(text),
        // A row for which no partition exists reports a check violation without a constraint.
        ("23514", None) => Error::Wait(text),
        (code, _) if code.starts_with("22") || code.starts_with("23") => Error::Poison(text),
        _ => Error::Wait(text),
    }
}

fn describe(cause: &dyn DatabaseError) -> String {
    format!("{} ({})", cause.message(), cause.code().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Error, fate};

    #[test]
    fn only_bad_input_is_poison_and_whatever_is_unknown_waits() {
        for (code, constraint, expected) in [
            ("40001", None, "rerun"),
            ("40P01", None, "rerun"),
            ("23505", Some("payments_pkey"), "poison"),
            ("23514", Some("payments_check"), "poison"),
            ("23514", None, "wait"),
            ("22021", None, "poison"),
            ("53100", None, "wait"),
            ("55P03", None, "wait"),
            ("57014", None, "wait"),
            ("57P01", None, "wait"),
            ("42P01", None, "wait"),
            ("08006", None, "wait"),
            ("", None, "wait"),
        ] {
            let found = match fate(code, constraint, String::new()) {
                Error::Rerun(_) => "rerun",
                Error::Wait(_) => "wait",
                Error::CommitLost(_) => "commit lost",
                Error::Poison(_) => "poison",
            };
            assert_eq!(found, expected, "SQLSTATE {code:?}, constraint {constraint:?}");
        }
    }
}
