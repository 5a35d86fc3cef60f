//! Secrets in headers. What tells the kind of a secret stays, such as `Bearer REDACTED`.

use http::HeaderName;
use http::header;

use super::rules::Rules;
use super::shapes::is_challenge_parameter;

const SCHEMES: [&str; 9] = [
    "Basic",
    "Bearer",
    "Digest",
    "Kerberos",
    "MSAuth1.0",
    "Negotiate",
    "NTLM",
    "Passport1.4",
    "PoP",
];

/// Redacts the value of a header that its name makes a secret. Returns `None` for other headers.
pub(super) fn redact(rules: &Rules, name: &HeaderName, value: &str) -> Option<String> {
    if *name == header::WWW_AUTHENTICATE || *name == header::PROXY_AUTHENTICATE {
        return Some(challenges(value));
    }
    if is_credentials(name) {
        return Some(credentials(value));
    }
    if *name == header::COOKIE || *name == header::SET_COOKIE {
        return Some(cookies(value, *name == header::SET_COOKIE));
    }
    let blob = name.as_str().ends_with("authentication-info");
    (blob || rules.names.secret_header(name)).then(|| "REDACTED".to_owned())
}

pub(super) fn is_credentials(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION || *name == header::PROXY_AUTHORIZATION
}

fn scheme(word: &str) -> Option<&str> {
    SCHEMES
        .iter()
        .any(|scheme| scheme.eq_ignore_ascii_case(word))
        .then_some(word)
}

fn credentials(value: &str) -> String {
    match value.trim().split_once(' ') {
        Some((word, _)) if scheme(word).is_some() => format!("{word} REDACTED"),
        _ => scheme(value.trim()).unwrap_or("REDACTED").to_owned(),
    }
}

/// The names of cookies tell about affinity, and stay. A `Set-Cookie` has one cookie.
fn cookies(value: &str, set: bool) -> String {
    let mut names = Vec::new();
    for cookie in value.split(';') {
        match cookie.split_once('=') {
            Some((name, _)) if !name.contains([',', '"']) => {
                names.push(format!("{}=REDACTED", name.trim()));
            }
            _ => names.push("REDACTED".to_owned()),
        }
        if set {
            break;
        }
    }
    names.join("; ")
}

/// Schemes stay, and the parameters that tell how to authenticate. Blobs and nonces do not.
fn challenges(value: &str) -> String {
    let mut quoted = false;
    let mut escaped = false;
    let parts = value.split(|letter| {
        let in_quotes = quoted;
        quoted ^= letter == '"' && !escaped;
        escaped = letter == '\\' && in_quotes && !escaped;
        letter == ',' && !in_quotes
    });
    let parts: Vec<String> = parts.map(|part| challenge(part.trim())).collect();
    parts.join(", ")
}

fn challenge(part: &str) -> String {
    let (word, rest) = part.split_once(' ').unwrap_or((part, ""));
    match scheme(word) {
        Some(word) if rest.trim().is_empty() => word.to_owned(),
        Some(word) => format!("{word} {}", parameter(rest.trim())),
        None => parameter(part),
    }
}

fn parameter(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) if is_challenge_parameter(name.trim().as_bytes()) => text.to_owned(),
        Some((name, _)) if ["nonce", "opaque", "qop", "stale"].contains(&name.trim()) => {
            format!("{}=REDACTED", name.trim())
        }
        _ if text.is_empty() => String::new(),
        _ => "REDACTED".to_owned(),
    }
}
