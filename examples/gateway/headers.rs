//! Headers that belong to one connection, and challenges that cannot be met through a gateway (RFC 9110, 7.6 and 11.6).

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue};

/// Fields that speak for one connection, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Makes the headers of a client's request those of this gateway's own.
pub(crate) fn prepare_request(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    // Host and length are set again, by the URL and the body that are sent. The body is here, so nobody waits for a 100. The
    // stack asks for compressed responses itself: it reads them, and cannot read what a client has asked for.
    for name in [HOST, CONTENT_LENGTH, EXPECT, ACCEPT_ENCODING] {
        headers.remove(name);
    }
    headers.append(VIA, HeaderValue::from_static("1.1 tower-ews-gateway"));
}

/// Makes the headers of the server's response those of this gateway's own.
pub(crate) fn prepare_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    // By the body that is sent: that of a batch is another one than the server's.
    headers.remove(CONTENT_LENGTH);
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A client must not be able to have these removed on the way.
        .filter(|name| *name != http::header::AUTHORIZATION)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// What is left of a server's challenges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Challenges {
    /// There were none.
    None,
    /// At least one that can be met through a gateway.
    Usable,
    /// Only such as authenticate a connection.
    AllRemoved,
}

/// Leaves the challenges of Basic and Bearer, and removes the others: NTLM and Negotiate authenticate a connection, and this
/// gateway's connections are shared by its clients.
pub(crate) fn keep_usable_challenges(headers: &mut HeaderMap) -> Challenges {
    let values: Vec<HeaderValue> = headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect();
    if values.is_empty() {
        return Challenges::None;
    }
    headers.remove(WWW_AUTHENTICATE);
    for value in &values {
        let Ok(text) = value.to_str() else { continue };
        let usable: Vec<_> = challenges(text)
            .into_iter()
            .filter(|one| is_usable(one))
            .collect();
        if let Ok(value) = HeaderValue::try_from(usable.join(", ")) {
            if !value.is_empty() {
                headers.append(WWW_AUTHENTICATE, value);
            }
        }
    }
    match headers.contains_key(WWW_AUTHENTICATE) {
        true => Challenges::Usable,
        false => Challenges::AllRemoved,
    }
}

fn is_usable(challenge: &str) -> bool {
    let scheme = challenge.split(' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("basic") || scheme.eq_ignore_ascii_case("bearer")
}

/// Cuts a list of challenges. A comma separates challenges and parameters alike: what has no `=` in its first word begins one.
fn challenges(list: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for element in elements(list) {
        let first = element.split(' ').next().unwrap_or_default();
        let begins = !first.contains('=') && !element[first.len()..].trim_start().starts_with('=');
        match found.last_mut() {
            Some(last) if !begins => {
                last.push_str(", ");
                last.push_str(element);
            }
            _ => found.push(element.to_owned()),
        }
    }
    found
}

/// The elements between commas outside of quotes.
fn elements(list: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = list.split(|c| {
        let is_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            ',' if !quoted => return true,
            _ => {}
        }
        false
    });
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_speaks_for_one_connection_stays_there() {
        let mut headers = map(&[
            ("host", "gateway"),
            ("connection", "close, X-One , authorization"),
            ("connection", "x-two,;,"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("accept-encoding", "br, gzip"),
            ("content-length", "7"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("authorization", "Basic eA=="),
            ("x-anchormailbox", "amy@contoso.com"),
            ("via", "1.0 fred"),
        ]);
        prepare_request(&mut headers);
        let expected = map(&[
            ("authorization", "Basic eA=="),
            ("x-anchormailbox", "amy@contoso.com"),
            ("via", "1.0 fred"),
            ("via", "1.1 tower-ews-gateway"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn challenges_that_can_be_met() {
        let left = |values: &[&'static str]| {
            let pairs: Vec<_> = values
                .iter()
                .map(|value| ("www-authenticate", *value))
                .collect();
            let mut headers = map(&pairs);
            let challenges = keep_usable_challenges(&mut headers);
            let values = headers.get_all(WWW_AUTHENTICATE).iter();
            (
                challenges,
                values
                    .map(|value| value.to_str().unwrap().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        let usable = |values: &[&str]| {
            (
                Challenges::Usable,
                values.iter().map(|value| (*value).to_owned()).collect(),
            )
        };
        assert_eq!(left(&[]), (Challenges::None, vec![]));
        assert_eq!(
            left(&["Negotiate", "NTLM"]),
            (Challenges::AllRemoved, vec![])
        );
        assert_eq!(left(&["Negotiate, NTLM"]), (Challenges::AllRemoved, vec![]));
        assert_eq!(
            left(&["Negotiate", "NTLM", "Basic realm=\"mail\""]),
            usable(&["Basic realm=\"mail\""])
        );
        assert_eq!(
            left(&[
                "NTLM, Bearer client_id=\"a,b\", trusted_issuers=\"\\\", Basic\", Basic realm=\"x\", Negotiate"
            ]),
            usable(&[
                "Bearer client_id=\"a,b\", trusted_issuers=\"\\\", Basic\", Basic realm=\"x\""
            ])
        );
        assert_eq!(
            left(&["Digest realm=\"x\", nonce = \"y\", qop=auth"]).0,
            Challenges::AllRemoved
        );
    }
}
