//! [`Charge`]s of a call, and [`Charges`]: all of them, each once, those of one budget together.

use std::fmt;
use std::hash::BuildHasher;

use hashbrown::{HashMap, HashTable};

use super::budget::Budget;
use super::identity::{HASHER, Principal};

/// What one call draws on one budget.
///
/// ```
/// use tower_ews::principal::{Budget, Charge, Principal};
///
/// let svc = Principal::account("svc@contoso.com");
/// let page = Charge::new(svc.clone(), Budget::FindCount, 200);
/// assert_eq!(page.amount(), 200);
/// let open = Charge::of_value(svc, Budget::OpenMailboxes, Principal::mailbox("amy@contoso.com"));
/// assert_eq!(open.value().unwrap().name(), "amy@contoso.com");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    principal: Principal,
    value: Option<Principal>,
    amount: u32,
    budget: Budget,
}

impl Charge {
    /// Draws `amount` on `budget` of `principal`, as long as the call lasts.
    pub fn new(principal: Principal, budget: Budget, amount: u32) -> Self {
        Self {
            principal,
            value: None,
            amount,
            budget,
        }
    }

    /// Uses `value` in a budget that counts different values.
    pub fn of_value(principal: Principal, budget: Budget, value: Principal) -> Self {
        Self {
            principal,
            value: Some(value),
            amount: 1,
            budget,
        }
    }

    /// Who pays.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Which of its budgets.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The same with another amount.
    #[cfg(feature = "ews")]
    pub(super) fn with_amount(mut self, amount: u32) -> Self {
        self.amount = amount;
        self
    }

    /// How much. May exceed the budget's limit: such a call runs when the budget is otherwise empty.
    pub fn amount(&self) -> u32 {
        self.amount
    }

    /// The value in use, for a budget that counts different values.
    pub fn value(&self) -> Option<&Principal> {
        self.value.as_ref()
    }

    fn is_in_run_of(&self, other: &Self) -> bool {
        self.budget == other.budget && self.principal == other.principal
    }

    fn is_same(&self, other: &Self) -> bool {
        self.is_in_run_of(other) && self.value == other.value
    }

    /// Takes up one that is the same.
    fn repeat(&mut self, same: &Self) {
        if self.value.is_none() {
            self.amount = self.amount.saturating_add(same.amount);
        }
    }

    fn hashes(&self) -> Hashes {
        Hashes {
            each: HASHER.hash_one((&self.principal, self.budget, &self.value)),
            run: HASHER.hash_one((&self.principal, self.budget)),
            principal: self.principal.hash64(),
        }
    }
}

/// All charges of one call, taken all or nothing.
///
/// A call without charges passes freely.
///
/// # Order
///
/// Charges of the same principal are adjacent, and among them those on the same budget are: `chunk_by` yields one *run* for each
/// principal and budget. Principals, budgets of one principal and charges of one run each stand in the order in which they came first.
/// No two charges have the same principal, budget and value: the amounts of charges without a value are added up, and a value that
/// comes again is dropped.
///
/// ```
/// use tower_ews::principal::{Budget, Charge, Charges, Principal};
///
/// let (amy, bob) = (Principal::account("amy"), Principal::account("bob"));
/// let charges: Charges = [
///     Charge::new(amy.clone(), Budget::Concurrency, 1),
///     Charge::new(bob.clone(), Budget::Concurrency, 1),
///     Charge::new(amy.clone(), Budget::FindCount, 100),
///     Charge::new(amy.clone(), Budget::FindCount, 50),
/// ]
/// .into_iter()
/// .collect();
/// let same_run = |a: &Charge, b: &Charge| (a.principal(), a.budget()) == (b.principal(), b.budget());
/// let runs: Vec<_> = charges
///     .chunk_by(same_run)
///     .map(|run| (run[0].principal().clone(), run[0].budget(), run[0].amount()))
///     .collect();
/// assert_eq!(
///     runs,
///     [
///         (amy.clone(), Budget::Concurrency, 1),
///         (amy, Budget::FindCount, 150),
///         (bob, Budget::Concurrency, 1),
///     ]
/// );
/// ```
///
/// # Cost
///
/// One charge takes no allocation. To collect n charges, or to [extend](Extend) none by n, takes time in proportion to n, in
/// whatever order they come. See [`push`](Self::push) for one at a time.
///
/// ```
/// use tower_ews::principal::{Budget, Charges, Principal};
///
/// // One principal stands for one concurrent request.
/// let charges = Charges::from(Principal::new("contoso"));
/// assert_eq!(charges[0].budget(), Budget::Concurrency);
/// assert!(Charges::from(None::<Principal>).is_empty());
/// ```
#[derive(Clone)]
pub struct Charges(List);

