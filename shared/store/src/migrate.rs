//! Owns the order in which a schema grows. Refuses to go backwards.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

use crate::db::answered;

/// The shell's tables. A service has its own set beside it.
static SHELL: Migrator = sqlx::migrate!("./migrations");
const SHELL_TABLE: &str = "_store_migrations";
const SERVICE_TABLE: &str = "_sqlx_migrations";

/// A service's own tables, as `sqlx::migrate!` embeds them.
pub type Migrations = &'static Migrator;

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("the schema cannot be migrated: {0}")]
    Migrate(MigrateError),
    /// It may pass.
    #[error("the schema cannot be reached: {0}")]
    Database(#[from] sqlx::Error),
    #[error("{table} is at version {found}, this program needs {needed}: migrate first")]
    Behind { table: &'static str, found: i64, needed: i64 },
}

impl From<MigrateError> for MigrationError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)
                if is_outage(&cause) =>
            {
                Self::Database(cause)
            }
            error => Self::Migrate(error),
        }
    }
}

/// A line that broke, a server without room or on its way out: nothing that a migration has done.
fn is_outage(error: &sqlx::Error) -> bool {
    let Some(cause) = error.as_database_error() else { return true };
    let code = cause.code().unwrap_or_default();
    ["08", "53", "55", "57"].iter().any(|class| code.starts_with(class))
}

/// Brings the schema up to date as its owner, or, without an owner's URL, checks that it is.
pub async fn migrate(
    owner_url: Option<&str>,
    app_url: &str,
    own: Migrations,
) -> Result<(), MigrationError> {
    let sets = [(&SHELL, SHELL_TABLE), (own, SERVICE_TABLE)];
    if let Some(url) = owner_url {
        let mut connection = answered(PgConnection::connect(url)).await?;
        for (set, table) in sets {
            let mut set = Migrator { migrations: set.migrations.clone(), ..Migrator::DEFAULT };
            set.dangerous_set_table_name(table);
            set.run(&mut connection).await?;
        }
        connection.close().await?;
        return Ok(());
    }
    let mut connection = answered(PgConnection::connect(app_url)).await?;
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
