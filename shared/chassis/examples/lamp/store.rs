//! Owns the rows of lamps: the only SQL of this service. Refuses to decide.

use chassis::{Due, Rows, Seen, Stored, View};
use chrono::{DateTime, Utc};
use saga::Participant as _;
use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use store::{Error, all_saved, column};
use uuid::Uuid;

use crate::Lamp;
use crate::domain::{Input, State};

type Row = (Uuid, i16, Option<String>, Option<i16>, i32, i32);

impl Stored for Lamp {
    type Desk = Rows<State>;

    fn migrations() -> store::Migrations {
        static MIGRATIONS: Migrator = sqlx::migrate!("examples/lamp/migrations");
        &MIGRATIONS
    }

    async fn load(tx: &mut PgConnection, batch: &[(Uuid, &Input)]) -> Result<Rows<State>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "select lamp_id, status, label, level, version, said
               from lamps where lamp_id = any($1::uuid[]) order by lamp_id for update",
        )
        .bind(column(batch, |(lamp_id, _)| *lamp_id))
        .fetch_all(tx)
        .await?;
        Rows::read(rows.into_iter().map(|(lamp_id, status, label, level, version, said)| {
            (lamp_id, version, said, state(status, label, level))
        }))
    }

    async fn save(&self, tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), Error> {
        let changed = desk.changed();
        if changed.is_empty() {
            return Ok(());
        }
        let saved = sqlx::query(
            "insert into lamps as l (lamp_id, status, label, level, version, said)
             select * from unnest($1::uuid[], $2::smallint[], $3::text[], $4::smallint[],
                                  $5::int[], $6::int[])
             on conflict (lamp_id) do update
                set status = excluded.status, label = excluded.label, level = excluded.level,
                    version = excluded.version, said = excluded.said
              where l.version = excluded.version - 1",
        )
        .bind(column(&changed, |(lamp_id, _)| *lamp_id))
        .bind(column(&changed, |(_, row)| columns(&row.state).0))
        .bind(column(&changed, |(_, row)| columns(&row.state).1))
        .bind(column(&changed, |(_, row)| columns(&row.state).2))
        .bind(column(&changed, |(_, row)| row.version + 1))
        .bind(column(&changed, |(_, row)| row.said))
        .execute(tx)
        .await?;
        all_saved(saved.rows_affected(), changed.len())
    }

    /// Two mistakes left in on purpose. It cannot bear to look at one of the lamps: there is no
    /// input to be set aside, so the process ends. And it turns up a timer that was never lit.
    async fn due(
        connection: &mut PgConnection,
        mark: Option<DateTime<Utc>>,
    ) -> Result<Due<Input>, Error> {
        let medusa = sqlx::query("select from lamps where label = 'medusa'");
        assert!(medusa.fetch_optional(&mut *connection).await?.is_none(), "turned to stone");
        let timers: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(
            "select lamp_id, now() from lamps where label = 'timer' and $1::timestamptz is null",
        )
        .bind(mark)
        .fetch_all(connection)
        .await?;
        let turned = |(lamp_id, _): &(Uuid, _)| (*lamp_id, Input::Turn { level: 30 }, None);
        Ok(Due {
            mark: timers.first().map(|(_, now)| *now),
            inputs: timers.iter().map(turned).collect(),
        })
    }

    fn views() -> Vec<View> {
        vec![View {
            group: "lamp-history",
            producers: &[Self::NAME],
            insert: |tx, seen| Box::pin(remember(tx, seen)),
        }]
    }
}

/// What was said of each lamp, for whoever asks.
async fn remember(tx: &mut PgConnection, seen: &[Seen]) -> Result<(), Error> {
    sqlx::query(
        "insert into history (event_id, lamp_id, type)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[])
         on conflict do nothing",
    )
    .bind(column(seen, |event| event.envelope.id))
    .bind(column(seen, |event| event.envelope.subject))
    .bind(column(seen, |event| event.envelope.kind.to_string()))
    .execute(tx)
    .await?;
    Ok(())
}

/// `None`: a row that no code of ours has written.
fn state(status: i16, label: Option<String>, level: Option<i16>) -> Option<State> {
    Some(match status {
        1 => State::Awaited,
        2 => State::Dark { label: label? },
        3 => State::Connecting { label: label? },
        4 => State::Lit { label: label?, level: u8::try_from(level?).ok()? },
        5 => State::Cut { label: label? },
        _ => return None,
    })
}

/// Status, label and level of a state.
fn columns(state: &State) -> (i16, Option<&str>, Option<i16>) {
    match state {
        // Never saved: a decision turns to something.
        State::Absent => (0, None, None),
        State::Awaited => (1, None, None),
        State::Dark { label } => (2, Some(label), None),
        State::Connecting { label } => (3, Some(label), None),
        State::Lit { label, level } => (4, Some(label), Some(i16::from(*level))),
        State::Cut { label } => (5, Some(label), None),
    }
}
