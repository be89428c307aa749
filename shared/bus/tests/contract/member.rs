//! Owns a member of the tests' group in a process of its own, which can be killed and stopped: this
//! very program, run again for the one test that is a member when it is told so. Refuses to finish a
//! record unless it is asked to.

use std::collections::VecDeque;
use std::process::Stdio;

use anyhow::Context;
use bus::{Config, Consumer};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::brokers::Broker;
use crate::{AT_MOST, PRODUCERS, close, everywhere, records};

pub const GROUP: &str = "test";
const HERE: &str = "member::a_member_of_its_own_process_hears_finishes_and_ends";
const SETTINGS: &str = "MEMBER";
const FINISH: &str = "finish";

/// A record that a member has heard: where, and what was in it.
pub type Heard = (i32, String);

pub struct Member {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// What was heard while an answer was waited for.
    early: VecDeque<Heard>,
}

impl Member {
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let settings = format!(
            "{} {} {} {} {} {}",
            config.brokers,
            config.client_id,
            config.static_membership,
            config.fetch_wait_ms,
            config.session_timeout_ms,
            config.max_poll_interval_ms
        );
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", HERE, "--nocapture"])
            .env(SETTINGS, settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = child.stdin.take().context("a pipe was asked for")?;
        let answers = child.stdout.take().context("a pipe was asked for")?;
        Ok(Self { child, orders, answers: BufReader::new(answers).lines(), early: VecDeque::new() })
    }

    /// The next record. May be given up at any time.
    pub async fn hear(&mut self) -> anyhow::Result<Heard> {
        loop {
            if let Some(heard) = self.early.pop_front() {
                return Ok(heard);
            }
            self.read().await?;
        }
    }

    /// Lets it finish all that it has heard, and returns when it has.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        self.orders.write_all(format!("{FINISH}\n").as_bytes()).await?;
        let finished = async {
            while self.read().await? != FINISH {}
            Ok(())
        };
        timeout(AT_MOST, finished).await?
    }

    /// A line of what it says; a record in it is kept to be heard.
    async fn read(&mut self) -> anyhow::Result<String> {
        let line = self.answers.next_line().await?.context("the member has ended")?;
        // The test harness has words of its own.
        if let Some((_, heard)) = line.split_once("heard ") {
            let (partition, body) = heard.split_once(' ').context("a partition and a body")?;
            self.early.push_back((partition.parse()?, body.to_owned()));
        }
        Ok(line)
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(kill_process(pid.context("it has ended")?, signal)?)
    }

    /// As nobody can prevent.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// As a process does that is asked to.
    pub async fn end(mut self) -> anyhow::Result<()> {
        drop(self.orders);
        let ended = timeout(AT_MOST, self.child.wait()).await??;
        anyhow::ensure!(ended.success(), "the member ended with {ended}");
        Ok(())
    }
}

/// What the process is told to be, if it is one.
fn told() -> Option<Config> {
    let settings = std::env::var(SETTINGS).ok()?;
    let mut settings = settings.split(' ');
    Some(Config {
        brokers: settings.next()?.to_owned(),
        client_id: settings.next()?.to_owned(),
        static_membership: settings.next()?.parse().ok()?,
        fetch_wait_ms: settings.next()?.parse().ok()?,
        session_timeout_ms: settings.next()?.parse().ok()?,
        max_poll_interval_ms: settings.next()?.parse().ok()?,
        producer_queue_max: 1,
    })
}

async fn be(config: Config) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let consumer = Consumer::try_new(&config, GROUP, PRODUCERS)?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut open = Vec::new();
    println!();
    loop {
        tokio::select! {
            order = orders.next_line() => {
                if order?.is_none() {
                    break;
                }
                consumer.finished(&std::mem::take(&mut open));
                println!("{FINISH}");
            }
            received = consumer.receive(100) => for record in received? {
                let body = String::from_utf8_lossy(&record.body);
                println!("heard {} {body}", record.place.partition);
                open.push(record.place);
            }
        }
    }
    close(consumer).await
}

#[tokio::test]
async fn a_member_of_its_own_process_hears_finishes_and_ends() -> anyhow::Result<()> {
    if let Some(config) = told() {
        return be(config).await;
    }
    let (broker, config) = Broker::start().await?;
    for round in ["0", "1"] {
        // The second hears only what the first has not finished.
        records::produce(broker.bootstrap(), crate::TOPIC, &everywhere(round)).await?;
        let mut member = Member::start(&config)?;
        for heard in 0..4 {
            let (_, body) = timeout(AT_MOST, member.hear()).await??;
            assert_eq!(body, round);
            if heard == 0 {
                // What it has heard by then may be more than what was listened to, and is not lost.
                member.finish().await?;
            }
        }
        member.finish().await?;
        member.end().await?;
    }
    Ok(())
}
