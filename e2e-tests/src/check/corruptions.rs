//! Owns the corruptions that are planted to try the checker: one that finds nothing proves nothing.
//! Refuses to count one as found unless a statement that is meant for it finds it.

use uuid::Uuid;

use super::world::{Event, Outside, World};
use super::{Case, Known, Statement, always, quiet};
use crate::wire::Entry;

/// What is planted, how, and the statement that must find it.
pub struct Corruption {
    pub name: &'static str,
    pub found_by: &'static str,
    /// Nothing, if the world has nothing that it could be planted in.
    plant: fn(&mut World, &Known) -> Option<()>,
}

pub const CORRUPTIONS: [Corruption; 12] = [
    Corruption {
        name: "an extra charge",
        found_by: "an order is charged once at most",
        plant: |world, _| again(world, "capture"),
    },
    Corruption {
        name: "a refund without a charge",
        found_by: "refunds never exceed the charge that they name",
        plant: refund_without_charge,
    },
    Corruption {
        name: "a second booking",
        found_by: "a parcel is booked once at most",
        plant: |world, _| again(world, "book"),
    },
    Corruption {
        name: "a deleted event",
        found_by: "events are numbered without a gap",
        plant: |world, _| world.events.pop().map(drop),
    },
    Corruption {
        name: "a changed body",
        found_by: "the topics hold nothing but what was said",
        plant: |world, _| {
            world.events.iter_mut().find_map(|event| event.body.last_mut()).map(|byte| *byte ^= 1)
        },
    },
    Corruption {
        name: "a swapped version",
        found_by: "a service says a word of its machine",
        plant: swapped_version,
    },
    Corruption {
        name: "a phantom record",
        found_by: "the topics hold nothing but what was said",
        plant: |world, _| {
            let Outside { records, .. } = world.outside.as_mut()?;
            let mut phantom = records.iter().find(|record| !record.injected)?.clone();
            phantom.id = Some(Uuid::from_u128(1));
            records.push(phantom);
            Some(())
        },
    },
    Corruption {
        name: "a lost reservation",
        found_by: "stock is conserved",
        plant: |world, _| {
            let held = world.reservations.values().find(|row| row.held.is_some())?.order_id;
            world.reservations.remove(&held).map(drop)
        },
    },
    Corruption {
        name: "stock that is off by one",
        found_by: "stock is conserved",
        plant: |world, _| world.shelves.first_mut().map(|shelf| shelf.available += 1),
    },
    Corruption {
        name: "a second key for a step",
        found_by: "a step has one key for ever",
        plant: |world, _| {
            again(world, "capture")?;
            world.ledger.last_mut().map(|entry| entry.idempotency_key.push_str("-again"))
        },
    },
    Corruption {
        name: "an acknowledged order that is deleted",
        found_by: "what was acknowledged is there as it was asked for",
        plant: |world, known| {
            let order_id = known.acknowledged.keys().find(|id| world.orders.contains_key(id))?;
            world.orders.remove(order_id).map(drop)
        },
    },
    Corruption {
        name: "an aggregate that is put back one state",
        found_by: "a state has said what led to it",
        plant: |world, _| {
            world.payments.values_mut().find(|row| row.status == 4).map(|row| row.status = 2)
        },
    },
];

/// Plants each corruption alone and names those that their statement does not find. The world must
/// be one in which nothing else is found.
pub fn not_found(world: &World, known: &Known) -> Vec<&'static str> {
    let missed = |corruption: &&Corruption| {
        let mut world = world.clone();
        let planted = (corruption.plant)(&mut world, known);
        planted.is_none() || !is_found(&world, known, corruption.found_by)
    };
    CORRUPTIONS.iter().filter(missed).map(|corruption| corruption.name).collect()
}

fn is_found(world: &World, known: &Known, by: &str) -> bool {
    let statements = always::STATEMENTS.iter().chain(&quiet::STATEMENTS);
    let meant: Vec<&Statement> = statements.filter(|(name, _)| *name == by).collect();
    !Case::new(world, known).violations(meant).is_empty()
}

/// The same effect once more, later.
fn again(world: &mut World, operation: &str) -> Option<()> {
    let mut entry = world.ledger.iter().find(|entry| entry.operation == operation)?.clone();
    entry.seq = next_seq(world);
    world.ledger.push(entry);
    Some(())
}

fn next_seq(world: &World) -> u64 {
    world.ledger.last().map_or(1, |entry| entry.seq + 1)
}

/// Of an order that nobody charged.
fn refund_without_charge(world: &mut World, _: &Known) -> Option<()> {
    let is_charged = |order_id: &Uuid| world.ledger.iter().any(|it| it.order_id == *order_id);
    let order = world.orders.values().find(|row| !is_charged(&row.order_id))?;
    let refund = Entry {
        seq: next_seq(world),
        operation: "refund".to_owned(),
        order_id: order.order_id,
        idempotency_key: format!("{}-refund", order.order_id),
        amount_minor: Some(order.amount_minor),
        currency: Some(order.asked.currency.clone()),
        reference: "ref_1".to_owned(),
        capture_reference: Some("cap_1".to_owned()),
    };
    world.ledger.push(refund);
    Some(())
}

/// Two events of one service change places.
fn swapped_version(world: &mut World, _: &Known) -> Option<()> {
    let neighbours =
        |pair: &[Event]| (pair[0].subject, &pair[0].service) == (pair[1].subject, &pair[1].service);
    let place = world.events.windows(2).position(neighbours)?;
    let (first, second) = (world.events[place].version, world.events[place + 1].version);
    world.events[place].version = second;
    world.events[place + 1].version = first;
    world.events.swap(place, place + 1);
    Some(())
}
