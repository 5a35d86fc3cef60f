//! Who calls: what the `Authorization` header of a client says, without checking it and without keeping it.

use std::hash::{BuildHasher, RandomState};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use tower_ews::extensions::Caller;

/// Longer names are no accounts'.
const MAX_NAME: usize = 256;

/// Longer payloads of tokens are not read.
const MAX_PAYLOAD: usize = 16 * 1024;

/// Who sent a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// No credentials: the client asks which ones it should send.
    Unauthenticated,
    Identified(Identity),
    /// A scheme that cannot be passed on.
    OtherScheme(String),
    /// Several `Authorization` headers: the server might read another one than this gateway.
    Ambiguous,
}

/// An account, and the credential that it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) caller: Caller,
    /// A keyed hash of the credential. It means nothing to another process.
    pub(crate) credential: u64,
}

/// Reads credentials. What it makes of them is a key for budgets, not a proof: the server checks each request itself.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    key: RandomState,
}

impl Credentials {
    pub(crate) fn read(&self, headers: &HeaderMap) -> Client {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return match headers.contains_key(AUTHORIZATION) {
                true => Client::Ambiguous,
                false => Client::Unauthenticated,
            };
        };
        let Some((scheme, rest)) = scheme_of(value) else {
            return Client::OtherScheme(String::new());
        };
        let name = match &*scheme.to_ascii_lowercase() {
            "basic" => user_name(rest),
            "bearer" => claimed_name(rest),
            _ => {
                let scheme = scheme.chars().filter(char::is_ascii_graphic).take(32);
                return Client::OtherScheme(scheme.collect());
            }
        };
        let credential = self.key.hash_one(value.as_bytes());
        let name = name.unwrap_or_else(|| format!("credential {credential:016x}"));
        Client::Identified(Identity {
            caller: Caller::new(&name),
            credential,
        })
    }
}

fn scheme_of(value: &HeaderValue) -> Option<(&str, &str)> {
    let text = value.to_str().ok()?.trim();
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    (!scheme.is_empty()).then_some((scheme, rest.trim()))
}

/// The user name of Basic credentials. Windows sends Latin-1 where it is not UTF-8.
fn user_name(encoded: &str) -> Option<String> {
    let decoded = STANDARD.decode(encoded).ok()?;
    let end = decoded.iter().position(|byte| *byte == b':')?;
    let name = match std::str::from_utf8(&decoded[..end]) {
        Ok(name) => name.to_owned(),
        Err(_) => decoded[..end]
            .iter()
            .map(|byte| char::from(*byte))
            .collect(),
    };
    usable(&name)
}

/// What a token says of its account: the user where it acts for one, else the application. Exchange charges that account, and a
/// token is renewed every hour, so the token itself would be no key.
fn claimed_name(token: &str) -> Option<String> {
    let mut segments = token.split('.');
    let payload = segments.nth(1).filter(|text| text.len() <= MAX_PAYLOAD)?;
    segments.next()?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let claim = |name: &str| claims.get(name).and_then(Value::as_str).and_then(usable);
    let user = ["upn", "preferred_username", "unique_name"];
    if let Some(user) = user.into_iter().find_map(claim) {
        return Some(user);
    }
    let tenant = claim("tid").unwrap_or_default();
    let object = ["appid", "azp", "oid"]
        .into_iter()
        .find_map(|name| Some((name, claim(name)?)));
    let (kind, id) = object?;
    let kind = if kind == "oid" { "oid" } else { "app" };
    usable(&format!("{kind} {id}@{tenant}"))
}

fn usable(name: &str) -> Option<String> {
    let name = name.trim();
    let good = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(credentials: &Credentials, values: &[&str]) -> Client {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        credentials.read(&headers)
    }

    fn name(value: &str) -> String {
        match read(&Credentials::default(), &[value]) {
            Client::Identified(identity) => identity.caller.name().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    fn token(claims: &str) -> String {
        format!("Bearer e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn an_account_has_one_name_whatever_its_credential() {
        let basic = |bytes: &[u8]| format!("Basic {}", STANDARD.encode(bytes));
        assert_eq!(name(&basic(b"Amy@Contoso.com:one")), "amy@contoso.com");
        assert_eq!(name(&basic(b"amy@contoso.com:t:wo")), "amy@contoso.com");
        assert_eq!(name(&basic(b"CONTOSO\\j\xfcrg:x")), "contoso\\j\u{fc}rg");
        assert_eq!(
            name(&token(r#"{"upn":"Amy@contoso.com","appid":"1"}"#)),
            "amy@contoso.com"
        );
        assert_eq!(
            name(&token(r#"{"appid":"A-1","tid":"T","oid":"o","iat":1}"#)),
            "app a-1@t"
        );
        assert_eq!(name(&token(r#"{"oid":"O","tid":"T","iat":2}"#)), "oid o@t");
    }

    #[test]
    fn what_names_nobody_is_told_apart_by_a_hash() {
        let credentials = Credentials::default();
        let long = token(&format!(r#"{{"upn":"{}"}}"#, "x".repeat(300)));
        let odd = [
            "Basic ?",
            "Basic bm8tY29sb24=",
            "Basic OnNlY3JldA==",
            "Basic",
            "Bearer opaque",
            "Bearer a.b.c",
            &token("[1]"),
            &token(r#"{"upn":7}"#),
            &token(r#"{"upn":"a\u0000b"}"#),
            &long,
        ];
        let mut seen = std::collections::HashSet::new();
        for value in odd {
            let Client::Identified(identity) = read(&credentials, &[value]) else {
                panic!("{value}");
            };
            let name = identity.caller.name().to_owned();
            assert!(
                name.starts_with("credential ") && !name.contains("opaque"),
                "{name}"
            );
            assert!(seen.insert(name), "{value}");
            assert_eq!(read(&credentials, &[value]), Client::Identified(identity));
        }
    }

    #[test]
    fn what_authenticates_connections_or_is_unclear_is_not_passed_on() {
        let credentials = Credentials::default();
        assert_eq!(read(&credentials, &[]), Client::Unauthenticated);
        assert_eq!(
            read(&credentials, &["Basic YTpi", "Basic YTpi"]),
            Client::Ambiguous
        );
        for scheme in ["NTLM", "Negotiate", "Digest"] {
            let value = format!("{scheme} TlRMTVNTUAAB");
            assert_eq!(
                read(&credentials, &[&value]),
                Client::OtherScheme(scheme.to_owned())
            );
        }
        assert_eq!(
            read(&credentials, &[""]),
            Client::OtherScheme(String::new())
        );
    }
}
