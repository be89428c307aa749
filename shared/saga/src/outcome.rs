//! Owns what is known after asking the outside world. Refuses to let "unknown" pass for "no".

use serde::{Deserialize, Serialize};

/// What one attempt of an outside call came to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done; the other side's reference for the effect.
    Done { reference: String },
    /// Refused for a reason on the destination's allow-list (`card_declined`).
    Refused { code: String },
    /// Everything else: a timeout, a cut connection, an answer that makes no sense. It says nothing
    /// about the effect.
    Unknown {
        code: String,
        /// The other side asked to be left alone for so long, in milliseconds.
        retry_after_ms: Option<u64>,
    },
}

/// What the other side has recorded under our idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LookUp {
    Done {
        reference: String,
    },
    Refused {
        code: String,
    },
    /// Nothing yet. A lost attempt may still land.
    Nothing,
    /// The look-up itself has no definite answer.
    Unknown {
        code: String,
        retry_after_ms: Option<u64>,
    },
}

/// A definite outcome. There is no `Unknown` here, so none can reach a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    Done { reference: String },
    Refused { code: String },
}
