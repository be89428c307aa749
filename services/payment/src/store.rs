//! Owns the rows of payments: the only SQL of this service. Refuses to decide.

use chassis::Rows;
use contracts::inventory::Waybill;
use contracts::{Currency, Money, PaymentMethod, Reason, ShipTo};
use sqlx::PgConnection;
use store::{Error, all_saved, column};
use uuid::Uuid;

use crate::domain::{Input, Receipt, State};

/// A payment as a row, both ways.
#[derive(Default, sqlx::FromRow)]
struct PaymentRow {
    order_id: Uuid,
    status: i16,
    amount_minor: Option<i64>,
    currency: Option<String>,
    payment_method: Option<String>,
    ship_to: Option<Vec<u8>>,
    provider_ref: Option<String>,
    reason_code: Option<String>,
    reason_service: Option<String>,
    version: i32,
    said: i32,
}

pub(crate) async fn load(
    tx: &mut PgConnection,
    batch: &[(Uuid, &Input)],
) -> Result<Rows<State>, Error> {
    let rows: Vec<PaymentRow> = sqlx::query_as(
        "select * from payments where order_id = any($1::uuid[]) order by order_id for update",
    )
    .bind(column(batch, |(order_id, _)| *order_id))
    .fetch_all(tx)
    .await?;
    let loaded = rows.into_iter().map(|row| {
        let (order_id, version, said) = (row.order_id, row.version, row.said);
        let state = row.state();
        let broken = || Error::Wait(format!("payment {order_id} cannot be read back"));
        Ok((order_id, state.ok_or_else(broken)?, version, said))
    });
    Ok(Rows::new(loaded.collect::<Result<Vec<_>, Error>>()?))
}

pub(crate) async fn save(tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), Error> {
    let changed = desk.changed();
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<PaymentRow> = (changed.iter())
        .map(|(order_id, row)| PaymentRow {
            order_id: *order_id,
            version: row.version,
            said: row.said,
            ..PaymentRow::of(&row.state)
        })
        .collect();
    let saved: i64 = sqlx::query_scalar(
        "with s as (
             select * from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::text[], $5::text[],
                                  $6::bytea[], $7::text[], $8::text[], $9::text[], $10::int[],
                                  $11::int[])
                 as t(order_id, status, amount_minor, currency, payment_method, ship_to,
                      provider_ref, reason_code, reason_service, said, was)
         ), created as (
             insert into payments (order_id, status, amount_minor, currency, payment_method,
                                   ship_to, provider_ref, reason_code, reason_service, version,
                                   said)
             select order_id, status, amount_minor, currency, payment_method, ship_to,
                    provider_ref, reason_code, reason_service, 1, said
               from s where was = 0 order by order_id
             on conflict do nothing
             returning 1
         ), changed as (
             update payments p
                set status = s.status, amount_minor = s.amount_minor, currency = s.currency,
                    payment_method = s.payment_method, ship_to = s.ship_to,
                    provider_ref = s.provider_ref, reason_code = s.reason_code,
                    reason_service = s.reason_service, version = s.was + 1, said = s.said,
                    updated_at = now()
               from s
              where s.was > 0 and p.order_id = s.order_id and p.version = s.was
             returning 1
         )
         select (select count(*) from created) + (select count(*) from changed)",
    )
    .bind(column(&rows, |row| row.order_id))
    .bind(column(&rows, |row| row.status))
    .bind(column(&rows, |row| row.amount_minor))
    .bind(column(&rows, |row| row.currency.as_deref()))
    .bind(column(&rows, |row| row.payment_method.as_deref()))
    .bind(column(&rows, |row| row.ship_to.as_deref()))
    .bind(column(&rows, |row| row.provider_ref.as_deref()))
    .bind(column(&rows, |row| row.reason_code.as_deref()))
    .bind(column(&rows, |row| row.reason_service.as_deref()))
    .bind(column(&rows, |row| row.said))
    .bind(column(&rows, |row| row.version))
    .fetch_one(tx)
    .await?;
    all_saved(saved, rows.len())
}

impl PaymentRow {
    fn of(state: &State) -> Self {
        let status = |status| Self { status, ..Self::default() };
        match state {
            // Never saved: a decision turns to something.
            State::Absent => status(0),
            State::Barred(why) => status(1).because(why),
            State::Capturing(bill) => status(2).bill(bill),
            State::Turning(bill, why) => status(3).bill(bill).because(why),
            State::Captured(paid) => status(4).paid(paid),
            State::Refunding(paid, why) => status(5).paid(paid).because(why),
            State::Declined => status(6),
            State::Refunded => status(7),
        }
    }

    fn because(self, why: &Reason) -> Self {
        let reason_code = Some(why.code.clone().into_owned());
        Self { reason_code, reason_service: Some(why.service.clone().into_owned()), ..self }
    }

    fn money(self, money: Money) -> Self {
        let currency = Some(money.currency.to_string());
        Self { amount_minor: Some(money.amount_minor), currency, ..self }
    }

    fn bill(self, bill: &Waybill) -> Self {
        let ship_to = serde_json::to_vec(&bill.ship_to).expect("an address is made of strings");
        Self {
            payment_method: Some(bill.payment_method.0.clone()),
            ship_to: Some(ship_to),
            ..self.money(bill.total)
        }
    }

    fn paid(self, paid: &Receipt) -> Self {
        Self { provider_ref: Some(paid.provider_ref.clone()), ..self.money(paid.amount) }
    }

    /// `None`: a row that no code of ours has written.
    fn state(self) -> Option<State> {
        let money = self.amount_minor.zip(self.currency).and_then(|(amount_minor, currency)| {
            Some(Money::new(amount_minor, currency.parse::<Currency>().ok()?))
        });
        let reason = self.reason_code.zip(self.reason_service);
        let reason = reason.map(|(code, by)| Reason { code: code.into(), service: by.into() });
        let ship_to = self.ship_to.and_then(|bytes| serde_json::from_slice::<ShipTo>(&bytes).ok());
        let bill = || {
            let payment_method = PaymentMethod(self.payment_method?);
            Some(Waybill { total: money?, payment_method, ship_to: ship_to? })
        };
        let paid = || Some(Receipt { amount: money?, provider_ref: self.provider_ref? });
        Some(match self.status {
            1 => State::Barred(reason?),
            2 => State::Capturing(bill()?),
            3 => State::Turning(bill()?, reason?),
            4 => State::Captured(paid()?),
            5 => State::Refunding(paid()?, reason?),
            6 => State::Declined,
            7 => State::Refunded,
            _ => return None,
        })
    }
}
