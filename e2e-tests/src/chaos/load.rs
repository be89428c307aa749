//! Owns the customers of a run: sends what they send, and remembers what they were told. Refuses to
//! know what is broken meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use uuid::Uuid;

use super::customer::Customer;
use crate::client::{Answer, Client, fresh_key};
use crate::wire::{NewOrder, Placed};

const REQUEST_MAX: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(400);
/// Then a customer gives up.
const ASKED_MAX: u32 = 12;
/// Whatever happens, these are all that is promised.
pub const PROMISED: &str = "no request is answered but with 200, 202, 409 or 503";
/// Who comes while there are so many finds the door shut.
const CUSTOMERS_MAX: usize = 200;

/// Requests by what came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Operations {
    /// 200 and 202.
    pub ok: u64,
    /// Any other answer.
    pub fail: u64,
    /// Cut or timed out: nobody knows.
    pub info: u64,
}

/// What customers know.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub operations: Operations,
    pub acknowledged: BTreeMap<Uuid, NewOrder>,
    /// By key.
    pub unknown: BTreeMap<String, NewOrder>,
    pub cancelled: BTreeSet<Uuid>,
    /// Keys whose requests were answered in more than one way.
    pub twins: BTreeMap<String, BTreeSet<Uuid>>,
    /// Answers that nobody promised, each once.
    pub strange: BTreeSet<String>,
    /// Customers who asked the same again and heard the same.
    pub same_again: u64,
    /// Customers who cut their connection and heard nothing.
    pub hung_up: u64,
    pub last_ok: Option<Instant>,
}

/// All customers of a run.
#[derive(Debug)]
pub struct Load {
    instances: [Client; 2],
    told: Mutex<Told>,
}

impl Load {
    pub fn over(client: &Client) -> Self {
        let instances = ["order", "order-2"].map(|process| client.through(process));
        Self { instances, told: Mutex::default() }
    }

    pub fn told(&self) -> Told {
        self.book().clone()
    }

    /// So many customers a second until told to stop, and back when the last of them is done.
    pub async fn run(&self, dice: &mut StdRng, per_second: u32, stop: oneshot::Receiver<()>) {
        let mut ticks = interval(Duration::from_secs(1) / per_second.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut customers = FuturesUnordered::new();
        let mut stop = stop;
        loop {
            tokio::select! {
                biased;
                // Whoever would tell is gone: that tells it, too.
                _ = &mut stop => break,
                Some(()) = customers.next() => {}
                _ = ticks.tick() => {
                    // Drawn all the same, so that those after him do not depend on the weather.
                    let customer = Customer::draw(dice);
                    if customers.len() < CUSTOMERS_MAX {
                        customers.push(self.serve(customer));
                    }
                }
            }
        }
        while customers.next().await.is_some() {}
    }

    async fn serve(&self, customer: Customer) {
        if let Some(after) = customer.hangs_up_after {
            // What is dropped here takes its connection along.
            let answer = timeout(after, self.asked(0, &customer)).await;
            let mut book = self.book();
            if answer.is_err() {
                book.operations.info += 1;
                book.hung_up += 1;
            }
            match answer.ok().flatten().and_then(|answer| placed(&answer)) {
                Some(order_id) => drop(book.acknowledged.insert(order_id, customer.order)),
                None => drop(book.unknown.insert(customer.key, customer.order)),
            }
            return;
        }
        let Some(order_id) = self.place(&customer, 0).await else {
            self.book().unknown.insert(customer.key, customer.order);
            return;
        };
        self.book().acknowledged.insert(order_id, customer.order.clone());
        if customer.asks_again
            && let Some(again) = self.place(&customer, 1).await
        {
            if again == order_id {
                self.book().same_again += 1;
            } else {
                let twins = BTreeSet::from([order_id, again]);
                self.book().twins.insert(customer.key.clone(), twins);
            }
        }
        if let Some(after) = customer.cancels_after {
            sleep_until(Instant::now() + after).await;
            self.cancel(order_id).await;
        }
    }

    /// Asks one instance and then the other, with one key, until one of them takes the order.
    async fn place(&self, customer: &Customer, from: u32) -> Option<Uuid> {
        for asked in from..from + ASKED_MAX {
            let answer = self.asked(asked, customer).await;
            if let Some(order_id) = answer.as_ref().and_then(placed) {
                return Some(order_id);
            }
            sleep_until(Instant::now() + PAUSE).await;
        }
        None
    }

    async fn asked(&self, asked: u32, customer: &Customer) -> Option<Answer> {
        let second = (asked % 2 == 1) != customer.asks_second;
        let client = &self.instances[usize::from(second)];
        self.counted(client.try_place(&customer.order, &customer.key)).await
    }

    /// A cancel of an order that has ended is answered as well: with the end.
    async fn cancel(&self, order_id: Uuid) {
        let key = fresh_key();
        for client in self.instances.iter().cycle().take(ASKED_MAX as usize) {
            match self.counted(client.try_cancel(order_id, &key)).await {
                Some(Answer { status: 202, .. }) => {
                    self.book().cancelled.insert(order_id);
                    return;
                }
                Some(Answer { status: 200 | 409, .. }) => return,
                _ => sleep_until(Instant::now() + PAUSE).await,
            }
        }
    }

    async fn counted(
        &self,
        request: impl Future<Output = anyhow::Result<Answer>>,
    ) -> Option<Answer> {
        let answer = timeout(REQUEST_MAX, request).await.ok().and_then(Result::ok);
        let mut book = self.book();
        match &answer {
            Some(Answer { status: 200 | 202, .. }) => {
                book.operations.ok += 1;
                book.last_ok = Some(Instant::now());
            }
            Some(Answer { status, body, .. }) => {
                book.operations.fail += 1;
                if !matches!(status, 409 | 503) {
                    book.strange.insert(format!("{status}: {body}"));
                }
            }
            None => book.operations.info += 1,
        }
        answer
    }

    fn book(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order that was taken, if it was.
fn placed(answer: &Answer) -> Option<Uuid> {
    let placed: Placed = (answer.status == 202).then(|| answer.read().ok())??;
    Some(placed.order_id)
}
