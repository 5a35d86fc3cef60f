//! [`Gates`]: keeps lock-outs where no shared ledger does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use tokio::time::Instant;

use super::classify::Classify;
use super::endpoint::endpoint_of;
use crate::extensions::Priority;
use crate::ledger::{
    AcquireError, AcquireRequest, Admission, Ledger, Limit, LocalLedger, Permit, Requeue, Signal,
};
use crate::principal::{Budget, Charges};

/// The gates of the principals and endpoints of one layer, all its services and their clones.
///
/// They are those of a ledger without limits: a closed gate holds calls back, one call goes first when it opens, and
/// the others follow as responses are accepted. A call holds its permit until its response has been examined, so a body
/// that is read later holds nobody up.
#[derive(Debug)]
pub(super) struct Gates {
    ledger: Arc<LocalLedger>,
    /// Whether a gate was ever closed. Until then, a call neither locks nor allocates for them: watched by
    /// `benches/overhead`, `server_busy_backoff`.
    used: AtomicBool,
}

impl Default for Gates {
    fn default() -> Self {
        // A limit that no call reaches: it keeps a gate in memory while the calls that test it are in flight.
        let ledger = LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(u32::MAX))
            .max_wait(Duration::MAX)
            .build();
        Self {
            ledger: Arc::new(ledger),
            used: AtomicBool::new(false),
        }
    }
}

impl Gates {
    /// Returns whether a gate was ever closed.
    pub(super) fn are_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Waits until the call may be sent.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the queue. Dropping the permit lets the next call go.
    pub(super) async fn pass(&self, request: AcquireRequest) -> Result<Permit, AcquireError> {
        Permit::acquire(Arc::clone(&self.ledger) as Arc<dyn Ledger>, request).await
    }

    /// Closes a gate of a call. Other signals are about limits, which the gates do not have.
    pub(super) fn report(&self, admission: &Admission, signal: Signal) {
        if matches!(signal, Signal::Busy { .. } | Signal::EndpointBusy { .. }) {
            self.used.store(true, Ordering::Relaxed);
            self.ledger.report(admission, signal);
        }
    }
}

/// Returns what the gates are asked for on behalf of `request`. `ticket` is the ticket of an earlier attempt.
pub(super) fn acquire_request<B>(
    classifier: &impl Classify<B>,
    request: &Request<B>,
    deadline: Instant,
    ticket: Option<u64>,
) -> AcquireRequest {
    let priority = request.extensions().get::<Priority>();
    AcquireRequest::of_call(
        Charges::from(classifier.principal(request)),
        Some(endpoint_of(request)),
        Some(deadline),
        Requeue::new().ticket(ticket),
        priority.copied().unwrap_or_default(),
    )
}

/// Returns the admission of a call that was sent before any gate was closed, so that it tests none.
pub(super) fn untested(request: AcquireRequest) -> Admission {
    Admission::new(request, 0, 0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::super::endpoint::UNNAMED;
    use super::super::ews::EwsClassifier;
    use super::super::http::HttpClassifier;
    use super::*;
    use crate::body::ReplayBody;
    use crate::extensions::Caller;
    use crate::principal::Principal;

    fn envelope(sids: &[(&str, &str)]) -> String {
        let sids: String = sids
            .iter()
            .map(|(kind, value)| format!("<t:{kind}>{value}</t:{kind}>"))
            .collect();
        format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
            xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
            xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header
            ><t:ExchangeImpersonation><t:ConnectingSID>{sids}</t:ConnectingSID></t:ExchangeImpersonation
            ></s:Header><s:Body><m:GetFolder/></s:Body></s:Envelope>"#
        )
    }

    #[test]
    fn who_is_locked_out() {
        let amy = || Principal::impersonation("amy@contoso.com");
        let svc = || Principal::account("svc@contoso.com");
        let host = || Principal::new("mail.contoso.com");
        let plain = envelope(&[]);
        let by_name = envelope(&[("PrimarySmtpAddress", "Amy@contoso.com")]);
        let twice = envelope(&[("SID", "S-1-5-21-1"), ("SmtpAddress", "amy@contoso.com")]);
        let by_sid = envelope(&[("SID", "S-1-5-21-1")]);
        let absolute = "https://mail.contoso.com/EWS/Exchange.asmx";
        for (uri, body, caller, ews, http) in [
            (absolute, &*plain, None, host(), host()),
            (absolute, &plain, Some("Svc@contoso.com"), svc(), svc()),
            (absolute, &by_name, None, amy(), host()),
            (absolute, &by_name, Some("svc@contoso.com"), amy(), svc()),
            (absolute, &twice, None, amy(), host()),
            (
                absolute,
                &by_sid,
                None,
                Principal::impersonation("s-1-5-21-1"),
                host(),
            ),
            (absolute, "no xml", None, host(), host()),
            (
                "/EWS/Exchange.asmx",
                &plain,
                None,
                Principal::new(UNNAMED),
                Principal::new(UNNAMED),
            ),
        ] {
            let mut request = Request::post(uri)
                .body(ReplayBody::from(body.to_owned()))
                .unwrap();
            if let Some(caller) = caller {
                request.extensions_mut().insert(Caller::new(caller));
            }
            assert_eq!(
                EwsClassifier.principal(&request),
                ews,
                "{uri} {body} {caller:?}"
            );
            assert_eq!(HttpClassifier.principal(&request), http, "{uri} {caller:?}");
            let full = request.map(|_| Full::<Bytes>::from(body.to_owned()));
            assert_eq!(
                EwsClassifier.principal(&full),
                ews,
                "{uri} {body} {caller:?}"
            );
        }
    }

    fn asked(n: usize) -> AcquireRequest {
        let uri = format!("https://server{n}.contoso.com/");
        let request = Request::get(uri).body(()).unwrap();
        acquire_request(
            &HttpClassifier,
            &request,
            Instant::now() + Duration::from_secs(3_600),
            None,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn lock_outs_are_forgotten() {
        let gates = Gates::default();
        let until = Instant::now() + Duration::from_secs(60);
        for n in 0..1_000 {
            let admission = untested(asked(n));
            gates.report(&admission, Signal::Exceeded(Budget::Concurrency));
            gates.report(&admission, Signal::Accepted);
            assert_eq!(gates.are_used(), n > 0);
            gates.report(&admission, Signal::Busy { until });
            gates.report(&admission, Signal::EndpointBusy { until });
        }
        let left = |gates: &Gates| {
            let snapshot = gates.ledger.snapshot();
            (snapshot.principals.len(), snapshot.gated_endpoints.len())
        };
        assert_eq!(left(&gates), (1_000, 1_000));
        tokio::time::sleep(Duration::from_secs(180)).await;
        gates.pass(asked(0)).await.unwrap().complete();
        assert_eq!(left(&gates), (0, 0));
    }
}
