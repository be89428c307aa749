//! Owns what the inventory service says. Refuses to know how much stock there is.

use serde::{Deserialize, Serialize};

use crate::{Because, Money, PaymentMethod, ShipTo};

crate::events! {
    "inventory" {
        Reserved(Waybill) = "InventoryReserved",
        Rejected(Because) = "InventoryRejected",
        Released(Because) = "InventoryReleased",
    }
    undoing {}
}

/// What lies ahead of a train that has its stock.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Waybill {
    pub total: Money,
    pub payment_method: PaymentMethod,
    pub ship_to: ShipTo,
}
