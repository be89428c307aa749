//! The rows of orders on a real Postgres, and what the clock finds among them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Rows, Seen, Stored};
use chrono::{DateTime, Utc};
use contracts::{Line, Money, PaymentMethod, Reason, ShipTo};
use order::Order;
use order::domain::{Input, Order as Details, State, Status};
use saga::{Envelope, EventType, Trace};
use sqlx::PgConnection;
use store::{Commit, Config, Db, Error, Said};
use testkit::Database;
use uuid::Uuid;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Ground {
    db: Db,
    database: Database,
}

async fn ground() -> anyhow::Result<Ground> {
    let database = testkit::database("order").await?;
    store::migrate(Some(&database.owner_url), &database.app_url, Order::migrations()).await?;
    let db = Db::try_new(&Config {
        url: database.app_url.clone(),
        application_name: "test".to_owned(),
        write_connections_max: 2,
        autocommit_connections_max: 1,
    })?;
    Ok(Ground { db, database })
}

fn reason() -> Reason {
    Reason::new("card_declined", "payment")
}

fn known(status: Status) -> State {
    let word = |text: &str| text.to_owned();
    let details = Details {
        caller: word("default"),
        customer_id: word("cus_1"),
        lines: vec![
            Line { sku: word("TEA-1"), quantity: u32::MAX, unit_price_minor: 1 },
            Line { sku: word("TEA-1"), quantity: 1, unit_price_minor: 0 },
        ],
        total: Money::new(i64::from(u32::MAX), "EUR".parse().expect("a currency")),
        payment_method: PaymentMethod(word("pm_card_ok")),
        ship_to: ShipTo {
            name: word("Ada \"the first\" Lovelace"),
            street: word("Rheingasse 1"),
            city: word("Zürich 日本"),
            postcode: word("4051"),
            country: word("CH"),
        },
    };
    State::Known(Arc::new(details), status)
}

async fn load(tx: &mut PgConnection, ids: &[Uuid]) -> Result<Rows<State>, Error> {
    let batch: Vec<_> = ids.iter().map(|id| (*id, &Input::Booked)).collect();
    Order::load(tx, &batch).await
}

impl Ground {
    async fn load(&self, ids: &[Uuid]) -> Result<Rows<State>, Error> {
        self.db.with_tx(async |tx| load(tx, ids).await).await
    }

    async fn save(&self, desk: &Rows<State>, deadline: Duration) -> Result<(), Error> {
        let order = Order { deadline };
        self.db.with_tx(async |tx| order.save(tx, desk).await).await
    }

    /// A new order in this status, with so much time.
    async fn place(&self, status: Status, deadline: Duration) -> anyhow::Result<Uuid> {
        let id = Uuid::now_v7();
        let mut desk = self.load(&[id]).await?;
        desk.replace(id, known(status), 1);
        self.save(&desk, deadline).await?;
        Ok(id)
    }

    /// Moves a deadline into the past, or further into it.
    async fn set_deadline(&self, id: Uuid, seconds_ago: i32) -> anyhow::Result<()> {
        sqlx::query(
            "update orders set deadline_at = now() - $2 * interval '1 s' where order_id = $1",
        )
        .bind(id)
        .bind(seconds_ago)
        .execute(self.db.autocommit())
        .await?;
        Ok(())
    }

    /// Orders that are due since a mark, and the next mark.
    async fn due(
        &self,
        mark: Option<DateTime<Utc>>,
    ) -> anyhow::Result<(HashSet<Uuid>, DateTime<Utc>)> {
        let mut connection = self.db.connect().await?;
        let due = Order::due(&mut connection, mark).await?;
        let count = due.inputs.len();
        let ids: HashSet<Uuid> = (due.inputs.into_iter())
            .map(|(id, input, _)| {
                assert_eq!(input, Input::Expire);
                id
            })
            .collect();
        assert_eq!(ids.len(), count, "each order once");
        Ok((ids, due.mark.expect("the clock always says how far it has looked")))
    }
}

const LONG: Duration = Duration::from_mins(15);

#[tokio::test]
async fn every_status_is_read_back_as_it_was_saved() -> anyhow::Result<()> {
    let ground = ground().await?;
    let states = [
        Status::Pending,
        Status::Cancelling(reason()),
        Status::Confirmed { too_late: false },
        Status::Confirmed { too_late: true },
        Status::Cancelled(reason()),
    ]
    .map(known);
    let ids: Vec<Uuid> = states.iter().map(|_| Uuid::now_v7()).collect();
    // Created first, then changed into the next one of the list, and the next.
    for shift in 0..states.len() {
        let mut desk = ground.load(&ids).await?;
        for (index, id) in ids.iter().enumerate() {
            let said = u32::try_from(shift * 2 + 1)?;
            let state = states[(index + shift) % states.len()].clone();
            assert_eq!(desk.replace(*id, state, 2), said);
        }
        ground.save(&desk, LONG).await?;
        let found = ground.load(&ids).await?;
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(*found.state(*id), states[(index + shift) % states.len()]);
        }
    }
    assert_eq!(*ground.load(&ids).await?.state(Uuid::now_v7()), State::Absent);
    Ok(())
}

