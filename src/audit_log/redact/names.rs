//! Which names have secrets behind them: of elements, attributes, keys, fields and headers.
use http::HeaderName;

/// The longest name, folded, that is compared as a whole; of a longer one its end counts.
const LONGEST: usize = 64;

/// A name without case, punctuation and a number at its end: `Access_Token`, `accessToken` and `access-token2` are one.
#[derive(Debug)]
pub(super) struct Folded {
    bytes: [u8; LONGEST],
    start: usize,
}

impl Folded {
    pub(super) fn new(name: &[u8]) -> Self {
        let mut folded = Folded {
            bytes: [0; LONGEST],
            start: LONGEST,
        };
        let letters = name
            .iter()
            .rev()
            .filter(|byte| byte.is_ascii_alphanumeric());
        for byte in letters.skip_while(|byte| byte.is_ascii_digit()) {
            let Some(at) = folded.start.checked_sub(1) else {
                break;
            };
            if let Some(slot) = folded.bytes.get_mut(at) {
                *slot = byte.to_ascii_lowercase();
            }
            folded.start = at;
        }
        folded
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// Names that end like this, such as `NewPassword`, `ProxyPartnerToken` or `ClientPublishSecret`.
const ENDINGS: [&[u8]; 13] = [
    b"password",
    b"passwd",
    b"passphrase",
    b"passcode",
    b"secret",
    b"token",
    b"tokenvalue",
    b"cookie",
    b"apikey",
    b"accesskey",
    b"accountkey",
    b"privatekey",
    b"subscriptionkey",
];

/// What ends like a secret and is none: places in a list, and names of operations.
const HARMLESS: [&[u8]; 10] = [
    b"skiptoken",
    b"deltatoken",
    b"synctoken",
    b"continuationtoken",
    b"pagetoken",
    b"nextpagetoken",
    b"cancellationtoken",
    b"getclientaccesstoken",
    b"requirestoken",
    b"invalidtoken",
];

/// Names that are secret as they are, anywhere.
const NAMES: [&[u8]; 24] = [
    b"pwd",
    b"userpwd",
    b"authorization",
    b"proxyauthorization",
    b"sharedaccesssignature",
    b"clientassertion",
    b"samlresponse",
    b"samlassertion",
    b"wresult",
    b"encryptedsharedfolderdata",
    b"encryptedsharedfolderdatacollection",
    b"serializedsecuritycontext",
    b"tokenserializationcontext",
    b"encrypteddata",
    b"encryptedkey",
    b"ciphervalue",
    b"cipherdata",
    b"binarysecret",
    b"codeverifier",
    b"devicecode",
    b"authorizationcode",
    b"authcode",
    b"privatekeydata",
    b"sessionkey",
];

/// Names that are common words: secret as the name of an element or of a key, not in a running text.
const WORDS: [&[u8]; 7] = [
    b"security",
    b"assertion",
    b"pass",
    b"pin",
    b"credential",
    b"credentials",
    b"cookies",
];

/// Names that are secret in the query of a URL and in a form.
const FIELDS: [&[u8]; 8] = [
    b"code",
    b"key",
    b"sig",
    b"signature",
    b"auth",
    b"assertion",
    b"pass",
    b"credential",
];

/// What stands in a header is secret if its name has one of these in it.
const HEADERS: [&[u8]; 13] = [
    b"authorization",
    b"cookie",
    b"token",
    b"secret",
    b"password",
    b"apikey",
    b"credential",
    b"authkey",
    b"clientcert",
    b"assertion",
    b"signature",
    b"xsrf",
    // What Outlook on the web guards its requests with.
    b"canary",
];

/// Headers that are keys and open nothing.
const KEYS: [&str; 2] = ["idempotency-key", "surrogate-key"];

/// Content that can be masked: elements, and keys of JSON. `Body`, `Value` and `Name` are looked at more closely.
const CONTENT: [&[u8]; 50] = [
    b"subject",
    b"normalizedsubject",
    b"body",
    b"uniquebody",
    b"normalizedbody",
    b"textbody",
    b"newbodycontent",
    b"preview",
    b"bodypreview",
    b"mimecontent",
    b"mimecontentutf",
    b"content",
    b"contentbytes",
    b"conversationtopic",
    b"threadtopic",
    b"topic",
    b"internalreply",
    b"externalreply",
    b"replybody",
    b"name",
    b"displayname",
    b"displayto",
    b"displaycc",
    b"displaybcc",
    b"displaynamefirstlast",
    b"displaynamelastfirst",
    b"givenname",
    b"middlename",
    b"surname",
    b"nickname",
    b"fullname",
    b"firstname",
    b"lastname",
    b"completename",
    b"yomigivenname",
    b"fileas",
    b"initials",
    b"companyname",
    b"jobtitle",
    b"department",
    b"spousename",
    b"manager",
    b"location",
    b"enhancedlocation",
    b"phonenumbers",
    b"physicaladdresses",
    b"imaddresses",
    b"querystring",
    b"notes",
    b"categories",
];

/// Keys under which the name of another value stands, as in `<Value Name="Password">` and `{"name": "Cookie", "value": ...}`.
const NAMING: [&[u8]; 4] = [b"name", b"key", b"headername", b"propertyname"];

/// The names that are built in, and those that were added.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    added: Vec<Box<[u8]>>,
    headers: Vec<HeaderName>,
}

fn ends_secretly(name: &[u8]) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending)) && !HARMLESS.contains(&name)
}

