//! Owns throwaway Jaeger servers, which keep traces in memory, and the questions that one can ask
//! any Jaeger. Refuses to build or download one: what is missing is named.

use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use opentelemetry_proto::tonic::trace::v1::TracesData;
use reqwest::{StatusCode, Url};
use rustix::process::Pid;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::folder::Folder;
use crate::otlp::{self, Span};
use crate::{parts, ports, wait};

const READY_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Older ones make room; a trace of a long saga takes some 30 KB.
const TRACES_MAX: u32 = 10_000;
/// How far back a trace is looked for.
const LOOK_BACK: &str = "48h";
const FOUND_MAX: &str = "20";
const LOG: &str = "jaeger.log";
const CONFIG: &str = "jaeger.yaml";

/// What a throwaway server is made for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// This port and the three after it; any free ones when absent.
    pub first_port: Option<u16>,
}

/// A place for a server: its settings, in a folder that goes with it.
pub struct Home {
    program: PathBuf,
    folder: Folder,
    first_port: u16,
    query: Query,
}

impl Home {
    /// Makes a place that nobody serves yet.
    pub fn make(options: Options) -> anyhow::Result<Self> {
        let program = parts::jaeger()?;
        let folder = Folder::create()?;
        let first_port = options.first_port.map_or_else(|| ports::free_base(&[0, 1, 2, 3]), Ok)?;
        fs::write(folder.path().join(CONFIG), settings(first_port))?;
        let query = Query::try_new(&format!("http://127.0.0.1:{}", first_port + 1))?;
        Ok(Self { program, folder, first_port, query })
    }

