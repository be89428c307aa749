//! Owns a house for one test: a lamp service, its database, the broker between it and the wall, and
//! the power company. Refuses to know what a test does in it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::DateTime;
use rustix::process::{Pid, Signal, kill_process};
use saga::{Envelope, EventType, Trace};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use testkit::records::{self, Record};
use testkit::{Broker, Database, wait};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub const AT_MOST: Duration = Duration::from_secs(20);
/// A process that was asked to end has ended by then, whatever holds it.
pub const END_MAX: Duration = Duration::from_secs(20);
/// So long does a test wait for an end that it does not time.
const ENDED_AT_MOST: Duration = Duration::from_secs(30);
pub const WALL: &str = "wall.events.v1";
pub const LAMP: &str = "lamp.events.v1";
const ANY_PORT: &str = "127.0.0.1:0";

/// How the lamp logs in.
pub struct Login {
    pub app: String,
    pub owner: String,
    pub superuser: String,
}

pub struct House {
    pub broker: Broker,
    pub grid: Grid,
    lamp: Child,
    login: Login,
    settings: Vec<(&'static str, String)>,
    /// What the lamp logs, and where it listens.
    log: PathBuf,
    address: String,
    _database: Option<Database>,
}

impl House {
    pub async fn open(settings: &[(&'static str, &str)]) -> anyhow::Result<Self> {
        let database = testkit::database("lamp").await?;
        let login = Login {
            app: database.app_url.clone(),
            owner: database.owner_url.clone(),
            superuser: database.superuser_url.clone(),
        };
        Self::open_with(login, Some(database), settings).await
    }

    /// On a database of the caller's.
    pub async fn open_with(
        login: Login,
        database: Option<Database>,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<Self> {
        let broker = Broker::start(None, &[WALL, LAMP])?;
        let grid = Grid::start().await?;
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let log = log()?;
        let lamp = start(ANY_PORT, &log, &login, &broker, &grid, &settings)?;
        let address = String::new();
        let mut house =
            Self { broker, grid, lamp, login, settings, log, address, _database: database };
        house.wait_until_alive().await?;
        Ok(house)
    }

    /// The process ends as if the power had gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.lamp.kill()?)
    }

    /// The same, and another takes its place.
    pub async fn kill_and_start_again(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.start_again().await
    }

    /// Asks the process to end.
    pub fn terminate(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.lamp), Signal::TERM)?)
    }