#[tokio::test]
async fn a_row_that_changed_since_it_was_loaded_is_not_overwritten() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
    for first in [Status::Pending, Status::Confirmed { too_late: false }].map(known) {
        let mut slow = ground.load(&[id, other]).await?;
        let mut fast = ground.load(&[id]).await?;
        fast.replace(id, first.clone(), 0);
        ground.save(&fast, LONG).await?;
        slow.replace(id, known(Status::Cancelled(reason())), 1);
        slow.replace(other, known(Status::Pending), 1);
        let late = ground.save(&slow, LONG).await;
        assert!(matches!(late, Err(Error::Rerun(_))), "{late:?}");
        let found = ground.load(&[id, other]).await?;
        assert_eq!((found.state(id), found.state(other)), (&first, &State::Absent));
    }
    Ok(())
}

#[tokio::test]
async fn a_deadline_is_set_once_and_no_change_moves_it() -> anyhow::Result<()> {
    let ground = ground().await?;
    let id = ground.place(Status::Pending, LONG).await?;
    let seconds = async || -> anyhow::Result<i64> {
        let seconds = "select extract(epoch from deadline_at - created_at)::bigint from orders";
        Ok(sqlx::query_scalar(seconds).fetch_one(ground.db.autocommit()).await?)
    };
    assert_eq!(seconds().await?, 900);
    let mut desk = ground.load(&[id]).await?;
    desk.replace(id, known(Status::Cancelling(reason())), 1);
    ground.save(&desk, Duration::from_secs(5)).await?;
    assert_eq!(seconds().await?, 900);
    Ok(())
}

#[tokio::test]
async fn the_clock_finds_what_is_due_and_still_pending_and_nothing_else() -> anyhow::Result<()> {
    let ground = ground().await?;
    let in_time = ground.place(Status::Pending, LONG).await?;
    let late = ground.place(Status::Pending, Duration::ZERO).await?;
    for over in [
        Status::Cancelling(reason()),
        Status::Confirmed { too_late: false },
        Status::Confirmed { too_late: true },
        Status::Cancelled(reason()),
    ] {
        ground.place(over, Duration::ZERO).await?;
    }
    let (due, mark) = ground.due(None).await?;
    assert_eq!(due, HashSet::from([late]));
    ground.set_deadline(in_time, 0).await?;
    let (due, later) = ground.due(Some(mark)).await?;
    assert!(due.contains(&in_time) && later > mark);
    Ok(())
}

#[tokio::test]
async fn from_its_mark_on_the_clock_looks_a_minute_back_and_at_start_at_everything()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let old = ground.place(Status::Pending, LONG).await?;
    let recent = ground.place(Status::Pending, LONG).await?;
    let (due, mark) = ground.due(None).await?;
    assert_eq!(due, HashSet::new());
    ground.set_deadline(old, 3_600).await?;
    ground.set_deadline(recent, 30).await?;
    // A commit may become visible after the clock has looked past its deadline.
    let (due, _) = ground.due(Some(mark)).await?;
    assert_eq!(due, HashSet::from([recent]));
    // Another process takes over.
    let (due, _) = ground.due(None).await?;
    assert_eq!(due, HashSet::from([old, recent]));
    Ok(())
}

#[tokio::test]
async fn a_deadline_belongs_to_the_trace_in_which_its_order_was_placed() -> anyhow::Result<()> {
    let ground = ground().await?;
    let id = ground.place(Status::Pending, Duration::ZERO).await?;
    let envelope = Envelope {
        id: Uuid::now_v7(),
        kind: EventType::new("order", "OrderPlaced", 1),
        time: DateTime::UNIX_EPOCH,
        subject: id,
        version: Some(1),
        cause: None,
        trace: Trace { traceparent: TRACEPARENT.to_owned(), tracestate: String::new() },
    };
    let said = Said { envelope: envelope.clone(), body: b"{}".to_vec() };
    let commit = Commit { said: vec![said], ..Commit::default() };
    ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await?;
    let view = Order::views().pop().expect("one read model");
    let seen = [Seen { envelope, body: b"{}".to_vec() }];
    for _ in 0..2 {
        // The second time it is there already.
        ground.db.with_tx(async |tx| (view.insert)(tx, &seen).await).await?;
    }

    let mut connection = ground.db.connect().await?;
    let due = Order::due(&mut connection, None).await?;
    let [(found, _, trace)] = due.inputs.try_into().expect("one order is due");
    assert_eq!(found, id);
    assert_eq!(trace.expect("it was placed in one").traceparent, TRACEPARENT);
    drop(ground.database);
    Ok(())
}
