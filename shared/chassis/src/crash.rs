//! Owns the points at which a test kills the process. Without the feature `chaos` there are none.

/// Ends the process here, as if it were killed, when a test has asked for it.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "chaos")]
        $crate::crash::reached($name);
    };
}
pub(crate) use crash_point;

#[cfg(feature = "chaos")]
pub(crate) use armed::{arm, reached};

#[cfg(feature = "chaos")]
mod armed {
    use std::sync::{Mutex, PoisonError};

    /// Every point there is, in the order in which an input passes them.
    const POINTS: [&str; 9] = [
        "lane.before_commit",
        "lane.answer.before_commit",
        "lane.committed.before_produce",
        "lane.produced.before_ack",
        "lane.acked.before_delete",
        "call.counted.before_send",
        "call.sent.before_answer",
        "dispatcher.produced.before_ack",
        "dispatcher.acked.before_delete",
    ];

    static ARMED: Mutex<Option<(String, u32)>> = Mutex::new(None);

    /// Dies when `point` is reached for the `nth` time from now. `false`: no such point.
    pub(crate) fn arm(point: &str, nth: u32) -> bool {
        let known = POINTS.contains(&point) && nth > 0;
        if known {
            *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some((point.to_owned(), nth));
        }
        known
    }

    pub(crate) fn reached(point: &str) {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, left)) = armed.as_mut().filter(|(name, _)| name == point) else { return };
        *left -= 1;
        if *left == 0 {
            eprintln!("crash point {point} reached: the process ends here");
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        }
    }
}
