//! Owns what comes next for an outside call: a pure function of what is known. Refuses to send, to
//! wait, to draw lots, and to take "unknown" for "no".

use saga::{LookUp, Outcome, Settled};

const RETRY_AFTER_MS_MIN: u64 = 1_000;
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;

/// The bounds of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// How long one request may take.
    pub timeout_ms: u64,
    /// The longest wait after the first attempt; it doubles with each.
    pub backoff_ms_min: u64,
    pub backoff_ms_max: u64,
    /// With these bounds the time runs out first: twelve quick failures last about a minute.
    pub attempts_max: u32,
    /// How long a call is tried in all. A compensation is bound by its attempts only.
    pub life_ms: u64,
    /// How long the destination remembers a key, as it declares; after that it is only looked up.
    pub key_life_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout_ms: 3_000,
            backoff_ms_min: 200,
            backoff_ms_max: 30_000,
            attempts_max: 60,
            life_ms: 600_000,
            key_life_ms: 86_400_000,
        }
    }
}

impl Policy {
    /// The longest that one attempt takes: a look-up, a request, and another look-up.
    pub const fn attempt_ms_max(&self) -> u64 {
        self.timeout_ms.saturating_mul(3)
    }
}

/// What is stored about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallState {
    /// Counted before anything is sent, this one included.
    pub attempts: u32,
    /// Some attempt ended without a definite outcome, or died with its process: it may have had
    /// its effect, or may still land.
    pub in_doubt: bool,
    /// Since the call was wanted.
    pub age_ms: u64,
    /// It undoes something: no deadline, and it cannot be refused.
    pub compensation: bool,
}

/// What has just been learnt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Heard {
    /// The attempt begins.
    Due,
    Answer(Outcome),
    Found(LookUp),
    /// What a look-up found after a refusal with this code.
    Confirmed {
        code: String,
        found: LookUp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next {
    /// Ask, under the call's one key, and tell the answer.
    Send,
    /// Ask what is recorded under the key, and tell what was found.
    LookUp,
    /// The same, to see whether it is this refusal that is recorded.
    Confirm { code: String },
    /// The outcome is definite.
    Settle(Settled),
    /// This attempt is over; the next one is due after a time drawn evenly from these bounds.
    Wait { at_least_ms: u64, at_most_ms: u64, in_doubt: bool, code: String },
    /// Nobody will ask again by himself: a dead letter, and a person.
    Stuck { code: String, in_doubt: bool },
}

/// What comes next.
///
/// An attempt is one request; of a call in doubt, first a look-up. A refusal that answers a call in
/// doubt says nothing about the attempt before: it is believed when a look-up shows it recorded
/// under our key, and otherwise only ends the attempt.
pub fn next(policy: &Policy, call: &CallState, heard: Heard) -> Next {
    match heard {
        // Time that passed while nobody asked, because we were down, still leaves one look-up: what
        // is recorded by now is definite.
        Heard::Due if call.in_doubt && call.attempts <= policy.attempts_max => Next::LookUp,
        Heard::Due => match spent(policy, call, call.attempts > policy.attempts_max) {
            Some(code) => stuck(code, call.in_doubt),
            None => Next::Send,
        },
        Heard::Answer(Outcome::Done { reference }) | Heard::Found(LookUp::Done { reference }) => {
            Next::Settle(Settled::Done { reference })
        }
        Heard::Answer(Outcome::Refused { code }) if call.in_doubt => Next::Confirm { code },
        Heard::Answer(Outcome::Refused { code }) => refused(call, code),
        Heard::Found(LookUp::Refused { code }) => refused(call, code),
        Heard::Answer(Outcome::Unknown { code, retry_after_ms })
        | Heard::Found(LookUp::Unknown { code, retry_after_ms }) => {
            wait(policy, call, code, retry_after_ms)
        }
        Heard::Confirmed { found: LookUp::Done { reference }, .. } => {
            Next::Settle(Settled::Done { reference })
        }
        Heard::Confirmed { found: LookUp::Refused { code }, .. } => refused(call, code),
        // One request is all that an attempt has.
        Heard::Confirmed { code, found: LookUp::Nothing } => wait(policy, call, code, None),
        Heard::Confirmed { found: LookUp::Unknown { code, retry_after_ms }, .. } => {
            wait(policy, call, code, retry_after_ms)
        }
        Heard::Found(LookUp::Nothing) => match spent(policy, call, false) {
            Some(code) => stuck(code, true),
            // A key that is forgotten protects nobody from a second effect.
            None if call.age_ms >= policy.key_life_ms => {
                wait(policy, call, "key_expired".to_owned(), None)
            }
            None => Next::Send,
        },
    }
}

/// A definite refusal. Nobody compensates a compensation.
fn refused(call: &CallState, code: String) -> Next {
    if call.compensation {
        Next::Stuck { code, in_doubt: false }
    } else {
        Next::Settle(Settled::Refused { code })
    }
}

/// The end of an attempt without a definite outcome. From here on the call is in doubt, even when
/// nothing can have been sent: one rule, and the look-up it costs is cheap.
fn wait(policy: &Policy, call: &CallState, code: String, retry_after_ms: Option<u64>) -> Next {
    if spent(policy, call, call.attempts >= policy.attempts_max).is_some() {
        return Next::Stuck { code, in_doubt: true };
    }
    let doublings = call.attempts.saturating_sub(1);
    let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
    let backoff_ms = policy.backoff_ms_min.saturating_mul(factor).min(policy.backoff_ms_max);
    let asked_ms = retry_after_ms.map_or(0, |ms| ms.clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX));
    // Due at its deadline at the latest, and there it is spent: nothing is sent too early.
    let left_ms =
        if call.compensation { u64::MAX } else { policy.life_ms.saturating_sub(call.age_ms) };
    Next::Wait {
        at_least_ms: asked_ms.min(left_ms),
        at_most_ms: asked_ms.saturating_add(backoff_ms).min(left_ms),
        in_doubt: true,
        code,
    }
}

