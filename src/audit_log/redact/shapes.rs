//! Secrets that are known by their shape, and what stands around credentials in HTTP.

use memchr::memmem;

/// What a block of PEM begins with.
pub(super) const PEM_BEGIN: &[u8] = b"-----BEGIN";

/// The longest label of such a block that is read.
const LONGEST_LABEL: usize = 64;

/// The shortest word that is taken for a JSON Web Token.
const SHORTEST_JWT: usize = 20;

/// Schemes of authentication, behind which credentials follow.
const SCHEMES: [&[u8]; 10] = [
    b"bearer",
    b"basic",
    b"negotiate",
    b"ntlm",
    b"kerberos",
    b"pop",
    b"dpop",
    b"sharedkey",
    b"sharedkeylite",
    b"apikey",
];

/// The parameters of a challenge, which tell how to authenticate.
const CHALLENGE: [&[u8]; 12] = [
    b"realm",
    b"error",
    b"error_description",
    b"error_codes",
    b"client_id",
    b"trusted_issuers",
    b"authorization_uri",
    b"token_types",
    b"algorithm",
    b"charset",
    b"scope",
    b"resource_id",
];

pub(super) fn is_scheme(word: &[u8]) -> bool {
    SCHEMES
        .iter()
        .any(|scheme| scheme.eq_ignore_ascii_case(word))
}

pub(super) fn is_challenge_parameter(name: &[u8]) -> bool {
    CHALLENGE
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

/// A JSON Web Token: base64url of `{"`, and a dot behind it or before it.
pub(super) fn is_jwt(word: &[u8]) -> bool {
    word.len() >= SHORTEST_JWT
        && word.contains(&b'.')
        && memmem::find(word, b"eyJ").is_some_and(|at| {
            let (before, token) = word.split_at(at);
            token.contains(&b'.') || before.ends_with(b".")
        })
}

/// Whether a word that was cut off may be the begin of a token.
pub(super) fn begins_jwt(word: &[u8]) -> bool {
    memmem::find(word, b"eyJ").is_some()
}

/// A message of NTLM, in base64.
pub(super) fn is_ntlm(word: &[u8]) -> bool {
    word.starts_with(b"TlRMTVNTUA")
}

pub(super) fn in_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}

/// The label of a block of PEM, and where its content begins. `text` goes on behind [`PEM_BEGIN`].
pub(super) fn pem_label(text: &[u8]) -> Option<(&[u8], usize)> {
    let near = text.get(..text.len().min(LONGEST_LABEL))?;
    let length =
        memmem::find(near, b"-----").or((near.len() < LONGEST_LABEL).then_some(near.len()))?;
    Some((near.get(..length)?, (length + 5).min(text.len())))
}

pub(super) fn ends_credentials(byte: u8) -> bool {
    byte <= b' '
        || matches!(
            byte,
            b'"' | b'\'' | b'<' | b'>' | b',' | b';' | b'&' | b')' | b'\\' | b'`' | b'}'
        )
}

/// What stands for no value.
pub(super) fn is_nothing(value: &[u8]) -> bool {
    [
        &b"null"[..],
        b"true",
        b"false",
        b"None",
        b"nil",
        b"undefined",
    ]
    .contains(&value)
}
