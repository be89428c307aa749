//! Owns amounts of money and their arithmetic. Refuses to overflow, to round and to mix currencies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount in the currency's smallest unit: 1250 EUR-cents are 12.50 EUR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Money {
    pub amount_minor: i64,
    pub currency: Currency,
}

impl Money {
    pub const fn new(amount_minor: i64, currency: Currency) -> Self {
        Self { amount_minor, currency }
    }

    /// The sum, unless it overflows or the currencies differ.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let amount_minor = self.amount_minor.checked_add(other.amount_minor)?;
        (self.currency == other.currency).then_some(Self { amount_minor, ..self })
    }

    /// What all lines cost together, unless that overflows or a price is negative.
    pub fn total(lines: &[Line], currency: Currency) -> Option<Self> {
        lines.iter().try_fold(Self::new(0, currency), |sum, line| {
            let price = line.unit_price_minor.checked_mul(i64::from(line.quantity))?;
            (price >= 0).then_some(())?;
            sum.checked_add(Self::new(price, currency))
        })
    }
}

/// So much of one thing at one price.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Line {
    pub sku: String,
    pub quantity: u32,
    pub unit_price_minor: i64,
}

/// An ISO 4217 code: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(test, schemars(with = "String", extend("pattern" = "^[A-Z]{3}$")))]
pub struct Currency([u8; 3]);

impl Currency {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A text that is no currency code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three capital letters")]
pub struct NotACurrency;

impl FromStr for Currency {
    type Err = NotACurrency;

    fn from_str(text: &str) -> Result<Self, NotACurrency> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| NotACurrency)?;
        if code.iter().all(u8::is_ascii_uppercase) { Ok(Self(code)) } else { Err(NotACurrency) }
    }
}

impl TryFrom<String> for Currency {
    type Error = NotACurrency;

    fn try_from(text: String) -> Result<Self, NotACurrency> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn currency(code: &str) -> Currency {
        code.parse().expect("a currency")
    }

    fn line(quantity: u32, unit_price_minor: i64) -> Line {
        Line { sku: "TEA-1".into(), quantity, unit_price_minor }
    }

    #[test]
    fn a_currency_is_three_capital_letters_and_nothing_else() {
        assert_eq!(currency("EUR").to_string(), "EUR");
        for text in ["", "EU", "EURO", "eur", "E1R", "ÄÖ", "E R"] {
            assert_eq!(text.parse::<Currency>(), Err(NotACurrency), "{text}");
        }
    }

    #[test]
    fn two_currencies_are_never_added() {
        let sum = Money::new(1, currency("EUR")).checked_add(Money::new(1, currency("CHF")));
        assert_eq!(sum, None);
    }

    #[test]
    fn a_total_that_overflows_or_a_price_below_zero_is_none() {
        let eur = currency("EUR");
        assert_eq!(Money::total(&[line(2, 450), line(1, 100)], eur), Some(Money::new(1000, eur)));
        assert_eq!(Money::total(&[line(2, i64::MAX)], eur), None);
        assert_eq!(Money::total(&[line(1, i64::MAX), line(1, 1)], eur), None);
        assert_eq!(Money::total(&[line(1, -1), line(1, 100)], eur), None);
    }

    proptest! {
        #[test]
        fn a_total_is_the_exact_sum_or_none(
            lines in prop::collection::vec((any::<u32>(), any::<i64>()), 0..5),
        ) {
            let exact: i128 = lines.iter().map(|(n, price)| i128::from(*n) * i128::from(*price)).sum();
            let lines: Vec<_> = lines.iter().map(|(n, price)| line(*n, *price)).collect();
            if let Some(total) = Money::total(&lines, currency("EUR")) {
                prop_assert_eq!(i128::from(total.amount_minor), exact);
            }
        }
    }
}