fn spent(policy: &Policy, call: &CallState, out_of_attempts: bool) -> Option<&'static str> {
    if out_of_attempts {
        Some("attempts_spent")
    } else if !call.compensation && call.age_ms >= policy.life_ms {
        Some("deadline_passed")
    } else {
        None
    }
}

fn stuck(code: &str, in_doubt: bool) -> Next {
    Next::Stuck { code: code.to_owned(), in_doubt }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRESH: CallState =
        CallState { attempts: 1, in_doubt: false, age_ms: 0, compensation: false };
    const DOUBTED: CallState = CallState { attempts: 2, in_doubt: true, age_ms: 500, ..FRESH };

    fn ask(call: CallState, heard: Heard) -> Next {
        next(&Policy::default(), &call, heard)
    }

    fn unknown(retry_after_ms: Option<u64>) -> Heard {
        Heard::Answer(Outcome::Unknown { code: "timeout".into(), retry_after_ms })
    }

    fn refusal() -> Heard {
        Heard::Answer(Outcome::Refused { code: "card_declined".into() })
    }

    fn confirmed(found: LookUp) -> Heard {
        Heard::Confirmed { code: "card_declined".into(), found }
    }

    fn settled_refused() -> Next {
        Next::Settle(Settled::Refused { code: "card_declined".into() })
    }

    fn bounds(next: Next) -> (u64, u64) {
        match next {
            Next::Wait { at_least_ms, at_most_ms, in_doubt: true, .. } => (at_least_ms, at_most_ms),
            other => panic!("it waits in doubt, and does not {other:?}"),
        }
    }

    #[test]
    fn a_first_attempt_is_sent_and_its_definite_answer_settles() {
        assert_eq!(ask(FRESH, Heard::Due), Next::Send);
        let done = Heard::Answer(Outcome::Done { reference: "cap_1".into() });
        assert_eq!(ask(FRESH, done), Next::Settle(Settled::Done { reference: "cap_1".into() }));
        assert_eq!(ask(FRESH, refusal()), settled_refused());
    }

    #[test]
    fn an_unknown_outcome_waits_in_doubt_and_never_settles() {
        assert_eq!(bounds(ask(FRESH, unknown(None))), (0, 200));
    }

    #[test]
    fn a_call_in_doubt_is_looked_up_first_and_sent_again_when_nothing_is_there() {
        assert_eq!(ask(DOUBTED, Heard::Due), Next::LookUp);
        assert_eq!(ask(DOUBTED, Heard::Found(LookUp::Nothing)), Next::Send);
        let done = Heard::Found(LookUp::Done { reference: "cap_1".into() });
        assert_eq!(ask(DOUBTED, done), Next::Settle(Settled::Done { reference: "cap_1".into() }));
    }

    #[test]
    fn a_refusal_in_doubt_is_believed_only_when_it_is_recorded_under_our_key() {
        assert_eq!(ask(DOUBTED, refusal()), Next::Confirm { code: "card_declined".into() });
        let recorded = LookUp::Refused { code: "card_declined".into() };
        assert_eq!(ask(DOUBTED, confirmed(recorded.clone())), settled_refused());
        assert_eq!(ask(DOUBTED, Heard::Found(recorded)), settled_refused());
    }

    #[test]
    fn a_refusal_in_doubt_that_is_not_recorded_ends_the_attempt_and_nothing_else() {
        assert_eq!(bounds(ask(DOUBTED, confirmed(LookUp::Nothing))), (0, 400));
        let busy = LookUp::Unknown { code: "http_429".into(), retry_after_ms: Some(7_000) };
        assert_eq!(bounds(ask(DOUBTED, confirmed(busy))), (7_000, 7_400));
        let done = LookUp::Done { reference: "cap_1".into() };
        let settled = Next::Settle(Settled::Done { reference: "cap_1".into() });
        assert_eq!(ask(DOUBTED, confirmed(done)), settled);
    }

    #[test]
    fn a_forgotten_key_is_looked_up_and_never_sent_again() {
        let policy = Policy { key_life_ms: 60_000, ..Policy::default() };
        let old = CallState { age_ms: 60_000, ..DOUBTED };
        assert_eq!(next(&policy, &old, Heard::Due), Next::LookUp);
        assert_eq!(bounds(next(&policy, &old, Heard::Found(LookUp::Nothing))), (0, 400));
    }

    #[test]
    fn a_refused_compensation_is_stuck_and_never_settles() {
        let refund = CallState { compensation: true, ..FRESH };
        let stuck = Next::Stuck { code: "card_declined".into(), in_doubt: false };
        assert_eq!(ask(refund, refusal()), stuck);
        let recorded = Heard::Found(LookUp::Refused { code: "card_declined".into() });
        assert_eq!(ask(CallState { compensation: true, ..DOUBTED }, recorded), stuck);
    }

    #[test]
    fn spent_attempts_or_time_are_stuck_and_never_a_refusal() {
        let last = CallState { attempts: 60, in_doubt: true, ..FRESH };
        let stuck = |code: &str| Next::Stuck { code: code.into(), in_doubt: true };
        assert_eq!(ask(last, unknown(None)), stuck("timeout"));
        assert_eq!(ask(last, confirmed(LookUp::Nothing)), stuck("card_declined"));
        assert_eq!(ask(CallState { attempts: 61, ..last }, Heard::Due), stuck("attempts_spent"));

        let late = CallState { age_ms: 600_000, ..DOUBTED };
        assert_eq!(ask(late, Heard::Due), Next::LookUp);
        assert_eq!(ask(late, Heard::Found(LookUp::Nothing)), stuck("deadline_passed"));
        assert_eq!(ask(late, unknown(None)), stuck("timeout"));

        let never_sent = CallState { age_ms: 600_000, ..FRESH };
        let stuck = Next::Stuck { code: "deadline_passed".into(), in_doubt: false };
        assert_eq!(ask(never_sent, Heard::Due), stuck);
    }

    #[test]
    fn a_definite_answer_counts_even_after_the_last_attempt_and_the_deadline() {
        let spent = CallState { attempts: 60, age_ms: 600_000, ..FRESH };
        assert_eq!(ask(spent, refusal()), settled_refused());
        let done = Heard::Found(LookUp::Done { reference: "cap_1".into() });
        assert!(matches!(ask(spent, done), Next::Settle(_)));
    }

    #[test]
    fn a_compensation_has_no_deadline() {
        let refund = CallState { compensation: true, age_ms: u64::MAX, ..DOUBTED };
        assert_eq!(ask(refund, Heard::Due), Next::LookUp);
        assert_eq!(bounds(ask(refund, unknown(None))), (0, 400));
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let longest = |attempts| bounds(ask(CallState { attempts, ..FRESH }, unknown(None))).1;
        let waits: Vec<_> = (1..=10).map(longest).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    }

    #[test]
    fn retry_after_is_kept_within_a_second_and_an_hour_and_the_deadline() {
        let refund = CallState { compensation: true, ..FRESH };
        assert_eq!(bounds(ask(refund, unknown(Some(0)))), (1_000, 1_200));
        assert_eq!(bounds(ask(refund, unknown(Some(7_000)))), (7_000, 7_200));
        assert_eq!(bounds(ask(refund, unknown(Some(u64::MAX)))), (3_600_000, 3_600_200));
        let near = CallState { age_ms: 599_000, ..FRESH };
        assert_eq!(bounds(ask(near, unknown(Some(7_000)))), (1_000, 1_000));
    }

    #[test]
    fn one_attempt_lasts_a_request_between_two_look_ups() {
        assert_eq!(Policy::default().attempt_ms_max(), 9_000);
    }

    fn any_heard() -> impl Strategy<Value = Heard> {
        let code = || "http_503".to_owned();
        let reference = || "cap_1".to_owned();
        prop_oneof![
            Just(Heard::Due),
            Just(Heard::Answer(Outcome::Done { reference: reference() })),
            Just(Heard::Answer(Outcome::Refused { code: code() })),
            any::<Option<u64>>().prop_map(move |retry_after_ms| Heard::Answer(Outcome::Unknown {
                code: code(),
                retry_after_ms
            })),
            Just(Heard::Found(LookUp::Done { reference: reference() })),
            Just(Heard::Found(LookUp::Refused { code: code() })),
            Just(Heard::Found(LookUp::Nothing)),
            any::<Option<u64>>().prop_map(move |retry_after_ms| Heard::Found(LookUp::Unknown {
                code: code(),
                retry_after_ms
            })),
            Just(confirmed(LookUp::Done { reference: reference() })),
            Just(confirmed(LookUp::Refused { code: code() })),
            Just(confirmed(LookUp::Nothing)),
            any::<Option<u64>>().prop_map(move |retry_after_ms| confirmed(LookUp::Unknown {
                code: code(),
                retry_after_ms
            })),
        ]
    }

    proptest! {
        #[test]
        fn every_bound_holds_for_every_call(
            attempts: u32, in_doubt: bool, age_ms: u64, compensation: bool,
            policy in (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>()),
            heard in any_heard(),
        ) {
            let (backoff_ms_min, backoff_ms_max, attempts_max, life_ms, key_life_ms) = policy;
            let policy = Policy {
                timeout_ms: 3_000, backoff_ms_min, backoff_ms_max, attempts_max, life_ms, key_life_ms,
            };
            let call = CallState { attempts, in_doubt, age_ms, compensation };
            let deadline_passed = !compensation && age_ms >= life_ms;
            match next(&policy, &call, heard.clone()) {
                Next::Send => {
                    prop_assert!(!deadline_passed, "nothing is sent after the deadline");
                    prop_assert!(!in_doubt || heard == Heard::Found(LookUp::Nothing));
                    prop_assert!(heard != Heard::Due || attempts <= attempts_max);
                    prop_assert!(heard == Heard::Due || age_ms < key_life_ms);
                }
                Next::LookUp => prop_assert!(in_doubt && attempts <= attempts_max),
                Next::Confirm { .. } => {
                    prop_assert!(in_doubt && matches!(heard, Heard::Answer(_)));
                }
                Next::Wait { at_least_ms, at_most_ms, in_doubt, .. } => {
                    prop_assert!(in_doubt && at_least_ms <= at_most_ms);
                    prop_assert!(at_least_ms <= RETRY_AFTER_MS_MAX);
                    prop_assert!(at_most_ms - at_least_ms <= backoff_ms_max);
                    prop_assert!(attempts < attempts_max && !deadline_passed);
                    let left_ms = life_ms.saturating_sub(age_ms);
                    prop_assert!(compensation || at_most_ms <= left_ms);
                }
                Next::Settle(settled) => {
                    let unknown = matches!(
                        heard,
                        Heard::Answer(Outcome::Unknown { .. })
                            | Heard::Found(LookUp::Unknown { .. } | LookUp::Nothing)
                            | Heard::Confirmed {
                                found: LookUp::Unknown { .. } | LookUp::Nothing,
                                ..
                            }
                    );
                    prop_assert!(!unknown, "unknown never settles");
                    let refused = matches!(settled, Settled::Refused { .. });
                    prop_assert!(!(refused && compensation));
                }
                Next::Stuck { .. } => {}
            }
        }
    }
}
