//! Owns what the trace of an order has to be, beside what the four services have said of it.
//! Refuses to ask anybody: spans go in, what is wrong with them comes out.

pub mod receiver;

use std::collections::{BTreeMap, BTreeSet};

use testkit::otlp::{Link, Span, SpanKind};
use uuid::Uuid;

use crate::SERVICES;
use crate::check::rules;
use crate::saga::Event;

/// The words that ask somebody to undo something, and the call that does it outside.
const UNDOING: [&str; 2] = ["RefundPayment", "ReleaseInventory"];
const UNDOING_STEP: &str = "refund";
/// What can only be said when an outside call has been done, and the call's step.
const SAID_WHEN_DONE: [(&str, &str); 3] =
    [("PaymentCaptured", "capture"), ("PaymentRefunded", "refund"), ("ShipmentBooked", "book")];

/// What a trace is held against.
#[derive(Debug, Clone)]
pub struct Told<'a> {
    pub order_id: Uuid,
    /// All that was said in this trace.
    pub events: Vec<&'a Event>,
    /// Spans of a process that died before it could send them.
    pub lost: BTreeSet<String>,
}

/// What is wrong with a trace: nothing, if it is whole and says of each span what it must.
pub fn violations(spans: &[Span], told: &Told<'_>) -> Vec<String> {
    let trace = Trace { spans, told, by_id: by_id(spans) };
    let mut found = trace.of_the_whole();
    for span in spans {
        let of_span = [trace.of_any(span), trace.of_kind(span)].concat();
        found.extend(of_span.into_iter().map(|what| format!("{what}: {}", brief(span))));
    }
    for event in &told.events {
        let of_event = trace.of_event(event).into_iter();
        found.extend(of_event.map(|what| format!("{} of {}: {what}", event.name(), event.service)));
    }
    found.extend(trace.of_calls());
    found
}

/// What is wrong with the commits: each span that was settled by one is linked from it, and they
/// are traces of their own.
pub fn violations_of_commits(spans: &[Span], commits: &[Span]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for span in spans.iter().filter(|span| is_settled_by_a_commit(span)) {
        let link = Link { trace_id: span.trace_id.clone(), span_id: span.span_id.clone() };
        let of_span = commits.iter().filter(|commit| commit.links.contains(&link));
        let services: Vec<_> = of_span.map(|commit| commit.service.as_str()).collect();
        if !services.contains(&span.service.as_str()) {
            found.push(format!("no commit of its service links to it: {}", brief(span)));
        }
    }
    for commit in commits {
        let inputs = commit.attribute("switchback.batch.size").parse().unwrap_or(0);
        let wrong = [
            (commit.name != format!("commit {}", commit.service), "its name"),
            (commit.kind != SpanKind::Internal, "its kind"),
            (!commit.parent_span_id.is_empty(), "it has a parent"),
            (
                spans.iter().any(|span| span.trace_id == commit.trace_id),
                "it is in the saga's trace",
            ),
            (commit.links.len() > inputs || inputs == 0, "its number of inputs"),
            (commit.attribute("db.system.name") != "postgresql", "its database"),
        ];
        let wrong = wrong.into_iter().filter(|(is_wrong, _)| *is_wrong);
        found.extend(wrong.map(|(_, what)| format!("{what}: {}", brief(commit))));
    }
    found
}

fn is_settled_by_a_commit(span: &Span) -> bool {
    match span.kind {
        SpanKind::Server | SpanKind::Consumer => true,
        SpanKind::Client => is_definite(span),
        _ => false,
    }
}

/// The attempts of each outside call: its name, and the attempts' numbers in their order.
pub fn attempts(spans: &[Span]) -> BTreeMap<&str, Vec<&str>> {
    let mut attempts: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.kind == SpanKind::Client) {
        attempts.entry(&span.name).or_default().push(span);
    }
    let numbers = attempts.into_iter().map(|(name, mut spans)| {
        spans.sort_by_key(|span| span.begun_ns);
        (name, spans.into_iter().map(|span| span.attribute("switchback.call.attempt")).collect())
    });
    numbers.collect()
}

struct Trace<'a> {
    spans: &'a [Span],
    told: &'a Told<'a>,
    by_id: BTreeMap<&'a str, &'a Span>,
}

