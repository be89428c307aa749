//! Owns the making of topics, on a broker that has an admin API. Refuses to change one that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::Error;

/// A broker that is starting gets so long.
const STARTING_MAX: Duration = Duration::from_secs(30);
/// A cluster that is starting answers before it has all of its brokers, and refuses until then.
const GATHERING_MAX: Duration = Duration::from_secs(10);
const RETRY_EVERY: Duration = Duration::from_millis(200);
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// From so many replicas on, a record counts as taken when two have it, and one may be away.
const SAFE_REPLICAS: i32 = 3;

type Admin = Arc<AdminClient<DefaultClientContext>>;

/// What a topic is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub partitions: i32,
    pub replication: i32,
    pub retention: Duration,
}

impl Shape {
    fn settings(&self) -> [(&'static str, String); 3] {
        let replicas_min = if self.replication >= SAFE_REPLICAS { 2 } else { 1 };
        [
            ("retention.ms", self.retention.as_millis().to_string()),
            ("min.insync.replicas", replicas_min.to_string()),
            // Packed anew by the broker, a record might come in a form that a consumer cannot read.
            ("compression.type", "producer".to_owned()),
        ]
    }
}

/// How a topic was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It was missing, and is there now.
    Made,
    AsWanted,
    /// It is left as it is: more partitions, for one, would put the next event of an order behind
    /// other events than its last one.
    Otherwise(Vec<Difference>),
}

/// What a topic is like and was not to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub setting: &'static str,
    pub wanted: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, not {}", self.setting, self.found, self.wanted)
    }
}

/// Makes the topics that are missing, and says how each was found. Waits for brokers that are
/// starting, with a bound.
pub async fn ensure(
    brokers: &str,
    names: &[&str],
    wanted: &Shape,
) -> Result<Vec<(String, Found)>, Error> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("reconnect.backoff.max.ms", "500");
    let admin: Admin = Arc::new(client.create().map_err(Error::Client)?);
    let (begun, mut answered, mut made) = (Instant::now(), None, BTreeSet::new());
    loop {
        let error = match try_ensure(&admin, names, wanted, &mut made).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let (since, at_most) = match error {
            Error::NoTopic(..) => (*answered.get_or_insert_with(Instant::now), GATHERING_MAX),
            _ => (begun, STARTING_MAX),
        };
        if since.elapsed() >= at_most {
            return Err(error);
        }
        tracing::debug!(%error, "not yet");
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn try_ensure<'a>(
    admin: &Admin,
    names: &[&'a str],
    wanted: &Shape,
    made: &mut BTreeSet<&'a str>,
) -> Result<Vec<(String, Found)>, Error> {
    let mut there = look(admin).await?;
    let missing: Vec<&str> =
        names.iter().copied().filter(|name| !there.contains_key(*name)).collect();
    if !missing.is_empty() {
        for made_now in make(admin, &missing, wanted).await? {
            made.extend(names.iter().find(|name| **name == made_now));
        }
        there = look(admin).await?;
    }
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let missing =
            || Error::NoTopic((*name).to_owned(), RDKafkaErrorCode::UnknownTopicOrPartition);
        let topic = there.get(*name).ok_or_else(missing)?;
        let differences = compare(admin, name, *topic, wanted).await?;
        let how = match (made.contains(name), differences.is_empty()) {
            (true, true) => Found::Made,
            (false, true) => Found::AsWanted,
            (_, false) => Found::Otherwise(differences),
        };
        found.push(((*name).to_owned(), how));
    }
    Ok(found)
}

/// The partitions of a topic, and the replicas of the one that has the fewest.
type Size = (usize, usize);

async fn look(admin: &Admin) -> Result<BTreeMap<String, Size>, Error> {
    let admin = Arc::clone(admin);
    let asked = tokio::task::spawn_blocking(move || admin.inner().fetch_metadata(None, ANSWER_MAX));
    let metadata = asked.await.unwrap_or(Err(KafkaError::Canceled)).map_err(Error::NoBroker)?;
    let topics = metadata.topics().iter().map(|topic| {
        let replicas = topic.partitions().iter().map(|partition| partition.replicas().len());
        (topic.name().to_owned(), (topic.partitions().len(), replicas.min().unwrap_or_default()))
    });
    Ok(topics.collect())
}

/// Returns the names of those that it made: somebody else may have been faster.
async fn make(admin: &Admin, names: &[&str], wanted: &Shape) -> Result<Vec<String>, Error> {
    let settings = wanted.settings();
    let topics: Vec<NewTopic<'_>> = (names.iter())
        .map(|name| {
            let replication = TopicReplication::Fixed(wanted.replication);
            (settings.iter()).fold(
                NewTopic::new(name, wanted.partitions, replication),
                |topic, (setting, value)| topic.set(setting, value),
            )
        })
        .collect();
    let options = options().operation_timeout(Some(ANSWER_MAX));
    let answers = admin.create_topics(&topics, &options).await.map_err(Error::NoBroker)?;
    let mut made = Vec::new();
    for answer in answers {
        match answer {
            Ok(name) => made.push(name),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(Error::NoTopic(name, code)),
        }
    }
    Ok(made)
}

async fn compare(
    admin: &Admin,
    name: &str,
    (partitions, replication): Size,
    wanted: &Shape,
) -> Result<Vec<Difference>, Error> {
    let topic = [ResourceSpecifier::Topic(name)];
    let answers = admin.describe_configs(&topic, &options()).await.map_err(Error::NoBroker)?;
    let [Ok(config)] = &*answers else {
        return Err(Error::NoTopic(name.to_owned(), RDKafkaErrorCode::UnknownTopicOrPartition));
    };
    let value = |setting: &str| config.get(setting).and_then(|entry| entry.value.clone());
    let sizes = [
        ("partitions", wanted.partitions.to_string(), partitions.to_string()),
        ("replication", wanted.replication.to_string(), replication.to_string()),
    ];
    let settings = wanted.settings().map(|(setting, wanted)| {
        (setting, wanted, value(setting).unwrap_or_else(|| "unknown".to_owned()))
    });
    let all = sizes.into_iter().chain(settings);
    let different = all.filter(|(_, wanted, found)| wanted != found);
    Ok(different.map(|(setting, wanted, found)| Difference { setting, wanted, found }).collect())
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX * 2))
}
