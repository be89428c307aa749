//! Owns what an event means to whom, by the services' own `route`. Refuses to deliver it.

use crate::train::{EVENTS_MAX, Letter, Service, Train};

/// What one service is asked to decide.
pub(crate) enum Input {
    Order(order::domain::Input),
    Inventory(inventory::domain::Input),
    Payment(payment::domain::Input),
    Shipping(shipping::domain::Input),
}

/// Sends what was said since `before` to everybody to whom it matters. Whom it does not, skips it
/// at once.
pub(crate) fn post(train: &mut Train, before: [usize; 4]) {
    for ((from, before), now) in Service::ALL.into_iter().zip(before).zip(train.said.lengths()) {
        for nth in before..now.min(EVENTS_MAX) {
            for to in Service::ALL {
                let letter = Letter { from, nth, to };
                if heard(train, letter).is_some() {
                    train.sent.add(letter);
                }
            }
        }
    }
}

pub(crate) fn heard(train: &Train, Letter { from, nth, to }: Letter) -> Option<Input> {
    use {inventory::domain as i, order::domain as o, payment::domain as p, shipping::domain as s};
    let said = &train.said;
    let (order, stock) = (|| said.order.get(nth).cloned(), || said.inventory.get(nth).cloned());
    let (money, parcel) = (|| said.payment.get(nth).cloned(), || said.shipping.get(nth).cloned());
    match to {
        Service::Order => {
            let heard = match from {
                Service::Inventory => o::Heard::Inventory(stock()?),
                Service::Shipping => o::Heard::Shipping(parcel()?),
                Service::Order | Service::Payment => return None,
            };
            o::route(&heard).map(Input::Order)
        }
        Service::Inventory => {
            let heard = match from {
                Service::Order => i::Heard::Order(order()?),
                Service::Payment => i::Heard::Payment(money()?),
                Service::Inventory | Service::Shipping => return None,
            };
            i::route(&heard).map(Input::Inventory)
        }
        Service::Payment => {
            let heard = match from {
                Service::Order => p::Heard::Order(order()?),
                Service::Inventory => p::Heard::Inventory(stock()?),
                Service::Shipping => p::Heard::Shipping(parcel()?),
                Service::Payment => return None,
            };
            p::route(&heard).map(Input::Payment)
        }
        Service::Shipping => {
            let heard = match from {
                Service::Order => s::Heard::Order(order()?),
                Service::Payment => s::Heard::Payment(money()?),
                Service::Inventory | Service::Shipping => return None,
            };
            s::route(&heard).map(Input::Shipping)
        }
    }
}

/// A cancel that comes before the train, or to payment before its capture is definite.
pub(crate) fn cancels_for_good(train: &Train, input: &Input) -> bool {
    use payment::domain::State as Money;
    match input {
        Input::Inventory(inventory::domain::Input::Cancel(_)) => {
            train.inventory == inventory::domain::Step::Absent
        }
        Input::Payment(payment::domain::Input::Cancel(_)) => {
            matches!(train.payment, Money::Absent | Money::Capturing(_))
        }
        Input::Shipping(shipping::domain::Input::Cancel(_)) => {
            train.shipping == shipping::domain::State::Absent
        }
        _ => false,
    }
}
