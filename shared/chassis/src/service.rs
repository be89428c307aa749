//! Owns what a service must bring to be run. Refuses to know what it does.

use calls::{Destination, Wanted};
use chrono::{DateTime, Utc};
use saga::{Participant, Settled, Trace};
use sqlx::PgConnection;
use store::Error;
use uuid::Uuid;

use crate::{Desk, View};

/// A participant with its rows: what a service's `store.rs` brings.
pub trait Stored: Participant {
    /// The states of one batch, between `load` and `save`.
    type Desk: Desk<Self>;

    /// The service's own tables.
    fn migrations() -> store::Migrations;

    /// Reads the states of a batch in one query, ordered by id, `for update`. A subject without a
    /// row is absent.
    fn load(
        tx: &mut PgConnection,
        batch: &[(Uuid, &Self::Input)],
    ) -> impl Future<Output = Result<Self::Desk, Error>> + Send;

    /// Writes what has changed in one statement. Fewer rows written than changed:
    /// [`Error::Rerun`], which [`store::all_saved`] makes.
    fn save(
        &self,
        tx: &mut PgConnection,
        desk: &Self::Desk,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// What has become due by the clock since `mark`, asked once a second in one process of the
    /// service.
    fn due(
        _connection: &mut PgConnection,
        _mark: Option<DateTime<Utc>>,
    ) -> impl Future<Output = Result<Due<Self::Input>, Error>> + Send {
        async { Ok(Due { mark: None, inputs: Vec::new() }) }
    }

    /// Read models that live in this service's process.
    fn views() -> Vec<View> {
        Vec::new()
    }
}

/// What the shell needs to run a participant: its rows, whom it calls, what it counts.
pub trait Service: Stored {
    /// An outside call as its destination wants to be asked.
    fn wanted(subject: Uuid, call: &Self::Call) -> Wanted;

    /// What a settled call means. `None`: no step of that name, or an outcome that cannot be.
    fn answered(step: &str, settled: &Settled) -> Option<Self::Input>;

    /// Whom it calls.
    fn destinations(&self) -> Vec<Destination> {
        Vec::new()
    }

    /// Counts a change after its commit. Metrics only.
    fn observe(_was: &Self::State, _input: &Self::Input, _now: &Self::State) {}
}

/// What the clock brings.
#[derive(Debug)]
pub struct Due<I> {
    /// The database's time up to which everything due is in here.
    pub mark: Option<DateTime<Utc>>,
    /// With where each belongs in a trace, if that is known.
    pub inputs: Vec<(Uuid, I, Option<Trace>)>,
}
