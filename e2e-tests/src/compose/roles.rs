//! Owns what each service may do in the database, as Postgres itself tells it. Refuses to believe
//! the script that made the roles: every role is asked about every table, and logs in.

use std::borrow::Cow;
use std::collections::BTreeSet;

use anyhow::ensure;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};

use super::Project;
use crate::SERVICES;
use crate::stack::Stack;

const INSUFFICIENT_PRIVILEGE: &str = "42501";
const INVALID_PASSWORD: &str = "28P01";

/// Something that a role may do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, FromRow)]
struct Grant {
    /// Whose `<service>_app` it is.
    service: String,
    schema: String,
    /// Empty for the schema itself.
    table: String,
    what: String,
}

const GRANTS: &str = "
with services as (select unnest($1::text[]) as service),
     namespaces as (select oid, nspname::text as schema from pg_namespace
                     where nspname = any($1) or nspname = 'public'),
     tables as (select c.oid, n.schema, c.relname::text as table
                  from pg_class c join namespaces n on n.oid = c.relnamespace
                 where c.relkind in ('r', 'p'))
select service, schema, '' as table, what
  from services, namespaces, unnest(array['usage', 'create']) as what
 where has_schema_privilege(service || '_app', oid, what)
 union all
select service, schema, tables.table, what
  from services, tables,
       unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger'])
           as what
 where has_table_privilege(service || '_app', oid, what)";

const TABLES: &str = "
select n.nspname::text, c.relname::text
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = any($1) and c.relkind in ('r', 'p')";

/// Fails unless each service may do its own work, and nothing else. Gives how many tables there are.
pub async fn are_kept_apart(project: &Project, stack: &Stack) -> anyhow::Result<usize> {
    let tables: Vec<(String, String)> =
        sqlx::query_as(TABLES).bind(SERVICES).fetch_all(&stack.tables).await?;
    for schema in SERVICES {
        let found = tables.iter().any(|(of, table)| of == schema && table == "events");
        ensure!(found, "{schema} has no events to be kept from anybody");
    }
    let found: Vec<Grant> = sqlx::query_as(GRANTS).bind(SERVICES).fetch_all(&stack.tables).await?;
    let wrong = differences(&found.into_iter().collect(), &wanted(&tables));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    for service in SERVICES {
        logs_in_as_itself(project, stack, service).await?;
    }
    Ok(tables.len())
}

/// Rows are its own to read and write; what was said stays said.
fn wanted(tables: &[(String, String)]) -> BTreeSet<Grant> {
    let schemas = SERVICES.map(|service| grant(service, "", "usage"));
    let of_tables = tables.iter().flat_map(|(schema, table)| {
        let is_kept = *table == "events" || table.starts_with("events_");
        let all: &[&str] =
            if is_kept { &["select", "insert"] } else { &["select", "insert", "update", "delete"] };
        all.iter().map(|what| grant(schema, table, what))
    });
    schemas.into_iter().chain(of_tables).collect()
}

fn grant(service: &str, table: &str, what: &str) -> Grant {
    Grant {
        service: service.to_owned(),
        schema: service.to_owned(),
        table: table.to_owned(),
        what: what.to_owned(),
    }
}

fn differences(found: &BTreeSet<Grant>, wanted: &BTreeSet<Grant>) -> Vec<String> {
    let told = |grant: &Grant, may: &str| {
        let Grant { service, schema, table, what } = grant;
        format!("{service}_app {may} {what} {schema}.{table}")
    };
    let too_much = found.difference(wanted).map(|grant| told(grant, "may"));
    let too_little = wanted.difference(found).map(|grant| told(grant, "may not"));
    too_much.chain(too_little).collect()
}

/// Its process uses its own role, which has a password of its own and is refused elsewhere.
async fn logs_in_as_itself(project: &Project, stack: &Stack, service: &str) -> anyhow::Result<()> {
    let used = "select distinct usename::text from pg_stat_activity where application_name = $1";
    let used: Vec<String> =
        sqlx::query_scalar(used).bind(format!("{service}-1")).fetch_all(&stack.tables).await?;
    let role = format!("{service}_app");
    ensure!(used == [role.as_str()], "the process of {service} works as {used:?}");

    let port = stack.tables.connect_options().get_port();
    let url = |of: &str| {
        let password = project.password(of);
        format!("postgres://{role}:{password}@127.0.0.1:{port}/switchback")
    };
    let other = SERVICES.into_iter().find(|other| *other != service).unwrap_or_default();
    let stranger = PgConnection::connect(&url(other)).await.map(drop);
    refused(&stranger, INVALID_PASSWORD, &format!("{role} with the password of {other}"))?;
    let mut own = PgConnection::connect(&url(service)).await?;
    for sql in [
        format!("select * from {other:?}.events"),
        format!("delete from {service:?}.events"),
        "create table public.mine (word text)".to_owned(),
    ] {
        let done = sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut own).await.map(drop);
        refused(&done, INSUFFICIENT_PRIVILEGE, &format!("{role}: {sql}"))?;
    }
    Ok(own.close().await?)
}

fn refused(done: &Result<(), sqlx::Error>, code: &str, what: &str) -> anyhow::Result<()> {
    let told = done.as_ref().err().and_then(sqlx::Error::as_database_error);
    let found = told.and_then(|error| error.code().map(Cow::into_owned));
    ensure!(found.as_deref() == Some(code), "{what}: {done:?} instead of {code}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_too_many_and_one_too_few_are_both_found() {
        let tables = [("order", "events"), ("order", "events_20261123"), ("payment", "payments")];
        let tables = tables.map(|(schema, table)| (schema.to_owned(), table.to_owned()));
        let wanted = wanted(&tables);
        assert_eq!(differences(&wanted, &wanted), Vec::<String>::new());
        let mut found = wanted.clone();
        assert!(found.remove(&grant("payment", "payments", "delete")));
        found.insert(grant("order", "events_20261123", "delete"));
        found.insert(Grant { schema: "payment".to_owned(), ..grant("order", "", "usage") });
        assert_eq!(
            differences(&found, &wanted),
            [
                "order_app may delete order.events_20261123",
                "order_app may usage payment.",
                "payment_app may not delete payment.payments",
            ]
        );
    }
}
