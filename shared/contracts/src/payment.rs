//! Owns what the payment service says. Refuses to know the provider's own words.

use serde::{Deserialize, Serialize};

use crate::{Because, Money, ShipTo};

crate::events! {
    "payment" {
        Captured(Captured) = "PaymentCaptured",
        Declined(Because) = "PaymentDeclined",
        Refunded(Because) = "PaymentRefunded",
    }
    undoing {
        ReleaseInventory(Because) = "ReleaseInventory",
    }
}

/// The money is ours; the parcel may go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Captured {
    pub amount: Money,
    pub ship_to: ShipTo,
    /// The provider's name for this capture.
    pub provider_ref: String,
}
