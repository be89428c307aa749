//! Owns the statements that hold for every order that has come to its end. Refuses to ask anybody:
//! what was read is all there is.

use super::{CONFIRMED_TOO_LATE, Event, Saga};
use crate::SERVICES;
use crate::wire::Entry;

/// What an end looks like in the four tables (order, reservation, payment, shipment; 0: no row),
/// and whether a cancel was under way.
type End = ((i16, i16, i16, i16), bool);

const CONFIRMED: i16 = 3;
const CANCELLED: i16 = 5;

/// Every way in which the four services may agree.
const ENDS: [End; 9] = [
    ((CONFIRMED, 2, 4, 3), false),
    // The cancel never met the train.
    ((CONFIRMED_TOO_LATE, 2, 4, 3), true),
    // Turned round at inventory, at payment, at shipping.
    ((CANCELLED, 3, 0, 0), false),
    ((CANCELLED, 4, 6, 0), false),
    ((CANCELLED, 4, 7, 4), false),
    // The same with a cancel: whom the train did not reach keeps a tombstone.
    ((CANCELLED, 3, 1, 1), true),
    ((CANCELLED, 4, 6, 1), true),
    ((CANCELLED, 4, 7, 1), true),
    ((CANCELLED, 4, 7, 4), true),
];

impl Saga {
    /// What does not hold.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.agreement(&mut found);
        self.words(&mut found);
        self.numbers(&mut found);
        self.money(&mut found);
        self.stock(&mut found);
        self.customers_view(&mut found);
        found
    }

    fn states(&self) -> (i16, i16, i16, i16) {
        let reservation = self.reservation.as_ref().map_or(0, |row| row.status);
        let (payment, shipment) = (self.payment.unwrap_or(0), self.shipment.unwrap_or(0));
        (self.order.status, reservation, payment, shipment)
    }

    fn agreement(&self, found: &mut Vec<String>) {
        let cancelling = self.said("order").contains(&"OrderCancelRequested");
        if !ENDS.contains(&(self.states(), cancelling)) {
            found.push(format!("the services disagree: {:?}, {cancelling}", self.states()));
        }
    }

    /// What each service has said is what its state allows, to the word.
    fn words(&self, found: &mut Vec<String>) {
        let (order, reservation, payment, shipment) = self.states();
        let allowed: [&[&[&str]]; 4] = [
            match order {
                3 => &[&["OrderPlaced", "OrderConfirmed"]],
                4 => &[&["OrderPlaced", "OrderCancelRequested", "OrderConfirmed"]],
                5 => &[
                    &["OrderPlaced", "OrderCancelled"],
                    &["OrderPlaced", "OrderCancelRequested", "OrderCancelled"],
                ],
                _ => &[],
            },
            match reservation {
                2 => &[&["InventoryReserved"]],
                3 => &[&["InventoryRejected"]],
                4 => &[&["InventoryReserved", "InventoryReleased"]],
                _ => &[],
            },
            match payment {
                0 | 1 => &[&[]],
                4 => &[&["PaymentCaptured"]],
                6 => &[&["PaymentDeclined", "ReleaseInventory"]],
                7 => &[
                    &["PaymentCaptured", "PaymentRefunded", "ReleaseInventory"],
                    &["PaymentRefunded", "ReleaseInventory"],
                ],
                _ => &[],
            },
            match shipment {
                0 | 1 => &[&[]],
                3 => &[&["ShipmentBooked"]],
                4 => &[&["ShipmentFailed", "RefundPayment"]],
                _ => &[],
            },
        ];
        for (service, allowed) in SERVICES.into_iter().zip(allowed) {
            let said = self.said(service);
            if !allowed.contains(&said.as_slice()) {
                found.push(format!("{service} said {said:?} in {:?}", self.states()));
            }
        }
    }

    /// Each service's events are numbered 1 to n, and each is known to its subscribers.
    fn numbers(&self, found: &mut Vec<String>) {
        for service in SERVICES {
            let own = self.events.iter().filter(|event| event.service == service);
            let gaps = own.zip(1..).any(|(event, number)| event.version != Some(number));
            if gaps {
                found.push(format!("{service}'s events are not numbered 1 to n"));
            }
        }
        for event in &self.events {
            for service in self.unheard(event) {
                found.push(format!("{service} never handled {}", event.name()));
            }
        }
    }

    fn entries(&self, operation: &str) -> Vec<&Entry> {
        self.ledger.iter().filter(|entry| entry.operation == operation).collect()
    }

    /// One charge and one booking at most, and all of the money back where it did not arrive.
    fn money(&self, found: &mut Vec<String>) {
        let charges = self.entries("capture");
        let (refunds, bookings) = (self.entries("refund"), self.entries("book"));
        let (_, _, payment, shipment) = self.states();
        let wanted = match payment {
            4 => (1, 0),
            7 => (1, 1),
            _ => (0, 0),
        };
        if (charges.len(), refunds.len()) != wanted {
            found.push(format!("{} charges, {} refunds", charges.len(), refunds.len()));
        }
        if bookings.len() != usize::from(shipment == 3) {
            found.push(format!("{} bookings", bookings.len()));
        }
        for entry in charges.iter().chain(&refunds) {
            let total = (Some(self.order.amount_minor), Some(self.order.currency.as_str()));
            if (entry.amount_minor, entry.currency.as_deref()) != total {
                found.push(format!("the {} is not of the total", entry.operation));
            }
        }
        let charged_at = charges.first().map_or(u64::MAX, |charge| charge.seq);
        if refunds.iter().chain(&bookings).any(|entry| entry.seq < charged_at) {
            found.push("a refund or a booking before its charge".to_owned());
        }
    }

    /// All lines are held, or none.
    fn stock(&self, found: &mut Vec<String>) {
        let held = self.reservation.as_ref().and_then(|row| row.held.as_deref());
        let held = held.map(|held| serde_json::from_str(held).map_err(anyhow::Error::from));
        match (held, self.states().1) {
            (None, status) if status != 2 => {}
            (Some(Ok(held)), 2) if self.wanted().is_ok_and(|wanted| wanted == held) => {}
            (held, status) => found.push(format!("reservation {status} holds {held:?}")),
        }
    }

    /// The customer sees what is there, and the timeline tells each event once.
    fn customers_view(&self, found: &mut Vec<String>) {
        let (status, too_late) = match self.order.status {
            CONFIRMED => ("confirmed", false),
            CONFIRMED_TOO_LATE => ("confirmed", true),
            CANCELLED => ("cancelled", false),
            _ => ("", false),
        };
        let reason = self.order.reason_code.as_deref().zip(self.order.reason_service.as_deref());
        let total = self.shown.total.as_ref();
        let same_total = total.is_some_and(|total| {
            total.amount_minor == self.order.amount_minor && total.currency == self.order.currency
        });
        let same = self.outcome() == (status, reason)
            && (self.shown.cancel.as_deref() == Some("too_late")) == too_late
            && same_total;
        if !same {
            found.push("what is shown is not what is stored".to_owned());
        }
        let key = |event: &Event| (event.id, event.service.clone(), event.version);
        let mut said: Vec<_> = self.events.iter().map(key).collect();
        let items = self.timeline.items.iter();
        let mut told: Vec<_> =
            items.map(|told| (told.event_id, told.service.clone(), told.version)).collect();
        said.sort();
        told.sort();
        if said != told {
            found.push("the timeline does not tell each event once".to_owned());
        }
    }
}
