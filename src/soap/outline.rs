//! The outline of a request: operation, header facts, and the byte ranges of the members of its array.
use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;
use smallvec::SmallVec;

use super::address::is_bare_address;
use super::operation::{BatchArray, Operation};
pub use super::targets::Targets;
use super::xml::{Event, Members, Reader, Scope, Space, Start, is_blank};

/// What matters of an EWS request, found in one pass: the operation, whom it impersonates, and where the members of its array
/// stand. Ranges count bytes of the body that was parsed, its byte order mark included.
///
/// Namespaces are resolved, so prefixes may be anything. Inside the members only nesting and end tags are checked.
///
/// ```
/// use tower_ews::soap::{Operation, Outline, SidKind};
///
/// let body = br#"<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"
///     xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types">
///   <Header><t:RequestServerVersion Version="Exchange2013_SP1"/>
///     <t:ExchangeImpersonation><t:ConnectingSID>
///       <t:PrimarySmtpAddress> ada@contoso.com </t:PrimarySmtpAddress>
///     </t:ConnectingSID></t:ExchangeImpersonation></Header>
///   <Body><m:DeleteItem xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages">
///     <m:ItemIds><t:ItemId Id="AAMk1"/><t:ItemId Id="AAMk2"/></m:ItemIds>
///   </m:DeleteItem></Body></Envelope>"#;
/// let outline = Outline::parse(body)?;
/// assert_eq!(outline.operation(), Some(Operation::DELETE_ITEM));
/// assert_eq!(outline.request_server_version(), Some("Exchange2013_SP1"));
/// assert_eq!(outline.impersonation()[0].kind, SidKind::PrimarySmtpAddress);
/// assert_eq!(&*outline.impersonation()[0].value, "ada@contoso.com");
/// assert_eq!(outline.array().unwrap().members().len(), 2);
/// # Ok::<(), tower_ews::soap::OutlineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Outline {
    operation: Option<Operation>,
    /// The element's name, unless it is the operation's.
    name: Option<Box<str>>,
    version: Option<Cow<'static, str>>,
    impersonation: SmallVec<[ConnectingSid; 1]>,
    other_access: bool,
    arrays: SmallVec<[ArrayOutline; 1]>,
    element: Range<usize>,
    scope: Scope,
}

/// Why a body has no outline. It can go to the server all the same, as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutlineError {
    /// A document type declaration: it can hide anything, and no EWS request has one.
    #[error("document type declaration at byte {at}: remove it, EWS requests have none")]
    Dtd {
        /// Offset of the declaration.
        at: usize,
    },
    /// Not UTF-8.
    #[error("the body is in {name}: send UTF-8")]
    Encoding {
        /// The encoding, as declared or as its first bytes show.
        name: Box<str>,
    },
    /// Something behind the end of the envelope.
    #[error("content behind the envelope at byte {at}: send one envelope per request")]
    SecondRoot {
        /// Offset of it.
        at: usize,
    },
    /// More than one element in the SOAP body.
    #[error("a second operation at byte {at}: send one operation per request")]
    SecondOperation {
        /// Offset of the second one.
        at: usize,
    },
    /// An end tag that closes nothing, or not what is open.
    #[error("the end tag at byte {at} does not match: check the nesting")]
    Unbalanced {
        /// Offset of the end tag.
        at: usize,
    },
    /// The body ends too early.
    #[error("the body ends at byte {at} with something open: was it cut off?")]
    Truncated {
        /// Length of the body.
        at: usize,
    },
    /// Not XML.
    #[error("malformed markup at byte {at}")]
    Malformed {
        /// Offset of the markup.
        at: usize,
    },
    /// XML, but no SOAP request; or no XML at all, such as a compressed body.
    #[error("not a SOAP request: expected {expected} at byte {at}")]
    NotSoap {
        /// What should have been there.
        expected: &'static str,
        /// Offset where it is missing.
        at: usize,
    },
    /// An entity that XML does not define, in a value that had to be read.
    #[error(
        "undefined entity in the text at byte {at}: only the five predefined ones and character references are known"
    )]
    Entity {
        /// Offset of the text or of its tag.
        at: usize,
    },
    /// A value that had to be read is not UTF-8.
    #[error("invalid UTF-8 at byte {at}")]
    InvalidUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// More than 1,024 elements inside each other, or namespaces declared at the same time.
    #[error("elements or namespaces nested too deeply at byte {at}: at most 1024 levels are read")]
    TooDeep {
        /// Offset of the innermost one.
        at: usize,
    },
    /// 4 GiB or more.
    #[error("a body of {len} bytes is too large")]
    TooLarge {
        /// Length of the body.
        len: usize,
    },
}

/// What an impersonation header names its mailbox by.
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