/// One charge is the usual case. It is in place, and its place is small: permits are moved about with it.
#[derive(Clone)]
enum List {
    One(Charge),
    Many(Box<[Charge]>),
    /// More than [`SMALL`] that were pushed one by one.
    Indexed(Box<Indexed>),
}

/// Up to this many charges a look at each is cheaper than an index.
const SMALL: usize = 16;

impl Charges {
    /// No charges.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a charge, at the end of its run. A second charge on the same budget of the same principal adds its amount, up to
    /// `u32::MAX`; one of the same value changes nothing.
    ///
    /// Takes constant time (amortized) at the end of the last run. The start of a run, or a charge of one further in front, moves
    /// what stands behind it: collect many charges that come in mixed order instead.
    ///
    /// ```
    /// use tower_ews::principal::{Budget, Charge, Charges, Principal};
    ///
    /// let svc = Principal::account("svc@contoso.com");
    /// let mut charges = Charges::from(Charge::new(svc.clone(), Budget::FindCount, 100));
    /// charges.push(Charge::new(svc.clone(), Budget::FindCount, 50));
    /// assert_eq!((charges.len(), charges[0].amount()), (1, 150));
    /// ```
    pub fn push(&mut self, charge: Charge) {
        self.0 = match self.take() {
            List::One(mut known) if known.is_same(&charge) => {
                known.repeat(&charge);
                List::One(known)
            }
            List::One(known) => List::Many(Box::new([known, charge])),
            List::Many(none) if none.is_empty() => List::One(charge),
            List::Many(few) if few.len() < SMALL => List::Many(with(few, charge)),
            List::Many(known) => {
                let mut indexed = Indexed::default();
                known
                    .into_iter()
                    .chain([charge])
                    .for_each(|charge| indexed.push(charge));
                List::Indexed(Box::new(indexed))
            }
            List::Indexed(mut indexed) => {
                indexed.push(charge);
                List::Indexed(indexed)
            }
        };
    }

    fn take(&mut self) -> List {
        std::mem::replace(&mut self.0, List::Many(Box::default()))
    }
}

/// These few charges and one more, with a look at each.
fn with(mut few: Box<[Charge]>, charge: Charge) -> Box<[Charge]> {
    if let Some(same) = few.iter_mut().find(|known| known.is_same(&charge)) {
        same.repeat(&charge);
        return few;
    }
    let end_of_run = few.iter().rposition(|known| known.is_in_run_of(&charge));
    let end_of_principal = || {
        few.iter()
            .rposition(|known| known.principal == charge.principal)
    };
    let last = end_of_run.or_else(end_of_principal);
    let place = last.map_or(few.len(), |last| last + 1);
    let mut more = few.into_vec();
    more.reserve_exact(1);
    more.insert(place, charge);
    more.into()
}

/// Many charges, and where they are.
#[derive(Clone, Default)]
struct Indexed {
    charges: Vec<Charge>,
    each: HashTable<usize>,
    /// The last charge of each run.
    runs: HashTable<usize>,
    /// The last charge of each principal.
    principals: HashTable<usize>,
}

