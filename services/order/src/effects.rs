//! Owns what an order's story says of each service: a pure fold. Refuses to trust the order in which
//! the story arrived.

use serde::Serialize;

use crate::domain::Status;

/// What one service has done for an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    Pending,
    Done,
    Refused,
    Undoing,
    Undone,
    NotNeeded,
}

/// The effects of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effects {
    pub inventory: Effect,
    pub payment: Effect,
    pub shipping: Effect,
}

impl Effects {
    pub const PENDING: Self =
        Self { inventory: Effect::Pending, payment: Effect::Pending, shipping: Effect::Pending };

    /// Folds the events said so far, closed over their causes: what comes later on the line
    /// implies what came before it, even if that has not been told yet.
    pub fn of<'a>(status: &Status, told: impl IntoIterator<Item = &'a str>) -> Self {
        let told: Vec<&str> = told.into_iter().collect();
        let said = |name| told.contains(&name);
        let booked = said("ShipmentBooked") || matches!(status, Status::Confirmed { .. });
        let failed = said("ShipmentFailed") || said("RefundPayment");
        let refunded = said("PaymentRefunded");
        let captured = said("PaymentCaptured") || booked || failed || refunded;
        let declined = said("PaymentDeclined");
        let released = said("InventoryReleased");
        let release_wanted = said("ReleaseInventory") || declined || refunded;
        let rejected = said("InventoryRejected");
        let cancelled = matches!(status, Status::Cancelled(_));
        // A train that was turned round before it got here never comes.
        let ahead = |turned_before: bool| {
            if turned_before || cancelled { Effect::NotNeeded } else { Effect::Pending }
        };
        Self {
            inventory: match () {
                () if released => Effect::Undone,
                () if rejected => Effect::Refused,
                () if release_wanted => Effect::Undoing,
                () if said("InventoryReserved") || captured => Effect::Done,
                () => Effect::Pending,
            },
            payment: match () {
                () if refunded => Effect::Undone,
                () if declined => Effect::Refused,
                () if failed => Effect::Undoing,
                () if captured => Effect::Done,
                () => ahead(rejected || released),
            },
            shipping: match () {
                () if booked => Effect::Done,
                () if failed => Effect::Refused,
                () => ahead(rejected || declined || refunded || released),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use contracts::Reason;

    use super::Effect::*;
    use super::*;

    const WAY_OUT: [&str; 4] =
        ["OrderPlaced", "InventoryReserved", "PaymentCaptured", "ShipmentBooked"];

    fn of(status: &Status, told: &[&str]) -> (Effect, Effect, Effect) {
        let Effects { inventory, payment, shipping } = Effects::of(status, told.iter().copied());
        (inventory, payment, shipping)
    }

    fn cancelled() -> Status {
        Status::Cancelled(Reason::new("card_declined", "payment"))
    }

    #[test]
    fn a_train_arrives_station_by_station() {
        let pending = Status::Pending;
        assert_eq!(of(&pending, &WAY_OUT[..1]), (Pending, Pending, Pending));
        assert_eq!(of(&pending, &WAY_OUT[..2]), (Done, Pending, Pending));
        assert_eq!(of(&pending, &WAY_OUT[..3]), (Done, Done, Pending));
        assert_eq!(of(&pending, &WAY_OUT), (Done, Done, Done));
    }

    #[test]
    fn what_comes_later_implies_what_came_before() {
        assert_eq!(of(&Status::Pending, &["ShipmentBooked"]), (Done, Done, Done));
        let confirmed = Status::Confirmed { too_late: false };
        assert_eq!(of(&confirmed, &[]), (Done, Done, Done));
    }

    #[test]
    fn a_declined_payment_gives_the_stock_back() {
        let mut told = vec!["InventoryReserved", "PaymentDeclined", "ReleaseInventory"];
        assert_eq!(of(&Status::Pending, &told), (Undoing, Refused, NotNeeded));
        told.push("InventoryReleased");
        assert_eq!(of(&cancelled(), &told), (Undone, Refused, NotNeeded));
    }

    #[test]
    fn a_failed_shipment_runs_all_the_way_back() {
        let mut told = vec!["InventoryReserved", "PaymentCaptured", "ShipmentFailed"];
        told.push("RefundPayment");
        assert_eq!(of(&Status::Pending, &told), (Done, Undoing, Refused));
        told.extend(["PaymentRefunded", "ReleaseInventory"]);
        assert_eq!(of(&Status::Pending, &told), (Undoing, Undone, Refused));
        told.push("InventoryReleased");
        assert_eq!(of(&cancelled(), &told), (Undone, Undone, Refused));
    }

    #[test]
    fn a_rejected_reservation_needs_nothing_else() {
        assert_eq!(of(&cancelled(), &["InventoryRejected"]), (Refused, NotNeeded, NotNeeded));
    }
}
