//! [`Principal`]: the identity that the server charges, and how a call [reaches](Access) a mailbox.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;

use hashbrown::DefaultHashBuilder;
use smallvec::SmallVec;
use triomphe::ThinArc;

#[cfg(test)]
use super::counted;

/// How a call reaches the mailbox that it works on.
///
/// ```
/// use tower_ews::principal::Access;
///
/// // The default: an account that works on its own mailbox.
/// assert_eq!(Access::default(), Access::Owner);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// The account's own mailbox.
    #[default]
    Owner,
    /// Another mailbox, through the caller's rights on it: the caller is charged.
    Delegate,
    /// Another mailbox, in its owner's name (`ExchangeImpersonation`): the mailbox's impersonation copy is charged.
    Impersonation,
}

/// The kinds of identity that a server charges.
///
/// ```
/// use tower_ews::principal::{Principal, PrincipalKind};
///
/// assert_eq!(Principal::account("svc@contoso.com").kind(), PrincipalKind::Account);
/// assert_eq!(Principal::new("tenant").kind(), PrincipalKind::Other);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PrincipalKind {
    /// An authenticated account.
    Account,
    /// The copy of a mailbox owner's budgets that all service accounts share when they impersonate that owner.
    Impersonation,
    /// A mailbox, as the thing that is opened or subscribed to.
    Mailbox,
    /// Any other key: a tenant, an application, a pair of both.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    hash: u64,
    kind: PrincipalKind,
}

/// The identity that the server charges.
///
/// Names are compared without regard to ASCII case for accounts, impersonation copies and mailboxes, exactly for
/// [`Principal::new`]. Cloning is one reference count; the hash is computed once.
///
/// ```
/// use tower_ews::principal::Principal;
///
/// assert_eq!(Principal::account("Svc@Contoso.com"), Principal::account("svc@contoso.com"));
/// // The copy that service accounts draw on is not the owner's own budget.
/// assert_ne!(Principal::impersonation("amy@contoso.com"), Principal::account("amy@contoso.com"));
/// ```
// One allocation with the bytes of the name behind the head, and nothing but one count before it.
#[derive(Clone)]
pub struct Principal(ThinArc<Head, u8>);

pub(super) static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

impl Principal {
    /// Creates a principal of any key, compared exactly.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self::build(PrincipalKind::Other, name.as_ref().as_bytes())
    }

    /// Creates the principal of an authenticated account.
    pub fn account(name: &str) -> Self {
        Self::build_lowercase(PrincipalKind::Account, name)
    }

    /// Creates the impersonation copy of a mailbox, which all service accounts share.
    pub fn impersonation(mailbox: &str) -> Self {
        Self::build_lowercase(PrincipalKind::Impersonation, mailbox)
    }

    /// Creates the principal of a mailbox.
    pub fn mailbox(name: &str) -> Self {
        Self::build_lowercase(PrincipalKind::Mailbox, name)
    }

    fn build_lowercase(kind: PrincipalKind, name: &str) -> Self {
        let mut name: SmallVec<[u8; 48]> = SmallVec::from_slice(name.as_bytes());
        name.make_ascii_lowercase();
        Self::build(kind, &name)
    }

    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    fn build(kind: PrincipalKind, name: &[u8]) -> Self {
        let mut hasher = HASHER.build_hasher();
        hasher.write_u8(kind as u8);
        hasher.write(name);
        let hash = hasher.finish();
        Self(ThinArc::from_header_and_slice(Head { hash, kind }, name))
    }

    /// Returns the kind of identity.
    pub fn kind(&self) -> PrincipalKind {
        self.0.header.header.kind
    }

    /// Returns its name, as it is compared.
    pub fn name(&self) -> &str {
        // Made of a `str`, and changed in its ASCII letters only.
        std::str::from_utf8(&self.0.slice).unwrap_or_default()
    }

    /// The hash of kind and name: the same for equal principals of one process, different in the next process.
    pub(crate) fn hash64(&self) -> u64 {
        self.0.header.header.hash
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        #[cfg(test)]
        counted::add();
        let (one, other) = (&*self.0, &*other.0);
        std::ptr::eq(one, other)
            || (one.header.header == other.header.header && one.slice == other.slice)
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        #[cfg(test)]
        counted::add();
        state.write_u64(self.hash64());
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind(), self.name())
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind() {
            PrincipalKind::Account => "account ",
            PrincipalKind::Impersonation => "impersonation copy of ",
            PrincipalKind::Mailbox => "mailbox ",
            PrincipalKind::Other => "",
        };
        write!(f, "{kind}{}", self.name())
    }
}