/// Where an array and its members stand. Every element inside the container is a member; between them is nothing but white
/// space, comments and processing instructions. Where members have no names ([`BatchArray::members`]) and the container holds
/// a text without any markup or entity, every word of it is a member.
///
/// ```
/// use tower_ews::soap::Outline;
///
/// let body = br#"<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>
///   <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"
///     ><FolderIds><FolderId Id="AAMk"/></FolderIds></GetFolder></Body></Envelope>"#;
/// let outline = Outline::parse(body)?;
/// let array = outline.array().unwrap();
/// assert_eq!(&body[array.element()], br#"<FolderIds><FolderId Id="AAMk"/></FolderIds>"#);
/// assert_eq!(&body[array.content()], br#"<FolderId Id="AAMk"/>"#);
/// # Ok::<(), tower_ews::soap::OutlineError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayOutline {
    kind: BatchArray,
    element: Range<usize>,
    content: Range<usize>,
    members: Members,
}

impl ArrayOutline {
    /// Which of the operation's arrays it is.
    pub fn kind(&self) -> BatchArray {
        self.kind
    }

    /// The container, its tags included.
    pub fn element(&self) -> Range<usize> {
        self.element.clone()
    }

    /// What stands between the container's tags; empty for a self-closing one.
    pub fn content(&self) -> Range<usize> {
        self.content.clone()
    }

    /// The members, in document order.
    pub fn members(&self) -> &[Range<usize>] {
        &self.members
    }
}

impl Outline {
    /// Finds the outline of a request.
    ///
    /// # Errors
    ///
    /// Any [`OutlineError`]. Bytes of members are read only to find their ends: an invalid character in one is the server's to find.
    pub fn parse(body: &[u8]) -> Result<Outline, OutlineError> {
        let mut reader = Reader::new(body)?;
        let envelope = root(&mut reader)?;
        let mut header = Header::default();
        let mut found = None;
        if !envelope.empty {
            while let Some(child) = child(&mut reader)? {
                if child.is(Space::Soap, "Header") {
                    header.read(&mut reader, &child)?;
                } else if child.is(Space::Soap, "Body") && !child.empty {
                    operations(&mut reader, &mut found)?;
                } else {
                    skip(&mut reader, &child)?;
                }
            }
        }
        let end = reader.position();
        loop {
            match reader.next()? {
                Event::Text(range) if is_blank(reader.bytes(&range)) => {}
                Event::Eof => break,
                _ => return Err(OutlineError::SecondRoot { at: end }),
            }
        }
        let Some(Found {
            operation,
            name,
            element,
            arrays,
            scope,
        }) = found
        else {
            return Err(OutlineError::NotSoap {
                expected: "an operation in the SOAP body",
                at: end,
            });
        };
        let Header {
            version,
            impersonation,
            other_access,
        } = header;
        Ok(Outline {
            operation,
            name,
            version,
            impersonation,
            other_access,
            arrays,
            element,
            scope,
        })
    }

    /// The operation, if the table knows it.
    pub fn operation(&self) -> Option<Operation> {
        self.operation
    }

    /// Local name of the operation's element, such as `GetUserAvailabilityRequest`.
    pub fn operation_name(&self) -> &str {
        let known = self.operation.map_or("", Operation::request_element);
        self.name.as_deref().unwrap_or(known)
    }

    /// `RequestServerVersion`: the schema version that the request asks for.
    pub fn request_server_version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The identities of the impersonation header, in document order. Some clients send more than one for the same mailbox.
    pub fn impersonation(&self) -> &[ConnectingSid] {
        &self.impersonation
    }

    /// Whether another header than `ExchangeImpersonation` decides who acts: SerializedSecurityContext, ProxySecurityContext,
    /// OpenAsAdminOrSystemService, SharingSecurity or WS-Security. Exchange refuses two of them in one request.
    pub fn has_other_access_header(&self) -> bool {
        self.other_access
    }

    /// The request's array, if it has exactly one that can be cut by its members.
    pub fn array(&self) -> Option<&ArrayOutline> {
        match &*self.arrays {
            [array] => Some(array),
            _ => None,
        }
    }

    /// All arrays of the request, in document order: GetImItems can have two. An array with text between its elements is none.
    pub fn arrays(&self) -> &[ArrayOutline] {
        &self.arrays
    }

    /// The operation's element, its tags included.
    pub fn operation_element(&self) -> Range<usize> {
        self.element.clone()
    }

    /// Walks the parts of the body that can name mailboxes. It must be the body that this outline was made from; with another
    /// one the result means nothing.
    pub fn targets(&self, body: &[u8]) -> Targets {
        super::targets::find(self, body)
    }
}

impl Outline {
    /// Where the walk for the targets begins, and which namespaces are declared there.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The outline of a part of this request: the same header, operation and arrays, at other places. `at` tells where an offset of this
    /// outline is in the part, and `arrays` which members each array has left (by index); arrays without any are not in the part.
    pub(crate) fn part(
        &self,
        members: &[Vec<usize>],
        mut at: impl FnMut(usize) -> usize,
    ) -> Outline {
        let mut range = |range: &Range<usize>| at(range.start)..at(range.end);
        let arrays = self.arrays.iter().zip(members);
        let arrays = arrays.filter(|(_, members)| !members.is_empty());
        let arrays = arrays.map(|(array, members)| ArrayOutline {
            kind: array.kind,
            element: range(&array.element),
            content: range(&array.content),
            members: members
                .iter()
                .filter_map(|member| array.members.get(*member))
                .map(&mut range)
                .collect(),
        });
        let arrays = arrays.collect();
        Outline {
            arrays,
            element: range(&self.element),
            ..self.clone_head()
        }
    }

