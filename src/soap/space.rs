//! [`Space`]: the namespaces that EWS requests are made of.
use std::str;

use memchr::memchr;

/// The namespaces that EWS requests are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Soap,
    Messages,
    Types,
    Other,
}

impl Space {
    /// The namespace of this name, which stands as it was written.
    pub(super) fn of(uri: &[u8]) -> Space {
        match uri {
            b"http://schemas.xmlsoap.org/soap/envelope/"
            | b"http://www.w3.org/2003/05/soap-envelope" => Space::Soap,
            b"http://schemas.microsoft.com/exchange/services/2006/messages" => Space::Messages,
            b"http://schemas.microsoft.com/exchange/services/2006/types" => Space::Types,
            _ if memchr(b'&', uri).is_some() => {
                let plain = str::from_utf8(uri).ok();
                match plain.and_then(|uri| quick_xml::escape::unescape(uri).ok()) {
                    Some(plain) if !plain.contains('&') => Space::of(plain.as_bytes()),
                    _ => Space::Other,
                }
            }
            _ => Space::Other,
        }
    }
}