impl Names {
    pub(super) fn add(&mut self, name: &str) {
        let folded = Folded::new(name.as_bytes());
        if !folded.get().is_empty() {
            self.added.push(folded.get().into());
        }
    }

    pub(super) fn add_header(&mut self, name: HeaderName) {
        self.headers.push(name);
    }

    fn is_added(&self, name: &[u8]) -> bool {
        self.added.iter().any(|added| **added == *name)
    }

    /// The name of an element, an attribute or a key, without its prefix.
    pub(super) fn secret(&self, name: &[u8]) -> bool {
        let folded = Folded::new(name);
        self.in_text(&folded) || WORDS.contains(&folded.get())
    }

    /// The key of a query or a form.
    pub(super) fn secret_field(&self, name: &[u8]) -> bool {
        let folded = Folded::new(name);
        self.in_text(&folded) || FIELDS.contains(&folded.get())
    }

    /// A word of a running text that a value follows.
    pub(super) fn in_text(&self, folded: &Folded) -> bool {
        let name = folded.get();
        ends_secretly(name) || NAMES.contains(&name) || self.is_added(name) || {
            !self.headers.is_empty()
                && self
                    .headers
                    .iter()
                    .any(|header| Folded::new(header.as_str().as_bytes()).get() == name)
        }
    }

    pub(super) fn secret_header(&self, name: &HeaderName) -> bool {
        let folded = Folded::new(name.as_str().as_bytes());
        let parts = || {
            HEADERS
                .iter()
                .any(|part| memchr::memmem::find(folded.get(), part).is_some())
        };
        // A key of an API, whatever it is called.
        let key = name.as_str().ends_with("-key") && !KEYS.contains(&name.as_str());
        let bare = name.as_str().strip_prefix("x-").unwrap_or_default();
        key || parts()
            || self.in_text(&folded)
            || self.in_text(&Folded::new(bare.as_bytes()))
            || self.headers.contains(name)
    }
}

pub(super) fn is_content(name: &[u8]) -> bool {
    CONTENT.contains(&Folded::new(name).get())
}

pub(super) fn is_naming(name: &[u8]) -> bool {
    NAMING.contains(&Folded::new(name).get())
}

/// What follows it reaches to the end of the line.
pub(super) fn is_header_line(folded: &Folded) -> bool {
    let name = folded.get();
    name.ends_with(b"authorization") || name.ends_with(b"cookie")
}
