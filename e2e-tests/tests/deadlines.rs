//! An order whose time is up is turned round like one that its customer cancels.

use anyhow::ensure;
use e2e_tests::saga;
use e2e_tests::stack::{Options, with_stack};
use e2e_tests::whole::{self, Injected};
use e2e_tests::wire::{Fault, NewOrder};

const SKU: &str = "TEA-1";
const DEADLINE_SECONDS: u32 = 3;

#[tokio::test]
async fn a_deadline_turns_the_train_round_wherever_it_stands() -> anyhow::Result<()> {
    let environment = vec![("ORDER_DEADLINE_SECONDS", DEADLINE_SECONDS.to_string())];
    with_stack(&Options { environment, ..Options::default() }, async |stack| {
        let client = &stack.client;
        client.set_stock(SKU, 100).await?;
        client.break_provider("payment", Fault::of_all("down", 60)).await?;
        let at_payment = client.place(&NewOrder::of(SKU, 1)).await?.order_id;
        client.told(at_payment, "OrderCancelRequested").await?;
        client.heal_provider("payment").await?;
        // Answered definitely only now, and given back.
        let saga = saga::judge(stack, at_payment).await?;
        saga.ended_as("cancelled", Some(("deadline", "payment")))?;

        client.break_provider("carrier", Fault::of_all("errors", 60)).await?;
        let at_carrier = client.place(&NewOrder::of(SKU, 1)).await?.order_id;
        client.told(at_carrier, "PaymentCaptured").await?;
        client.told(at_carrier, "OrderCancelRequested").await?;
        client.heal_provider("carrier").await?;
        let saga = saga::judge(stack, at_carrier).await?;
        saga.ended_as("confirmed", None)?;
        ensure!(saga.was_cancelled_too_late(), "{saga:#?}");

        let halted = stack.halt_all("inventory")?;
        let at_inventory = client.place(&NewOrder::of(SKU, 1)).await?.order_id;
        client.told(at_inventory, "OrderCancelRequested").await?;
        drop(halted);
        let saga = saga::judge(stack, at_inventory).await?;
        saga.ended_as("cancelled", Some(("deadline", "payment")))?;
        whole::judge(stack, &Injected::default()).await
    })
    .await
}
