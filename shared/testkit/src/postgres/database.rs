//! Owns databases: one for each test, with the roles and schemas of services. Refuses to know a
//! service's tables: those come with its migrations.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::SUPERUSER;
use super::cluster::Cluster;
use super::home::url;

/// Any number will do, as long as every test process takes the same.
const CREATING: i64 = 0x5357_4954_4348;

/// A database of one test; it is dropped with this.
pub struct Database {
    /// For the service itself: it can touch its own schema alone.
    pub app_url: String,
    /// For migrations.
    pub owner_url: String,
    /// For looking behind the scenes.
    pub superuser_url: String,
    name: String,
    cluster: Cluster,
}

/// A fresh database for one service, on a server that all processes of a test run share.
///
/// The server is started by whoever comes first, and ends by itself some seconds after the last
/// process that asked for it.
pub async fn database(service: &str) -> anyhow::Result<Database> {
    let cluster = tokio::task::spawn_blocking(Cluster::join).await??;
    let name = format!("test_{service}_{}", Uuid::new_v4().simple());
    let port = cluster.port();
    create(port, &name, &[service]).await?;
    Ok(Database {
        app_url: url(port, &format!("{service}_app"), &name),
        owner_url: url(port, &format!("{service}_owner"), &name),
        superuser_url: url(port, SUPERUSER, &name),
        name,
        cluster,
    })
}

impl Drop for Database {
    fn drop(&mut self) {
        self.cluster.drop_database(&self.name);
    }
}

/// One at a time on a server: roles are shared by all its databases.
pub(super) async fn create(port: u16, name: &str, services: &[&str]) -> anyhow::Result<()> {
    let mut server = PgConnection::connect(&url(port, SUPERUSER, "postgres")).await?;
    sqlx::query("select pg_advisory_lock($1)").bind(CREATING).execute(&mut server).await?;
    let sql = format!("create database \"{name}\"");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut server).await?;
    let mut inside = PgConnection::connect(&url(port, SUPERUSER, name)).await?;
    for service in services {
        let sql = store::bootstrap_sql(service);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut inside).await?;
    }
    inside.close().await?;
    server.close().await?;
    Ok(())
}
