//! The rows of payments on a real Postgres.

use chassis::{Desk, Rows, Stored};
use contracts::inventory::Waybill;
use contracts::{Money, PaymentMethod, Reason, ShipTo};
use payment::domain::{Input, Receipt, State};
use payment::{Payment, ProviderConfig};
use saga::{Decision, Participant};
use sqlx::PgConnection;
use store::{Config, Db, Error};
use testkit::Database;
use tokio::sync::Barrier;
use uuid::Uuid;

struct Ground {
    payment: Payment,
    db: Db,
    _database: Database,
}

async fn ground() -> anyhow::Result<Ground> {
    let database = testkit::database("payment").await?;
    store::migrate(Some(&database.owner_url), &database.app_url, Payment::migrations()).await?;
    let db = Db::try_new(&Config {
        url: database.app_url.clone(),
        application_name: "test".to_owned(),
        write_connections_max: 2,
        autocommit_connections_max: 1,
    })?;
    let provider_url = "http://127.0.0.1:8085/payment".parse()?;
    let payment = Payment::try_new(ProviderConfig { provider_url })?;
    Ok(Ground { payment, db, _database: database })
}

fn waybill() -> Waybill {
    Waybill {
        total: Money::new(i64::MAX, "EUR".parse().expect("a currency")),
        payment_method: PaymentMethod("pm_card_ok".to_owned()),
        ship_to: ShipTo {
            name: "Ada \"the first\" Lovelace".to_owned(),
            street: "Rheingasse 1".to_owned(),
            city: "Zürich 日本".to_owned(),
            postcode: "4051".to_owned(),
            country: "CH".to_owned(),
        },
    }
}

fn receipt() -> Receipt {
    Receipt { amount: waybill().total, provider_ref: "cap_1".to_owned() }
}

fn reason() -> Reason {
    Reason::new("customer", "order")
}

async fn load(tx: &mut PgConnection, ids: &[Uuid]) -> Result<Rows<State>, Error> {
    let batch: Vec<_> = ids.iter().map(|id| (*id, &Input::Refunded)).collect();
    Payment::load(tx, &batch).await
}

impl Ground {
    async fn load(&self, ids: &[Uuid]) -> Result<Rows<State>, Error> {
        self.db.with_tx(async |tx| load(tx, ids).await).await
    }

    async fn save(&self, desk: &Rows<State>) -> Result<(), Error> {
        self.db.with_tx(async |tx| self.payment.save(tx, desk).await).await
    }

    /// Decides on an input as the shell does; `met` is waited for between load and save.
    async fn apply(&self, id: Uuid, input: &Input, met: &Barrier) -> Result<(), Error> {
        self.db
            .with_tx(async |tx| {
                let mut desk = load(tx, &[id]).await?;
                met.wait().await;
                if let Decision::Become { state, events, .. } =
                    Payment::decide(desk.state(id), input)
                {
                    let count = u32::try_from(events.len()).expect("a few");
                    desk.replace(id, state, count);
                }
                self.payment.save(tx, &desk).await
            })
            .await
    }
}

#[tokio::test]
async fn every_state_is_read_back_as_it_was_saved() -> anyhow::Result<()> {
    let ground = ground().await?;
    let states = [
        State::Barred(reason()),
        State::Capturing(waybill()),
        State::Turning(waybill(), reason()),
        State::Captured(receipt()),
        State::Refunding(receipt(), reason()),
        State::Declined,
        State::Refunded,
    ];
    let ids: Vec<Uuid> = states.iter().map(|_| Uuid::now_v7()).collect();
    // Created first, then changed into the next one of the list, and the next.
    for shift in 0..states.len() {
        let mut desk = ground.load(&ids).await?;
        for (index, id) in ids.iter().enumerate() {
            let state = states[(index + shift) % states.len()].clone();
            let said = u32::try_from(shift * 2 + 1)?;
            assert_eq!(Desk::<Payment>::put(&mut desk, *id, state, 2), said);
        }
        ground.save(&desk).await?;
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
    for first in [State::Barred(reason()), State::Captured(receipt())] {
        let mut slow = ground.load(&[id, other]).await?;
        let mut fast = ground.load(&[id]).await?;
        fast.replace(id, first.clone(), 0);
        ground.save(&fast).await?;
        slow.replace(id, State::Declined, 1);
        slow.replace(other, State::Declined, 1);
        let late = ground.save(&slow).await;
        assert!(matches!(late, Err(Error::Rerun(_))), "{late:?}");
        let found = ground.load(&[id, other]).await?;
        assert_eq!((found.state(id), found.state(other)), (&first, &State::Absent));
    }
    Ok(())
}

#[tokio::test]
async fn a_charge_and_a_cancel_that_both_find_nothing_are_both_heard() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (both, alone) = (Barrier::new(2), Barrier::new(1));
    for _ in 0..20 {
        let id = Uuid::now_v7();
        let (charge, cancel) = (Input::Capture(waybill()), Input::Cancel(reason()));
        let (charged, cancelled) =
            tokio::join!(ground.apply(id, &charge, &both), ground.apply(id, &cancel, &both));
        let expected = match (charged, cancelled) {
            (Ok(()), Err(Error::Rerun(_))) => {
                ground.apply(id, &cancel, &alone).await?;
                State::Turning(waybill(), reason())
            }
            (Err(Error::Rerun(_)), Ok(())) => {
                ground.apply(id, &charge, &alone).await?;
                State::Declined
            }
            both => panic!("one of them has to run again: {both:?}"),
        };
        assert_eq!(*ground.load(&[id]).await?.state(id), expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_text_that_postgres_refuses_is_poison() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut desk = ground.load(&[]).await?;
    let provider_ref = "cap\0".to_owned();
    desk.replace(Uuid::now_v7(), State::Captured(Receipt { provider_ref, ..receipt() }), 1);
    let poisoned = ground.save(&desk).await;
    assert!(matches!(poisoned, Err(Error::Poison(_))), "{poisoned:?}");
    Ok(())
}
