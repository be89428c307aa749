//! Owns the statements that hold once faults are healed and nothing moves any more. Refuses to judge
//! a world that was not read in full.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::rules;
use super::story::Story;
use super::world::{Event, Outside, Spoken, Told};
use super::{Case, Found, Statement};
use crate::whole::DeadLetter;
use crate::wire::{NewOrder, Shown};

/// Without that, half of the others would hold for nothing.
pub(super) const READ_IN_FULL: &str = "the world was read in full";

pub(super) const STATEMENTS: [Statement; 12] = [
    ("what was acknowledged is there as it was asked for", acknowledged),
    ("what was never answered happened in full or not at all", unanswered),
    ("the services agree on an end, or a person is told", ends),
    ("money and parcels are what the end says", |case| case.each(effects)),
    ("nothing is left under way", left),
    ("every event is handled or set aside by all who hear it", heard),
    ("dead letters are those that had to be", dead_letters),
    ("customers are shown what is stored", shown),
    ("the timeline tells each event once", timeline),
    ("the topics hold nothing but what was said", phantoms),
    ("what was said is in its topic", unsaid),
    (READ_IN_FULL, |case| match case.world.outside {
        Some(_) => Found::new(),
        None => vec![(None, "topics and answers are missing".to_owned())],
    }),
];

fn outside<'a>(case: &'a Case<'_>) -> Option<&'a Outside> {
    case.world.outside.as_ref()
}

fn is_asked(case: &Case<'_>, order_id: Uuid, asked: &NewOrder) -> Option<String> {
    match case.world.orders.get(&order_id) {
        None => Some("it is not there".to_owned()),
        Some(row) if row.asked != *asked => Some(format!("{:?} instead of {asked:?}", row.asked)),
        Some(_) => None,
    }
}

fn acknowledged(case: &Case<'_>) -> Found {
    let orders = case.known.acknowledged.iter();
    let mut found: Found = orders
        .filter_map(|(order_id, asked)| Some((Some(*order_id), is_asked(case, *order_id, asked)?)))
        .collect();
    let requested: BTreeSet<_> = (case.stories.iter())
        .filter(|story| story.has_said("OrderCancelRequested"))
        .map(|story| story.subject)
        .collect();
    let forgotten = case.known.cancelled.difference(&requested);
    found.extend(forgotten.map(|order_id| (Some(*order_id), "its cancel is forgotten".to_owned())));
    found
}

/// In full: the answer that is kept for the key names an order, and it is the one asked for.
fn unanswered(case: &Case<'_>) -> Found {
    let kept = case.world.answers.iter().filter(|answer| !answer.route.ends_with("/cancel"));
    kept.filter_map(|answer| {
        let asked = case.known.unknown.get(&answer.key)?;
        let wrong = answer.order_id.map_or_else(
            || Some("its answer names no order".to_owned()),
            |order_id| is_asked(case, order_id, asked),
        );
        Some((answer.order_id, wrong?))
    })
    .collect()
}

/// An order that has not come to an end is stuck: an open dead letter says so.
fn ends(case: &Case<'_>) -> Found {
    let told: BTreeSet<_> =
        case.world.dead_letters.iter().filter_map(|letter| letter.subject).collect();
    case.each(|story| {
        let requested = story.has_said("OrderCancelRequested");
        let ended = rules::is_an_end(story.states, requested);
        (!ended && !told.contains(&story.subject))
            .then(|| format!("{:?}, cancel requested: {requested}", story.states))
    })
}

/// Of an order that is stuck, what holds at any moment is all that holds.
fn effects(story: &Story<'_>) -> Option<String> {
    if !rules::is_an_end(story.states, story.has_said("OrderCancelRequested")) {
        return None;
    }
    let found = ["capture", "refund", "book"].map(|operation| story.entries(operation).len());
    let wanted = rules::effects_of(story.states);
    (found != wanted)
        .then(|| format!("{found:?} instead of {wanted:?} charges, refunds and bookings"))
}

fn left(case: &Case<'_>) -> Found {
    let unsent = case.world.outbox.iter().map(|row| (None, format!("{row:?}")));
    let told: BTreeSet<_> = (case.world.dead_letters.iter())
        .filter(|letter| letter.consumer == "call")
        .filter_map(|letter| letter.subject)
        .collect();
    let calls = case.world.calls.iter();
    let open = calls.filter(|call| !call.is_stuck || !told.contains(&call.subject));
    unsent.chain(open.map(|call| (Some(call.subject), format!("{call:?}")))).collect()
}

