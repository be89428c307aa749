//! Owns the working copy of a batch's states. Refuses to touch the database.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saga::Participant;
use store::Error;
use uuid::Uuid;

/// The states that one batch works on.
pub trait Desk<P: Participant + ?Sized>: Send + Sync {
    /// The state that `input` meets.
    fn view(&self, subject: Uuid, input: &P::Input) -> Cow<'_, P::State>;

    /// Replaces it. `events` more are said about the subject; the answer is the number of the
    /// first of them.
    fn put(&mut self, subject: Uuid, state: P::State, events: u32) -> u32;
}

/// One aggregate's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<T> {
    pub state: T,
    /// As loaded; 0: there is no row yet.
    pub version: i32,
    /// The number of the last event said about it.
    pub said: i32,
    changed: bool,
}

/// The rows of a batch, one per subject: the desk of a service whose subjects share nothing.
#[derive(Debug, Clone)]
pub struct Rows<T> {
    rows: BTreeMap<Uuid, Row<T>>,
    absent: T,
}

impl<T: Clone + Default> Rows<T> {
    /// From what was loaded: subject, version, number of the last event, state. A state that is
    /// not there is a row that no code of ours has written: poison for the input that needs it.
    pub fn read(
        loaded: impl IntoIterator<Item = (Uuid, i32, i32, Option<T>)>,
    ) -> Result<Self, Error> {
        let rows = loaded.into_iter().map(|(subject, version, said, state)| {
            let broken = || Error::Poison(format!("the row of {subject} cannot be read back"));
            let state = state.ok_or_else(broken)?;
            Ok((subject, Row { state, version, said, changed: false }))
        });
        Ok(Self { rows: rows.collect::<Result<_, Error>>()?, absent: T::default() })
    }

    pub fn state(&self, subject: Uuid) -> &T {
        self.rows.get(&subject).map_or(&self.absent, |row| &row.state)
    }

    /// Replaces a state; the answer is the number of the first of `events` said about it.
    pub fn replace(&mut self, subject: Uuid, state: T, events: u32) -> u32 {
        let row = self.rows.entry(subject).or_insert_with(|| Row {
            state: T::default(),
            version: 0,
            said: 0,
            changed: false,
        });
        let first = row.said.cast_unsigned() + 1;
        row.state = state;
        row.said += events.cast_signed();
        row.changed = true;
        first
    }

    /// What `save` has to write, ordered by id.
    pub fn changed(&self) -> Vec<(Uuid, &Row<T>)> {
        self.rows.iter().filter(|(_, row)| row.changed).map(|(id, row)| (*id, row)).collect()
    }
}

impl<P: Participant> Desk<P> for Rows<P::State> {
    fn view(&self, subject: Uuid, _: &P::Input) -> Cow<'_, P::State> {
        Cow::Borrowed(self.state(subject))
    }

    fn put(&mut self, subject: Uuid, state: P::State, events: u32) -> u32 {
        self.replace(subject, state, events)
    }
}
