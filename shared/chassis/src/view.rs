//! Owns read models: consumers of their own whose rows nothing depends on. Refuses to let one's
//! failure touch a decision.

use std::pin::Pin;
use std::sync::Arc;

use bus::{Consumer, Received};
use saga::Envelope;
use sqlx::PgConnection;
use store::{Commit, DeadLetter, Error};

use crate::aside;
use crate::fate::{self, BackOff, caught};
use crate::job::letter;
use crate::service::Service;
use crate::shell::Shell;

/// A read model: its consumer group, what it hears, and how it writes a batch.
#[derive(Clone)]
pub struct View {
    pub group: &'static str,
    pub producers: &'static [&'static str],
    /// Writes events in one statement; one that is there already is left alone.
    pub insert: Insert,
}

/// Writes a batch of events.
pub type Insert = for<'a> fn(
    &'a mut PgConnection,
    &'a [Seen],
) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// An event as a read model sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub envelope: Envelope,
    pub body: Vec<u8>,
}

/// Reads until the process closes.
pub(crate) async fn run<S: Service>(
    shell: Arc<Shell<S>>,
    consumer: Arc<Consumer>,
    view: View,
) -> anyhow::Result<()> {
    loop {
        let records = tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            records = consumer.receive(shell.batch_max) => records?,
        };
        let mut seen = Vec::with_capacity(records.len());
        let mut dead = Vec::new();
        for received in &records {
            match received.envelope() {
                Ok(envelope) => {
                    seen.push((Seen { envelope, body: received.body.clone() }, received));
                }
                Err(refused) => dead.push(letter(view.group, refused.code(), None, received)),
            }
        }
        tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            written = consumer.keep_while(write(&shell, &view, seen, dead)) => written?,
        }
        consumer.finished(records.iter().map(|received| &received.place));
    }
}

/// Writes a batch whatever it takes; a poisonous event is found by halving and set aside.
async fn write<S: Service>(
    shell: &Shell<S>,
    view: &View,
    mut seen: Vec<(Seen, &Received)>,
    mut dead: Vec<DeadLetter>,
) {
    let mut halves = Vec::new();
    let mut back_off = BackOff::default();
    loop {
        let (events, records): (Vec<Seen>, Vec<&Received>) = seen.into_iter().unzip();
        let commit = Commit { dead: std::mem::take(&mut dead), ..Commit::default() };
        let boot = shell.boot.number();
        let written = shell.db.with_tx(async |tx| {
            if !events.is_empty() {
                caught((view.insert)(tx, &events)).await?;
            }
            if commit.dead.is_empty() { Ok(()) } else { store::write(tx, boot, &commit).await }
        });
        seen = match written.await {
            Ok(()) => {
                commit.dead.iter().for_each(aside::count);
                Vec::new()
            }
            Err(error) => {
                dead = commit.dead;
                let poison = back_off.sit_out(error).await;
                let mut again: Vec<_> = events.into_iter().zip(records).collect();
                match poison {
                    None => again,
                    Some(_) if again.len() > 1 => {
                        halves.push(again.split_off(again.len() / 2));
                        again
                    }
                    Some(why) => {
                        tracing::error!(why, group = view.group, "a view sets aside");
                        match again.pop() {
                            Some((event, received)) => {
                                let subject = Some(event.envelope.subject);
                                dead.push(letter(view.group, fate::code(&why), subject, received));
                            }
                            // Bytes cannot poison it, so this is a fault of ours: keep them.
                            None => drop(back_off.sit_out(Error::Wait(why)).await),
                        }
                        Vec::new()
                    }
                }
            }
        };
        if seen.is_empty() && dead.is_empty() {
            match halves.pop() {
                Some(half) => seen = half,
                None => return,
            }
        }
    }
}