fn heard(case: &Case<'_>) -> Found {
    let world = case.world;
    let set_aside = (world.dead_letters.iter())
        .filter_map(|letter| Some((letter.event_id()?, letter.consumer.as_str())));
    let settled: BTreeSet<_> = (world.inbox.iter())
        .map(|row| (row.event_id, row.consumer.as_str()))
        .chain(set_aside)
        .collect();
    let missed = world.events.iter().flat_map(|event| {
        let hearers = rules::hearers(event.name()).iter();
        hearers.filter(|by| !settled.contains(&(event.id, **by))).map(move |by| (event, by))
    });
    missed.map(|(event, by)| (Some(event.subject), format!("{} by {by}", event.name()))).collect()
}

/// Neither one more nor one less: each is of an input that could not be handled.
fn dead_letters(case: &Case<'_>) -> Found {
    let mut open = BTreeMap::<DeadLetter, i64>::new();
    for letter in &case.world.dead_letters {
        let (service, consumer) = (letter.service.clone(), letter.consumer.clone());
        *open.entry(DeadLetter { service, consumer, code: letter.code.clone() }).or_default() += 1;
    }
    for letter in &case.known.dead_letters {
        *open.entry(letter.clone()).or_default() -= 1;
    }
    let wrong = open.into_iter().filter(|(_, surplus)| *surplus != 0);
    wrong.map(|(letter, surplus)| (None, format!("{surplus:+} of {letter:?}"))).collect()
}

fn shown(case: &Case<'_>) -> Found {
    let Some(outside) = outside(case) else { return Found::new() };
    case.each(|story| {
        let row = story.order?;
        let Some(shown) = outside.shown.get(&story.subject) else {
            return Some("nothing is shown".to_owned());
        };
        let (status, too_late) = rules::shown_status(row.status);
        let reason = row.reason.as_deref().and_then(|reason| reason.split_once('@'));
        let total = shown.total.as_ref();
        let same = shown.status == status
            && (shown.cancel.as_deref() == Some("too_late")) == too_late
            && shown.reason.as_ref().map(|it| (&*it.code, &*it.service)) == reason
            && total.is_some_and(|total| total.amount_minor == row.amount_minor)
            && total.is_some_and(|total| total.currency == row.asked.currency)
            && (!shown.is_terminal() || tells_of(shown) == rules::shown_at_the_end(story.states));
        (!same).then(|| format!("{shown:?} of {row:?} in {:?}", story.states))
    })
}

fn tells_of(shown: &Shown) -> [&str; 3] {
    shown.effects.as_ref().map_or([""; 3], |effects| {
        [&effects.inventory, &effects.payment, &effects.shipping].map(|it| it.status.as_str())
    })
}

fn timeline(case: &Case<'_>) -> Found {
    let Some(outside) = outside(case) else { return Found::new() };
    let said: BTreeSet<_> = case.world.events.iter().map(|event| event.id).collect();
    let mut told = BTreeMap::<Told, i64>::new();
    for row in &outside.timeline {
        if said.contains(&row.event_id) || !case.made_up.contains(&row.event_id) {
            *told.entry(row.clone()).or_default() += 1;
        }
    }
    for event in &case.world.events {
        let row = Told {
            order_id: event.subject,
            event_id: event.id,
            service: event.service.clone(),
            version: event.version,
            name: event.name().to_owned(),
            cause: event.cause,
        };
        *told.entry(row).or_default() -= 1;
    }
    let wrong = told.into_iter().filter(|(_, surplus)| *surplus != 0);
    wrong.map(|(row, surplus)| (Some(row.order_id), format!("{surplus:+} of {row:?}"))).collect()
}

/// Each record is an event that its producer has said, to the byte.
fn phantoms(case: &Case<'_>) -> Found {
    let Some(outside) = outside(case) else { return Found::new() };
    let events: BTreeMap<_, _> = case.world.events.iter().map(|it| (Some(it.id), it)).collect();
    let wrong = outside.records.iter().filter(|record| {
        let said = events.get(&record.id).is_some_and(|event| is_said(event, record));
        let made_up = record.injected || record.id.is_some_and(|id| case.made_up.contains(&id));
        !said && !made_up
    });
    wrong.map(|record| (record.subject, format!("nobody said {record:?}"))).collect()
}

fn is_said(event: &Event, record: &Spoken) -> bool {
    record.service == event.service
        && record.subject == Some(event.subject)
        && record.key.as_deref() == Some(event.subject.to_string().as_bytes())
        && record.version == event.version
        && record.kind == event.kind
        && record.cause == event.cause
        && record.body.as_ref() == Some(&event.body)
}

fn unsaid(case: &Case<'_>) -> Found {
    let Some(outside) = outside(case) else { return Found::new() };
    if case.known.republished {
        return Found::new();
    }
    let ours = outside.records.iter().filter(|record| !record.injected);
    let mut there: BTreeSet<_> = ours.filter_map(|record| record.id).collect();
    there.extend(case.world.outbox.iter().map(|unsent| unsent.event_id));
    let missing = case.world.events.iter().filter(|event| !there.contains(&event.id));
    missing.map(|event| (Some(event.subject), event.name().to_owned())).collect()
}
