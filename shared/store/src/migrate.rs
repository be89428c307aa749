//! Owns the order in which a schema grows. Refuses to go backwards.

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

/// The shell's tables. A service has its own set beside it.
static SHELL: Migrator = sqlx::migrate!("./migrations");
const SHELL_TABLE: &str = "_store_migrations";
const SERVICE_TABLE: &str = "_sqlx_migrations";

/// A service's own tables, as `sqlx::migrate!` embeds them.
pub type Migrations = &'static Migrator;

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("the schema cannot be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the schema's version cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    #[error("{table} is at version {found}, this program needs {needed}: migrate first")]
    Behind { table: &'static str, found: i64, needed: i64 },
}

/// Brings the schema up to date as its owner, or, without an owner's URL, checks that it is.
pub async fn migrate(
    owner_url: Option<&str>,
    app_url: &str,
    own: Migrations,
) -> Result<(), MigrationError> {
    let sets = [(&SHELL, SHELL_TABLE), (own, SERVICE_TABLE)];
    if let Some(url) = owner_url {
        let mut connection = PgConnection::connect(url).await?;
        for (set, table) in sets {
            let mut set = Migrator { migrations: set.migrations.clone(), ..Migrator::DEFAULT };
            set.dangerous_set_table_name(table);
            set.run(&mut connection).await?;
        }
        connection.close().await?;
        return Ok(());
    }
    let mut connection = PgConnection::connect(app_url).await?;
    for (set, table) in sets {
        let needed = set.iter().map(|migration| migration.version).max().unwrap_or_default();
        let sql = match table {
            SHELL_TABLE => "select coalesce(max(version), 0) from _store_migrations where success",
            _ => "select coalesce(max(version), 0) from _sqlx_migrations where success",
        };
        let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        if found < needed {
            return Err(MigrationError::Behind { table, found, needed });
        }
    }
    connection.close().await?;
    Ok(())
}
