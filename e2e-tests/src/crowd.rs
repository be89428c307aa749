//! Owns many customers of one stack: what they ask for, until it is taken, and the verdict on all of
//! it. Refuses to let a customer ask for the same thing under another key.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use futures::future::{try_join, try_join_all};
use testkit::wait;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use crate::check::{self, Known, Violation};
use crate::client::fresh_key;
use crate::stack::Stack;
use crate::whole::Injected;
use crate::wire::{NewOrder, Placed};

pub const SKU: &str = "TEA-1";
const STOCK: u32 = 1_000_000;
/// Each of them wants something all the time.
const CUSTOMERS: usize = 6;
const ORDER_EVERY: Duration = Duration::from_millis(200);
/// So long does one wait for an answer: a service gives one within 10 s, whatever holds it.
const PATIENCE: Duration = Duration::from_secs(12);
/// So long until an order is taken.
const TAKEN_MAX: Duration = Duration::from_mins(1);
const QUIET_MAX: Duration = Duration::from_mins(1);

/// Customers and what they were told.
#[derive(Default)]
pub struct Crowd {
    known: RefCell<Known>,
    /// Requests that were refused for now, and those that nobody answered.
    asked_again: Cell<usize>,
    /// Of these, those that nobody answered in time.
    unanswered: Cell<usize>,
    turns: Cell<usize>,
    over: Cell<bool>,
}

impl Crowd {
    /// Customers, and enough stock for all of them.
    pub async fn of(stack: &Stack) -> anyhow::Result<Self> {
        stack.client.set_stock(SKU, STOCK).await?;
        Ok(Self::default())
    }

    /// Orders of every kind, all at once.
    pub async fn rush(&self, stack: &Stack, orders: usize) -> anyhow::Result<Vec<Uuid>> {
        let kinds = kinds();
        let orders = kinds.iter().cycle().take(orders);
        try_join_all(orders.map(|order| self.insist(stack, order))).await
    }

    /// Orders flow from before `body` begins until it has ended. Gives how often they had to be
    /// asked for again.
    pub async fn during(
        &self,
        stack: &Stack,
        body: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        self.over.set(false);
        let before = self.asked_again.get();
        let body = async {
            let done = body().await;
            self.over.set(true);
            done
        };
        let customers = try_join_all((0..CUSTOMERS).map(|first| self.customer(stack, first)));
        try_join(customers, body).await?;
        Ok(self.asked_again.get() - before)
    }

    async fn customer(&self, stack: &Stack, first: usize) -> anyhow::Result<()> {
        let mut ticks = interval(ORDER_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for order in kinds().iter().cycle().skip(first) {
            ticks.tick().await;
            if self.over.get() {
                break;
            }
            self.insist(stack, order).await?;
        }
        Ok(())
    }

    /// Asks the order service's processes in turn, under one key, until the order is taken.
    async fn insist(&self, stack: &Stack, order: &NewOrder) -> anyhow::Result<Uuid> {
        let key = fresh_key();
        let doors = stack.processes().iter().filter(|process| process.starts_with("order"));
        let mut doors = doors.cycle().skip(self.turns.replace(self.turns.get() + 1));
        let order_id = wait::until(TAKEN_MAX, "an order to be taken", async || {
            let client = stack.client.through(doors.next()?);
            let asked = timeout(PATIENCE, client.try_place(order, &key)).await;
            match asked {
                Ok(Ok(answer)) if answer.status == 202 => {
                    return Some(answer.read::<Placed>().map(|placed| placed.order_id));
                }
                // Not now; or, a request with this key is under way.
                Ok(Ok(answer)) if ![503, 409].contains(&answer.status) => {
                    return Some(Err(anyhow!("{}: {}", answer.status, answer.body)));
                }
                Ok(_) => {}
                Err(_) => self.unanswered.set(self.unanswered.get() + 1),
            }
            self.asked_again.set(self.asked_again.get() + 1);
            None
        })
        .await??;
        self.known.borrow_mut().acknowledged.insert(order_id, order.clone());
        Ok(order_id)
    }

    /// Asks once and hangs up if there is no answer within `patience`. Gives whether it did.
    pub async fn hang_up(&self, stack: &Stack, patience: Duration) -> anyhow::Result<bool> {
        let (order, key) = (NewOrder::of(SKU, 1), fresh_key());
        let Ok(answer) = timeout(patience, stack.client.try_place(&order, &key)).await else {
            self.known.borrow_mut().unknown.insert(key, order);
            return Ok(true);
        };
        let order_id = answer?.read::<Placed>()?.order_id;
        self.known.borrow_mut().acknowledged.insert(order_id, order);
        Ok(false)
    }

    /// Every request was answered in time, or refused at once; and each order has come to the end
    /// that its customer brought about.
    pub async fn is_content(&self, stack: &Stack) -> anyhow::Result<()> {
        ensure!(self.unanswered.get() == 0, "{} had no answer", self.unanswered.get());
        let orders = self.known.borrow().acknowledged.clone();
        for (order_id, order) in orders {
            let turned =
                order.payment_method == "pm_card_declined" || order.ship_to.postcode == "00000";
            let wanted = if turned { "cancelled" } else { "confirmed" };
            let shown = stack.client.ended(order_id).await?;
            ensure!(shown.status == wanted, "{order_id} is {}, not {wanted}", shown.status);
        }
        Ok(())
    }

    /// What a test puts into the topics itself, and the dead letters that come of it.
    pub fn expect(&self, injected: Injected) {
        let mut known = self.known.borrow_mut();
        known.injected_event_ids.extend(injected.event_ids);
        known.dead_letters.extend(injected.dead_letters);
    }

    /// How many of these orders have not come to their end.
    pub async fn open(&self, stack: &Stack, orders: &[Uuid]) -> anyhow::Result<i64> {
        let open = "select count(*) from \"order\".orders
                     where order_id = any($1::uuid[]) and status in (1, 2)";
        Ok(sqlx::query_scalar(open).bind(orders).fetch_one(&stack.tables).await?)
    }

    /// Waits until nothing moves any more, then judges everything: nothing that was acknowledged is
    /// lost, ledgers agree, dead letters are those that were expected.
    pub async fn judge(&self, stack: &Stack) -> anyhow::Result<()> {
        let known = self.known.borrow().clone();
        ensure!(!known.acknowledged.is_empty(), "a run without orders proves nothing");
        let since = Instant::now();
        let world = check::until_quiet(stack, &known, QUIET_MAX).await?;
        let violations: Vec<_> = check::always(&world).iter().map(Violation::to_string).collect();
        println!(
            "{} orders acknowledged, {} requests unanswered, {} asked again, quiet after {:.1?}",
            known.acknowledged.len(),
            known.unknown.len(),
            self.asked_again.get(),
            since.elapsed()
        );
        ensure!(violations.is_empty(), "{}", violations.join("\n"));
        Ok(())
    }
}

/// They arrive, are declined, are paid back, or are in doubt.
fn kinds() -> [NewOrder; 4] {
    [
        NewOrder::of(SKU, 1),
        NewOrder::of(SKU, 1).paid_with("pm_card_declined"),
        NewOrder::of(SKU, 1).sent_to("00000"),
        NewOrder::of(SKU, 1).paid_with("pm_answer_lost"),
    ]
}

/// Returns when something has lasted for so long.
pub async fn lasts(time: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let over = async || (begun.elapsed() >= time).then_some(());
    wait::until(time * 2, "time to pass", over).await.context("the clock stands still")
}
