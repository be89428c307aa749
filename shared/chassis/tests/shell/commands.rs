//! Requests: done once for each key, and answered the same way for ever.

use std::collections::HashSet;

use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::house::House;

const TWINS: usize = 20;

async fn post(house: &House, key: Option<&str>, label: &str) -> anyhow::Result<Response> {
    let request = Client::new().post(house.url("/v1/lamps")).json(&json!({"label": label}));
    let request = match key {
        Some(key) => request.header("Idempotency-Key", key),
        None => request,
    };
    Ok(request.send().await?)
}

fn is_replayed(response: &Response) -> bool {
    response.headers().get("Idempotent-Replayed").is_some_and(|value| value == "true")
}

async fn code(response: Response) -> anyhow::Result<String> {
    let problem: Value = response.json().await?;
    Ok(problem["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn twins_of_one_key_run_once_and_get_one_answer_even_from_the_next_process()
-> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let url = house.url("/v1/lamps");
    for _ in 0..TWINS {
        let request = Client::new()
            .post(&url)
            .header("Idempotency-Key", "k-1")
            .json(&json!({"label": "kitchen"}));
        tasks.spawn(request.send());
    }
    let mut bodies = HashSet::new();
    let mut replays = 0;
    while let Some(answer) = tasks.join_next().await {
        let answer = answer??;
        assert_eq!(answer.status(), 202);
        replays += usize::from(is_replayed(&answer));
        bodies.insert(answer.bytes().await?);
    }
    assert_eq!((bodies.len(), replays), (1, TWINS - 1));
    assert_eq!(house.count("select count(*) from lamps").await?, 1);

    house.kill_and_start_again().await?;
    let again = post(&house, Some("k-1"), "kitchen").await?;
    assert!(is_replayed(&again));
    assert!(bodies.contains(&again.bytes().await?));
    assert_eq!(house.count("select count(*) from lamps").await?, 1);
    assert_eq!(house.count("select count(*) from events").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_key_stands_for_one_request_and_another_body_is_refused_without_a_trace()
-> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    assert_eq!(post(&house, Some("k-1"), "kitchen").await?.status(), 202);
    let other = post(&house, Some("k-1"), "hall").await?;
    assert_eq!(other.status(), 422);
    assert_eq!(code(other).await?, "IDEMPOTENCY_KEY_REUSED");
    let keyless = post(&house, None, "hall").await?;
    assert_eq!(keyless.status(), 400);
    assert_eq!(house.count("select count(*) from lamps").await?, 1);

    let fresh = post(&house, Some("k-2"), "hall").await?;
    assert_eq!((fresh.status().as_u16(), is_replayed(&fresh)), (202, false));
    assert_eq!(house.count("select count(*) from lamps").await?, 2);
    Ok(())
}

#[tokio::test]
async fn what_is_refused_is_not_remembered_and_its_key_is_still_free() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let refused = post(&house, Some("k-1"), "a\0b").await?;
    assert!(refused.status().is_client_error(), "{}", refused.status());
    assert_eq!(post(&house, Some("k-1"), "kitchen").await?.status(), 202);
    Ok(())
}
