//! Owns what the order service says. Refuses to know what became of it elsewhere.

use serde::{Deserialize, Serialize};

use crate::{Because, Line, Money, PaymentMethod, ShipTo};

crate::events! {
    "order" {
        Placed(Placed) = "OrderPlaced",
        CancelRequested(Because) = "OrderCancelRequested",
        Confirmed(Confirmed) = "OrderConfirmed",
        Cancelled(Because) = "OrderCancelled",
    }
    undoing {}
}

/// A train leaves: what is wanted, and what lies ahead of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Placed {
    pub lines: Vec<Line>,
    pub total: Money,
    pub payment_method: PaymentMethod,
    pub ship_to: ShipTo,
}

/// The train has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Confirmed {}
