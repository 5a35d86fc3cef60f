//! [`StatusMeaning`]: what an HTTP status says to whoever would send the request again.

use http::StatusCode;
#[cfg(feature = "ews")]
use http::{HeaderMap, header::LOCATION};
#[cfg(feature = "ews")]
use memchr::memmem;

/// The same for a single call, for a part of a batch, and for one request inside of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusMeaning {
    /// It was executed.
    Success,
    /// To a log-in page, or to another server.
    Redirect,
    /// Not executed, and will be when there is room again.
    Throttled,
    /// Not executed: it did not come through in time, or came too early.
    TooEarly,
    /// Not executed: too large for the server, or for the room that it has.
    TooLarge,
    /// Not executed, because of who asks and how, whatever is asked for.
    OfCaller,
    /// Not executed, because of what was asked for.
    OfRequest,
    /// Not executed, because of what the server can do at all: methods, versions of HTTP, networks.
    Unable,
    /// It may have been executed.
    Unclear,
}

impl StatusMeaning {
    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            429 | 503 => Self::Throttled,
            408 | 425 => Self::TooEarly,
            413 | 507 => Self::TooLarge,
            401 | 403 | 405 | 407 | 440 | 456 => Self::OfCaller,
            // Of these a firewall can say 406, and a server 506, 508 and 510, of what one request holds.
            400..=499 | 506 | 508 | 510 => Self::OfRequest,
            501 | 505 | 511 => Self::Unable,
            _ => Self::Unclear,
        }
    }
}

/// Whether IIS redirects to its error page instead of showing an error: then it does not say how far it got.
#[cfg(feature = "ews")]
pub(crate) fn is_error_page(headers: &HeaderMap) -> bool {
    headers.get(LOCATION).is_some_and(|location| {
        let location = location.as_bytes().to_ascii_lowercase();
        memmem::find(&location, b"/genericerrorpage.htm").is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::StatusMeaning as M;
    use super::*;

    #[test]
    fn unknown_neighbours_are_what_their_class_is() {
        for (statuses, meaning) in [
            (&[200, 202, 207, 299][..], M::Success),
            (&[300, 302, 308, 399], M::Redirect),
            (&[429, 503], M::Throttled),
            (&[408, 425], M::TooEarly),
            (&[413, 507], M::TooLarge),
            (&[401, 403, 405, 407, 440, 456], M::OfCaller),
            (
                &[400, 402, 404, 406, 409, 410, 418, 421, 422, 424, 451, 499],
                M::OfRequest,
            ),
            (&[506, 508, 510], M::OfRequest),
            (&[501, 505, 511], M::Unable),
            (&[100, 500, 502, 504, 509, 512, 520, 599, 999], M::Unclear),
        ] {
            for status in statuses {
                let status = StatusCode::from_u16(*status).unwrap();
                assert_eq!(StatusMeaning::of(status), meaning, "{status}");
            }
        }
    }
}
