//! Both providers over a real listener, and as a process that is killed and started again.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use providers::Ledger;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CAPTURES: &str = "/payment/v1/captures";
const REFUNDS: &str = "/payment/v1/refunds";
const BOOKINGS: &str = "/carrier/v1/bookings";

/// Somebody who asks; an error is a connection without an answer.
struct Caller {
    client: Client,
    base: String,
}

impl Caller {
    fn of(base: String) -> Self {
        let client = Client::builder().no_proxy().build().expect("a plain client");
        Self { client, base }
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        let post = self.client.post(format!("{}{path}", self.base)).json(body);
        Answer::of(post.header("Idempotency-Key", key).send().await?).await
    }

    async fn get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        Answer::of(self.client.get(format!("{}{path}", self.base)).send().await?).await
    }

    async fn look_up(&self, destination: &str, key: &str) -> Answer {
        self.get(&format!("/{destination}/v1/operations/{key}")).await.expect("an answer")
    }

    async fn ledger(&self, order: &str) -> Vec<Value> {
        let rows = self.get(&format!("/v1/ledger?order_id={order}")).await.expect("an answer");
        rows.body.as_array().expect("a list").clone()
    }

    async fn fault(&self, name: &str, body: &Value) -> Answer {
        let put = self.client.put(format!("{}/v1/faults/{name}", self.base)).json(body);
        Answer::of(put.send().await.expect("an answer")).await.expect("a whole answer")
    }

    async fn breaks(&self, name: &str, mode: &str) {
        let fault = json!({"mode": mode, "share": 1, "ttl_seconds": 60});
        assert_eq!(self.fault(name, &fault).await.status, 200);
    }

    async fn heals(&self, name: &str) {
        let delete = self.client.delete(format!("{}/v1/faults/{name}", self.base));
        let healed = delete.send().await.expect("an answer");
        assert_eq!(healed.status(), StatusCode::NO_CONTENT);
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    async fn of(response: Response) -> Result<Self, reqwest::Error> {
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        Ok(Self { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// Providers of this test alone, in this process.
async fn start(folder: &TempDir) -> Caller {
    let (ledger, _) = Ledger::open(folder.path()).expect("a fresh ledger");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(providers::serve(listener, providers::router(&ledger)));
    Caller::of(base)
}

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn capture(order: &str, payment_method: &str) -> Value {
    json!({
        "order_id": order, "amount_minor": 900, "currency": "EUR",
        "payment_method": payment_method
    })
}

fn refund(order: &str, capture_reference: &Value, amount_minor: i64) -> Value {
    json!({
        "order_id": order, "capture_reference": capture_reference,
        "amount_minor": amount_minor, "currency": "EUR"
    })
}

fn booking(order: &str, postcode: &str) -> Value {
    json!({"order_id": order, "ship_to": {
        "name": "Ada", "street": "Rheinsprung 1", "city": "Basel",
        "postcode": postcode, "country": "CH"
    }})
}

#[tokio::test]
async fn a_capture_a_refund_and_a_booking_are_three_rows_of_one_ledger() {
    let folder = folder();
    let caller = start(&folder).await;
    let captured = caller.post(CAPTURES, "c1", &capture("o1", "pm_card_ok")).await;
    let captured = captured.expect("an answer");
    let reference = captured.body["reference"].clone();
    let expected = json!({
        "reference": reference, "order_id": "o1", "operation": "capture",
        "amount_minor": 900, "currency": "EUR"
    });
    assert_eq!(captured, Answer { status: 200, body: expected });
    let refunded = caller.post(REFUNDS, "r1", &refund("o1", &reference, 900)).await;
    assert_eq!(refunded.expect("an answer").body["operation"], "refund");
    let booked = caller.post(BOOKINGS, "b1", &booking("o1", "4051")).await;
    assert_eq!(booked.expect("an answer").status, 200);
    caller.post(CAPTURES, "c2", &capture("o2", "pm_card_ok")).await.expect("an answer");

    let row = |seq: u64, destination: &str, operation: &str, key: &str, money: bool| {
        json!({
            "seq": seq, "destination": destination, "operation": operation, "order_id": "o1",
            "idempotency_key": key, "amount_minor": money.then_some(900),
            "currency": money.then_some("EUR"),
            "reference": format!("{}_{seq:08}", if money { &operation[..3] } else { "trk" }),
            "capture_reference": (operation == "refund").then_some(&reference)
        })
    };
    let rows = [
        row(1, "payment", "capture", "c1", true),
        row(2, "payment", "refund", "r1", true),
        row(3, "carrier", "book", "b1", false),
    ];
    assert_eq!(caller.ledger("o1").await, rows);
    let rest = caller.get("/v1/ledger?after=3").await.expect("an answer").body;
    assert_eq!(rest.as_array().expect("a list").len(), 1);
    assert_eq!(rest[0]["order_id"], "o2");
}

#[tokio::test]
async fn twins_of_one_key_have_one_effect_and_one_answer() {
    let folder = folder();
    let caller = start(&folder).await;
    let body = capture("o1", "pm_card_ok");
    let mut twins = Vec::new();
    for _ in 0..50 {
        let twin = Caller::of(caller.base.clone());
        let body = body.clone();
        twins.push(tokio::spawn(async move { twin.post(CAPTURES, "c1", &body).await }));
    }
    let mut answers = Vec::new();
    for twin in twins {
        answers.push(twin.await.expect("no panic").expect("an answer"));
    }
    assert_eq!(answers[0].status, 200);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(caller.ledger("o1").await.len(), 1);
}

#[tokio::test]
async fn a_refusal_is_repeated_found_and_no_effect() {
    let folder = folder();
    let caller = start(&folder).await;
    let declined = capture("o1", "pm_card_declined");
    let rejected = booking("o1", "00000");
    let unfounded = refund("o1", &json!("cap_00000077"), 1);
    for (path, key, body, status, code) in [
        (CAPTURES, "c1", &declined, 402, "card_declined"),
        (BOOKINGS, "b1", &rejected, 422, "address_rejected"),
        (REFUNDS, "r1", &unfounded, 422, "refund_exceeds_capture"),
    ] {
        for _ in 0..2 {
            let refused = caller.post(path, key, body).await.expect("an answer");
            assert_eq!((refused.status, refused.code()), (status, code));
        }
        let destination = path.split('/').nth(1).expect("the first segment");
        let found = caller.look_up(destination, key).await;
        assert_eq!(found.body, json!({"status": "refused", "code": code}));
    }
    assert!(caller.ledger("o1").await.is_empty());
}

#[tokio::test]
async fn a_bad_request_records_nothing() {
    let folder = folder();
    let caller = start(&folder).await;
    let good = capture("o1", "pm_card_ok");
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (path, body, code) in [
        (CAPTURES, with("amount_minor", json!(0)), "invalid_request"),
        (CAPTURES, with("amount_minor", json!("900")), "invalid_request"),
        (CAPTURES, with("currency", json!("eur")), "invalid_request"),
        (CAPTURES, with("order_id", json!("")), "invalid_request"),
        (CAPTURES, with("payment_method", json!("pm_gold")), "unknown_payment_method"),
        (REFUNDS, json!({}), "invalid_request"),
        (BOOKINGS, booking("o1", ""), "invalid_request"),
        (BOOKINGS, json!({"order_id": "o1"}), "invalid_request"),
    ] {
        let refused = caller.post(path, "k1", &body).await.expect("an answer");
        assert_eq!((refused.status, refused.code()), (422, code), "{body}");
    }
    for key in ["", "two words", &"k".repeat(256)] {
        let refused = caller.post(CAPTURES, key, &good).await.expect("an answer");
        assert_eq!((refused.status, refused.code()), (400, "idempotency_key_invalid"));
    }
    let keyless = caller.client.post(format!("{}{CAPTURES}", caller.base)).json(&good);
    let keyless = Answer::of(keyless.send().await.expect("an answer")).await.expect("whole");
    assert_eq!((keyless.status, keyless.code()), (400, "idempotency_key_missing"));
    for destination in ["payment", "carrier"] {
        let found = caller.look_up(destination, "k1").await;
        assert_eq!((found.status, found.code()), (404, "nothing_recorded"));
    }
    assert!(caller.ledger("o1").await.is_empty());
}

#[tokio::test]
async fn a_key_with_another_body_is_refused_and_the_first_stands() {
    let folder = folder();
    let caller = start(&folder).await;
    let first = caller.post(CAPTURES, "c1", &capture("o1", "pm_card_ok")).await;
    let first = first.expect("an answer");
    for (path, body) in [
        (CAPTURES, capture("o1", "pm_card_declined")),
        (CAPTURES, capture("o2", "pm_card_ok")),
        (REFUNDS, refund("o1", &first.body["reference"], 900)),
    ] {
        let refused = caller.post(path, "c1", &body).await.expect("an answer");
        assert_eq!((refused.status, refused.code()), (422, "idempotency_key_reused"));
    }
    let again = caller.post(CAPTURES, "c1", &capture("o1", "pm_card_ok")).await;
    assert_eq!(again.expect("an answer"), first);
    assert_eq!(caller.ledger("o1").await.len(), 1);
}

#[tokio::test]
async fn a_lost_answer_was_applied_and_is_given_when_asked_again() {
    let folder = folder();
    let caller = start(&folder).await;
    let body = capture("o1", "pm_answer_lost");
    caller.post(CAPTURES, "c1", &body).await.expect_err("the connection was cut");
    let found = caller.look_up("payment", "c1").await;
    assert_eq!((found.status, &found.body["status"]), (200, &json!("done")));
    let again = caller.post(CAPTURES, "c1", &body).await.expect("an answer");
    assert_eq!(again.body["reference"], found.body["reference"]);
    assert_eq!(caller.ledger("o1").await.len(), 1);
}

#[tokio::test]
async fn a_cut_connection_carries_not_one_byte_of_an_answer() {
    let folder = folder();
    let caller = start(&folder).await;
    let address = caller.base.strip_prefix("http://").expect("the scheme");
    let body = capture("o1", "pm_answer_lost").to_string();
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!(
        "POST {CAPTURES} HTTP/1.1\r\nhost: x\r\nidempotency-key: c1\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
    ended.await.expect("in time").expect("a plain end");
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn a_slow_card_is_charged_at_once_and_answered_after_two_seconds() {
    let folder = folder();
    let caller = start(&folder).await;
    let began = Instant::now();
    let body = capture("o1", "pm_slow");
    let (slow, found) = tokio::join!(caller.post(CAPTURES, "c1", &body), async {
        until("the charge", async || {
            let found = caller.look_up("payment", "c1").await;
            (found.status == 200).then(|| began.elapsed())
        })
        .await
    });
    assert_eq!(slow.expect("an answer").status, 200);
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(found < Duration::from_secs(1), "{found:?}");
}

#[tokio::test]
async fn a_busy_depot_books_at_the_third_request_of_an_order() {
    let folder = folder();
    let caller = start(&folder).await;
    let mut seen = Vec::new();
    for (order, key) in [("o1", "b1"), ("o1", "b1"), ("o2", "b2"), ("o1", "b1"), ("o1", "b1")] {
        let answer = caller.post(BOOKINGS, key, &booking(order, "99999")).await;
        seen.push(answer.expect("an answer").status);
    }
    assert_eq!(seen, [503, 503, 503, 200, 200]);
    assert_eq!(caller.ledger("o1").await.len(), 1);
}

#[tokio::test]
async fn a_fault_strikes_its_own_destination_and_heals_when_told() {
    let folder = folder();
    let caller = start(&folder).await;
    let body = capture("o1", "pm_card_ok");

    caller.breaks("payment", "down").await;
    caller.post(CAPTURES, "c1", &body).await.expect_err("the connection was cut");
    caller.get("/payment/v1/operations/c1").await.expect_err("the connection was cut");
    let booked = caller.post(BOOKINGS, "b1", &booking("o1", "4051")).await;
    assert_eq!(booked.expect("an answer").status, 200);

    caller.breaks("payment", "errors").await;
    let failed = caller.post(CAPTURES, "c1", &body).await.expect("an answer");
    assert_eq!((failed.status, failed.code()), (503, "temporarily_unavailable"));

    caller.heals("payment").await;
    assert_eq!(caller.look_up("payment", "c1").await.code(), "nothing_recorded");
    assert_eq!(caller.post(CAPTURES, "c1", &body).await.expect("an answer").status, 200);
}

#[tokio::test]
async fn lost_answers_are_applied_and_can_be_looked_up() {
    let folder = folder();
    let caller = start(&folder).await;
    caller.breaks("carrier", "lose_answers").await;
    for _ in 0..2 {
        let lost = caller.post(BOOKINGS, "b1", &booking("o1", "4051")).await;
        lost.expect_err("the connection was cut");
    }
    assert_eq!(caller.look_up("carrier", "b1").await.body["status"], "done");
    assert_eq!(caller.ledger("o1").await.len(), 1);

    let counts = caller.get("/v1/counts/carrier").await.expect("an answer").body;
    assert_eq!(counts, json!({"struck": 2, "repeated": 2}), "one repeat, one look-up");
    let counts = caller.get("/v1/counts/payment").await.expect("an answer").body;
    assert_eq!(counts, json!({"struck": 0, "repeated": 0}));
}

#[tokio::test]
async fn a_late_effect_lands_seconds_after_its_connection_was_cut() {
    let folder = folder();
    let caller = start(&folder).await;
    caller.breaks("payment", "late").await;
    let began = Instant::now();
    let late = caller.post(CAPTURES, "c1", &capture("o1", "pm_card_ok")).await;
    late.expect_err("the connection was cut");
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(caller.look_up("payment", "c1").await.code(), "nothing_recorded");
    until("the effect", async || {
        (caller.look_up("payment", "c1").await.status == 200).then_some(())
    })
    .await;
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert_eq!(caller.ledger("o1").await.len(), 1);
}

#[tokio::test]
async fn a_late_effect_after_a_repeat_is_the_same_effect() {
    let folder = folder();
    let caller = start(&folder).await;
    let body = capture("o1", "pm_card_ok");
    caller.breaks("payment", "late").await;
    caller.post(CAPTURES, "c1", &body).await.expect_err("the connection was cut");
    caller.post(CAPTURES, "after", &capture("o2", "pm_card_ok")).await.expect_err("cut");
    caller.heals("payment").await;
    let asked_again = caller.post(CAPTURES, "c1", &body).await.expect("an answer");
    assert_eq!(asked_again.status, 200);
    // The second late request lands after the first.
    until("the effect behind it", async || {
        (caller.look_up("payment", "after").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(caller.ledger("o1").await.len(), 1);
}

#[tokio::test]
async fn a_slow_fault_answers_after_two_seconds() {
    let folder = folder();
    let caller = start(&folder).await;
    caller.breaks("carrier", "slow").await;
    let began = Instant::now();
    let booked = caller.post(BOOKINGS, "b1", &booking("o1", "4051")).await;
    assert_eq!(booked.expect("an answer").status, 200);
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_is_refused() {
    let folder = folder();
    let caller = start(&folder).await;
    for body in [
        json!({"mode": "explode", "share": 1, "ttl_seconds": 1}),
        json!({"mode": "down", "share": 1.1, "ttl_seconds": 1}),
        json!({"mode": "down", "share": -0.1, "ttl_seconds": 1}),
        json!({"mode": "down", "share": 1, "ttl_seconds": 0}),
        json!({"mode": "down", "share": 1, "ttl_seconds": -1}),
        json!({"mode": "down", "share": 1}),
        json!({"mode": "down", "share": 1, "ttl_seconds": 1, "until": "monday"}),
        json!("down"),
    ] {
        let refused = caller.fault("payment", &body).await;
        assert_eq!((refused.status, refused.code()), (422, "invalid_request"), "{body}");
    }
    let long = json!({"mode": "down", "share": 0, "ttl_seconds": 1_000_000});
    assert_eq!(caller.fault("payment", &long).await.body["ttl_seconds"], 3600);
    let nowhere = json!({"mode": "down", "share": 1, "ttl_seconds": 1});
    let nobody = caller.fault("bank", &nowhere).await;
    assert_eq!((nobody.status, nobody.code()), (404, "no_such_destination"));
}

#[tokio::test]
async fn a_torn_last_line_is_cut_off_and_a_broken_one_is_an_error() {
    let folder = folder();
    let file = folder.path().join("ledger.jsonl");
    let caller = start(&folder).await;
    caller.post(CAPTURES, "c1", &capture("o1", "pm_card_ok")).await.expect("an answer");
    let whole = fs::read(&file).expect("the ledger's file");

    let second = TempDir::new().expect("a temporary folder");
    let copy = second.path().join("ledger.jsonl");
    let torn = [whole.as_slice(), &whole[..whole.len() / 2]].concat();
    fs::write(&copy, &torn).expect("room on the disk");
    let caller = start(&second).await;
    assert_eq!(fs::read(&copy).expect("the copy"), whole);
    caller.post(CAPTURES, "c2", &capture("o1", "pm_card_ok")).await.expect("an answer");
    assert_eq!(caller.ledger("o1").await.len(), 2);
    let lines = fs::read_to_string(&copy).expect("the copy").lines().count();
    assert_eq!(lines, 2);

    let third = TempDir::new().expect("a temporary folder");
    fs::write(third.path().join("ledger.jsonl"), "{}\n").expect("room on the disk");
    let broken = Ledger::open(third.path()).err().expect("not a ledger");
    assert!(broken.to_string().contains("ledger line 1"), "{broken}");
}

#[tokio::test]
async fn two_processes_never_write_one_ledger() {
    let folder = folder();
    let (_ledger, _) = Ledger::open(folder.path()).expect("a fresh ledger");
    assert!(Ledger::open(folder.path()).is_err());
}

/// The binary, killed (-9) when it is dropped.
struct Process {
    child: Child,
    base: String,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_providers"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder)
            .env("RUST_LOG", "info")
            .env("PARENT_DEATH_SIGNAL", "true")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            line["fields"]["address"].as_str().map(str::to_owned)
        });
        let base = format!("http://{}", address.expect("it listens"));
        Self { child, base }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

#[tokio::test]
async fn a_killed_process_forgets_nothing() {
    let folder = folder();
    let first = Process::start(folder.path());
    let caller = Caller::of(first.base.clone());
    let captured = caller.post(CAPTURES, "c1", &capture("o1", "pm_card_ok")).await;
    let captured = captured.expect("an answer");
    let lost = caller.post(CAPTURES, "c2", &capture("o2", "pm_answer_lost")).await;
    lost.expect_err("the connection was cut");
    let declined = caller.post(CAPTURES, "c3", &capture("o3", "pm_card_declined")).await;
    let declined = declined.expect("an answer");
    drop(first);
    // As if it had died while it was writing.
    let file = folder.path().join("ledger.jsonl");
    let mut file = OpenOptions::new().append(true).open(file).expect("the ledger's file");
    file.write_all(br#"{"destination":"pay"#).expect("room on the disk");

    let second = Process::start(folder.path());
    let caller = Caller::of(second.base.clone());
    let ask = async |key: &str, order: &str, payment_method: &str| {
        let answer = caller.post(CAPTURES, key, &capture(order, payment_method)).await;
        answer.expect("an answer")
    };
    assert_eq!(ask("c1", "o1", "pm_card_ok").await, captured);
    assert_eq!(ask("c2", "o2", "pm_answer_lost").await.status, 200);
    assert_eq!(ask("c3", "o3", "pm_card_declined").await, declined);
    assert_eq!(ask("c4", "o4", "pm_card_ok").await.status, 200);
    let reference = &captured.body["reference"];
    let refunded = caller.post(REFUNDS, "r1", &refund("o1", reference, 900)).await;
    assert_eq!(refunded.expect("an answer").status, 200);
    let too_much = caller.post(REFUNDS, "r2", &refund("o1", reference, 1)).await;
    assert_eq!(too_much.expect("an answer").code(), "refund_exceeds_capture");

    let rows = caller.get("/v1/ledger").await.expect("an answer").body;
    let keys: Vec<_> = (rows.as_array().expect("a list").iter())
        .map(|row| (row["seq"].as_u64(), row["idempotency_key"].as_str()))
        .collect();
    let expected = [(1, "c1"), (2, "c2"), (3, "c4"), (4, "r1")];
    assert_eq!(keys, expected.map(|(seq, key)| (Some(seq), Some(key))));
}

/// Asks again and again until there is something, for ten seconds.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let asked = async {
        loop {
            ticks.tick().await;
            if let Some(found) = ask().await {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), asked).await;
    found.unwrap_or_else(|_| panic!("{what}: not within 10 s"))
}
