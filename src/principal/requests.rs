//! [`RequestCharges`]: requests per time instead of concurrent requests.

use super::budget::Budget;
use super::charges::{Charge, Charges};
use super::lease::Lease;
use super::make_charges::MakeCharges;

/// Draws on [`Budget::Requests`] what another [`MakeCharges`] draws on [`Budget::Concurrency`], which is what a closure that only
/// names a principal draws on.
///
/// For a rate of requests instead of a number of concurrent ones. Charges on other budgets stay as they are.
///
/// ```
/// use http::Request;
/// use tower_ews::principal::{Budget, MakeCharges, Principal, RequestCharges};
///
/// let charges = RequestCharges::new(|_: &Request<()>| Principal::new("contoso"));
/// let charges = charges.make_charges(&Request::new(()));
/// assert_eq!((charges[0].budget(), charges[0].amount()), (Budget::Requests, 1));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequestCharges<M>(M);

impl<M> RequestCharges<M> {
    /// Wraps `make_charges`.
    pub fn new(make_charges: M) -> Self {
        Self(make_charges)
    }
}

impl<B, M: MakeCharges<B>> MakeCharges<B> for RequestCharges<M> {
    fn make_charges(&self, request: &http::Request<B>) -> Charges {
        let charges = self.0.make_charges(request);
        let per_time = |charge: &Charge| match charge.budget() {
            Budget::Concurrency => Charge::new(
                charge.principal().clone(),
                Budget::Requests,
                charge.amount(),
            ),
            _ => charge.clone(),
        };
        charges.iter().map(per_time).collect()
    }

    fn lease(&self, request: &http::Request<B>) -> Option<Lease> {
        self.0.lease(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::{LeaseChange, Principal, ReadLease};

    struct Nothing;

    impl ReadLease for Nothing {
        fn read(&mut self, _: &[u8]) {}

        fn end(&mut self) -> LeaseChange {
            LeaseChange::None
        }
    }

    struct Uploads;

    impl MakeCharges<()> for Uploads {
        fn make_charges(&self, _: &http::Request<()>) -> Charges {
            let budgets = [Budget::Concurrency, Budget::UploadBytes];
            let charges = budgets.map(|budget| Charge::new(Principal::new("a"), budget, 3));
            charges.into_iter().collect()
        }

        fn lease(&self, _: &http::Request<()>) -> Option<Lease> {
            Some(Lease::new(Budget::UploadBytes, Nothing))
        }
    }

    #[test]
    fn only_concurrent_calls_become_requests() {
        let (charges, request) = (RequestCharges::new(Uploads), http::Request::new(()));
        let drawn = charges.make_charges(&request);
        let drawn = drawn
            .iter()
            .map(|charge| (charge.budget(), charge.amount()));
        let expected = [(Budget::Requests, 3), (Budget::UploadBytes, 3)];
        assert_eq!(drawn.collect::<Vec<_>>(), expected);
        let lease = charges.lease(&request).expect("the inner one's");
        assert_eq!(lease.budget(), Some(Budget::UploadBytes));
    }
}
