//! Owns the rows of shipments: the only SQL of this service. Refuses to decide.

use chassis::Rows;
use contracts::Reason;
use sqlx::PgConnection;
use store::{Error, all_saved, column};
use uuid::Uuid;

use crate::domain::{Input, State};

#[derive(sqlx::FromRow)]
struct ShipmentRow {
    order_id: Uuid,
    status: i16,
    tracking_ref: Option<String>,
    reason_code: Option<String>,
    reason_service: Option<String>,
    version: i32,
    said: i32,
}

pub(crate) async fn load(
    tx: &mut PgConnection,
    batch: &[(Uuid, &Input)],
) -> Result<Rows<State>, Error> {
    let rows: Vec<ShipmentRow> = sqlx::query_as(
        "select * from shipments where order_id = any($1::uuid[]) order by order_id for update",
    )
    .bind(column(batch, |(order_id, _)| *order_id))
    .fetch_all(tx)
    .await?;
    let loaded = rows.into_iter().map(|row| {
        let (order_id, version, said) = (row.order_id, row.version, row.said);
        let broken = || Error::Wait(format!("shipment {order_id} cannot be read back"));
        Ok((order_id, state(row).ok_or_else(broken)?, version, said))
    });
    Ok(Rows::new(loaded.collect::<Result<Vec<_>, Error>>()?))
}

/// `None`: a row that no code of ours has written.
fn state(row: ShipmentRow) -> Option<State> {
    Some(match row.status {
        1 => State::Barred(Reason {
            code: row.reason_code?.into(),
            service: row.reason_service?.into(),
        }),
        2 => State::Booking,
        3 => State::Booked { tracking_ref: row.tracking_ref? },
        4 => State::Failed,
        _ => return None,
    })
}

/// Status, tracking reference and reason of a state.
fn columns(state: &State) -> (i16, Option<&str>, Option<&Reason>) {
    match state {
        // Never saved: a decision turns to something.
        State::Absent => (0, None, None),
        State::Barred(why) => (1, None, Some(why)),
        State::Booking => (2, None, None),
        State::Booked { tracking_ref } => (3, Some(tracking_ref), None),
        State::Failed => (4, None, None),
    }
}

pub(crate) async fn save(tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), Error> {
    let changed = desk.changed();
    if changed.is_empty() {
        return Ok(());
    }
    let reason = |state| columns(state).2;
    let saved: i64 = sqlx::query_scalar(
        "with s as (
             select * from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::text[],
                                  $6::int[], $7::int[])
                 as t(order_id, status, tracking_ref, reason_code, reason_service, said, was)
         ), created as (
             insert into shipments (order_id, status, tracking_ref, reason_code, reason_service,
                                    version, said)
             select order_id, status, tracking_ref, reason_code, reason_service, 1, said
               from s where was = 0 order by order_id
             on conflict do nothing
             returning 1
         ), changed as (
             update shipments p
                set status = s.status, tracking_ref = s.tracking_ref,
                    reason_code = s.reason_code, reason_service = s.reason_service,
                    version = s.was + 1, said = s.said, updated_at = now()
               from s
              where s.was > 0 and p.order_id = s.order_id and p.version = s.was
             returning 1
         )
         select (select count(*) from created) + (select count(*) from changed)",
    )
    .bind(column(&changed, |(order_id, _)| *order_id))
    .bind(column(&changed, |(_, row)| columns(&row.state).0))
    .bind(column(&changed, |(_, row)| columns(&row.state).1))
    .bind(column(&changed, |(_, row)| reason(&row.state).map(|reason| &*reason.code)))
    .bind(column(&changed, |(_, row)| reason(&row.state).map(|reason| &*reason.service)))
    .bind(column(&changed, |(_, row)| row.said))
    .bind(column(&changed, |(_, row)| row.version))
    .fetch_one(tx)
    .await?;
    all_saved(saved, changed.len())
}
