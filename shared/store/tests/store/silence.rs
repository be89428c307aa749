//! A line to Postgres that is open and says nothing: the other end has vanished.

use std::time::Duration;

use sqlx::PgConnection;
use store::{Boot, Db, Error};
use testkit::wait;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::{config, ground};

/// Longer than the store waits for any answer, and longer than a session lock is lent.
const NOTICED_MAX: Duration = Duration::from_secs(20);

/// A way to Postgres that swallows everything while it is told to.
struct Line {
    port: u16,
    is_silent: watch::Sender<bool>,
}

impl Line {
    async fn to(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?.port();
        let (is_silent, told) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, port, told.clone()));
            }
        });
        Ok(Self { port: own, is_silent })
    }
}

/// A connection on which silence has fallen once stays open and says nothing for good.
async fn pass(mut client: TcpStream, port: u16, mut told: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        () = async { drop(told.wait_for(|silent| *silent).await) } => {
            std::future::pending::<()>().await;
        }
    }
}

#[tokio::test]
async fn a_line_that_falls_silent_is_given_up_and_its_place_taken_by_another() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let (head, rest) = ground.database.app_url.split_once("127.0.0.1:").expect("it is on loopback");
    let (port, rest) = rest.split_once('/').expect("a URL names its database");
    let line = Line::to(port.parse()?).await?;
    let mut config = config(&format!("{head}127.0.0.1:{}/{rest}", line.port));
    (config.write_connections_max, config.autocommit_connections_max) = (1, 1);
    let db = Db::try_new(&config)?;
    let ask = async |tx: &mut PgConnection| {
        sqlx::query("select 1").execute(tx).await?;
        Ok(())
    };
    db.with_tx(ask).await?;
    assert!(db.is_reachable().await);

    line.is_silent.send_replace(true);
    let (in_a_transaction, alone) = tokio::join!(db.with_tx(ask), db.is_reachable());
    assert!(matches!(in_a_transaction, Err(Error::Wait(_))), "{in_a_transaction:?}");
    assert!(!alone);

    line.is_silent.send_replace(false);
    wait::until(NOTICED_MAX, "both pools to have their one connection", async || {
        let (written, read) = tokio::join!(db.with_tx(ask), db.is_reachable());
        (written.is_ok() && read).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_process_that_stands_still_soon_counts_as_dead() -> anyhow::Result<()> {
    let ground = ground().await?;
    // Whoever does not poll this stands still; its connection is open all the time.
    let (boot, _standing) = Boot::take(ground.db.clone()).await?;
    let mut behind = ground.behind().await?;
    let is_held = "select exists (select from pg_locks
                                   where locktype = 'advisory' and objid = $1::oid and granted
                                     and classid = (hashtext('live lamp')::bigint
                                                    & 4294967295)::oid)";
    let mut held = async || {
        let asked = sqlx::query_scalar::<_, bool>(is_held).bind(i64::from(boot.number()));
        asked.fetch_one(&mut behind).await
    };
    assert!(held().await?);
    wait::until(NOTICED_MAX, "its lock to be free", async || (!held().await.ok()?).then_some(()))
        .await
}
