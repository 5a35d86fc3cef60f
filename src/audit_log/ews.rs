//! [`EwsFacts`]: what calls of Exchange Web Services are about.

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::facts::{Facts, RequestFacts, ResponseFacts, ResponseInspector};
use crate::body::ReplayBody;
use crate::extensions::Caller;
use crate::principal::EwsCharges;
use crate::soap::{CodeClass, ResponseClass, ResponseCode, ResponseScanner, ScanError};

/// The facts of Exchange Web Services: operation, members, mailbox and access from the request,
/// code and success from the response.
///
/// The outline of a request's body is shared with the other layers. Responses are read as they
/// pass, and at most a few kilobytes of them are kept.
///
/// A call has failed if its response has a fault, a message in error, or a status other than 2xx.
/// Its code is the first of an error, else the first there is.
///
/// ```
/// use http::Request;
/// use tower_ews::audit_log::{EwsFacts, Facts};
/// use tower_ews::body::ReplayBody;
///
/// let body = ReplayBody::from(
///     r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///          <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/>
///        </s:Body></s:Envelope>"#,
/// );
/// let (head, body) = Request::new(body).into_parts();
/// let mut facts = EwsFacts::new().request(&head);
/// EwsFacts::new().body(&body, &mut facts);
/// assert_eq!(facts.operation.as_deref(), Some("GetFolder"));
/// ```
#[derive(Clone, Debug)]
pub struct EwsFacts {
    charges: EwsCharges,
    /// Whether accounts are known by name.
    named: bool,
}

impl EwsFacts {
    /// Creates the facts of calls by accounts that [`Caller`] extensions name.
    pub fn new() -> Self {
        Self {
            charges: EwsCharges::new([]),
            named: false,
        }
    }

    /// Sets the account of calls without a [`Caller`] extension.
    #[must_use]
    pub fn caller(mut self, caller: Caller) -> Self {
        self.charges = self.charges.caller(caller);
        self.named = true;
        self
    }

    /// Sets the charges whose callers, impersonated identities and mailbox GUIDs are used.
    #[must_use]
    pub fn charges(mut self, charges: EwsCharges) -> Self {
        self.charges = charges;
        self.named = true;
        self
    }
}

impl Default for EwsFacts {
    fn default() -> Self {
        Self::new()
    }
}

impl Facts for EwsFacts {
    fn request(&self, head: &Parts) -> RequestFacts {
        let given = head.extensions.get::<Caller>();
        let known = self.named || given.is_some();
        RequestFacts {
            caller: known.then(|| self.charges.caller_or(given).clone()),
            inspector: Some(Box::new(EwsInspector::default())),
            ..RequestFacts::default()
        }
    }

    fn body(&self, body: &ReplayBody, facts: &mut RequestFacts) {
        let Ok(outline) = body.outline() else {
            return;
        };
        facts.operation = match outline.operation() {
            Some(operation) => Some(operation.name().into()),
            None => Some(outline.operation_name().to_owned().into()),
        };
        facts.members = outline.array().map(|array| array.members().len() as u64);
        let (access, mailbox) = self.charges.reach(body, facts.caller.as_ref());
        facts.access = Some(access);
        facts.mailbox = mailbox.map(Into::into);
    }
}

#[derive(Default)]
struct EwsInspector {
    status: StatusCode,
    scanner: Option<ResponseScanner>,
    found: Found,
}

#[derive(Default)]
struct Found {
    first: Option<ResponseCode>,
    failed: Option<ResponseCode>,
}

impl ResponseInspector for EwsInspector {
    fn head(&mut self, status: StatusCode, _: &HeaderMap) -> bool {
        self.status = status;
        self.scanner = Some(ResponseScanner::new());
        true
    }

    fn read(&mut self, bytes: &[u8]) {
        let found = &mut self.found;
        if let Some(scanner) = &mut self.scanner {
            // What is wrong is told at the end, too.
            let _broken = scanner.push(bytes, &mut |message| {
                let failed = message.is_fault
                    || message.class == ResponseClass::Error
                    || message.code.class() == CodeClass::NotProcessed;
                if failed && found.failed.is_none() {
                    let inner = message.inner_code.clone();
                    let tells = message.code.class() == CodeClass::InspectInner;
                    found.failed = Some(match inner.filter(|_| tells) {
                        Some(inner) => inner,
                        None => message.code,
                    });
                } else if found.first.is_none() {
                    found.first = Some(message.code);
                }
            });
        }
    }

    fn end(&mut self, complete: bool) -> ResponseFacts {
        let good = self.status.is_success();
        let has_failed = self.found.failed.is_some();
        let code = self.found.failed.take().or_else(|| self.found.first.take());
        let error = match &mut self.scanner {
            Some(scanner) if good && !has_failed => scanner.finish().err(),
            _ => None,
        };
        let error = error.filter(|error| complete || !matches!(error, ScanError::Truncated { .. }));
        ResponseFacts {
            code: code.map(text).filter(|code| !code.is_empty()),
            failed: has_failed || !good || error.is_some(),
            error: error.map(|error| error.to_string().into()),
        }
    }
}

fn text(code: ResponseCode) -> Cow<'static, str> {
    code.as_str().to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Access;

    #[test]
    fn a_batch_over_many_mailboxes_takes_no_more_than_one_over_few() {
        let facts = EwsFacts::new();
        let taken = [2, 10_000].map(|n| {
            let folders: String = (0..n)
                .map(|number| format!(r#"<t:DistinguishedFolderId Id="inbox"><t:Mailbox><t:EmailAddress>user{number:05}@contoso.com</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>"#))
                .collect();
            let body = ReplayBody::from(format!(
                r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"><s:Body><GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><FolderIds>{folders}</FolderIds></GetFolder></s:Body></s:Envelope>"#
            ));
            // Found once for all layers.
            assert_eq!(body.targets().unwrap().mailboxes.len(), n);
            let (head, body) = http::Request::new(body).into_parts();
            let info = allocation_counter::measure(|| {
                let mut told = facts.request(&head);
                facts.body(&body, &mut told);
                let facts = told;
                assert_eq!(facts.mailbox.as_deref(), Some("user00000@contoso.com"));
                assert_eq!((facts.access, facts.members), (Some(Access::Delegate), Some(n as u64)));
            });
            (info.count_total, info.bytes_total)
        });
        assert_eq!(taken[0], taken[1]);
    }
}
