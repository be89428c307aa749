//! The store on a real Postgres: one database for each test.

mod batch;
mod boot;
mod calls;
mod lives;
mod outbox;
mod overlaps;
mod plans;
mod republish;
mod schema;
mod silence;
mod transactions;

use std::time::Duration;

use saga::{Envelope, EventType, Trace};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use store::{Config, Db, Error, Said};
use testkit::Database;
use uuid::Uuid;

const SERVICE: &str = "lamp";
const AT_MOST: Duration = Duration::from_secs(10);
/// How long the inbox of these tests remembers.
const WINDOW: Duration = Duration::from_hours(21 * 24);

static NOTES: sqlx::migrate::Migrator = sqlx::migrate!("./tests/migrations");

/// A migrated schema and the way into it.
struct Ground {
    db: Db,
    database: Database,
}

async fn ground() -> anyhow::Result<Ground> {
    let database = testkit::database(SERVICE).await?;
    store::migrate(Some(&database.owner_url), &database.app_url, &NOTES).await?;
    let db = Db::try_new(&config(&database.app_url))?;
    store::ensure_partitions(&db, WINDOW).await?;
    Ok(Ground { db, database })
}

fn config(url: &str) -> Config {
    Config {
        url: url.to_owned(),
        application_name: "test".to_owned(),
        write_connections_max: 4,
        autocommit_connections_max: 4,
    }
}

impl Ground {
    /// The superuser, inside the service's schema.
    async fn behind(&self) -> anyhow::Result<PgConnection> {
        let options: PgConnectOptions = self.database.superuser_url.parse()?;
        Ok(options.options([("search_path", SERVICE)]).connect().await?)
    }

    /// How many rows a query counts.
    async fn count(&self, sql: &'static str) -> anyhow::Result<i64> {
        let mut behind = self.behind().await?;
        Ok(sqlx::query_scalar(sql).fetch_one(&mut behind).await?)
    }

    /// Another process of the same service.
    fn peer(&self) -> anyhow::Result<Db> {
        Ok(Db::try_new(&config(&self.database.app_url))?)
    }

    async fn say(&self, boot: i32, said: Vec<Said>) -> Result<(), Error> {
        let commit = store::Commit { said, ..store::Commit::default() };
        self.db.with_tx(async |tx| store::write(tx, boot, &commit).await).await
    }

    async fn now(&self) -> anyhow::Result<chrono::DateTime<chrono::Utc>> {
        Ok(sqlx::query_scalar("select now()").fetch_one(self.db.autocommit()).await?)
    }
}

async fn said(ground: &Ground, subject: Uuid, version: u32) -> anyhow::Result<Said> {
    let envelope = Envelope {
        id: Uuid::now_v7(),
        kind: EventType::new(SERVICE, "Lit", 1),
        time: ground.now().await?,
        subject,
        version: Some(version),
        cause: Some(Uuid::now_v7()),
        trace: Trace { traceparent: "00-0a-0b-01".to_owned(), tracestate: String::new() },
    };
    Ok(Said { envelope, body: format!("{{\"version\":{version}}}").into_bytes() })
}
