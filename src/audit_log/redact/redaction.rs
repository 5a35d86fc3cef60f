//! [`Redaction`]: what a log must not show, and what it shows instead.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Uri};

use super::format::{Format, format_of};
use super::read::redacted;
use super::rules::Rules;
use super::{headers, mailbox};

/// Replaces the secrets in headers, URLs, texts and bodies by `REDACTED`.
///
/// # What is recognised
///
/// Names, by pattern: case, punctuation, plurals, numbers and qualifiers at the end do not matter
/// (`access_token`, `AccessTokens`, `access-token2`, `accessTokenValue`).
///
/// * Names that end in `password`, `passwd`, `pwd`, `passphrase`, `passcode`, `secret`, `token`,
///   `cookie`, `canary`, `csrf`, `authorization`, `key`, `auth`, `signature` or `credential`, that begin with `password`,
///   `secret`, `apikey` and the like, and names of their own such as `EncryptedSharedFolderData`,
///   `SAMLResponse` or `code_verifier`.
/// * Words of a language, such as `security`, `pass`, `pin`, `nonce`, `sig` and `auth`: as the name of an
///   element, an attribute, a key or a header, and in a text where an equals sign follows or the name
///   or the value is in quotes.
/// * `code`, `key` and `ticket`: in the query of a URL, the parameters of its path and a form.
///
/// Their values, in each of these:
///
/// * headers; of `Authorization`, challenges and cookies the scheme and the names of cookies stay,
/// * the content of elements and the values of attributes in XML and HTML; values in JSON, whole
///   objects too; fields of forms; parameters of queries, fragments and paths,
/// * values beside an element, a key or an attribute that names them or their type, whichever comes first:
///   `{"name": "password", "value": ...}`, `<input type="password" value="..."/>`, `<add key="password" value="..."/>`, a `DictionaryEntry`,
///   an `ExtendedProperty`,
/// * any text: `name=value`, `name: value`, `'name' => "value"`, `("name", "value")`,
///   `name: Some("value")`, `--name value`, with line breaks between them, and blocks of YAML.
///
/// Without a name: what follows `Bearer`, `Basic`, `Negotiate`, `NTLM` and other schemes, JSON Web
/// Tokens, messages of NTLM, blocks of PEM, user information in URLs, WS-Security, and entities that a
/// DTD declares.
///
/// All of that as it stands, and in entities, backslashes and percent signs, up to four times each.
///
/// In malformed or truncated input a secret without an end reaches to the end of the input, so that
/// too much is redacted and not too little. Bodies that cannot be read are dropped: multipart, binary,
/// and those in a charset that is not a superset of ASCII.
///
/// # What is not recognised
///
/// * What is encoded in other ways, such as a message in the base64 of `MimeContent`, in
///   quoted-printable or compressed; [`mask_content`](Self::mask_content) masks `MimeContent`.
/// * Secrets in prose ("the password is hunter2"), in columns (CSV, tables) and in the segments of a
///   path (`/reset/hunter2`).
/// * Lists of names and values in turn (`["Host", "h", "X-Token", "..."]`), and arguments by position
///   (`-u svc:hunter2`, `login("svc", "hunter2")`).
/// * The members of a JSON Web Key.
/// * Name and value in different elements, unless one of them is a name and the other a value by its
///   own name: `<td>password</td><td>hunter2</td>`.
/// * Names in other languages, and abbreviations that are not listed. Add them with
///   [`name`](Self::name).
/// * User information without a scheme or slashes (`svc:hunter2@host`), which looks like an address.
/// * Tokens without a name whose shape is that of an id, such as `ghp_...` or a GUID.
/// * Names with invisible letters in them, and signs that only look like `=` and `:`.
/// * An object whose name follows it, in a body that is cut off between them.
///
/// These names fit a pattern and stay readable, because they open nothing: `ChangeKey`, `InstanceKey`,
/// `SearchKey`, `...SortKey`, `PublicKey`, `PublicKeyToken`, keys of databases and caches,
/// `Idempotency-Key`, the tokens of paging and synchronisation (`$skiptoken`, `$deltatoken`,
/// `synctoken`, `nextPageToken`), numbers of tokens (`max_tokens`), and what tells about a secret
/// (`PasswordExpirationDate`, `token_type`, `secretName`).
///
/// # Cost
///
/// The time that a redaction takes is linear in the length of its input. Clones are cheap.
///
/// Names can be added and not removed.
///
/// ```
/// use bytes::Bytes;
/// use tower_ews::audit_log::Redaction;
///
/// let redaction = Redaction::new().name("BadgeNumber").pseudonyms([7; 16]);
/// assert_eq!(
///     &*redaction.text("https://svc:hunter2@mail.contoso.com/?sig=abc refused, badge_number=1234"),
///     "https://REDACTED@mail.contoso.com/?sig=REDACTED refused, badge_number=REDACTED",
/// );
///
/// let body = Bytes::from("<t:Mailbox>Ann@contoso.com</t:Mailbox><t:Password>hunter2</t:Password>");
/// let shown = redaction.body(Some("text/xml"), &[body], false);
/// let ann = redaction.mailbox("ann@contoso.com");
/// assert_eq!(shown, format!("<t:Mailbox>{ann}</t:Mailbox><t:Password>REDACTED</t:Password>"));
/// ```
#[derive(Clone, Default)]
pub struct Redaction {
    rules: Arc<Rules>,
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction")
            .field("names", &self.rules.names)
            .field("mask_content", &self.rules.mask)
            .field("pseudonyms", &self.rules.key.is_some())
            .finish()
    }
}

