//! Owns the statements that hold at any moment: under load, in the middle of every fault, and after
//! it. Refuses to wait for anything to settle, so it never asks whether something has happened yet.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{self, RESERVED};
use super::story::Story;
use super::world::Event;
use super::{Case, Found, Statement};
use crate::SERVICES;
use crate::wire::{Entry, Line};

pub(super) const STATEMENTS: [Statement; 18] = [
    ("an order is charged once at most", |case| case.each(|story| once(story, "capture"))),
    ("a parcel is booked once at most", |case| case.each(|story| once(story, "book"))),
    ("refunds never exceed the charge that they name", |case| case.each(refunds)),
    ("every effect was wanted", |case| case.each(unwanted)),
    ("a step has one key for ever", |case| case.each(keys)),
    ("stock is conserved", stock),
    ("an order holds every line or none", |case| case.each(lines)),
    ("events are numbered without a gap", |case| case.each(numbers)),
    ("a service says a word of its machine", |case| case.each(words)),
    ("a state has said what led to it", |case| case.each(states)),
    ("a parcel follows its charge", |case| case.each(parcels)),
    ("an event is handled once", handled_twice),
    ("an event has a cause that its producer has handled", causes),
    ("a cause has one decision", decisions),
    ("the unknown compensates nobody", |case| case.each(unknowns)),
    ("a call stays within its bounds", calls),
    ("an answer that was given is true", answers),
    ("every row lies in its week", strays),
];

fn once(story: &Story<'_>, operation: &str) -> Option<String> {
    let count = story.entries(operation).len();
    (count > 1).then(|| format!("{count} times"))
}

fn refunds(story: &Story<'_>) -> Option<String> {
    let sum = |entries: &[&Entry]| -> i64 {
        entries.iter().filter_map(|entry| entry.amount_minor).fold(0, i64::saturating_add)
    };
    let (charges, refunds) = (story.entries("capture"), story.entries("refund"));
    if sum(&refunds) > sum(&charges) {
        return Some(format!("{} charged and {} refunded", sum(&charges), sum(&refunds)));
    }
    let names_a_charge = |refund: &&&Entry| {
        charges.iter().any(|charge| {
            refund.capture_reference.as_ref() == Some(&charge.reference)
                && refund.currency == charge.currency
                && refund.seq > charge.seq
        })
    };
    let stranger = refunds.iter().find(|refund| !names_a_charge(refund));
    stranger.map(|refund| format!("{refund:?} names none of its charges"))
}

/// What was done outside had been written down before, and for this amount.
fn unwanted(story: &Story<'_>) -> Option<String> {
    story.ledger.iter().find_map(|entry| {
        let (service, wanted) = rules::wanted_in(&entry.operation);
        let status = story.status(service);
        if !wanted.contains(&status) {
            return Some(format!("a {} while {service} is at {status}", entry.operation));
        }
        let order = story.order?;
        let total = (Some(order.amount_minor), Some(order.asked.currency.as_str()));
        let other = (entry.amount_minor, entry.currency.as_deref());
        (service == "payment" && other != total)
            .then(|| format!("a {} of {other:?} instead of {total:?}", entry.operation))
    })
}

fn keys(story: &Story<'_>) -> Option<String> {
    let mut by_step = BTreeMap::<&str, BTreeSet<&str>>::new();
    for entry in &story.ledger {
        by_step.entry(&entry.operation).or_default().insert(&entry.idempotency_key);
    }
    for call in &story.calls {
        by_step.entry(&call.step).or_default().insert(&call.idempotency_key);
    }
    let (step, keys) = by_step.into_iter().find(|(_, keys)| keys.len() > 1)?;
    Some(format!("{step} under {keys:?}"))
}

