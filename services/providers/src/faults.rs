//! Owns what is broken on purpose, and for how long. Refuses to know what a request wants.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::books::Destination;
use crate::wire::{BODY_BYTES_MAX, Cut, Problem, json, read, unavailable};

/// Nothing stays broken longer than this, whoever forgets to heal it.
const TTL_SECONDS_MAX: u64 = 3_600;
pub(crate) const SLOW_MS: u64 = 2_000;
const LATE_MS: u64 = 3_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// The connection is cut before anything happens.
    Down,
    /// Done, and answered 2 s later.
    Slow,
    /// 503 before anything happens.
    Errors,
    /// Done, and the connection is cut.
    LoseAnswers,
    /// The connection is cut at once, and it is done 3 s later.
    Late,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    mode: Mode,
    /// Of the requests: 0.25 is every fourth. No dice: what a run hits can be counted.
    share: f64,
    ttl_seconds: u64,
}

#[derive(Debug)]
struct Active {
    fault: Fault,
    until: Instant,
    /// Grows by the share with each request; at 1 the fault strikes.
    due: f64,
}

/// One destination's fault, or none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Switch(Arc<Mutex<Position>>);

#[derive(Debug, Default)]
struct Position {
    active: Option<Active>,
    struck: u64,
}

impl Switch {
    /// How many requests have met a fault so far.
    pub(crate) fn struck(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).struck
    }

    fn set(&self, fault: Option<Fault>, now: Instant) {
        let active = fault.map(|fault| {
            let until = now + Duration::from_secs(fault.ttl_seconds);
            Active { fault, until, due: 0.0 }
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).active = active;
    }

    /// What happens to this request. A look-up has no effect to lose or to be late.
    fn strike(&self, method: &Method, now: Instant) -> Option<Mode> {
        let mut position = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let active = position.active.as_mut()?;
        if now >= active.until {
            position.active = None;
            return None;
        }
        let only_effects = matches!(active.fault.mode, Mode::LoseAnswers | Mode::Late);
        if only_effects && method != Method::POST {
            return None;
        }
        active.due += active.fault.share;
        if active.due < 1.0 {
            return None;
        }
        active.due -= 1.0;
        let mode = active.fault.mode;
        position.struck += 1;
        Some(mode)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Switches {
    pub payment: Switch,
    pub carrier: Switch,
}

impl Switches {
    pub(crate) const fn of(&self, destination: Destination) -> &Switch {
        match destination {
            Destination::Payment => &self.payment,
            Destination::Carrier => &self.carrier,
        }
    }
}

pub(crate) fn routes(switches: Switches) -> Router {
    Router::new().route("/v1/faults/{name}", put(set).delete(heal)).with_state(switches)
}

async fn set(
    State(switches): State<Switches>,
    path: Result<Path<Destination>, PathRejection>,
    body: Bytes,
) -> Result<Response, Problem> {
    let Path(destination) = path.map_err(|_| nowhere())?;
    let mut fault: Fault = read(&body)?;
    if !(0.0..=1.0).contains(&fault.share) {
        return Err(Problem::invalid("share: 0 to 1"));
    }
    if fault.ttl_seconds == 0 {
        return Err(Problem::invalid("ttl_seconds: 1 or more"));
    }
    fault.ttl_seconds = fault.ttl_seconds.min(TTL_SECONDS_MAX);
    switches.of(destination).set(Some(fault), Instant::now());
    tracing::info!(?destination, ?fault, "broken on purpose");
    Ok(json(200, &fault))
}

async fn heal(
    State(switches): State<Switches>,
    path: Result<Path<Destination>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path(destination) = path.map_err(|_| nowhere())?;
    switches.of(destination).set(None, Instant::now());
    tracing::info!(?destination, "healed");
    Ok(StatusCode::NO_CONTENT)
}

fn nowhere() -> Problem {
    Problem::new(404, "no_such_destination", "payment or carrier")
}

/// Puts a destination's fault between its callers and its routes.
pub(crate) async fn disturb(
    State(switch): State<Switch>,
    request: Request,
    next: Next,
) -> Response {
    match switch.strike(request.method(), Instant::now()) {
        None => next.run(request).await,
        Some(Mode::Down) => Cut.into_response(),
        Some(Mode::Errors) => unavailable(),
        Some(Mode::Slow) => {
            let response = next.run(request).await;
            tokio::time::sleep(Duration::from_millis(SLOW_MS)).await;
            response
        }
        Some(Mode::LoseAnswers) => {
            next.run(request).await;
            Cut.into_response()
        }
        Some(Mode::Late) => {
            // The body is still in the connection, which ends here.
            let (parts, body) = request.into_parts();
            if let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(LATE_MS)).await;
                    next.run(Request::from_parts(parts, Body::from(body))).await;
                });
            }
            Cut.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(mode: Mode, share: f64, now: Instant) -> Switch {
        let switch = Switch::default();
        switch.set(Some(Fault { mode, share, ttl_seconds: 10 }), now);
        switch
    }

    fn strikes(switch: &Switch, now: Instant) -> Vec<bool> {
        (0..8).map(|_| switch.strike(&Method::POST, now).is_some()).collect()
    }

    #[test]
    fn a_share_is_counted_and_not_drawn() {
        let now = Instant::now();
        let no = false;
        assert_eq!(strikes(&broken(Mode::Down, 1.0, now), now), [true; 8]);
        assert_eq!(strikes(&broken(Mode::Down, 0.0, now), now), [no; 8]);
        let fourth = [no, no, no, true, no, no, no, true];
        let struck = broken(Mode::Down, 0.25, now);
        assert_eq!(strikes(&struck, now), fourth);
        assert_eq!(struck.struck(), 2);
    }

    #[test]
    fn a_fault_heals_by_itself_when_its_time_is_over() {
        let now = Instant::now();
        let switch = broken(Mode::Errors, 1.0, now);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(switch.strike(&Method::POST, later(9)), Some(Mode::Errors));
        assert_eq!(switch.strike(&Method::POST, later(10)), None);
        assert_eq!(switch.strike(&Method::POST, later(9)), None);
    }

    #[test]
    fn a_look_up_is_never_lost_or_late_but_meets_every_other_fault() {
        let now = Instant::now();
        for (mode, met) in [
            (Mode::Down, true),
            (Mode::Slow, true),
            (Mode::Errors, true),
            (Mode::LoseAnswers, false),
            (Mode::Late, false),
        ] {
            let struck = broken(mode, 1.0, now).strike(&Method::GET, now).is_some();
            assert_eq!(struck, met, "{mode:?}");
        }
    }
}
