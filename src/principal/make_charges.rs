//! [`MakeCharges`]: which budgets a request draws on.

use super::charges::Charges;
use super::lease::Lease;

/// Says which budgets a request draws on.
///
/// Implemented by every closure from `&Request<B>` to a [`Principal`](super::Principal), an `Option<Principal>`,
/// a [`Charge`](super::Charge) or [`Charges`]: see the [module docs](super) for an example.
pub trait MakeCharges<B> {
    /// Returns the charges of `request`. Without any it is sent at once.
    fn make_charges(&self, request: &http::Request<B>) -> Charges;

    /// Says what of the charges lasts longer than the call, if anything does, or which earlier [`Lease`] the call uses or ends.
    /// A [`Lease::of_nothing`] learns from the response. Default: nothing.
    fn lease(&self, _request: &http::Request<B>) -> Option<Lease> {
        None
    }
}

impl<B, F, C> MakeCharges<B> for F
where
    F: Fn(&http::Request<B>) -> C,
    C: Into<Charges>,
{
    fn make_charges(&self, request: &http::Request<B>) -> Charges {
        self(request).into()
    }
}
