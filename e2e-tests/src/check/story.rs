//! Owns the index of a world by order: each order with all that concerns it. Refuses to judge.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::rules::States;
use super::world::{Call, Event, OrderRow, ReservationRow, World};
use crate::SERVICES;
use crate::wire::Entry;

/// All that concerns one order.
#[derive(Debug, Default)]
pub(super) struct Story<'a> {
    pub subject: Uuid,
    pub order: Option<&'a OrderRow>,
    pub reservation: Option<&'a ReservationRow>,
    pub states: States,
    /// The number of the last event that each service believes to have said.
    pub numbers: [i32; 4],
    /// What each service said, by number; as [`SERVICES`] are ordered.
    pub events: [Vec<&'a Event>; 4],
    pub calls: Vec<&'a Call>,
    /// In the order of their commit.
    pub ledger: Vec<&'a Entry>,
}

/// A story for whatever an event, a row, a call or an effect is about.
pub(super) fn stories(world: &World) -> Vec<Story<'_>> {
    let mut stories = BTreeMap::<Uuid, Story<'_>>::new();
    for entry in &world.ledger {
        stories.entry(entry.order_id).or_default().ledger.push(entry);
    }
    for call in &world.calls {
        stories.entry(call.subject).or_default().calls.push(call);
    }
    for event in &world.events {
        let Some(place) = place(&event.service) else { continue };
        stories.entry(event.subject).or_default().events[place].push(event);
    }
    let rows = (world.orders.keys())
        .chain(world.reservations.keys())
        .chain(world.payments.keys())
        .chain(world.shipments.keys());
    for subject in rows {
        stories.entry(*subject).or_default();
    }
    for (subject, story) in &mut stories {
        story.subject = *subject;
        story.order = world.orders.get(subject);
        story.reservation = world.reservations.get(subject);
        story.states = world.states(*subject);
        story.numbers = world.numbers(*subject);
    }
    stories.into_values().collect()
}

fn place(service: &str) -> Option<usize> {
    SERVICES.iter().position(|name| *name == service)
}

impl<'a> Story<'a> {
    /// Each service with what it said, in its own order.
    pub fn words(&self) -> impl Iterator<Item = (&'static str, Vec<&'a str>)> {
        SERVICES.into_iter().zip(&self.events).map(|(service, events)| {
            let said = events.iter().map(|event| event.name());
            (service, said.collect())
        })
    }

    pub fn has_said(&self, name: &str) -> bool {
        self.events.iter().flatten().any(|event| event.name() == name)
    }

    /// Effects of one kind.
    pub fn entries(&self, operation: &str) -> Vec<&'a Entry> {
        self.ledger.iter().filter(|entry| entry.operation == operation).copied().collect()
    }

    pub fn status(&self, service: &str) -> i16 {
        place(service).map_or(0, |place| self.states[place])
    }
}
