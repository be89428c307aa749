//! Owns why a train is turned round. Refuses to list every reason: a provider may have new ones.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A machine-readable reason, carried along the whole way back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reason {
    /// `card_declined`, `customer`, …: a bounded vocabulary, never free text.
    pub code: Cow<'static, str>,
    /// The service that throws the switch.
    pub service: Cow<'static, str>,
}

impl Reason {
    /// The customer does not want it any more.
    pub const CUSTOMER: &'static str = "customer";
    /// The order was still on its way when its time was up.
    pub const DEADLINE: &'static str = "deadline";
    /// Not every line is there.
    pub const OUT_OF_STOCK: &'static str = "out_of_stock";

    pub fn new(code: impl Into<Cow<'static, str>>, service: &'static str) -> Self {
        Self { code: code.into(), service: Cow::Borrowed(service) }
    }

    /// The same reason, now that `service` turns the train round because of it.
    #[must_use]
    pub fn thrown_by(&self, service: &'static str) -> Self {
        Self { code: self.code.clone(), service: Cow::Borrowed(service) }
    }
}

/// `card_declined@payment`: how a reason is kept in one column.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.code, self.service)
    }
}

/// A text that is no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a reason is code@service")]
pub struct NotAReason;

impl FromStr for Reason {
    type Err = NotAReason;

    fn from_str(text: &str) -> Result<Self, NotAReason> {
        let (code, service) = text.rsplit_once('@').ok_or(NotAReason)?;
        let owned = |text: &str| Cow::Owned(text.to_owned());
        Ok(Self { code: owned(code), service: owned(service) })
    }
}

/// The body of every failure, compensation and cancel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Because {
    pub reason: Reason,
}

impl From<Reason> for Because {
    fn from(reason: Reason) -> Self {
        Self { reason }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn who_throws_the_switch_signs_the_reason_and_keeps_its_code() {
        let asked = Reason::new(Reason::CUSTOMER, "order");
        assert_eq!(asked.thrown_by("payment"), Reason::new("customer", "payment"));
    }

    #[test]
    fn a_reason_fits_into_one_column_and_comes_back() {
        let reason = Reason::new("odd@code", "payment");
        assert_eq!(reason.to_string().parse(), Ok(reason));
        assert!("no service".parse::<Reason>().is_err());
    }
}