    /// All but the arrays.
    fn clone_head(&self) -> Outline {
        Outline {
            operation: self.operation,
            name: self.name.clone(),
            version: self.version.clone(),
            impersonation: self.impersonation.clone(),
            other_access: self.other_access,
            arrays: SmallVec::new(),
            element: self.element.clone(),
            // What comes before the operation is in each part as it is.
            scope: self.scope.clone(),
        }
    }

    /// Whether [`targets`](Self::targets) can have mailboxes at all.
    pub(crate) fn may_name_mailbox(&self, body: &[u8]) -> bool {
        let element = body.get(self.element.clone()).unwrap_or(body);
        super::targets::may_name_mailbox(self.operation, element)
    }
}

/// Reads up to the envelope's start tag.
pub(super) fn root<'a>(reader: &mut Reader<'a>) -> Result<Start<'a>, OutlineError> {
    loop {
        let at = reader.position();
        match reader.next()? {
            Event::Start(start) if start.is(Space::Soap, "Envelope") => return Ok(start),
            Event::Text(range) if is_blank(reader.bytes(&range)) => {}
            _ => {
                return Err(OutlineError::NotSoap {
                    expected: "a SOAP envelope",
                    at,
                });
            }
        }
    }
}

/// The next child element of the innermost open element, or none behind its end tag.
pub(super) fn child<'a>(reader: &mut Reader<'a>) -> Result<Option<Start<'a>>, OutlineError> {
    loop {
        match reader.next()? {
            Event::Start(start) => return Ok(Some(start)),
            Event::End | Event::Eof => return Ok(None),
            Event::Text(_) | Event::CData(_) => {}
        }
    }
}

/// Goes behind an element whose start tag was just read, and returns where that is.
pub(super) fn skip(reader: &mut Reader<'_>, start: &Start<'_>) -> Result<usize, OutlineError> {
    if start.empty {
        Ok(start.end)
    } else {
        reader.skip().map(|end| end.end)
    }
}

struct Found {
    operation: Option<Operation>,
    name: Option<Box<str>>,
    element: Range<usize>,
    arrays: SmallVec<[ArrayOutline; 1]>,
    scope: Scope,
}

fn operations(reader: &mut Reader<'_>, found: &mut Option<Found>) -> Result<(), OutlineError> {
    let scope = reader.scope();
    while let Some(start) = child(reader)? {
        if found.is_some() {
            return Err(OutlineError::SecondOperation { at: start.at });
        }
        let operation = match start.space {
            Space::Messages => Operation::by_request_element(start.local),
            _ => None,
        };
        let name = match operation {
            Some(_) => None,
            None => Some(String::from_utf8_lossy(start.local).into()),
        };
        let kinds = operation.map_or(&[][..], Operation::arrays);
        let mut arrays = SmallVec::new();
        let end = if start.empty || kinds.is_empty() {
            skip(reader, &start)?
        } else {
            arrays_of(reader, kinds, &mut arrays)?;
            reader.position()
        };
        *found = Some(Found {
            operation,
            name,
            element: start.at..end,
            arrays,
            scope: scope.clone(),
        });
    }
    Ok(())
}

fn arrays_of(
    reader: &mut Reader<'_>,
    kinds: &[BatchArray],
    arrays: &mut SmallVec<[ArrayOutline; 1]>,
) -> Result<(), OutlineError> {
    while let Some(start) = child(reader)? {
        let Some(&kind) = kinds
            .iter()
            .find(|kind| start.is(Space::Messages, kind.container))
        else {
            skip(reader, &start)?;
            continue;
        };
        if start.empty {
            let (element, content) = (start.at..start.end, start.end..start.end);
            arrays.push(ArrayOutline {
                kind,
                element,
                content,
                members: SmallVec::new(),
            });
            continue;
        }
        let (end, members, text) = reader.members()?;
        let (element, content) = (start.at..end.end, start.end..end.start);
        let members = match text {
            false => Some(members),
            true if kind.members.is_empty() => words(reader.bytes(&content), content.start),
            true => None,
        };
        if let Some(members) = members {
            arrays.push(ArrayOutline {
                kind,
                element,
                content,
                members,
            });
        }
    }
    Ok(())
}

/// The words of a text that begins at `begin`. None if something in it stands for another text than its own.
fn words(text: &[u8], mut begin: usize) -> Option<Members> {
    if memchr2(b'<', b'&', text).is_some() {
        return None;
    }
    let mut words = Members::new();
    for word in text.split(|byte| is_blank(&[*byte])) {
        let end = begin + word.len();
        if !word.is_empty() {
            words.push(begin..end);
        }
        begin = end + 1;
    }
    Some(words)
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
struct Header {
    version: Option<Cow<'static, str>>,
    impersonation: SmallVec<[ConnectingSid; 1]>,
    other_access: bool,
}

impl Header {
    fn read<'a>(&mut self, reader: &mut Reader<'a>, start: &Start<'a>) -> Result<(), OutlineError> {
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
