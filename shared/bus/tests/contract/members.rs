//! Partitions change hands: nothing is skipped, and who comes too late changes nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bus::{Config, Consumer, Received};
use rustix::process::Signal;
use testkit::{records, wait};
use tokio::time::timeout;

use crate::brokers::{Broker, Habit};
use crate::member::{GROUP, Heard, Member};
use crate::{AT_MOST, PRODUCERS, TOPIC, everywhere};

/// Beyond the session: for the next heartbeat, joining, and a busy machine.
const MOVE_MAX: Duration = Duration::from_secs(4);

fn other(config: &Config) -> Config {
    Config { client_id: "test-2".to_owned(), ..config.clone() }
}

fn heard(record: &Received) -> Heard {
    (record.place.partition, String::from_utf8_lossy(&record.body).into_owned())
}

fn partitions_of(round: &str, all: &[Heard]) -> BTreeSet<i32> {
    all.iter().filter(|(_, body)| body == round).map(|(partition, _)| *partition).collect()
}

/// A member in a process of its own, and a peer in this one.
struct Pair {
    member: Member,
    peer: Consumer,
    /// What each has heard, one after the other.
    by_member: Vec<Heard>,
    by_peer: Vec<Heard>,
    /// What the peer has heard and not finished.
    open: Vec<Received>,
}

impl Pair {
    /// Two members with two partitions each, which have finished round 0 and hold round 1.
    async fn settled(broker: &Broker, config: &Config) -> anyhow::Result<Self> {
        records::produce(broker.bootstrap(), TOPIC, &everywhere("0")).await?;
        let mut member = Member::start(config)?;
        for _ in 0..4 {
            timeout(AT_MOST, member.hear()).await??;
        }
        member.finish().await?;
        let peer = Consumer::try_new(&other(config), GROUP, PRODUCERS)?;
        let mut pair =
            Self { member, peer, by_member: Vec::new(), by_peer: Vec::new(), open: Vec::new() };
        wait::until(AT_MOST, "the peer to have its share", async || {
            let moment = Duration::from_millis(10);
            let nothing = timeout(moment, pair.peer.receive(1)).await;
            (nothing.is_err() && pair.peer.is_ready()).then_some(())
        })
        .await?;
        records::produce(broker.bootstrap(), TOPIC, &everywhere("1")).await?;
        pair.hear("round 1, by halves", |by_member, by_peer| {
            let (one, other) = (partitions_of("1", by_member), partitions_of("1", by_peer));
            one.len() == 2 && other.len() == 2
        })
        .await?;
        Ok(pair)
    }

    /// Listens to both, until what they have heard is enough.
    async fn hear(
        &mut self,
        what: &str,
        enough: impl Fn(&[Heard], &[Heard]) -> bool,
    ) -> anyhow::Result<()> {
        let hearing = async {
            while !enough(&self.by_member, &self.by_peer) {
                tokio::select! {
                    heard = self.member.hear() => self.by_member.push(heard?),
                    received = self.peer.receive(100) => {
                        let received = received?;
                        self.by_peer.extend(received.iter().map(heard));
                        self.open.extend(received);
                    }
                }
            }
            anyhow::Ok(())
        };
        let heard = timeout(AT_MOST, hearing).await;
        heard.unwrap_or_else(|_| {
            anyhow::bail!(
                "{what}: {:?} by the member, {:?} by the peer",
                self.by_member,
                self.by_peer
            )
        })
    }
}

#[tokio::test]
async fn the_partitions_of_a_member_that_is_killed_move_when_its_session_ends() -> anyhow::Result<()>
{
    let (broker, config) = Broker::start().await?;
    let mut pair = Pair::settled(&broker, &config).await?;
    let theirs = partitions_of("1", &pair.by_member);
    let killed_at = Instant::now();
    pair.member.kill().await?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("2")).await?;
    while partitions_of("2", &pair.by_peer).len() < 4 {
        let received = timeout(AT_MOST, pair.peer.receive(100)).await??;
        pair.by_peer.extend(received.iter().map(heard));
    }
    let moved_after = killed_at.elapsed();
    let at_most = broker.nature().session_timeout + MOVE_MAX;
    assert!(moved_after < at_most, "{moved_after:?} after the kill, at most {at_most:?}");
    // What it had not finished comes first.
    assert!(partitions_of("1", &pair.by_peer).is_superset(&theirs), "{:?}", pair.by_peer);
    if broker.nature().has(Habit::TakesLastOffsets) {
        assert_eq!(partitions_of("0", &pair.by_peer), BTreeSet::new());
    }
    Ok(())
}

#[tokio::test]
async fn a_static_member_that_is_back_in_time_has_its_partitions_and_its_peer_notices_nothing()
-> anyhow::Result<()> {
    let (broker, mut config) = Broker::start().await?;
    config.static_membership = true;
    let mut pair = Pair::settled(&broker, &config).await?;
    let killed_at = Instant::now();
    std::mem::replace(&mut pair.member, Member::start(&config)?).kill().await?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("2")).await?;
    pair.hear("round 2", |by_member, by_peer| {
        partitions_of("2", by_member).union(&partitions_of("2", by_peer)).count() == 4
    })
    .await?;
    // Partitions that move bring again what is not finished.
    let again = |by_peer: &[Heard]| by_peer.iter().filter(|(_, body)| body == "1").count() > 2;
    if broker.nature().has(Habit::KnowsStaticMembers) {
        assert!(!again(&pair.by_peer), "{:?}", pair.by_peer);
        assert_eq!(partitions_of("2", &pair.by_member), partitions_of("1", &pair.by_member));
        assert!(killed_at.elapsed() < broker.nature().session_timeout);
    } else {
        pair.hear("round 1 again by the peer", |_, by_peer| again(by_peer)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_member_that_stood_still_for_too_long_stores_nothing_and_goes_on() -> anyhow::Result<()> {
    let (broker, mut config) = Broker::start().await?;
    // Both bounds are passed.
    config.max_poll_interval_ms = config.session_timeout_ms;
    let mut pair = Pair::settled(&broker, &config).await?;
    let theirs = partitions_of("1", &pair.by_member);
    pair.member.signal(Signal::STOP)?;
    let stopped_at = Instant::now();
    pair.hear("all of round 1 by the peer", |_, by_peer| {
        partitions_of("1", by_peer).is_superset(&theirs)
    })
    .await?;
    let taken_over_after = stopped_at.elapsed();
    assert!(taken_over_after < broker.nature().session_timeout + MOVE_MAX, "{taken_over_after:?}");

    pair.member.signal(Signal::CONT)?;
    // It believes that its records are still its own.
    pair.member.finish().await?;
    let before = pair.by_peer.len();
    records::produce(broker.bootstrap(), TOPIC, &everywhere("2")).await?;
    pair.hear("round 2, and round 1 again", |by_member, by_peer| {
        let (member, peer) =
            (partitions_of("2", by_member), partitions_of("2", &by_peer[before..]));
        member.len() >= 2 && member.union(&peer).count() == 4
    })
    .await?;
    // Nobody whose finishing counts has finished round 1, so whoever has a partition hears it again.
    let mine = partitions_of("2", &pair.by_member);
    let again: Vec<Heard> = pair.by_member.iter().skip(2).cloned().collect();
    assert!(partitions_of("1", &again).is_superset(&mine), "{:?}", pair.by_member);
    pair.member.end().await
}
