//! Owns the closed loop: as many orders as go through, and never more than so many under way.
//! Refuses to read a latency off it: that is the length of the queue over the rate.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::sync::Semaphore;

use super::connection::Connection;
use super::counter::Counter;
use super::place::{Fate, place};
use super::{CONNECTIONS_MAX, Load};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Places orders until there are enough, and returns when the last one ended.
pub(super) async fn run(
    load: &Load<'_>,
    in_flight: usize,
    counter: &mut Counter,
) -> anyhow::Result<Instant> {
    let slots = Semaphore::new(in_flight);
    let connections = 0..in_flight.min(CONNECTIONS_MAX);
    let placing = async {
        let placing = connections.map(|number| worker(load, load.connection(number), &slots));
        try_join_all(placing).await.map(drop)
    };
    let forgiven = Cell::new(0);
    load.follow(counter, placing, LOOK_EVERY, |look| {
        // What the process that is gone has not told would take up room for ever. Of the orders that
        // were under way there, some are still to end: up to twice as many run from here on.
        if look.begun_again {
            let under_way = load.under_way().saturating_sub(forgiven.get());
            forgiven.set(forgiven.get() + under_way);
            slots.add_permits(under_way);
        }
        slots.add_permits(usize::try_from(look.more).unwrap_or_default());
    })
    .await
}

async fn worker(
    load: &Load<'_>,
    mut connection: Connection,
    slots: &Semaphore,
) -> anyhow::Result<()> {
    loop {
        let slot = slots.acquire().await?;
        let Some(n) = load.next() else { return Ok(()) };
        let order = load.orders.nth(n)?;
        let sent = Instant::now();
        let fate = place(&mut connection, order, || load.tally.borrow_mut().retried += 1).await?;
        if let Fate::Accepted(_) = fate {
            // Given back when the order has ended.
            slot.forget();
        }
        load.tally.borrow_mut().placed(sent, &fate);
    }
}
