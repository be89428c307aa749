//! Owns the values that events carry besides money and reasons. Refuses to show personal data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the customer pays: a token of the payment provider, never a card number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct PaymentMethod(pub String);

/// Where the parcel goes. Personal data: `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ShipTo {
    pub name: String,
    pub street: String,
    pub city: String,
    pub postcode: String,
    pub country: String,
}

impl fmt::Debug for ShipTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShipTo(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::ShipTo;

    #[test]
    fn an_address_never_shows_in_a_log() {
        let to = |text: &str| text.to_owned();
        let ship_to = ShipTo {
            name: to("Ada"),
            street: to("Rheingasse 1"),
            city: to("Basel"),
            postcode: to("4051"),
            country: to("CH"),
        };
        assert_eq!(format!("{ship_to:?} {ship_to:#?}"), "ShipTo(…) ShipTo(…)");
    }
}
