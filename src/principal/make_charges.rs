//! [`MakeCharges`]: which budgets a request draws on.

use super::charges::Charges;
use super::lease::Lease;

/// Says which budgets a request draws on.
///
/// Implemented by every closure from `&Request<B>` to a [`Principal`](super::Principal), an `Option<Principal>`,
/// a [`Charge`](super::Charge) or [`Charges`].
///
/// ```
/// use http::Request;
/// use tower_ews::principal::{Budget, Charge, Charges, MakeCharges, Principal};
///
/// /// A closure is enough where each call counts once: four concurrent requests for each tenant.
/// fn by_tenant() -> impl MakeCharges<()> {
///     |request: &Request<()>| request.uri().host().map(Principal::new)
/// }
///
/// /// A type of its own can keep settings, and draw more than one.
/// struct Uploads {
///     tenant: Principal,
/// }
///
/// impl MakeCharges<Vec<u8>> for Uploads {
///     fn make_charges(&self, request: &Request<Vec<u8>>) -> Charges {
///         let kilobytes = request.body().len().div_ceil(1024) as u32;
///         Charge::new(self.tenant.clone(), Budget::UploadBytes, kilobytes).into()
///     }
/// }
///
/// let charges = by_tenant().make_charges(&Request::get("https://contoso.com/").body(()).unwrap());
/// assert_eq!(charges[0].principal(), &Principal::new("contoso.com"));
/// let uploads = Uploads { tenant: Principal::new("contoso.com") };
/// assert_eq!(uploads.make_charges(&Request::new(vec![0; 5_000]))[0].amount(), 5);
/// ```
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
