//! The checker finds nothing in a stack that works, at any moment, and everything that is planted.

use std::time::Duration;

use anyhow::ensure;
use e2e_tests::check::{self, Known, Violation, World, corruptions};
use e2e_tests::client::fresh_key;
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::wire::{NewOrder, Placed};
use futures::future::try_join_all;
use uuid::Uuid;

const SKU: &str = "TEA-1";
const SCARCE: &str = "TEA-2";
const ORDERS_OF_A_KIND: usize = 5;
const QUIET_MAX: Duration = Duration::from_secs(40);
/// Few requests are answered so soon.
const PATIENCE: Duration = Duration::from_micros(1_500);

/// What happens to an order beside being placed.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    /// Cancelled once this has been told.
    CancelAfter(&'static str),
    CancelAtOnce,
}

fn kinds() -> Vec<(NewOrder, Then)> {
    let good = || NewOrder::of(SKU, 2);
    vec![
        (good(), Then::Nothing),
        (good().paid_with("pm_card_declined"), Then::Nothing),
        (good().sent_to("00000"), Then::Nothing),
        (good().paid_with("pm_answer_lost"), Then::Nothing),
        (good().sent_to("99999"), Then::Nothing),
        (NewOrder::of(SCARCE, 2), Then::Nothing),
        (good(), Then::CancelAtOnce),
        (good(), Then::CancelAfter("OrderPlaced")),
        (good(), Then::CancelAfter("InventoryReserved")),
        (good(), Then::CancelAfter("PaymentCaptured")),
        (good(), Then::CancelAfter("OrderConfirmed")),
        (good().paid_with("pm_slow"), Then::CancelAfter("InventoryReserved")),
    ]
}

#[tokio::test]
async fn nothing_is_found_in_a_stack_that_works_and_every_planted_corruption_is()
-> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        stack.client.set_stock(SCARCE, 5).await?;
        let mut watch = Watch::default();
        let known = tokio::select! {
            known = run(stack) => known?,
            never = watch.look_again_and_again(stack) => never?,
        };
        ensure!(watch.found.is_empty(), "found while orders ran: {}", listed(&watch.found));
        ensure!(watch.under_way > 2, "looked {} times while orders ran", watch.under_way);
        let world = check::until_quiet(stack, &known, QUIET_MAX).await?;
        let found = check::always(&world);
        ensure!(found.is_empty(), "found at the end: {}", listed(&found));
        every_kind_of_end_is_there(&world)?;
        let missed = corruptions::not_found(&world, &known);
        ensure!(missed.is_empty(), "planted and not found: {missed:?}");
        Ok(())
    })
    .await
}

/// Places orders of all kinds at once and waits for the end of each.
async fn run(stack: &Stack) -> anyhow::Result<Known> {
    let orders = kinds().into_iter().flat_map(|kind| std::iter::repeat_n(kind, ORDERS_OF_A_KIND));
    let placed = orders.map(async |(order, then)| {
        let order_id = stack.client.place(&order).await?.order_id;
        let cancelled = cancelled(stack, order_id, then).await?;
        anyhow::Ok((order_id, order, cancelled))
    });
    let hung_up = (0..ORDERS_OF_A_KIND).map(async |_| {
        let (order, key) = (NewOrder::of(SKU, 1), fresh_key());
        let answer = tokio::time::timeout(PATIENCE, stack.client.try_place(&order, &key)).await;
        anyhow::Ok((key, order, answer.ok().transpose()?))
    });
    let (placed, hung_up) = tokio::try_join!(try_join_all(placed), try_join_all(hung_up))?;
    let mut known = Known::default();
    for (order_id, order, cancelled) in placed {
        known.acknowledged.insert(order_id, order);
        known.cancelled.extend(cancelled.then_some(order_id));
    }
    for (key, order, answer) in hung_up {
        match answer {
            Some(answer) => {
                known.acknowledged.insert(answer.read::<Placed>()?.order_id, order);
            }
            None => {
                known.unknown.insert(key, order);
            }
        }
    }
    try_join_all(known.acknowledged.keys().map(|id| stack.client.ended(*id))).await?;
    Ok(known)
}

/// Whether a cancel was answered 202.
async fn cancelled(stack: &Stack, order_id: Uuid, then: Then) -> anyhow::Result<bool> {
    match then {
        Then::Nothing => return Ok(false),
        Then::CancelAtOnce => {}
        Then::CancelAfter(event) => stack.client.told(order_id, event).await?,
    }
    let answer = stack.client.try_cancel(order_id, &fresh_key()).await?;
    ensure!([200, 202].contains(&answer.status), "{answer:?}");
    Ok(answer.status == 202)
}

/// What was found at moments when nobody waited for anything.
#[derive(Default)]
struct Watch {
    found: Vec<Violation>,
    /// Looks that met orders on their way.
    under_way: usize,
}

impl Watch {
    /// Ends by failing only.
    async fn look_again_and_again(&mut self, stack: &Stack) -> anyhow::Result<Known> {
        loop {
            let world = World::read(stack).await?;
            self.found.extend(check::always(&world));
            self.under_way += usize::from(world.orders.values().any(|row| row.status < 3));
        }
    }
}

fn listed(found: &[Violation]) -> String {
    let lines: Vec<_> = found.iter().take(20).map(Violation::to_string).collect();
    format!("{} violations\n{}", found.len(), lines.join("\n"))
}

/// Otherwise nothing was tried.
fn every_kind_of_end_is_there(world: &World) -> anyhow::Result<()> {
    let has = |rows: &dyn Fn(&Uuid) -> bool| world.orders.keys().any(rows);
    let payment = |status| move |id: &Uuid| world.states(*id)[2] == status;
    for (what, there) in [
        ("confirmed", has(&|id| world.states(*id) == [3, 2, 4, 3])),
        ("rejected by inventory", has(&|id| world.states(*id)[1] == 3)),
        ("declined", has(&payment(6))),
        ("refunded", has(&payment(7))),
        ("refused by the carrier", has(&|id| world.states(*id)[3] == 4)),
        ("turned round by a cancel", has(&|id| world.states(*id)[3] == 1)),
    ] {
        ensure!(there, "no order was {what}: the run is void");
    }
    Ok(())
}
