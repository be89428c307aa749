//! Records that nobody of ours would write, between good ones: they are set aside or skipped, and
//! hold nobody up.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::whole::{self, DeadLetter, Injected};
use e2e_tests::wire::NewOrder;
use e2e_tests::{SERVICES, metrics, saga};
use futures::future::try_join_all;
use testkit::records::{self, Record};
use testkit::wait;
use uuid::Uuid;

const SKU: &str = "TEA-1";
const TOPIC: &str = "order.events.v1";
const TYPE: &str = "switchback.order.OrderPlaced.v1";
/// They hear the orders' topic.
const HEARERS: [&str; 3] = ["inventory", "payment", "shipping"];
/// Enough for every partition to have one on both sides of the bad records.
const ORDERS: usize = 16;
const HANDLED_MAX: Duration = Duration::from_secs(20);

#[tokio::test]
async fn bad_records_are_set_aside_and_the_good_ones_go_on() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        let mut orders = placed(stack).await?;
        let injected = inject(stack).await?;
        orders.extend(placed(stack).await?);
        for order_id in orders {
            saga::judge(stack, order_id).await?.ended_as("confirmed", None)?;
        }
        wait::until(HANDLED_MAX, "the bad records to be set aside", async || {
            let found = whole::dead_letters(stack).await.ok()?.len();
            (found >= injected.dead_letters.len()).then_some(())
        })
        .await?;
        for service in HEARERS {
            let text = stack.client.metrics(service).await?;
            let skipped = metrics::sum(&text, "switchback_events_skipped_total", &["OrderPraised"]);
            ensure!(skipped.to_string() == "4", "{service} skipped {skipped} unknown records");
        }
        for service in SERVICES {
            ensure!(stack.restarts(service) == 0, "{service} died of a record");
        }
        whole::judge(stack, &injected).await
    })
    .await
}

async fn placed(stack: &Stack) -> anyhow::Result<Vec<Uuid>> {
    let order = NewOrder::of(SKU, 1);
    let placed = try_join_all((0..ORDERS).map(|_| stack.client.place(&order))).await?;
    Ok(placed.into_iter().map(|placed| placed.order_id).collect())
}

/// Puts bad copies of a good record into every partition.
async fn inject(stack: &Stack) -> anyhow::Result<Injected> {
    let bootstrap = stack.bootstrap();
    let log = records::read(&bootstrap, TOPIC).await?;
    let good = log.iter().find(|record| record.header("ce_type") == Some(TYPE));
    let good = good.context("nobody has placed an order")?;
    let mut injected = Injected::default();
    for partition in 0..testkit::broker::PARTITIONS {
        let mut bad = |change: &dyn Fn(&mut Record), codes: &[(&str, &str)]| {
            let mut record = Record { partition: Some(partition), ..good.clone() };
            let (id, subject) = (Uuid::now_v7(), Uuid::now_v7().to_string());
            set(&mut record, "ce_id", &id.to_string());
            set(&mut record, "ce_subject", &subject);
            record.key = Some(subject.into_bytes());
            change(&mut record);
            injected.event_ids.insert(id);
            injected
                .dead_letters
                .extend(codes.iter().map(|(consumer, code)| letter(consumer, code)));
            record
        };
        let by_all = |code| HEARERS.map(|service| (service, code));
        let with_view = |code| [&by_all(code)[..], &[("order-view", code)]].concat();
        let records = [
            bad(&|record| record.body = Some(b"{\"lines\": [".to_vec()), &by_all("DECODE")),
            bad(&|record| set(record, "ce_type", "switchback.order.OrderPraised.v1"), &[]),
            bad(
                &|record| set(record, "ce_type", "switchback.order.OrderPlaced.v9"),
                &by_all("UNSUPPORTED_VERSION"),
            ),
            bad(&|record| record.key = Some(b"elsewhere".to_vec()), &with_view("KEY_MISMATCH")),
            bad(
                &|record| set(record, "ce_type", "switchback.payment.PaymentCaptured.v1"),
                &with_view("FOREIGN_TYPE"),
            ),
            bad(&|record| record.body = None, &by_all("DECODE")),
        ];
        records::produce(&bootstrap, TOPIC, &records).await?;
    }
    Ok(injected)
}

fn set(record: &mut Record, name: &str, value: &str) {
    record.headers.retain(|(header, _)| header != name);
    record.headers.push((name.to_owned(), Some(value.as_bytes().to_vec())));
}

/// A read model's letters lie in the schema of the service that it lives in.
fn letter(consumer: &str, code: &str) -> DeadLetter {
    let service = consumer.strip_suffix("-view").unwrap_or(consumer);
    DeadLetter { service: service.to_owned(), consumer: consumer.to_owned(), code: code.to_owned() }
}
