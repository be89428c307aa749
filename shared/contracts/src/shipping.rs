//! Owns what the shipping service says. Refuses to know the carrier's own words.

use serde::{Deserialize, Serialize};

use crate::Because;

crate::events! {
    "shipping" {
        Booked(Booked) = "ShipmentBooked",
        Failed(Because) = "ShipmentFailed",
    }
    undoing {
        RefundPayment(Because) = "RefundPayment",
    }
}

/// The carrier takes the parcel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Booked {
    /// The carrier's name for this parcel.
    pub tracking_ref: String,
}
