//! Owns the verdict on a whole run: named statements over everything that was read of a stack.
//! Refuses to ask anybody, to wait, and to share more with the services than what is on the wire.
//!
//! [`always`] holds at any moment, under load and in the middle of every fault; [`quiet`] holds once
//! nothing moves any more. Every statement is a pure function over a [`World`], so what they find is
//! tried on worlds that were corrupted on purpose: see [`corruptions`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use testkit::wait;
use uuid::Uuid;

mod always;
pub mod corruptions;
mod quiet;
mod read;
pub mod rules;
mod story;
mod topics;
pub mod world;

pub use world::World;

use crate::stack::Stack;
use crate::whole::DeadLetter;
use crate::wire::NewOrder;
use story::Story;

/// So many violations tell enough.
const SHOWN_MAX: usize = 20;

/// A statement that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub statement: &'static str,
    /// The order that it is about, if it is about one.
    pub subject: Option<Uuid>,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Some(order_id) => write!(f, "{}: order {order_id}: {}", self.statement, self.detail),
            None => write!(f, "{}: {}", self.statement, self.detail),
        }
    }
}

/// What those who drove the run know of it.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What was answered 202, by the id in the answer.
    pub acknowledged: BTreeMap<Uuid, NewOrder>,
    /// What was sent and never answered, by its idempotency key.
    pub unknown: BTreeMap<String, NewOrder>,
    /// Orders whose cancel was answered 202.
    pub cancelled: BTreeSet<Uuid>,
    /// The dead letters that must be open, one for each.
    pub dead_letters: Vec<DeadLetter>,
    /// Ids of records that the run itself made up. A record with a header `injected` is one, too.
    pub injected_event_ids: BTreeSet<Uuid>,
    /// The broker forgot what it had, and events were published again.
    pub republished: bool,
}

/// What a statement looks at.
struct Case<'a> {
    world: &'a World,
    stories: Vec<Story<'a>>,
    known: &'a Known,
    /// Events that no service has said: the run itself put them into the topics.
    made_up: BTreeSet<Uuid>,
}

/// Whom a violation is about, and what is wrong.
type Found = Vec<(Option<Uuid>, String)>;

/// A sentence that holds, and the search for what contradicts it.
type Statement = (&'static str, fn(&Case<'_>) -> Found);

impl<'a> Case<'a> {
    fn new(world: &'a World, known: &'a Known) -> Self {
        let records = world.outside.iter().flat_map(|outside| &outside.records);
        let marked = records.filter(|record| record.injected).filter_map(|record| record.id);
        let made_up = known.injected_event_ids.iter().copied().chain(marked).collect();
        Self { world, stories: story::stories(world), known, made_up }
    }

    /// Looks at one order after the other.
    fn each(&self, wrong: impl Fn(&Story<'_>) -> Option<String>) -> Found {
        let found = |story: &Story<'_>| Some((Some(story.subject), wrong(story)?));
        self.stories.iter().filter_map(found).collect()
    }

    fn violations<'s>(
        &self,
        statements: impl IntoIterator<Item = &'s Statement>,
    ) -> Vec<Violation> {
        let of = |(statement, contradictions): &Statement| {
            let found = contradictions(self).into_iter();
            let statement = *statement;
            found
                .map(move |(subject, detail)| Violation { statement, subject, detail })
                .collect::<Vec<_>>()
        };
        statements.into_iter().flat_map(of).collect()
    }
}

/// What contradicts the statements that hold at any moment.
pub fn always(world: &World) -> Vec<Violation> {
    Case::new(world, &Known::default()).violations(&always::STATEMENTS)
}

/// What contradicts those that hold once nothing moves; the world is one that was read in full.
pub fn quiet(world: &World, known: &Known) -> Vec<Violation> {
    Case::new(world, known).violations(&quiet::STATEMENTS)
}

/// Waits until the quiet statements hold, and gives the world in which they do; fails with what
/// contradicts them to the end.
pub async fn until_quiet(stack: &Stack, known: &Known, at_most: Duration) -> anyhow::Result<World> {
    let mut last = Vec::new();
    let held = wait::until(at_most, "nothing to be wrong any more", async || {
        // The tables alone are cheap to read, and tell while orders are still on their way.
        for in_full in [false, true] {
            let world = World::of(stack, in_full).await;
            let world = world.inspect_err(|error| last = vec![format!("{error:#}")]).ok()?;
            let mut found = quiet(&world, known);
            found.retain(|it| in_full || it.statement != quiet::READ_IN_FULL);
            last = found.iter().take(SHOWN_MAX).map(Violation::to_string).collect();
            if !found.is_empty() {
                return None;
            }
            if in_full {
                return Some(world);
            }
        }
        None
    });
    held.await.with_context(|| last.join("\n"))
}

/// Every statement by name, for a report that shows its zeros.
pub fn statements() -> impl Iterator<Item = &'static str> {
    always::STATEMENTS.iter().chain(&quiet::STATEMENTS).map(|(name, _)| *name)
}
