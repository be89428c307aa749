//! What becomes of an order, told by its customer, on real processes.

use e2e_tests::scenario::orders;
use e2e_tests::stack::{Options, with_stack};

#[tokio::test]
async fn orders_arrive_or_switch_back_and_repeats_change_nothing() -> anyhow::Result<()> {
    with_stack(&Options::default(), orders::all).await
}
