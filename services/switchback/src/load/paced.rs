//! Owns the open loop: each order at its time, however long those before it take, and some of them
//! watched to their end. Refuses to hide that it was late itself.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

use super::connection::Connection;
use super::counter::Counter;
use super::orders::Sample;
use super::place::{Fate, place};
use super::{CONNECTIONS_MAX, Load};
use crate::client::Order;

/// From now and then, so that a process that dies is noticed: each look costs the service a little.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const WATCH_EVERY: Duration = Duration::from_millis(2);
/// What takes long is looked at less often, so that looking does not make it longer.
const LOOKS_BEFORE_TWICE_AS_LONG: u32 = 20;
const LATE_AFTER: Duration = Duration::from_millis(5);

/// Places orders until there are enough, and returns when the last one ended.
pub(super) async fn run(
    load: &Load<'_>,
    rate: u32,
    sample: Sample,
    counter: &mut Counter,
) -> anyhow::Result<Instant> {
    let pool = Pool { idle: RefCell::default(), room: Semaphore::new(CONNECTIONS_MAX) };
    let placing = async {
        let begun = Instant::now();
        let mut under_way = FuturesUnordered::new();
        while let Some(n) = load.next() {
            let due = begun + due(n, rate);
            loop {
                tokio::select! {
                    () = sleep_until(due.into()) => break,
                    Some(done) = under_way.next() => done?,
                }
            }
            under_way.push(one(load, &pool, n, due, sample.holds(n)));
        }
        while let Some(done) = under_way.next().await {
            done?;
        }
        Ok(())
    };
    load.follow(counter, placing, LOOK_EVERY, |_| ()).await
}

/// When the nth order is sent, counted from the first.
fn due(n: u64, rate: u32) -> Duration {
    let rate = u64::from(rate);
    Duration::from_secs(n / rate) + Duration::from_nanos(n % rate * 1_000_000_000 / rate)
}

/// Connections that wait for an order, and room for so many requests at a time. Watching takes no
/// room: when nothing ends, orders go on being placed.
struct Pool {
    idle: RefCell<Vec<Connection>>,
    room: Semaphore,
}

async fn one(
    load: &Load<'_>,
    pool: &Pool,
    n: u64,
    due: Instant,
    is_watched: bool,
) -> anyhow::Result<()> {
    let room = pool.room.acquire().await?;
    let order = load.orders.nth(n)?;
    let idle = pool.idle.borrow_mut().pop();
    let mut connection = idle.unwrap_or_else(|| load.connection(usize::try_from(n).unwrap_or(0)));
    // Whoever cannot connect now is one who gets no answer: placing tries again.
    let _ = connection.open().await;
    let sent = Instant::now();
    if sent - due > LATE_AFTER {
        load.tally.borrow_mut().late += 1;
    }
    let fate = place(&mut connection, order, || load.tally.borrow_mut().retried += 1).await?;
    load.tally.borrow_mut().placed(sent, &fate);
    drop(room);
    if let (Fate::Accepted(id), true) = (fate, is_watched) {
        let is_confirmed = watch(&mut connection, id, sent).await;
        load.tally.borrow_mut().ended(sent.elapsed(), is_confirmed);
    }
    pool.idle.borrow_mut().push(connection);
    Ok(())
}

/// Looks at an order until it has ended, one look after the other. Whoever follows the load gives it
/// up.
async fn watch(connection: &mut Connection, id: Uuid, sent: Instant) -> bool {
    loop {
        if let Some(is_confirmed) = look(connection, id).await {
            return is_confirmed;
        }
        sleep(WATCH_EVERY.max(sent.elapsed() / LOOKS_BEFORE_TWICE_AS_LONG)).await;
    }
}

/// Whether an order that has ended was confirmed.
pub(super) async fn look(connection: &mut Connection, id: Uuid) -> Option<bool> {
    let answer = connection.get(&format!("/v1/orders/{id}")).await.ok()?;
    let order: Order = serde_json::from_slice(&answer.body).ok()?;
    order.status.is_final().then_some(order.status == crate::client::Status::Confirmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_has_its_time_and_no_error_adds_up() {
        assert_eq!(due(0, 20), Duration::ZERO);
        assert_eq!(due(1, 20), Duration::from_millis(50));
        assert_eq!(due(1_200, 20), Duration::from_mins(1));
        assert_eq!(due(1, 3), Duration::from_nanos(333_333_333));
        assert_eq!(due(3_000_001, 3), Duration::from_nanos(1_000_000_333_333_333));
    }
}
