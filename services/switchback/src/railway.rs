//! Owns the picture of an order: its train on the line, forward above, the way back below. Refuses
//! to ask anybody: the same timeline is always the same picture.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};

use crate::client::{Said, Timeline};

/// A stop on the line: what its service says when the train leaves it, and what when it is undone.
struct Station {
    name: &'static str,
    passed: &'static str,
    /// Event and the word for it under the way back.
    back: &'static [(&'static str, &'static str)],
}

const LINE: [Station; 4] = [
    Station { name: "order", passed: "OrderPlaced", back: &[("OrderCancelled", "cancelled")] },
    Station {
        name: "inventory",
        passed: "InventoryReserved",
        back: &[("InventoryRejected", "rejected"), ("InventoryReleased", "released")],
    },
    Station {
        name: "payment",
        passed: "PaymentCaptured",
        back: &[("PaymentDeclined", "declined"), ("PaymentRefunded", "refunded")],
    },
    Station { name: "shipping", passed: "ShipmentBooked", back: &[("ShipmentFailed", "failed")] },
];
const ARRIVED: &str = "OrderConfirmed";
const CANCEL_ASKED: &str = "OrderCancelRequested";

const HOP_CELLS: usize = 11;
const MARGIN: &str = "  ";

/// What the timeline says about one station.
struct Stop<'a> {
    station: &'static Station,
    passed: Option<DateTime<Utc>>,
    undone: Option<(&'a Said, &'static str)>,
}

/// The order's train in Unicode, one line without and four with a way back.
///
/// Times are those between the services' own words, as the database's clock has them.
pub fn railway(timeline: &Timeline) -> String {
    let stops: Vec<Stop<'_>> = LINE.iter().map(|station| stop(station, timeline)).collect();
    // Nobody but the station furthest down the line can have thrown the switch. The order itself
    // only hears of it.
    let switch = stops.iter().rposition(|stop| stop.undone.is_some()).filter(|at| *at > 0);
    let arrived = timeline.at(ARRIVED);

    let mut rows = vec![forward(&stops, switch, arrived)];
    if let Some(switch) = switch {
        rows.extend(way_back(&stops[..=switch]));
    }
    if let (Some(begun), Some(asked)) = (timeline.begun(), timeline.at(CANCEL_ASKED)) {
        let late = if arrived.is_some() { ", too late" } else { "" };
        rows.push(format!("(cancel asked for after {}{late})", duration(asked - begun)));
    }
    rows.iter().fold(String::new(), |mut picture, row| {
        let _ = writeln!(picture, "{MARGIN}{}", row.trim_end());
        picture
    })
}

fn stop<'a>(station: &'static Station, timeline: &'a Timeline) -> Stop<'a> {
    let undone = station.back.iter().find_map(|(event, word)| {
        let said = timeline.items.iter().find(|said| said.name() == *event)?;
        Some((said, *word))
    });
    Stop { station, passed: timeline.at(station.passed), undone }
}

fn forward(stops: &[Stop<'_>], switch: Option<usize>, arrived: Option<DateTime<Utc>>) -> String {
    let mut row = stops[0].station.name.to_owned();
    let mut left = stops[0].passed;
    for (at, stop) in stops.iter().enumerate().skip(1) {
        // Where the switch was thrown the train has been, and so everywhere before it, even if
        // the events that say so are still missing.
        let turned = stop.undone.filter(|_| switch == Some(at)).map(|(said, _)| said.at);
        let reached = stop.passed.or(turned);
        let been = reached.is_some() || switch.is_some_and(|switch| at < switch);
        let _ = write!(row, " {} {}", hop(left.zip(reached), been), stop.station.name);
        left = stop.passed;
    }
    let _ = write!(row, " {} confirmed", hop(left.zip(arrived), arrived.is_some()));
    row
}

/// An arrow with its time, or dots where no train has been.
fn hop(times: Option<(DateTime<Utc>, DateTime<Utc>)>, been: bool) -> String {
    match times {
        Some((from, to)) => format!("{}▶", centred(&duration(to - from), HOP_CELLS - 1, '─')),
        None if been => format!("{}▶", "─".repeat(HOP_CELLS - 1)),
        None => "┄".repeat(HOP_CELLS),
    }
}

/// The posts, the rails and the words of the way back, from the order to the switch.
fn way_back(stops: &[Stop<'_>]) -> [String; 3] {
    let (mut posts, mut rails, mut words) = (Row::default(), Row::default(), Row::default());
    let switch = stops.len() - 1;
    for (at, stop) in stops.iter().enumerate() {
        let column = centre(at);
        let (post, joint) = match (at, &stop.undone) {
            (0, Some(_)) => ("▲".to_owned(), "└─"),
            (0, None) => ("┆".to_owned(), "└"),
            (at, Some((said, _))) if at == switch => (format!("✗ {}", reason(said)), "┘"),
            (_, Some(_)) => ("│".to_owned(), "┴◀"),
            (_, None) => ("┆".to_owned(), "┴"),
        };
        posts.put(column, &post);
        if let Some(next) = stops.get(at + 1) {
            let cells = centre(at + 1) - column - joint.chars().count();
            rails.put(column, &format!("{joint}{}", rail(stop, next, cells)));
        } else {
            rails.put(column, joint);
        }
        if let Some((_, word)) = stop.undone {
            words.put(column.saturating_sub(word.len() / 2), word);
        }
    }
    [posts.0, rails.0, words.0]
}

/// From the next station back to this one.
fn rail(here: &Stop<'_>, next: &Stop<'_>, cells: usize) -> String {
    match (here.undone, next.undone) {
        (Some((here, _)), Some((next, _))) => {
            let time = format!(" {} ", duration(here.at - next.at));
            centred(&time, cells, '─')
        }
        _ => "┄".repeat(cells),
    }
}

fn reason(said: &Said) -> &str {
    said.reason.as_ref().map_or("", |reason| reason.code.as_str())
}

/// The column in the middle of a station's name.
fn centre(at: usize) -> usize {
    let before: usize = LINE[..at].iter().map(|station| station.name.len() + HOP_CELLS + 2).sum();
    before + LINE[at].name.len() / 2
}

fn centred(text: &str, cells: usize, fill: char) -> String {
    let free = cells.saturating_sub(text.chars().count());
    let fill = |count: usize| fill.to_string().repeat(count);
    format!("{}{text}{}", fill(free / 2), fill(free - free / 2))
}

/// Short enough for a hop; clocks of two machines may disagree, so never below zero.
pub fn duration(between: TimeDelta) -> String {
    let ms = between.num_milliseconds().max(0);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// A line of text that is written at columns, left to right.
#[derive(Default)]
struct Row(String);

impl Row {
    fn put(&mut self, column: usize, text: &str) {
        let free = column.saturating_sub(self.0.chars().count());
        self.0.extend(std::iter::repeat_n(' ', free));
        self.0.push_str(text);
    }
}