impl Trace<'_> {
    fn of_the_whole(&self) -> Vec<String> {
        let mut found = Vec::new();
        let ids: BTreeSet<&str> = self.spans.iter().map(|span| span.trace_id.as_str()).collect();
        if ids.len() != 1 {
            found.push(format!("it is no single trace but {ids:?}"));
        }
        if self.by_id.len() != self.spans.len() {
            found.push("two spans have one id".to_owned());
        }
        let roots: Vec<_> =
            self.spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
        match roots[..] {
            [root] if root.kind == SpanKind::Server && root.service == "order" => {}
            _ => found.push(format!(
                "its root is not one request to order but {:?}",
                roots.iter().map(|root| brief(root)).collect::<Vec<_>>()
            )),
        }
        let services: BTreeSet<&str> =
            self.spans.iter().map(|span| span.service.as_str()).collect();
        let said = self.told.events.iter().map(|event| event.service.as_str());
        let heard = self.told.events.iter().flat_map(|event| rules::hearers(event.name())).copied();
        let expected: BTreeSet<&str> = said.chain(heard).collect();
        if services != expected {
            found.push(format!("it is of {services:?} and not of {expected:?}"));
        }
        found
    }

    fn of_any(&self, span: &Span) -> Vec<&'static str> {
        let parent = &span.parent_span_id;
        let has_parent = parent.is_empty()
            || self.by_id.contains_key(parent.as_str())
            || self.told.lost.contains(parent);
        let failed = !span.attribute("error.type").is_empty();
        let wrong = [
            (!has_parent, "its parent is missing"),
            (span.attribute("saga.id") != self.told.order_id.to_string(), "its saga.id"),
            (span.attribute("saga.service") != span.service, "its saga.service"),
            (
                !["true", "false"].contains(&span.attribute("saga.compensation")),
                "no saga.compensation",
            ),
            (span.is_error != failed, "an error without error.type, or the other way round"),
            (!SERVICES.contains(&span.service.as_str()), "a service that is none of the four"),
            (span.ended_ns < span.begun_ns, "its end before its beginning"),
        ];
        wrong.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| what).collect()
    }

    fn of_kind(&self, span: &Span) -> Vec<&'static str> {
        let is = |name: &str, value: &str| span.attribute(name) == value;
        let has = |name: &str| !span.attribute(name).is_empty();
        let topic = span.attribute("messaging.destination.name");
        let wrong = match span.kind {
            SpanKind::Server => vec![
                (!is("http.request.method", "POST") || !has("http.route"), "its request"),
                (!has("http.response.status_code"), "no status"),
            ],
            SpanKind::Consumer => vec![
                (span.name != format!("process {topic}"), "its name"),
                (!self.messages("process", span), "what it does with which message"),
                (!is("messaging.kafka.message.key", span.attribute("saga.id")), "its key"),
                (!is("messaging.consumer.group.name", &span.service), "its group"),
                (
                    !has("messaging.destination.partition.id") || !has("messaging.kafka.offset"),
                    "where it was",
                ),
                (
                    !["true", "false"].contains(&span.attribute("saga.duplicate")),
                    "no saga.duplicate",
                ),
                (!links_to_its_parent(span), "no link to its parent"),
            ],
            SpanKind::Producer => vec![
                (span.name != format!("send {topic}"), "its name"),
                (topic != format!("{}.events.v1", span.service), "another's topic"),
                (!self.messages("send", span), "what it does with which message"),
            ],
            SpanKind::Client => {
                let undoes = span.name.ends_with(&format!(" {UNDOING_STEP}"));
                vec![
                    (!span.name.starts_with("call "), "its name"),
                    (!is("saga.compensation", &undoes.to_string()), "whether it undoes something"),
                    (
                        !has("switchback.call.outcome") || !has("switchback.call.attempt"),
                        "its attempt",
                    ),
                    (!has("http.request.method"), "its request"),
                    (
                        span.is_error == is("switchback.call.outcome", "done"),
                        "an outcome unlike its error",
                    ),
                ]
            }
            SpanKind::Internal => vec![(!span.name.starts_with("clock "), "its name")],
            SpanKind::Unspecified => vec![(true, "no kind")],
        };
        wrong.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| what).collect()
    }

    /// Whether it is about one of the events, in Kafka's words.
    fn messages(&self, operation: &str, span: &Span) -> bool {
        let id = span.attribute("messaging.message.id");
        span.attribute("messaging.system") == "kafka"
            && span.attribute("messaging.operation.name") == operation
            && span.attribute("messaging.operation.type") == operation
            && self.told.events.iter().any(|event| event.id.to_string() == id)
    }

    /// It was sent, whoever hears it has handled it once, and both belong to who decided it.
    fn of_event(&self, event: &Event) -> Vec<String> {
        let id = event.id.to_string();
        let about: Vec<_> = (self.spans.iter())
            .filter(|span| span.attribute("messaging.message.id") == id)
            .collect();
        let mut found = Vec::new();
        if !about
            .iter()
            .any(|span| span.kind == SpanKind::Producer && span.service == event.service)
        {
            found.push("it is not sent".to_owned());
        }
        for hearer in rules::hearers(event.name()) {
            let handled = about
                .iter()
                .filter(|span| span.kind == SpanKind::Consumer && span.service == *hearer);
            let (mut repeats, mut firsts) = (0, 0);
            for span in handled {
                let is_repeat = span.attribute("saga.duplicate") == "true";
                *(if is_repeat { &mut repeats } else { &mut firsts }) += 1;
            }
            let may_be_lost = !self.told.lost.is_empty() && repeats > 0;
            if firsts != 1 && !(firsts == 0 && may_be_lost) {
                found.push(format!("{hearer} handles it {firsts} times"));
            }
        }
        let deciders: BTreeSet<&str> =
            about.iter().map(|span| span.parent_span_id.as_str()).collect();
        if about.iter().any(|span| span.attribute("saga.event") != event.name()) {
            found.push("a span calls it something else".to_owned());
        }
        let undoes = UNDOING.contains(&event.name()).to_string();
        if about.iter().any(|span| span.attribute("saga.compensation") != undoes) {
            found.push("a span says wrongly whether it undoes something".to_owned());
        }
        match deciders.into_iter().collect::<Vec<_>>()[..] {
            [decider] => found.extend(self.of_decider(event, decider)),
            [] => {}
            ref many => found.push(format!("its spans are children of {many:?}")),
        }
        found
    }

    fn of_decider(&self, event: &Event, decider: &str) -> Option<String> {
        let decider = self.by_id.get(decider)?;
        let done = SAID_WHEN_DONE.iter().find(|(name, _)| *name == event.name());
        let is_right = if rules::CAUSED_BY_NO_EVENT.contains(&event.name()) {
            [SpanKind::Server, SpanKind::Internal].contains(&decider.kind)
        } else if let Some((_, step)) = done {
            decider.kind == SpanKind::Client
                && decider.name.ends_with(&format!(" {step}"))
                && decider.attribute("switchback.call.outcome") == "done"
        } else {
            [SpanKind::Consumer, SpanKind::Client].contains(&decider.kind)
        };
        let is_right = is_right && decider.service == event.service;
        (!is_right).then(|| format!("decided by {}", brief(decider)))
    }

    /// Attempts count up, and only the last one is definite.
    fn of_calls(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, numbers) in attempts(self.spans) {
            let mut counted: Vec<u32> =
                numbers.iter().filter_map(|number| number.parse().ok()).collect();
            counted.sort_unstable();
            counted.dedup();
            if counted.iter().map(u32::to_string).ne(numbers.iter().map(|it| (*it).to_owned())) {
                found.push(format!("the attempts of {name} are {numbers:?}"));
            }
            let of_call = self.spans.iter().filter(|span| span.name == name);
            let definite = of_call.filter(|span| is_definite(span));
            let definite: Vec<_> =
                definite.map(|span| span.attribute("switchback.call.attempt")).collect();
            if definite.len() != 1 || definite.last() != numbers.last() {
                found.push(format!("of {numbers:?} of {name}, {definite:?} are definite"));
            }
        }
        found
    }
}

fn is_definite(call: &Span) -> bool {
    ["done", "refused"].contains(&call.attribute("switchback.call.outcome"))
}

fn links_to_its_parent(span: &Span) -> bool {
    let parent = Link { trace_id: span.trace_id.clone(), span_id: span.parent_span_id.clone() };
    span.links == [parent]
}

fn by_id(spans: &[Span]) -> BTreeMap<&str, &Span> {
    spans.iter().map(|span| (span.span_id.as_str(), span)).collect()
}

fn brief(span: &Span) -> String {
    let Span { service, name, span_id, parent_span_id, attributes, .. } = span;
    format!("{service} {name} {span_id} below {parent_span_id:?} {attributes:?}")
}
