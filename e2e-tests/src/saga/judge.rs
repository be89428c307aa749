//! Owns the statements that hold for every order that has come to its end. Refuses to ask anybody:
//! what was read is all there is.

use super::{Event, Saga};
use crate::SERVICES;
use crate::check::rules::{self, RESERVED, States};
use crate::wire::Entry;

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

    fn states(&self) -> States {
        let reservation = self.reservation.as_ref().map_or(0, |row| row.status);
        let (payment, shipment) = (self.payment.unwrap_or(0), self.shipment.unwrap_or(0));
        [self.order.status, reservation, payment, shipment]
    }

    fn agreement(&self, found: &mut Vec<String>) {
        let cancelling = self.said("order").contains(&"OrderCancelRequested");
        if !rules::is_an_end(self.states(), cancelling) {
            found.push(format!("the services disagree: {:?}, {cancelling}", self.states()));
        }
    }

    /// What each service has said is what its state allows, to the word.
    fn words(&self, found: &mut Vec<String>) {
        for (service, status) in SERVICES.into_iter().zip(self.states()) {
            let said = self.said(service);
            if !rules::words(service, status).contains(&said.as_slice()) {
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
        let counts = [charges.len(), refunds.len(), bookings.len()];
        if counts != rules::effects_of(self.states()) {
            let [charges, refunds, bookings] = counts;
            found.push(format!("{charges} charges, {refunds} refunds, {bookings} bookings"));
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
        match (held, self.states()[1]) {
            (None, status) if status != RESERVED => {}
            (Some(Ok(held)), RESERVED) if self.wanted().is_ok_and(|wanted| wanted == held) => {}
            (held, status) => found.push(format!("reservation {status} holds {held:?}")),
        }
    }

    /// The customer sees what is there, and the timeline tells each event once.
    fn customers_view(&self, found: &mut Vec<String>) {
        let (status, too_late) = rules::shown_status(self.order.status);
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
