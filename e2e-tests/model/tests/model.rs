//! The line as it is: every interleaving, no rule broken, everything reached.

use std::time::Instant;

use model::line::{Line, Sent};
use model::parts::Parts;
use stateright::{Checker, Model};

fn one_order(parts: Parts) -> Line {
    Line {
        parts,
        orders: 1,
        skus: &["a", "b"],
        stock: &[1, 0],
        attempts_max: 3,
        sends: Sent::ALL,
        deadline: true,
        keys_are_forgotten: true,
        letters_are_set_aside: true,
    }
}

fn two_orders(parts: Parts) -> Line {
    Line {
        orders: 2,
        skus: &["a"],
        stock: &[1],
        attempts_max: 2,
        sends: &[Sent::Applied, Sent::AppliedAnswerLost, Sent::Refused],
        deadline: false,
        keys_are_forgotten: false,
        letters_are_set_aside: false,
        ..one_order(parts)
    }
}

/// Explores everything; the counts are compared, so that a change does not pass unseen.
fn explore(name: &str, line: Line, states: usize) {
    let started = Instant::now();
    let checker = line.checker().spawn_bfs().join();
    println!(
        "{name}: {} unique states, depth {}, {:.2} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    checker.assert_properties();
    assert_eq!(
        checker.unique_state_count(),
        states,
        "{name}: the number of states has changed; explain it, then change it here"
    );
}

#[test]
fn one_order_keeps_every_rule() {
    explore("one order", one_order(Parts::real()), 1);
}

#[test]
fn two_orders_and_one_unit_of_stock_keep_every_rule() {
    explore("two orders, one unit", two_orders(Parts::real()), 1);
}