    /// How the process ended.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let lamp = &mut self.lamp;
        let what = "the lamp to end";
        wait::until(ENDED_AT_MOST, what, async || lamp.try_wait().ok().flatten()).await
    }

    /// Another process takes the place of one that ends.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.lamp.wait()?;
        let Self { log, login, broker, grid, settings, .. } = &*self;
        self.lamp = start(ANY_PORT, log, login, broker, grid, settings)?;
        self.wait_until_alive().await
    }

    /// The lamp takes any free port and logs which: between finding one and listening there
    /// another test might take it.
    async fn wait_until_alive(&mut self) -> anyhow::Result<()> {
        self.address = wait::until(AT_MOST, "the lamp to serve", async || {
            let text = fs::read_to_string(&self.log).ok()?;
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut addresses = lines.filter_map(|line| {
                let fields = line.get("fields")?;
                (fields.get("message")? == "serving").then_some(())?;
                Some(fields.get("listen")?.as_str()?.to_owned())
            });
            addresses.next()
        })
        .await?;
        Ok(())
    }

    /// Where the lamp listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the lamp has logged.
    pub fn logged(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// A second process of the same service, and its log.
    pub fn twin(&self) -> anyhow::Result<(Child, PathBuf)> {
        let log = log()?;
        let Self { login, broker, grid, settings, .. } = self;
        Ok((start(ANY_PORT, &log, login, broker, grid, settings)?, log))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `None`: nobody listens.
    pub async fn status(&self, path: &str) -> Option<u16> {
        Some(reqwest::get(self.url(path)).await.ok()?.status().as_u16())
    }

    /// A counter, summed over its labels.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let text = reqwest::get(self.url("/metrics")).await?.text().await?;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// The superuser, inside the lamp's schema.
    pub async fn behind(&self) -> anyhow::Result<PgConnection> {
        let options: PgConnectOptions = self.login.superuser.parse()?;
        Ok(options.options([("search_path", "lamp")]).connect().await?)
    }

    /// Whatever concerns this lamp waits until the connection is closed.
    pub async fn lock(&self, lamp_id: Uuid) -> anyhow::Result<PgConnection> {
        let mut holder = self.behind().await?;
        sqlx::query("begin").execute(&mut holder).await?;
        let sql = "select from lamps where lamp_id = $1 for update";
        sqlx::query(sql).bind(lamp_id).execute(&mut holder).await?;
        Ok(holder)
    }

    /// Returns when a batch stands before a locked lamp.
    pub async fn wait_until_stuck(&self) -> anyhow::Result<()> {
        let mut behind = self.behind().await?;
        wait::until(AT_MOST, "a batch to wait for a lock", async || {
            let stuck = sqlx::query_scalar::<_, bool>(
                "select exists (select from pg_stat_activity
                   where datname = current_database() and usename = 'lamp_app'
                     and wait_event_type = 'Lock')",
            );
            stuck.fetch_one(&mut behind).await.ok()?.then_some(())
        })
        .await
    }

    /// Returns when a metric has this value.
    pub async fn wait_for_metric(&self, value: u64, name: &str) -> anyhow::Result<()> {
        let mut last = 0;
        let waited = wait::until(AT_MOST, name, async || {
            last = self.metric(name).await.ok()?;
            (last == value).then_some(())
        })
        .await;
        waited.with_context(|| format!("{last} instead of {value}"))
    }

    /// Whether the lamp is ready, and what it says about it.
    pub async fn readiness(&self) -> anyhow::Result<(u16, String)> {
        let answer = reqwest::get(self.url("/readyz")).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub async fn count(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.behind().await?).await?)
    }

    /// Returns when a query counts so many rows.
    pub async fn wait_for_count(&self, rows: i64, sql: &'static str) -> anyhow::Result<()> {
        let mut behind = self.behind().await?;
        let mut last = 0;
        let waited = wait::until(AT_MOST, sql, async || {
            last = sqlx::query_scalar(sql).fetch_one(&mut behind).await.ok()?;
            (last == rows).then_some(())
        })
        .await;
        waited.with_context(|| format!("{last} rows instead of {rows}"))
    }

    /// What the wall says, in this order.
    pub async fn tell(&self, records: &[Record]) -> anyhow::Result<()> {
        records::produce(self.broker.bootstrap(), WALL, records).await
    }

    /// Status and level of a lamp.
    pub async fn lamp(&self, lamp_id: Uuid) -> anyhow::Result<Option<(i16, Option<i16>)>> {
        Ok(sqlx::query_as("select status, level from lamps where lamp_id = $1")
            .bind(lamp_id)
            .fetch_optional(&mut self.behind().await?)
            .await?)
    }

    pub async fn wait_for_status(&self, lamp_id: Uuid, status: i16) -> anyhow::Result<()> {
        wait::until(AT_MOST, &format!("{lamp_id} to be {status}"), async || {
            let (found, _) = self.lamp(lamp_id).await.ok()??;
            (found == status).then_some(())
        })
        .await
    }

    /// Everything on the lamp's topic.
    pub async fn said(&self) -> anyhow::Result<Vec<Record>> {
        records::read(self.broker.bootstrap(), LAMP).await
    }

    /// What was said about a lamp, once there are so many different events of it.
    pub async fn wait_for_said(&self, lamp_id: Uuid, count: usize) -> anyhow::Result<Vec<Record>> {
        let key = lamp_id.to_string().into_bytes();
        wait::until(AT_MOST, "the lamp's events", async || {
            let mut said = self.said().await.ok()?;
            said.retain(|record| record.key.as_deref() == Some(&*key));
            (distinct(&said) >= count).then_some(said)
        })
        .await
    }

    pub async fn letters(&self) -> anyhow::Result<Vec<Letter>> {
        Ok(sqlx::query_as(
            "select origin, code, subject, body, headers, attempts
               from dead_letters order by partition, log_offset",
        )
        .fetch_all(&mut self.behind().await?)
        .await?)
    }

    pub async fn wait_for_letters(&self, count: usize) -> anyhow::Result<Vec<Letter>> {
        let mut last = Vec::new();
        let waited = wait::until(AT_MOST, "dead letters", async || {
            let letters = self.letters().await.ok()?;
            last = letters.iter().map(|letter| letter.code.clone()).collect();
            (letters.len() >= count).then_some(letters)
        })
        .await;
        waited.with_context(|| format!("{last:?} instead of {count}"))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.lamp.kill());
        drop(self.lamp.wait());
        if !std::thread::panicking() {
            drop(fs::remove_file(&self.log));
        }
    }
}

#[derive(Debug, sqlx::FromRow)]
pub struct Letter {
    pub origin: String,
    pub code: String,
    pub subject: Option<Uuid>,
    pub body: Vec<u8>,
    pub headers: Vec<u8>,
    pub attempts: i32,
}

/// After a crash an event may be on the topic twice.
pub fn distinct(said: &[Record]) -> usize {
    said.iter().filter_map(|event| event.header("ce_id")).collect::<HashSet<_>>().len()
}

/// A file of this test's own.
pub fn log() -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lamps");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{}.log", Uuid::now_v7())))
}

