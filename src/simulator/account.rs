//! The accounts that may call, and what each of them may do.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// An account of the simulated server. Its name is its user name, and, where it is an address, its
/// own mailbox.
///
/// ```
/// use tower_ews::simulator::Account;
/// let reader = Account::new("reader@contoso.com")
///     .password("secret")
///     .token("eyJ0...")
///     .impersonates(false)
///     .delegate_for(["a@contoso.com"]);
/// assert!(!format!("{reader:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[must_use = "builders do nothing until they are built"]
pub struct Account {
    name: String,
    password: Option<String>,
    tokens: Vec<String>,
    impersonates: bool,
    mailboxes: Option<Vec<String>>,
}

impl Account {
    /// An account without credentials yet, which may impersonate and open everybody.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into().to_lowercase(),
            password: None,
            tokens: Vec::new(),
            impersonates: true,
            mailboxes: None,
        }
    }

    /// The password for HTTP Basic.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// One more bearer token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.tokens.push(token.into());
        self
    }

    /// Whether it may impersonate. True by default.
    pub fn impersonates(mut self, allowed: bool) -> Self {
        self.impersonates = allowed;
        self
    }

    /// The only mailboxes that it may open by delegate access. All by default.
    pub fn delegate_for(mut self, mailboxes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.mailboxes = Some(
            mailboxes
                .into_iter()
                .map(|mailbox| mailbox.into().to_lowercase())
                .collect(),
        );
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn may_impersonate(&self) -> bool {
        self.impersonates
    }

    pub(super) fn may_open(&self, mailbox: &str) -> bool {
        mailbox == self.name
            || self
                .mailboxes
                .as_ref()
                .is_none_or(|allowed| allowed.iter().any(|name| name == mailbox))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .field("impersonates", &self.impersonates)
            .field("mailboxes", &self.mailboxes)
            .finish_non_exhaustive()
    }
}

/// Why an account does not work any more.
///
/// ```
/// use tower_ews::simulator::{AccountRefusal, DEFAULT_ACCOUNT, Exchange};
///
/// let exchange = Exchange::builder().build();
/// exchange.refuse_account(DEFAULT_ACCOUNT, AccountRefusal::Disabled);
/// exchange.refuse_account(DEFAULT_ACCOUNT, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccountRefusal {
    /// Its password was changed: HTTP 401.
    WrongPassword,
    /// Exchange Online has locked it: HTTP 456.
    Locked,
    /// `ErrorAccountDisabled` for every member, in HTTP 200.
    Disabled,
}

/// Who calls.
pub(super) fn authenticate<'a>(
    headers: &HeaderMap,
    accounts: &'a [Account],
    anonymous: Option<&str>,
) -> Option<&'a Account> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return accounts
            .iter()
            .find(|account| Some(account.name.as_str()) == anonymous);
    };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return accounts
            .iter()
            .find(|account| account.tokens.iter().any(|token| token == credentials));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    accounts.iter().find(|account| {
        account.name.eq_ignore_ascii_case(name) && account.password.as_deref() == Some(password)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials() {
        let accounts = [
            Account::new("Svc@contoso.com")
                .password("se:cret")
                .token("t0"),
            Account::new("open@contoso.com"),
        ];
        let who = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            authenticate(&headers, &accounts, Some("open@contoso.com")).map(Account::name)
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(
            who(&basic("SVC@contoso.com:se:cret")),
            Some("svc@contoso.com")
        );
        assert_eq!(who("bearer t0"), Some("svc@contoso.com"));
        for wrong in [
            &basic("svc@contoso.com:secret"),
            &basic("open@contoso.com:"),
            "Bearer t1",
            "Basic ?",
            "NTLM x",
            "x",
        ] {
            assert_eq!(who(wrong), None, "{wrong}");
        }
        let nobody = HeaderMap::new();
        let anonymous = authenticate(&nobody, &accounts, Some("open@contoso.com"));
        assert_eq!(anonymous.map(Account::name), Some("open@contoso.com"));
        assert!(authenticate(&nobody, &accounts, None).is_none());
    }
}
