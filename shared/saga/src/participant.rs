//! Owns the shape of a participant. Refuses to run one.

use crate::{Decision, Event, Heard};

/// One service of a saga: two pure functions over its own types.
pub trait Participant: Send + Sync + 'static {
    /// The service's name: its schema, its consumer group, the producer of its events.
    const NAME: &'static str;
    /// The events of the producers that it subscribes to.
    type Heard: Heard;
    /// Its state for one subject; the default is "absent".
    type State: Clone + Default + Send + Sync + 'static;
    type Input: Clone + Send + Sync + 'static;
    /// What it says.
    type Event: Event;
    /// What it wants from outside.
    type Call: Clone + Send + Sync + 'static;
    /// Why it refuses a command.
    type Rejection: Clone + Send + Sync + 'static;

    /// What an event means here; `None`: nothing.
    fn route(heard: &Self::Heard) -> Option<Self::Input>;

    /// What an input does to a state. Pure, idempotent, and independent of the order of inputs.
    fn decide(
        state: &Self::State,
        input: &Self::Input,
    ) -> Decision<Self::State, Self::Event, Self::Call, Self::Rejection>;
}
