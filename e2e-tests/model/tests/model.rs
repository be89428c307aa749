//! The line as it is: every interleaving, no rule broken, everything reached.

use std::time::Instant;

use model::line::Line;
use model::parts::Parts;
use stateright::{Checker, Model};

const ONE_ORDER_STATES: usize = 41_100;
const TWO_ORDERS_STATES: usize = 610_144;

/// Explores everything. The counts are compared, so that no change passes unseen.
fn explore(name: &str, line: Line, states: usize) {
    let started = Instant::now();
    let checker = line.checker().spawn_bfs().join();
    println!(
        "{name}: {} unique states, {} steps deep, {:.2} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    checker.assert_properties();
    assert_eq!(
        checker.unique_state_count(),
        states,
        "{name}: the number of states is another one; find out why before you change it here"
    );
}

#[test]
fn one_order_keeps_every_rule() {
    explore("one order", Line::one_order(Parts::real()), ONE_ORDER_STATES);
}

#[test]
fn two_orders_and_one_unit_of_stock_keep_every_rule() {
    explore("two orders, one unit", Line::two_orders(Parts::real()), TWO_ORDERS_STATES);
}

#[test]
fn the_inbox_changes_nothing_that_decide_does_not_hold_by_itself() {
    let parts = Parts { inbox: true, ..Parts::real() };
    explore("one order, with the inbox", Line::one_order(parts), ONE_ORDER_STATES);
}