impl Indexed {
    fn push(&mut self, charge: Charge) {
        let charges = &mut self.charges;
        let hashes = charge.hashes();
        let same = self
            .each
            .find(hashes.each, |at| charges[*at].is_same(&charge));
        if let Some(at) = same {
            return charges[*at].repeat(&charge);
        }
        let end_of_run = self
            .runs
            .find(hashes.run, |at| charges[*at].is_in_run_of(&charge));
        let last = end_of_run.or_else(|| {
            self.principals.find(hashes.principal, |at| {
                charges[*at].principal == charge.principal
            })
        });
        let place = last.map_or(charges.len(), |last| last + 1);
        if place < charges.len() {
            for table in [&mut self.each, &mut self.runs, &mut self.principals] {
                let behind = table.iter_mut().filter(|at| **at >= place);
                behind.for_each(|at| *at += 1);
            }
        }
        charges.insert(place, charge);
        let charge = &charges[place];
        self.each
            .insert_unique(hashes.each, place, |at| charges[*at].hashes().each);
        let run = self.runs.entry(
            hashes.run,
            |at| charges[*at].is_in_run_of(charge),
            |at| charges[*at].hashes().run,
        );
        run.and_modify(|last| *last = place).or_insert(place);
        let principal = self.principals.entry(
            hashes.principal,
            |at| charges[*at].principal == charge.principal,
            |at| charges[*at].hashes().principal,
        );
        principal
            .and_modify(|last| *last = place.max(*last))
            .or_insert(place);
    }
}

/// The hashes that [`Indexed`] finds a charge by.
struct Hashes {
    each: u64,
    run: u64,
    principal: u64,
}

/// The same charges, with those of each run together.
fn grouped(charges: impl Iterator<Item = Charge>) -> impl Iterator<Item = Charge> {
    let mut known: HashMap<Principal, usize> = HashMap::new();
    let mut principals: Vec<Vec<Vec<Charge>>> = Vec::new();
    for charge in charges {
        let next = principals.len();
        let at = *known.entry(charge.principal.clone()).or_insert(next);
        if at == next {
            principals.push(Vec::new());
        }
        let runs = &mut principals[at];
        // There are a few hundred budgets at most.
        let run = runs.iter().rposition(|run| run[0].budget == charge.budget);
        match run {
            Some(run) => runs[run].push(charge),
            None => runs.push(vec![charge]),
        }
    }
    principals.into_iter().flatten().flatten()
}

impl std::ops::Deref for Charges {
    type Target = [Charge];

    fn deref(&self) -> &[Charge] {
        match &self.0 {
            List::One(charge) => std::slice::from_ref(charge),
            List::Many(charges) => charges,
            List::Indexed(indexed) => &indexed.charges,
        }
    }
}

impl PartialEq for Charges {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Charges {}

impl Default for Charges {
    fn default() -> Self {
        Self(List::Many(Box::default()))
    }
}

impl fmt::Debug for Charges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl From<Principal> for Charges {
    fn from(principal: Principal) -> Self {
        Self::from(Charge::new(principal, Budget::Concurrency, 1))
    }
}

impl From<Charge> for Charges {
    fn from(charge: Charge) -> Self {
        Self(List::One(charge))
    }
}

impl<T: Into<Charges>> From<Option<T>> for Charges {
    fn from(charges: Option<T>) -> Self {
        charges.map(Into::into).unwrap_or_default()
    }
}

impl FromIterator<Charge> for Charges {
    fn from_iter<I: IntoIterator<Item = Charge>>(iter: I) -> Self {
        let mut charges = Self::new();
        charges.extend(iter);
        charges
    }
}

impl Extend<Charge> for Charges {
    fn extend<I: IntoIterator<Item = Charge>>(&mut self, iter: I) {
        let mut iter = iter.into_iter().fuse();
        // As a rule these are all.
        iter.by_ref()
            .take(SMALL)
            .for_each(|charge| self.push(charge));
        let rest: Vec<Charge> = iter.collect();
        if rest.is_empty() {
            return;
        }
        let known = match self.take() {
            List::One(charge) => vec![charge],
            List::Many(charges) => charges.into_vec(),
            List::Indexed(indexed) => indexed.charges,
        };
        let mut indexed = Indexed::default();
        grouped(known.into_iter().chain(rest)).for_each(|charge| indexed.push(charge));
        self.0 = List::Many(indexed.charges.into());
    }
}

#[cfg(test)]
mod tests;
