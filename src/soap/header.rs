//! The headers of a request that matter: the schema version, and who acts.
use std::borrow::Cow;

use smallvec::SmallVec;

use super::elements::{child, skip};
use super::outline_error::OutlineError;
use super::space::Space;
use super::xml::{Reader, Start};
use crate::address::is_bare_address;

/// What an impersonation header names its mailbox by.
///
/// ```
/// use tower_ews::soap::SidKind;
///
/// assert_ne!(SidKind::SmtpAddress, SidKind::PrimarySmtpAddress);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SidKind {
    /// `PrincipalName`: a UPN, which is not always an SMTP address.
    PrincipalName,
    /// `SID`
    Sid,
    /// `PrimarySmtpAddress`
    PrimarySmtpAddress,
    /// `SmtpAddress`: any address of the mailbox.
    SmtpAddress,
}

/// One identity of the `ExchangeImpersonation` header.
///
/// ```
/// use tower_ews::soap::{ConnectingSid, SidKind};
///
/// let sid = ConnectingSid::new(SidKind::Sid, "S-1-5-21-1");
/// assert_eq!(&*sid.value, "S-1-5-21-1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ConnectingSid {
    /// What kind of name it is.
    pub kind: SidKind,
    /// The name, without white space around it, entities resolved; case as it was.
    pub value: Box<str>,
    /// Found once, since more than one layer asks on each call.
    is_address: bool,
}

impl ConnectingSid {
    /// An identity by kind and name.
    pub fn new(kind: SidKind, value: impl Into<Box<str>>) -> ConnectingSid {
        let value = value.into();
        let kind_of_address = matches!(kind, SidKind::PrimarySmtpAddress | SidKind::SmtpAddress);
        ConnectingSid {
            kind,
            is_address: kind_of_address && is_bare_address(&value),
            value,
        }
    }

    /// The name, if it is a bare SMTP address of one of the kinds that are.
    pub(crate) fn address(&self) -> Option<&str> {
        self.is_address.then_some(&*self.value)
    }
}

/// Versions that need no string of their own.
const VERSIONS: [&str; 11] = [
    "Exchange2013_SP1",
    "Exchange2016",
    "Exchange2013",
    "Exchange2010_SP2",
    "Exchange2010_SP1",
    "Exchange2010",
    "Exchange2007_SP1",
    "Exchange2007",
    "Exchange2015",
    "Exchange2012",
    "V2015_10_05",
];

#[derive(Default)]
pub(super) struct Header {
    pub(super) version: Option<Cow<'static, str>>,
    pub(super) impersonation: SmallVec<[ConnectingSid; 1]>,
    pub(super) other_access: bool,
}

impl Header {
    pub(super) fn read<'a>(
        &mut self,
        reader: &mut Reader<'a>,
        start: &Start<'a>,
    ) -> Result<(), OutlineError> {
        if start.empty {
            return Ok(());
        }
        while let Some(entry) = child(reader)? {
            match (entry.space, entry.local) {
                (Space::Types, b"RequestServerVersion") => {
                    let version = reader.value(&entry, "Version")?;
                    self.version = version
                        .filter(|version| !version.is_empty())
                        .map(
                            |version| match VERSIONS.iter().find(|known| **known == version) {
                                Some(known) => Cow::Borrowed(*known),
                                None => Cow::Owned(version.into_owned()),
                            },
                        );
                }
                (Space::Types, b"ExchangeImpersonation") if !entry.empty => {
                    while let Some(inner) = child(reader)? {
                        if inner.is(Space::Types, "ConnectingSID") && !inner.empty {
                            self.connecting_sid(reader)?;
                        } else {
                            skip(reader, &inner)?;
                        }
                    }
                    continue;
                }
                (
                    Space::Types,
                    b"SerializedSecurityContext"
                    | b"ProxySecurityContext"
                    | b"OpenAsAdminOrSystemService"
                    | b"SharingSecurity",
                )
                | (Space::Other, b"Security") => self.other_access = true,
                _ => {}
            }
            skip(reader, &entry)?;
        }
        Ok(())
    }

    fn connecting_sid(&mut self, reader: &mut Reader<'_>) -> Result<(), OutlineError> {
        while let Some(name) = child(reader)? {
            let kind = match (name.space, name.local) {
                (Space::Types, b"PrincipalName") => SidKind::PrincipalName,
                (Space::Types, b"SID") => SidKind::Sid,
                (Space::Types, b"PrimarySmtpAddress") => SidKind::PrimarySmtpAddress,
                (Space::Types, b"SmtpAddress") => SidKind::SmtpAddress,
                _ => {
                    skip(reader, &name)?;
                    continue;
                }
            };
            let value = reader.text(&name)?;
            if !value.is_empty() {
                self.impersonation.push(ConnectingSid::new(kind, value));
            }
        }
        Ok(())
    }
}