    /// The server, with nothing to remember. It ends with the *thread* that starts it.
    pub fn server(&self) -> Command {
        let mut command = Command::new("setpriv");
        // It has nothing to save, so nobody waits for its end.
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
        command.arg("--config").arg(self.folder.path().join(CONFIG));
        // It would tell itself about every span that it is told.
        command.env("OTEL_TRACES_SAMPLER", "always_off");
        command
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.first_port)
    }

    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Other throwaway files may lie there too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether a server runs here whose every part is up.
    pub async fn is_served(&self) -> bool {
        let health = format!("http://127.0.0.1:{}/status", self.first_port + 3);
        let answer = self.query.http.get(health).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

/// Spans come in at the first port, questions at the second and (gRPC) third, and the fourth tells
/// how it is.
fn settings(first_port: u16) -> String {
    let [spans, questions, grpc, health] = [0, 1, 2, 3].map(|offset| first_port + offset);
    format!(
        "service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
  telemetry:
    metrics: {{level: none}}
    logs: {{level: warn}}
receivers:
  otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{spans}'}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
extensions:
  jaeger_storage:
    backends: {{memory: {{memory: {{max_traces: {TRACES_MAX}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: '127.0.0.1:{questions}'}}
    grpc: {{endpoint: '127.0.0.1:{grpc}'}}
  healthcheckv2: {{use_v2: true, http: {{endpoint: '127.0.0.1:{health}'}}}}
"
    )
}

/// A running server in a home of its own; both are gone when this is dropped.
pub struct Jaeger {
    // Dropped after `drop` has ended the server.
    home: Home,
    server: Child,
}

impl Jaeger {
    /// Returns when it takes spans and answers questions.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let home = Home::make(options)?;
        let server = serve(&home)?;
        let mut jaeger = Self { home, server };
        jaeger.wait_until_served().await?;
        Ok(jaeger)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.server)
    }

    /// Ends it at once, and all that it remembers.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.server.kill()?;
        self.server.wait()?;
        Ok(())
    }

    /// Serves at the same addresses again.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.server = serve(&self.home)?;
        self.wait_until_served().await
    }

    async fn wait_until_served(&mut self) -> anyhow::Result<()> {
        let served = wait::until(READY_MAX, "Jaeger to be ready", async || {
            if self.home.is_served().await {
                return Some(true);
            }
            self.server.try_wait().ok().flatten().map(|_ended| false)
        });
        let served = served.await.and_then(|served| {
            anyhow::ensure!(served, "Jaeger ended instead of starting");
            Ok(())
        });
        let log = || fs::read_to_string(self.home.folder().join(LOG)).unwrap_or_default();
        served.map_err(|error| error.context(log()))
    }
}

/// What is known of the place holds for the server.
impl Deref for Jaeger {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn serve(home: &Home) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(home.folder().join(LOG))?;
    let mut server = home.server();
    server.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C at a terminal goes to a whole group; whoever started this ends it in time.
    Ok(server.process_group(0).spawn()?)
}

/// Asks a Jaeger, whoever runs it, what it knows.
#[derive(Debug, Clone)]
pub struct Query {
    http: reqwest::Client,
    base: Url,
}

/// OTLP, one layer down.
#[derive(Deserialize)]
struct Answer {
    result: TracesData,
}

impl Query {
    /// `base`: where its pages are, such as `http://127.0.0.1:16686`.
    pub fn try_new(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(ANSWER_MAX).no_proxy().build()?;
        let base: Url = base.parse().with_context(|| format!("the address {base}"))?;
        anyhow::ensure!(base.has_host(), "the address {base} must begin with http://");
        Ok(Self { http, base })
    }

    /// Where its pages are.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The page that shows a trace.
    pub fn page(&self, trace_id: &str) -> anyhow::Result<Url> {
        Ok(self.base.join(&format!("/trace/{trace_id}"))?)
    }

    /// The spans of a trace; none if it is not known.
    pub async fn trace(&self, trace_id: &str) -> anyhow::Result<Vec<Span>> {
        self.spans(self.base.join(&format!("/api/v3/traces/{trace_id}"))?).await
    }

    /// The ids of the traces in which a service names this saga, the oldest first.
    pub async fn find(&self, service: &str, saga_id: Uuid) -> anyhow::Result<Vec<String>> {
        let tags = serde_json::json!({ "saga.id": saga_id }).to_string();
        let asked =
            [("service", service), ("tags", &tags), ("lookback", LOOK_BACK), ("limit", FOUND_MAX)];
        let mut found: Vec<(u64, String)> = Vec::new();
        for trace in self.search(&asked).await? {
            let spans = trace["spans"].as_array().into_iter().flatten();
            let begun = spans.filter_map(|span| span["startTime"].as_u64()).min();
            let trace_id = trace["traceID"].as_str().context("a trace without its id")?;
            found.push((begun.unwrap_or_default(), trace_id.to_owned()));
        }
        found.sort();
        Ok(found.into_iter().map(|(_, trace_id)| trace_id).collect())
    }

    /// The spans of a service that are called so.
    pub async fn named(&self, service: &str, name: &str) -> anyhow::Result<Vec<Span>> {
        let asked = [
            ("service", service),
            ("operation", name),
            ("lookback", LOOK_BACK),
            ("limit", "10000"),
        ];
        let mut spans = Vec::new();
        for trace in self.search(&asked).await? {
            let trace_id = trace["traceID"].as_str().context("a trace without its id")?;
            spans.extend(self.trace(trace_id).await?);
        }
        spans.retain(|span| span.service == service && span.name == name);
        Ok(spans)
    }

    async fn search(&self, asked: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
        let address = Url::parse_with_params(self.base.join("/api/traces")?.as_str(), asked)?;
        let answer = self.http.get(address).send().await?.error_for_status()?;
        let mut answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
        match answer["data"].take() {
            Value::Array(traces) => Ok(traces),
            Value::Null => Ok(Vec::new()),
            other => anyhow::bail!("an answer of another shape: {other}"),
        }
    }

    async fn spans(&self, address: Url) -> anyhow::Result<Vec<Span>> {
        let answer = self.http.get(address).send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let body = answer.error_for_status()?.bytes().await?;
        let answer: Answer = serde_json::from_slice(&body)
            .with_context(|| format!("no OTLP: {}", String::from_utf8_lossy(&body)))?;
        Ok(otlp::read(answer.result.resource_spans).collect())
    }
}
