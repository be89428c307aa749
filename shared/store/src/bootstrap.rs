//! Owns the roles and the schema of one service. Refuses to create tables: migrations do.

/// The SQL that prepares a database for `service`, for a superuser to run as one script.
///
/// It makes the roles `<service>_owner`, `<service>_app` and `<service>_ro` and the schema
/// `<service>`. It can run again and again.
///
/// # Panics
/// If the name is not made of lower-case letters and underscores: it becomes part of the SQL.
pub fn bootstrap_sql(service: &str) -> String {
    assert!(
        !service.is_empty() && service.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
        "a service's name is made of a-z and _"
    );
    include_str!("../bootstrap.sql").replace("{service}", service)
}
