//! Owns one load under way: how much is placed, who counts what has ended, and when it is over.
//! Refuses to wait for ever: when nothing is accepted any more, what has not ended is given up.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::connection::{Connection, Target};
use super::counter::{Counter, Ended, Look};
use super::orders::Orders;
use super::paced;
use super::progress::Progress;
use super::tally::Tally;

/// When nothing more is placed, the end is looked for so often.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(20);
/// So many orders are asked for at the same time when the count of them is in doubt.
const ASKED_AT_ONCE: usize = 16;

/// How much is placed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Amount {
    Orders(u64),
    Time(Duration),
}

pub(super) struct Load<'a> {
    pub(super) targets: Vec<Target>,
    pub(super) orders: &'a Orders,
    pub(super) amount: Amount,
    pub(super) at_most: Duration,
    pub(super) begun: Instant,
    pub(super) tally: RefCell<Tally>,
    pub(super) ended: Cell<u64>,
}

impl Load<'_> {
    /// The number of the next order, as long as there is one.
    pub(super) fn next(&self) -> Option<u64> {
        let mut tally = self.tally.borrow_mut();
        let is_open = match self.amount {
            Amount::Orders(orders) => tally.placed < orders,
            Amount::Time(time) => self.begun.elapsed() < time,
        };
        is_open.then(|| {
            tally.placed += 1;
            tally.placed - 1
        })
    }

    /// A connection to one of the order service's processes.
    pub(super) fn connection(&self, number: usize) -> Connection {
        Connection::to(self.targets[number % self.targets.len()].clone())
    }

    /// Orders that were accepted and have not ended, as far as they are counted.
    pub(super) fn under_way(&self) -> usize {
        let ended = usize::try_from(self.ended.get()).unwrap_or(usize::MAX);
        self.tally.borrow().accepted.len().saturating_sub(ended)
    }

    fn is_given_up(&self) -> bool {
        self.tally.borrow().stands_still() > self.at_most
    }

    /// Places orders, tells `ended` of each look at the count of them, and returns when the last one
    /// ended, or was given up.
    pub(super) async fn follow(
        &self,
        counter: &mut Counter,
        placing: impl Future<Output = anyhow::Result<()>>,
        look_every: Duration,
        ended: impl FnMut(Look),
    ) -> anyhow::Result<Instant> {
        let is_placed = Cell::new(false);
        let placing = async {
            placing.await?;
            is_placed.set(true);
            pending().await
        };
        let last_end = tokio::select! {
            failed = placing => return failed,
            last_end = self.count(counter, &is_placed, look_every, ended) => last_end,
        };
        if !counter.is_doubtful || !is_placed.get() {
            return Ok(last_end);
        }
        counter.ended = self.ask_each().await;
        Ok(Instant::now())
    }

    async fn count(
        &self,
        counter: &mut Counter,
        is_placed: &Cell<bool>,
        look_every: Duration,
        mut ended: impl FnMut(Look),
    ) -> Instant {
        let mut progress = Progress::begin();
        let mut last_end = self.begun;
        let mut looked = Instant::now();
        let mut ticks = interval(look_every.min(DRAIN_LOOK_EVERY));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !is_placed.get() && looked.elapsed() < look_every {
                continue;
            }
            looked = Instant::now();
            let look = counter.look().await;
            if look.more > 0 {
                last_end = Instant::now();
            }
            self.ended.set(counter.ended.all());
            ended(look);
            progress.show(self.share(), self.tally.borrow().placed, self.ended.get());
            let is_over = is_placed.get() && (counter.is_doubtful || self.under_way() == 0);
            if is_over || self.is_given_up() {
                return last_end;
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "it is a picture")]
    fn share(&self) -> f64 {
        match self.amount {
            Amount::Orders(orders) => self.ended.get() as f64 / orders as f64,
            Amount::Time(time) => self.begun.elapsed().as_secs_f64() / time.as_secs_f64(),
        }
    }

    /// What has become of each order, from the order itself.
    async fn ask_each(&self) -> Ended {
        let accepted = self.tally.borrow().accepted.clone();
        let share = accepted.len().div_ceil(ASKED_AT_ONCE).max(1);
        let shares = accepted.chunks(share).enumerate().map(async |(number, share)| {
            let mut connection = self.connection(number);
            let mut ended = Ended::default();
            for id in share {
                match self.ask(&mut connection, *id).await {
                    Some(true) => ended.confirmed += 1,
                    Some(false) => ended.cancelled += 1,
                    None => {}
                }
            }
            ended
        });
        let shares = join_all(shares).await;
        shares.into_iter().fold(Ended::default(), |all, share| Ended {
            confirmed: all.confirmed + share.confirmed,
            cancelled: all.cancelled + share.cancelled,
        })
    }

    /// Whether an order that ends in time is confirmed.
    async fn ask(&self, connection: &mut Connection, id: Uuid) -> Option<bool> {
        loop {
            let looked = paced::look(connection, id).await;
            if looked.is_some() || self.is_given_up() {
                return looked;
            }
            sleep(DRAIN_LOOK_EVERY).await;
        }
    }
}
