//! Owns the rows of payments: the only SQL of this service. Refuses to decide.

use chassis::{Rows, Stored};
use contracts::inventory::Waybill;
use contracts::{Currency, Money, PaymentMethod, Reason, ShipTo};
use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use store::{Error, all_saved, column};
use uuid::Uuid;

use crate::Payment;
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
    reason: Option<String>,
    version: i32,
    said: i32,
}

impl Stored for Payment {
    type Desk = Rows<State>;

    fn migrations() -> store::Migrations {
        static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/payment");
        &MIGRATIONS
    }

    async fn load(tx: &mut PgConnection, batch: &[(Uuid, &Input)]) -> Result<Rows<State>, Error> {
        let rows: Vec<PaymentRow> = sqlx::query_as(
            "select * from payments where order_id = any($1::uuid[]) order by order_id for update",
        )
        .bind(column(batch, |(order_id, _)| *order_id))
        .fetch_all(tx)
        .await?;
        Rows::read(rows.into_iter().map(|row| (row.order_id, row.version, row.said, row.state())))
    }

    async fn save(&self, tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), Error> {
        let rows: Vec<PaymentRow> = (desk.changed().into_iter())
            .map(|(order_id, row)| {
                let (version, said) = (row.version + 1, row.said);
                PaymentRow { order_id, version, said, ..PaymentRow::of(&row.state) }
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let saved = sqlx::query(
            "insert into payments as p (order_id, status, amount_minor, currency, payment_method,
                                        ship_to, provider_ref, reason, version, said)
             select * from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::text[], $5::text[],
                                  $6::bytea[], $7::text[], $8::text[], $9::int[], $10::int[])
             on conflict (order_id) do update
                set status = excluded.status, amount_minor = excluded.amount_minor,
                    currency = excluded.currency, payment_method = excluded.payment_method,
                    ship_to = excluded.ship_to, provider_ref = excluded.provider_ref,
                    reason = excluded.reason, version = excluded.version, said = excluded.said,
                    updated_at = now()
              where p.version = excluded.version - 1",
        )
        .bind(column(&rows, |row| row.order_id))
        .bind(column(&rows, |row| row.status))
        .bind(column(&rows, |row| row.amount_minor))
        .bind(column(&rows, |row| row.currency.as_deref()))
        .bind(column(&rows, |row| row.payment_method.as_deref()))
        .bind(column(&rows, |row| row.ship_to.as_deref()))
        .bind(column(&rows, |row| row.provider_ref.as_deref()))
        .bind(column(&rows, |row| row.reason.as_deref()))
        .bind(column(&rows, |row| row.version))
        .bind(column(&rows, |row| row.said))
        .execute(tx)
        .await?;
        all_saved(saved.rows_affected(), rows.len())
    }
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
        Self { reason: Some(why.to_string()), ..self }
    }

    fn money(self, money: Money) -> Self {
        let currency = Some(money.currency.to_string());
        Self { amount_minor: Some(money.amount_minor), currency, ..self }
    }

    fn bill(self, bill: &Waybill) -> Self {
        let ship_to = serde_json::to_vec(&bill.ship_to).expect("an address is made of strings");
        let payment_method = Some(bill.payment_method.0.clone());
        Self { payment_method, ship_to: Some(ship_to), ..self.money(bill.total) }
    }

    fn paid(self, paid: &Receipt) -> Self {
        Self { provider_ref: Some(paid.provider_ref.clone()), ..self.money(paid.amount) }
    }

    /// `None`: a row that no code of ours has written.
    fn state(self) -> Option<State> {
        let money = self.amount_minor.zip(self.currency).and_then(|(amount_minor, currency)| {
            Some(Money::new(amount_minor, currency.parse::<Currency>().ok()?))
        });
        let reason = self.reason.and_then(|reason| reason.parse::<Reason>().ok());
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