fn stock(case: &Case<'_>) -> Found {
    let mut held = BTreeMap::<&str, i64>::new();
    for (sku, units) in
        case.world.reservations.values().filter_map(|row| row.held.as_ref()).flatten()
    {
        *held.entry(sku).or_default() += units;
    }
    let mut found = Found::new();
    for shelf in &case.world.shelves {
        let held = held.remove(shelf.sku.as_str()).unwrap_or_default();
        if shelf.available < 0 || held < 0 || shelf.available + held != shelf.counted {
            found.push((None, format!("{shelf:?} with {held} held")));
        }
    }
    found.extend(held.into_iter().map(|(sku, held)| (None, format!("{held} held of no {sku}"))));
    found
}

fn lines(story: &Story<'_>) -> Option<String> {
    let row = story.reservation?;
    let held = row.held.as_ref();
    if row.status != RESERVED {
        return held.map(|held| format!("{held:?} is held at {}", row.status));
    }
    let mut wanted = BTreeMap::<String, i64>::new();
    for Line { sku, quantity, .. } in story.order.map_or(&[][..], |order| &order.asked.lines) {
        *wanted.entry(sku.clone()).or_default() += i64::from(*quantity);
    }
    (held != Some(&wanted)).then(|| format!("{held:?} is held of {wanted:?}"))
}

fn numbers(story: &Story<'_>) -> Option<String> {
    let services = SERVICES.into_iter().zip(&story.events).zip(story.numbers);
    services.into_iter().find_map(|((service, events), said)| {
        let numbers: Vec<_> = events.iter().map(|event| event.version).collect();
        let whole = numbers.iter().copied().eq((1..=said).map(Some));
        (!whole).then(|| format!("{service} counts {said} and has {numbers:?}"))
    })
}

fn words(story: &Story<'_>) -> Option<String> {
    let (service, said) = story.words().find(|(service, said)| !rules::is_a_word(service, said))?;
    Some(format!("{service} said {said:?}"))
}

fn states(story: &Story<'_>) -> Option<String> {
    let led = |((service, said), status): &((&str, Vec<&str>), i16)| {
        rules::words(service, *status).contains(&said.as_slice())
    };
    let ((service, said), status) = story.words().zip(story.states).find(|it| !led(it))?;
    Some(format!("{service} is at {status} and said {said:?}"))
}

fn parcels(story: &Story<'_>) -> Option<String> {
    let charged_at = story.entries("capture").first().map_or(u64::MAX, |charge| charge.seq);
    let early = story.entries("book").into_iter().find(|booking| booking.seq < charged_at);
    if let Some(booking) = early {
        return Some(format!("{booking:?} before any charge"));
    }
    let moved = ["ShipmentBooked", "ShipmentFailed"].into_iter().find(|name| story.has_said(name));
    let moved = moved.filter(|_| !story.has_said("PaymentCaptured"))?;
    Some(format!("{moved} without PaymentCaptured"))
}

fn handled_twice(case: &Case<'_>) -> Found {
    let mut seen = BTreeSet::new();
    let again = case.world.inbox.iter().filter(|row| !seen.insert((row.event_id, &row.consumer)));
    again.map(|row| (None, format!("{} by {} again", row.event_id, row.consumer))).collect()
}

/// Whatever a service says because of an event, it has heard that event, and says so in its inbox.
fn causes(case: &Case<'_>) -> Found {
    let world = case.world;
    let events: BTreeMap<_, _> = world.events.iter().map(|event| (event.id, event)).collect();
    let handled: BTreeSet<_> =
        world.inbox.iter().map(|row| (row.event_id, row.consumer.as_str())).collect();
    let wrong = |event: &Event| {
        let Some(heard) = event.cause else {
            let may = rules::CAUSED_BY_NO_EVENT.contains(&event.name());
            return (!may).then(|| "has no cause".to_owned());
        };
        let Some(heard) = events.get(&heard) else {
            let wrong = !case.made_up.contains(&heard);
            return wrong.then(|| format!("its cause {heard} was never said"));
        };
        if heard.subject != event.subject {
            return Some(format!("its cause is about order {}", heard.subject));
        }
        if !rules::hearers(heard.name()).contains(&event.service.as_str()) {
            return Some(format!("{} is not for {}", heard.name(), event.service));
        }
        (!handled.contains(&(heard.id, event.service.as_str())))
            .then(|| format!("{} has not handled its {}", event.service, heard.name()))
    };
    let found = world.events.iter().filter_map(|event| Some((event, wrong(event)?)));
    found
        .map(|(event, wrong)| (Some(event.subject), format!("{}: {wrong}", event.name())))
        .collect()
}

