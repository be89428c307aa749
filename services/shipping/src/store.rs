//! Owns the rows of shipments: the only SQL of this service. Refuses to decide.

use chassis::{Rows, Stored};
use contracts::Reason;
use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use store::{Error, all_saved, column};
use uuid::Uuid;

use crate::Shipping;
use crate::domain::{Input, State};

#[derive(sqlx::FromRow)]
struct ShipmentRow {
    order_id: Uuid,
    status: i16,
    tracking_ref: Option<String>,
    reason: Option<String>,
    version: i32,
    said: i32,
}

impl Stored for Shipping {
    type Desk = Rows<State>;

    fn migrations() -> store::Migrations {
        static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/shipping");
        &MIGRATIONS
    }

    async fn load(tx: &mut PgConnection, batch: &[(Uuid, &Input)]) -> Result<Rows<State>, Error> {
        let rows: Vec<ShipmentRow> = sqlx::query_as(
            "select * from shipments where order_id = any($1::uuid[]) order by order_id for update",
        )
        .bind(column(batch, |(order_id, _)| *order_id))
        .fetch_all(tx)
        .await?;
        Rows::read(rows.into_iter().map(|row| (row.order_id, row.version, row.said, state(row))))
    }

    async fn save(&self, tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), Error> {
        let changed = desk.changed();
        if changed.is_empty() {
            return Ok(());
        }
        let saved = sqlx::query(
            "insert into shipments as s (order_id, status, tracking_ref, reason, version, said)
             select * from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::int[],
                                  $6::int[])
             on conflict (order_id) do update
                set status = excluded.status, tracking_ref = excluded.tracking_ref,
                    reason = excluded.reason, version = excluded.version, said = excluded.said,
                    updated_at = now()
              where s.version = excluded.version - 1",
        )
        .bind(column(&changed, |(order_id, _)| *order_id))
        .bind(column(&changed, |(_, row)| columns(&row.state).0))
        .bind(column(&changed, |(_, row)| columns(&row.state).1))
        .bind(column(&changed, |(_, row)| columns(&row.state).2))
        .bind(column(&changed, |(_, row)| row.version + 1))
        .bind(column(&changed, |(_, row)| row.said))
        .execute(tx)
        .await?;
        all_saved(saved.rows_affected(), changed.len())
    }
}

/// `None`: a row that no code of ours has written.
fn state(row: ShipmentRow) -> Option<State> {
    Some(match row.status {
        1 => State::Barred(row.reason?.parse::<Reason>().ok()?),
        2 => State::Booking,
        3 => State::Booked { tracking_ref: row.tracking_ref? },
        4 => State::Failed,
        _ => return None,
    })
}

/// Status, tracking reference and reason of a state.
fn columns(state: &State) -> (i16, Option<&str>, Option<String>) {
    match state {
        // Never saved: a decision turns to something.
        State::Absent => (0, None, None),
        State::Barred(why) => (1, None, Some(why.to_string())),
        State::Booking => (2, None, None),
        State::Booked { tracking_ref } => (3, Some(tracking_ref), None),
        State::Failed => (4, None, None),
    }
}
