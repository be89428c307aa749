//! Owns the picture of a trace: a line for each span, below the one that it belongs to. Refuses to
//! ask anybody: the same spans are always the same picture.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use testkit::otlp::{Span, SpanKind};

/// A trace in Unicode. `◀` marks the way back, `✗` what failed, and `┄` what belongs to a span that
/// is not there.
///
/// Times are the services' own, each by its own clock.
pub fn tree(spans: &[Span]) -> String {
    let forest = Forest::of(spans);
    let begun_ns = spans.iter().map(|span| span.begun_ns).min().unwrap_or_default();
    let ended_ns = spans.iter().map(|span| span.ended_ns).max().unwrap_or_default();
    let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
    let mut picture = Picture {
        forest: &forest,
        begun_ns,
        service_width: services.iter().map(|service| service.len()).max().unwrap_or_default(),
        text: format!(
            "{} spans of {} in {}\n\n",
            spans.len(),
            services.into_iter().collect::<Vec<_>>().join(", "),
            duration(ended_ns.saturating_sub(begun_ns))
        ),
    };
    for root in &forest.roots {
        let stem = if root.parent_span_id.is_empty() { "" } else { "┄ " };
        picture.draw(root, stem, "", false);
    }
    picture.text
}

struct Forest<'a> {
    /// Without a parent, or with one that is not there.
    roots: Vec<&'a Span>,
    /// By their parent's id, in the order of their beginning.
    children: BTreeMap<&'a str, Vec<&'a Span>>,
}

impl<'a> Forest<'a> {
    fn of(spans: &'a [Span]) -> Self {
        let ids: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
        let mut in_order: Vec<&Span> = spans.iter().collect();
        in_order.sort_by_key(|span| (span.begun_ns, &span.span_id));
        let (mut roots, mut children) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for span in in_order {
            let parent = span.parent_span_id.as_str();
            if ids.contains(parent) {
                children.entry(parent).or_default().push(span);
            } else {
                roots.push(span);
            }
        }
        Self { roots, children }
    }
}

struct Picture<'a> {
    forest: &'a Forest<'a>,
    begun_ns: u64,
    service_width: usize,
    text: String,
}

impl Picture<'_> {
    /// `stem` leads to this span, and `indent` to those below it.
    fn draw(&mut self, span: &Span, stem: &str, indent: &str, on_the_way_back: bool) {
        // What follows from undoing is on the way back too.
        let back = on_the_way_back || span.attribute("saga.compensation") == "true";
        let _ = writeln!(
            self.text,
            "{:>8} {:>8}  {} {:<width$}  {stem}{}",
            duration(span.begun_ns.saturating_sub(self.begun_ns)),
            duration(span.ended_ns.saturating_sub(span.begun_ns)),
            if back { '◀' } else { ' ' },
            span.service,
            what(span),
            width = self.service_width,
        );
        let children = self.forest.children.get(span.span_id.as_str());
        let children: Vec<&Span> = children.into_iter().flatten().copied().collect();
        for (left, child) in (0..children.len()).rev().zip(children) {
            let (branch, below) = if left == 0 { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.draw(child, &format!("{indent}{branch}"), &format!("{indent}{below}"), back);
        }
    }
}

/// What a span is about, and how it went.
fn what(span: &Span) -> String {
    let event = span.attribute("saga.event");
    let mut said = match (span.kind, event) {
        (SpanKind::Consumer, event) if !event.is_empty() => format!("handle {event}"),
        (SpanKind::Producer, event) if !event.is_empty() => format!("say {event}"),
        _ => span.name.clone(),
    };
    let status = span.attribute("http.response.status_code");
    if !status.is_empty() {
        let _ = write!(said, ", {status}");
    }
    if span.attribute("saga.duplicate") == "true" {
        said.push_str(", a repeat");
    }
    let attempt = span.attribute("switchback.call.attempt");
    if !attempt.is_empty() {
        let looked_up = span.attribute("http.request.method") == "GET";
        let asked = if looked_up { "looked up" } else { "asked" };
        let outcome = span.attribute("switchback.call.outcome");
        let _ = write!(said, ", {asked} by attempt {attempt}: {outcome}");
    }
    let code = span.attribute("error.type");
    if span.is_error || !code.is_empty() {
        let _ = write!(said, " ✗ {code}");
    }
    said.trim_end().to_owned()
}

/// Three digits at most, and a unit.
fn duration(ns: u64) -> String {
    let us = ns / 1_000;
    match us {
        0..10_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..60_000_000 => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
        _ => format!("{} min", us / 60_000_000),
    }
}
