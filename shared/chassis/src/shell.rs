//! Owns what all tasks of a service share. Refuses to do anything by itself.

use std::sync::Arc;

use bus::Producer;
use store::{Boot, Db};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Dispatch;
use crate::health::Health;
use crate::job::Lanes;
use crate::kept::Kept;
use crate::outside::Exit;
use crate::poison::Poison;
use crate::service::Service;

pub(crate) struct Shell<S: Service> {
    pub service: S,
    pub db: Db,
    pub boot: Boot,
    pub producer: Producer,
    pub dispatch: Dispatch,
    /// Inputs in one transaction.
    pub batch_max: usize,
    pub kept: Kept,
    /// Something waits in the outbox for the dispatcher.
    pub outbox_filled: Notify,
    pub exits: Vec<Arc<Exit>>,
    pub lanes: Lanes<S>,
    pub health: Health,
    pub poison: Poison,
    /// The end of the process, step by step: readiness is withdrawn, and work goes on.
    pub retiring: CancellationToken,
    /// Nothing new is taken in.
    pub closing: CancellationToken,
    /// What is in the lanes is the last.
    pub draining: CancellationToken,
    /// The lanes have said their last.
    pub drained: CancellationToken,
    /// Every request that was taken in has its answer.
    pub answered: CancellationToken,
}

impl<S: Service> Shell<S> {
    /// The way out to a destination.
    pub fn exit(&self, name: &str) -> Option<&Arc<Exit>> {
        self.exits.iter().find(|exit| exit.destination.name() == name)
    }
}