/// One event at a time, or a fact with the compensation that follows from it, at once.
fn decisions(case: &Case<'_>) -> Found {
    let mut caused = BTreeMap::<_, Vec<&Event>>::new();
    for event in &case.world.events {
        if let Some(cause) = event.cause {
            caused.entry((cause, event.service.as_str())).or_default().push(event);
        }
    }
    let one = |events: &[&Event]| match events {
        [_] => true,
        [fact, wanted] => {
            rules::SAID_TOGETHER.contains(&[fact.name(), wanted.name()])
                && fact.version.map(|version| version + 1) == wanted.version
        }
        _ => false,
    };
    let several = caused.into_iter().filter(|(_, events)| !one(events));
    several
        .map(|((cause, service), events)| {
            let said: Vec<_> = events.iter().map(|event| event.name()).collect();
            (Some(events[0].subject), format!("{service} said {said:?} because of {cause}"))
        })
        .collect()
}

fn unknowns(story: &Story<'_>) -> Option<String> {
    story.calls.iter().find_map(|call| {
        let (_, said) = story.words().find(|(service, _)| *service == call.service)?;
        let early = said.iter().find(|said| rules::NEEDS_A_DEFINITE_ANSWER.contains(said))?;
        Some(format!("{early} while the {} is open", call.step))
    })
}

/// Whoever asks again is in doubt, and nobody asks more often or longer than agreed.
fn calls(case: &Case<'_>) -> Found {
    let wrong = case.world.calls.iter().filter(|call| {
        call.attempts > rules::ATTEMPTS_MAX
            || (call.attempts > 1 && !call.in_doubt)
            || call.late_seconds.is_some_and(|late| late > rules::DEADLINE_SLACK_SECONDS)
    });
    wrong.map(|call| (Some(call.subject), format!("{call:?}"))).collect()
}

/// A kept answer and what it speaks of were committed together: each order has one.
fn answers(case: &Case<'_>) -> Found {
    let stories: BTreeMap<_, _> = case.stories.iter().map(|story| (story.subject, story)).collect();
    let (mut found, mut placed) = (Found::new(), BTreeMap::new());
    for answer in &case.world.answers {
        let story = answer.order_id.and_then(|order_id| stories.get(&order_id));
        let status = story.map_or(0, |story| story.status("order"));
        let is_true = match (answer.route.ends_with("/cancel"), answer.status) {
            (false, 202) => status > 0,
            (true, 202) => story.is_some_and(|story| story.has_said("OrderCancelRequested")),
            (true, 200) => status >= rules::CONFIRMED,
            _ => false,
        };
        if !is_true {
            found.push((answer.order_id, format!("{answer:?} of an order at {status}")));
        }
        if !answer.route.ends_with("/cancel") {
            *placed.entry(answer.order_id).or_insert(0) += 1;
        }
    }
    for order_id in case.world.orders.keys() {
        let answers = placed.get(&Some(*order_id)).copied().unwrap_or(0);
        if answers != 1 {
            found.push((Some(*order_id), format!("{answers} requests were answered with it")));
        }
    }
    found
}

fn strays(case: &Case<'_>) -> Found {
    let events = case.world.events.iter().filter(|event| event.is_stray).map(|event| event.id);
    let handled = case.world.inbox.iter().filter(|row| row.is_stray).map(|row| row.event_id);
    events.chain(handled).map(|id| (None, format!("event {id} lies in no week"))).collect()
}
