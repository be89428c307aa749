//! Owns what became of a planned fault, and how long what was killed took to come back. Refuses to
//! break anything.

use serde::Serialize;

use super::fault::{Class, Fault};
use super::schedule::Planned;
use crate::instance_of;

/// A group that lost a member, or Postgres, is itself again after this at the latest.
const LINGERS_MS: u128 = 5_000;

/// What became of a planned fault.
#[derive(Debug, Clone, Serialize)]
pub struct Struck {
    #[serde(flatten)]
    pub planned: Planned,
    /// What shows that it struck, or why nothing does.
    pub evidence: Result<String, String>,
    /// Since the round began.
    pub from_ms: u128,
    pub until_ms: u128,
    /// Of what was killed.
    pub back: Option<Back>,
}

/// How long a kill lasts, whatever lives and deaths lie between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Back {
    /// Until the process can do all that is up to itself.
    pub ready_ms: u128,
    /// Until it has its partitions as well: how soon is up to the broker.
    pub moving_ms: u128,
}

/// Which of the two times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Ready,
    Moving,
}

impl Struck {
    pub fn class(&self) -> Class {
        self.planned.fault.class()
    }

    /// Whether it may have kept a process from coming back at some time of the same round. For its
    /// partitions a process waits for its peer as well.
    fn troubles(&self, process: &str, until: Until, from_ms: u128, until_ms: u128) -> bool {
        let is_in_its_way = |own: &str| match until {
            Until::Ready => own == process,
            Until::Moving => instance_of(own).0 == instance_of(process).0,
        };
        let concerned = match &self.planned.fault {
            Fault::Postgres { .. } | Fault::Broker { .. } => true,
            Fault::Kill { process: own }
            | Fault::Stop { process: own }
            | Fault::Link { process: own, .. } => is_in_its_way(own),
            Fault::Provider { .. } | Fault::Repeat | Fault::BadRecords => false,
        };
        concerned && self.from_ms <= until_ms && self.until_ms + LINGERS_MS >= from_ms
    }
}

/// One time of each killed process that nothing else stood in the way of.
pub fn undisturbed(struck: &[Struck], until: Until) -> Vec<u128> {
    let time_ms = |back: &Back| match until {
        Until::Ready => back.ready_ms,
        Until::Moving => back.moving_ms,
    };
    let is_alone = |kill: &Struck, process: &str, lasted_ms| {
        let others = struck
            .iter()
            .filter(|it| it.planned.round == kill.planned.round && it.planned != kill.planned);
        let (from_ms, until_ms) = (kill.from_ms, kill.from_ms + lasted_ms);
        others.filter(|it| it.troubles(process, until, from_ms, until_ms)).count() == 0
    };
    let of_kill = |kill: &Struck| match &kill.planned.fault {
        Fault::Kill { process } => {
            kill.back.as_ref().map(&time_ms).filter(|lasted_ms| is_alone(kill, process, *lasted_ms))
        }
        _ => None,
    };
    struck.iter().filter_map(of_kill).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::fault::Harm;

    fn struck(at_ms: u64, fault: Fault) -> Struck {
        let planned = Planned { round: 0, at_ms, lasts_ms: 0, fault };
        let (from_ms, evidence) = (u128::from(at_ms), Ok("seen".to_owned()));
        Struck { planned, evidence, from_ms, until_ms: from_ms + 10, back: None }
    }

    #[test]
    fn a_kill_counts_as_undisturbed_when_nothing_else_kept_the_process_from_being_ready() {
        let process = || "payment".to_owned();
        let back = Some(Back { ready_ms: 900, moving_ms: 2_000 });
        let kill = Struck { back, ..struck(1_000, Fault::Kill { process: process() }) };
        let others = [
            (1_500, Fault::Repeat, [true, true]),
            (1_500, Fault::Stop { process: "shipping".to_owned() }, [true, true]),
            (1_500, Fault::Stop { process: "payment-2".to_owned() }, [true, false]),
            (1_500, Fault::Stop { process: process() }, [false, false]),
            (1_500, Fault::Kill { process: process() }, [false, false]),
            (1_500, Fault::Postgres { harm: Harm::GroupKill }, [false, false]),
            (2_500, Fault::Postgres { harm: Harm::GroupKill }, [true, false]),
            (3_500, Fault::Postgres { harm: Harm::GroupKill }, [true, true]),
        ];
        for (at_ms, fault, wanted) in others {
            let all = [kill.clone(), struck(at_ms, fault)];
            let times = [Until::Ready, Until::Moving];
            let counted = times.map(|until| !undisturbed(&all, until).is_empty());
            assert_eq!(counted, wanted, "{:?}", all[1].planned);
        }
    }
}
