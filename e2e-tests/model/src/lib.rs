//! Every interleaving of one order, and of two orders that want the same last unit of stock, over
//! the functions that run in production: the four `route` and `decide`, and the policy of outside
//! calls. Nothing is copied here, so nothing can drift.
//!
//! **What may happen.** A cancel or the deadline at any moment; any event reaches any of its
//! consumers in any order, also inside one topic, late, again and again; a consumer sets an event
//! aside and handles it long after; an outside call is applied and answered, applied and not
//! answered, refused with and without an answer, refused before anybody looked at its key, not
//! delivered at all, or lands long after its caller gave up on it; the provider forgets its keys.
//! A crash needs no action of its own: each step is one transaction, so a crash is a step that is
//! not taken, and a call whose process died is a call whose answer was lost.
//!
//! **What is taken for granted.** A transaction is atomic, an event that was said is delivered some
//! day, a late request lands before its provider forgets the key. The crash points show these.
//!
//! Liveness is stated as safety: where nothing more can happen, the order is over, or it is stuck
//! where a person sees it.

pub mod line;
pub mod parts;
pub mod rules;
pub mod train;

mod post;
mod reached;
mod shell;