impl Redaction {
    /// Creates a redaction of what is built in, without pseudonyms, that does not mask contents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the name of a secret: of an element, an attribute, a key, a field, or in a text. It has no
    /// prefix. Its case, its punctuation and digits at its end do not matter.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        Arc::make_mut(&mut self.rules).names.add(name);
        self
    }

    /// Adds a header that is secret, and its name in JSON and in texts.
    #[must_use]
    pub fn header_name(mut self, name: HeaderName) -> Self {
        Arc::make_mut(&mut self.rules).names.add_header(name);
        self
    }

    /// Sets whether what people wrote is masked too: subjects, bodies, MIME content, attachments,
    /// display names, phone numbers and search terms. Off by default.
    #[must_use]
    pub fn mask_content(mut self, mask: bool) -> Self {
        Arc::make_mut(&mut self.rules).mask = mask;
        self
    }

    /// Replaces each SMTP address by a pseudonym such as `mbx-0f3b5e7d21c8a964`, which is the same for
    /// the same address and key, in any case. It is a keyed hash (SipHash-2-4). Whoever has the key can
    /// try addresses, so keep it like a password. Off by default.
    #[must_use]
    pub fn pseudonyms(mut self, key: [u8; 16]) -> Self {
        Arc::make_mut(&mut self.rules).key = Some(key);
        self
    }

    /// Redacts the value of a header. Bytes that are not UTF-8 become `\u{fffd}`.
    pub fn header(&self, name: &HeaderName, value: &HeaderValue) -> Box<str> {
        let text = String::from_utf8_lossy(value.as_bytes());
        match headers::redact(&self.rules, name, &text) {
            // Nothing but the scheme is left of it.
            Some(redacted) if headers::is_credentials(name) => redacted.into(),
            Some(redacted) => self.text(&redacted),
            // It may be a GUID, which is a mailbox too.
            None if name.as_str() == "x-anchormailbox" && !text.contains('@') => {
                self.mailbox(&text)
            }
            None => self.text(&text),
        }
    }

    /// Redacts the path and the query of a URL, and leaves its scheme, host and credentials out.
    pub fn url(&self, uri: &Uri) -> Box<str> {
        let rules = &*self.rules;
        let mut shown = redacted(rules, uri.path().as_bytes(), Format::Text, false);
        if let Some(query) = uri.query() {
            let query = redacted(rules, query.as_bytes(), Format::Form, false);
            shown = [&shown, b"?".as_slice(), &query].concat().into();
        }
        into_text(then(shown, |shown| pseudonymous(rules, shown, false)))
    }

    /// Redacts a text, such as that of an error.
    pub fn text(&self, text: &str) -> Box<str> {
        let rules = &*self.rules;
        let shown = redacted(rules, text.as_bytes(), Format::Text, false);
        into_text(then(shown, |text| pseudonymous(rules, text, false)))
    }

    /// Redacts the name of a mailbox, or returns its pseudonym.
    pub fn mailbox(&self, mailbox: &str) -> Box<str> {
        match &self.rules.key {
            Some(key) => mailbox::pseudonym(key, mailbox.as_bytes()).into(),
            None => self.text(mailbox),
        }
    }

    /// Redacts a body that is given as its frames, or as those that were kept: `truncated` says that
    /// the last one may be incomplete.
    ///
    /// A single frame without a secret is returned without a copy. Nothing is decompressed, so the body
    /// must not be encoded.
    pub fn body(&self, content_type: Option<&str>, pieces: &[Bytes], truncated: bool) -> Bytes {
        let whole = match pieces {
            [piece] => piece.clone(),
            pieces => {
                let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                pieces
                    .iter()
                    .for_each(|piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        };
        let rules = &*self.rules;
        if whole.is_empty() {
            return whole;
        }
        let read = match format_of(content_type, &whole) {
            Format::Unreadable => {
                return Bytes::from(format!("REDACTED: {} bytes, not a text", whole.len()));
            }
            Format::Text if rules.mask => {
                return Bytes::from(format!("REDACTED: {} bytes of text", whole.len()));
            }
            format => redacted(rules, &whole, format, truncated),
        };
        match then(read, |text| pseudonymous(rules, text, truncated)) {
            Cow::Borrowed(_) => whole,
            Cow::Owned(changed) => changed.into(),
        }
    }
}

/// What was cut out of a text leaves a text, since secrets begin and end at ASCII letters.
fn into_text(text: Cow<'_, [u8]>) -> Box<str> {
    String::from_utf8_lossy(&text).into()
}

/// One step after another over the same text, without a copy for a step that changes nothing.
fn then<'a>(
    text: Cow<'a, [u8]>,
    step: impl for<'b> FnOnce(&'b [u8]) -> Cow<'b, [u8]>,
) -> Cow<'a, [u8]> {
    match text {
        Cow::Borrowed(text) => step(text),
        Cow::Owned(text) => match step(&text) {
            Cow::Borrowed(_) => Cow::Owned(text),
            Cow::Owned(text) => Cow::Owned(text),
        },
    }
}

fn pseudonymous<'a>(rules: &Rules, text: &'a [u8], cut: bool) -> Cow<'a, [u8]> {
    match &rules.key {
        Some(key) => mailbox::redact(key, text, cut),
        None => Cow::Borrowed(text),
    }
}