/// The lamp's process, from the example that is built with the tests.
pub fn start(
    listen: &str,
    log: &Path,
    login: &Login,
    broker: &Broker,
    grid: &Grid,
    settings: &[(&'static str, String)],
) -> anyhow::Result<Child> {
    let log = File::create(log)?;
    let program = program()?;
    let mut command = Command::new(&program);
    command
        .env("DATABASE_URL", &login.app)
        .env("MIGRATE_URL", &login.owner)
        .env("KAFKA_BROKERS", broker.bootstrap())
        .env("LISTEN", listen)
        .env("GRID_URL", grid.url())
        .env("FETCH_WAIT_MS", "10")
        // Lanes meet in these tests unless one asks for a single one.
        .env("LANES", "2")
        .env("SESSION_TIMEOUT_MS", "2000")
        .env("PARENT_DEATH_SIGNAL", "1")
        .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn().with_context(|| format!("{}", program.display()))
}

fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("a test program lies in a folder")?;
    Ok(folder.join("examples").join("lamp"))
}

/// A record of the wall about a lamp.
pub fn event(name: &'static str, lamp_id: Uuid, body: &Value) -> Record {
    event_of_version(1, name, lamp_id, body)
}

pub fn event_of_version(version: u16, name: &'static str, lamp_id: Uuid, body: &Value) -> Record {
    let envelope = Envelope {
        id: Uuid::now_v7(),
        kind: EventType::new("wall", name, version),
        time: DateTime::UNIX_EPOCH,
        subject: lamp_id,
        version: None,
        cause: None,
        trace: Trace::default(),
    };
    let headers = envelope.headers().into_iter();
    Record {
        partition: None,
        key: Some(lamp_id.to_string().into_bytes()),
        headers: headers.map(|(name, value)| (name.to_owned(), Some(value.into_bytes()))).collect(),
        body: Some(json!({ name: body }).to_string().into_bytes()),
    }
}

pub fn fitted(lamp_id: Uuid, label: &str) -> Record {
    event("BulbFitted", lamp_id, &json!({"label": label}))
}

pub fn pressed(lamp_id: Uuid) -> Record {
    event("SwitchPressed", lamp_id, &json!({}))
}

pub fn turned(lamp_id: Uuid, level: u8) -> Record {
    event("DimmerTurned", lamp_id, &json!({"level": level}))
}

/// The power company. What it answers follows from the lamp's label.
#[derive(Clone)]
pub struct Grid {
    at: String,
    book: Arc<Book>,
}

struct Book {
    /// How often each key was asked for.
    asked: Mutex<HashMap<String, u32>>,
    /// The keys under which a refusal is recorded.
    refused: Mutex<HashSet<String>>,
    /// Every answer about a `held` lamp waits for one of these, and the second about a `flaky` one.
    gate: Semaphore,
}

impl Grid {
    pub async fn start() -> anyhow::Result<Self> {
        let book = Arc::new(Book {
            asked: Mutex::default(),
            refused: Mutex::default(),
            gate: Semaphore::new(0),
        });
        let router = Router::new()
            .route("/grid/v1/connections", post(connect))
            .route("/grid/v1/operations/{key}", get(recorded))
            .with_state(Arc::clone(&book));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let at = format!("http://{}/grid", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { at, book })
    }

    fn url(&self) -> &str {
        &self.at
    }

    /// Lets one answer out.
    pub fn open_gate(&self) {
        self.book.gate.add_permits(1);
    }

    /// How often each key was asked for.
    pub fn asked(&self) -> HashMap<String, u32> {
        self.book.asked.lock().expect("no holder panics").clone()
    }
}

async fn connect(
    State(book): State<Arc<Book>>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let key = headers["Idempotency-Key"].to_str().expect("a key is text").to_owned();
    let times = {
        let mut asked = book.asked.lock().expect("no holder panics");
        let times = asked.entry(key.clone()).or_default();
        *times += 1;
        *times
    };
    let done = json!({"lamp_id": request["lamp_id"], "reference": "meter_7"});
    match (request["label"].as_str().unwrap_or_default(), times) {
        ("reminded", 1) => {
            book.gate.acquire().await.expect("it is never closed").forget();
            (StatusCode::PAYMENT_REQUIRED, Json(json!({"code": "bill_unpaid"})))
        }
        ("overdue", 1) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({}))),
        ("overdue", _) => {
            book.refused.lock().expect("no holder panics").insert(key);
            (StatusCode::PAYMENT_REQUIRED, Json(json!({"code": "bill_unpaid"})))
        }
        ("unpaid", _) => (StatusCode::PAYMENT_REQUIRED, Json(json!({"code": "bill_unpaid"}))),
        ("flaky", 1) | ("down", _) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({}))),
        ("flaky" | "held", _) => {
            book.gate.acquire().await.expect("it is never closed").forget();
            (StatusCode::OK, Json(done))
        }
        _ => (StatusCode::OK, Json(done)),
    }
}

async fn recorded(
    State(book): State<Arc<Book>>,
    UrlPath(key): UrlPath<String>,
) -> (StatusCode, Json<Value>) {
    if book.refused.lock().expect("no holder panics").contains(&key) {
        (StatusCode::OK, Json(json!({"status": "refused", "code": "bill_unpaid"})))
    } else {
        (StatusCode::NOT_FOUND, Json(json!({"code": "nothing_recorded"})))
    }
}
