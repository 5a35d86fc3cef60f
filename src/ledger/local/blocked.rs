//! [`Blocked`]: what holds a call back, and how its charges are grouped to find out.

use tokio::time::Instant;

use crate::ledger::Contended;
use crate::principal::{Budget, Charge, Principal};

/// What holds a call back.
#[derive(Debug)]
pub(super) struct Blocked {
    pub(super) contended: Contended,
    /// When time alone may change that.
    pub(super) until: Option<Instant>,
    /// The value that it needs first.
    pub(super) value: Option<Principal>,
}

impl Blocked {
    pub(super) fn by(contended: Contended, until: Option<Instant>) -> Self {
        Self {
            contended,
            until,
            value: None,
        }
    }
}

/// The charges of each principal.
pub(super) fn by_principal(charges: &[Charge]) -> impl Iterator<Item = (&Principal, &[Charge])> {
    charges
        .chunk_by(|one, other| one.principal() == other.principal())
        .filter_map(|of_one| Some((of_one.first()?.principal(), of_one)))
}

/// Whether a call with these charges hangs: its response has begun, and goes on for half an hour.
pub(super) fn hangs(charges: &[Charge]) -> bool {
    let mut budgets = charges.iter().map(Charge::budget);
    budgets.any(|budget| budget == Budget::HangingConnections)
}

/// The charges of each budget of each principal.
pub(super) fn by_budget(
    charges: &[Charge],
) -> impl Iterator<Item = (&Principal, Budget, &[Charge])> {
    by_principal(charges).flat_map(|(principal, of_one)| {
        of_one
            .chunk_by(|one, other| one.budget() == other.budget())
            .filter_map(move |run| Some((principal, run.first()?.budget(), run)))
    })
}
