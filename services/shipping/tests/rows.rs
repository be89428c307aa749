//! The rows of shipments on a real Postgres.

use chassis::{Rows, Stored};
use contracts::{Reason, ShipTo};
use saga::{Decision, Participant};
use shipping::domain::{Input, State};
use shipping::{ProviderConfig, Shipping};
use sqlx::PgConnection;
use store::{Config, Db, Error};
use testkit::Database;
use tokio::sync::Barrier;
use uuid::Uuid;

struct Ground {
    shipping: Shipping,
    db: Db,
    _database: Database,
}

async fn ground() -> anyhow::Result<Ground> {
    let database = testkit::database("shipping").await?;
    store::migrate(Some(&database.owner_url), &database.app_url, Shipping::migrations()).await?;
    let db = Db::try_new(&Config {
        url: database.app_url.clone(),
        application_name: "test".to_owned(),
        write_connections_max: 2,
        autocommit_connections_max: 1,
    })?;
    let provider_url = "http://127.0.0.1:8085/carrier".parse()?;
    let shipping = Shipping::try_new(ProviderConfig { provider_url })?;
    Ok(Ground { shipping, db, _database: database })
}

fn reason() -> Reason {
    Reason::new("deadline", "order")
}

fn booked() -> State {
    State::Booked { tracking_ref: "track_1".to_owned() }
}

fn book() -> Input {
    let word = |text: &str| text.to_owned();
    Input::Book(ShipTo {
        name: word("Ada"),
        street: word("Rheingasse 1"),
        city: word("Basel"),
        postcode: word("4051"),
        country: word("CH"),
    })
}

async fn load(tx: &mut PgConnection, ids: &[Uuid]) -> Result<Rows<State>, Error> {
    let any = Input::Cancel(reason());
    let batch: Vec<_> = ids.iter().map(|id| (*id, &any)).collect();
    Shipping::load(tx, &batch).await
}

impl Ground {
    async fn load(&self, ids: &[Uuid]) -> Result<Rows<State>, Error> {
        self.db.with_tx(async |tx| load(tx, ids).await).await
    }

    async fn save(&self, desk: &Rows<State>) -> Result<(), Error> {
        self.db.with_tx(async |tx| self.shipping.save(tx, desk).await).await
    }

    /// Decides on an input as the shell does; `met` is waited for between load and save.
    async fn apply(&self, id: Uuid, input: &Input, met: &Barrier) -> Result<(), Error> {
        self.db
            .with_tx(async |tx| {
                let mut desk = load(tx, &[id]).await?;
                met.wait().await;
                if let Decision::Become { state, .. } = Shipping::decide(desk.state(id), input) {
                    desk.replace(id, state, 0);
                }
                self.shipping.save(tx, &desk).await
            })
            .await
    }
}

#[tokio::test]
async fn every_state_is_read_back_as_it_was_saved() -> anyhow::Result<()> {
    let ground = ground().await?;
    let states = [State::Barred(reason()), State::Booking, booked(), State::Failed];
    let ids: Vec<Uuid> = states.iter().map(|_| Uuid::now_v7()).collect();
    // Created first, then changed into the next one of the list, and the next.
    for shift in 0..states.len() {
        let mut desk = ground.load(&ids).await?;
        for (index, id) in ids.iter().enumerate() {
            let said = u32::try_from(shift * 2 + 1)?;
            let state = states[(index + shift) % states.len()].clone();
            assert_eq!(desk.replace(*id, state, 2), said);
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
    for first in [State::Booking, booked()] {
        let mut slow = ground.load(&[id, other]).await?;
        let mut fast = ground.load(&[id]).await?;
        fast.replace(id, first.clone(), 0);
        ground.save(&fast).await?;
        slow.replace(id, State::Failed, 1);
        slow.replace(other, State::Failed, 1);
        let late = ground.save(&slow).await;
        assert!(matches!(late, Err(Error::Rerun(_))), "{late:?}");
        let found = ground.load(&[id, other]).await?;
        assert_eq!((found.state(id), found.state(other)), (&first, &State::Absent));
    }
    Ok(())
}

#[tokio::test]
async fn a_train_and_a_cancel_that_both_find_nothing_are_both_heard() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (both, alone) = (Barrier::new(2), Barrier::new(1));
    for _ in 0..20 {
        let id = Uuid::now_v7();
        let (train, cancel) = (book(), Input::Cancel(reason()));
        let (came, cancelled) =
            tokio::join!(ground.apply(id, &train, &both), ground.apply(id, &cancel, &both));
        let expected = match (came, cancelled) {
            (Ok(()), Err(Error::Rerun(_))) => {
                ground.apply(id, &cancel, &alone).await?;
                State::Booking
            }
            (Err(Error::Rerun(_)), Ok(())) => {
                ground.apply(id, &train, &alone).await?;
                State::Failed
            }
            both => panic!("one of them has to run again: {both:?}"),
        };
        assert_eq!(*ground.load(&[id]).await?.state(id), expected);
    }
    Ok(())
}
