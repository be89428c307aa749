//! Who is alive, as the database sees it.

use store::{Boot, Db};
use testkit::wait;

use crate::{AT_MOST, Ground, ground};

async fn is_locked(ground: &Ground, number: i32) -> anyhow::Result<bool> {
    let mut connection = ground.db.connect().await?;
    Ok(sqlx::query_scalar(
        "select exists (
             select from pg_locks
              where locktype = 'advisory' and objid = $1::oid and granted
                and database = (select oid from pg_database where datname = current_database())
                and classid = (hashtext('live ' || current_schema())::bigint & 4294967295)::oid)",
    )
    .bind(i64::from(number))
    .fetch_one(&mut connection)
    .await?)
}

/// Ends whoever holds the lock of a boot.
async fn terminate_holder(ground: &Ground, number: i32) -> anyhow::Result<()> {
    let ended: Option<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_locks
          where locktype = 'advisory' and objid = $1::oid
            and database = (select oid from pg_database where datname = current_database())",
    )
    .bind(i64::from(number))
    .fetch_optional(&mut ground.behind().await?)
    .await?;
    anyhow::ensure!(ended == Some(true), "nobody holds the lock of {number}");
    Ok(())
}

async fn alive(db: &Db) -> anyhow::Result<Boot> {
    let (boot, holding) = Boot::take(db.clone()).await?;
    tokio::spawn(holding);
    Ok(boot)
}

#[tokio::test]
async fn every_process_has_a_number_of_its_own_and_a_lock_while_it_lives() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (mortal, holding) = Boot::take(ground.db.clone()).await?;
    let other = alive(&ground.peer()?).await?;
    assert_ne!(mortal.number(), other.number());
    assert!(is_locked(&ground, mortal.number()).await?);
    assert!(is_locked(&ground, other.number()).await?);

    drop(holding);
    wait::until(AT_MOST, "the lock of the dead to be free", async || {
        (!is_locked(&ground, mortal.number()).await.ok()?).then_some(())
    })
    .await?;
    assert!(is_locked(&ground, other.number()).await?);
    Ok(())
}

#[tokio::test]
async fn a_lock_that_is_lost_with_its_connection_is_taken_again() -> anyhow::Result<()> {
    let ground = ground().await?;
    let boot = alive(&ground.db).await?;
    let number = boot.number();
    terminate_holder(&ground, number).await?;
    wait::until(AT_MOST, "the lock to be gone", async || {
        (!is_locked(&ground, number).await.ok()?).then_some(())
    })
    .await?;
    wait::until(AT_MOST, "the lock to be back", async || {
        is_locked(&ground, number).await.ok()?.then_some(())
    })
    .await?;
    assert_eq!(boot.number(), number);
    Ok(())
}

#[tokio::test]
async fn a_renewed_boot_lives_under_a_new_number_and_the_old_one_is_dead() -> anyhow::Result<()> {
    let ground = ground().await?;
    let boot = alive(&ground.db).await?;
    let old = boot.number();
    boot.renew();
    wait::until(AT_MOST, "the old number to be dead", async || {
        (!is_locked(&ground, old).await.ok()?).then_some(())
    })
    .await?;
    assert_ne!(boot.number(), old);
    assert!(is_locked(&ground, boot.number()).await?);
    Ok(())
}

#[tokio::test]
async fn a_number_is_renewed_even_if_its_connection_is_lost_at_the_same_moment()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let boot = alive(&ground.db).await?;
    let old = boot.number();
    terminate_holder(&ground, old).await?;
    boot.renew();
    wait::until(AT_MOST, "a new number", async || (boot.number() != old).then_some(())).await?;
    wait::until(AT_MOST, "the old number to be dead", async || {
        (!is_locked(&ground, old).await.ok()?).then_some(())
    })
    .await?;
    assert!(is_locked(&ground, boot.number()).await?);
    Ok(())
}
