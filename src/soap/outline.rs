//! The outline of a request: operation, header facts, and the byte ranges of the members of its
//! array.
use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;
use smallvec::SmallVec;

use super::disposition::Disposition;
use super::elements::{child, root, skip};
use super::header::Header;
pub use super::header::{ConnectingSid, SidKind};
use super::operation::{BatchArray, Operation};
pub use super::outline_error::OutlineError;
use super::space::Space;
use super::xml::{Event, Members, Reader, Scope, is_blank};

/// What matters of an EWS request, found in one pass: the operation, whom it impersonates, and
/// where the members of its array stand. Ranges count bytes of the body that was parsed, its byte
/// order mark included.
///
/// Namespaces are resolved, so prefixes may be anything. Inside the members only nesting and end
/// tags are checked.
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
    disposition: Disposition,
}

/// Where an array and its members stand. Every element inside the container is a member; between
/// them is nothing but white space, comments and processing instructions. Where members have no
/// names ([`BatchArray::members`]) and the container holds a text without any markup or entity,
/// every word of it is a member.
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
    /// Any [`OutlineError`]. Bytes of members are read only to find their ends: an invalid
    /// character in one is the server's to find.
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
            disposition,
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
            disposition,
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

    /// The identities of the impersonation header, in document order. Some clients send more than
    /// one for the same mailbox.
    pub fn impersonation(&self) -> &[ConnectingSid] {
        &self.impersonation
    }

    /// Whether another header than `ExchangeImpersonation` decides who acts:
    /// SerializedSecurityContext, ProxySecurityContext, OpenAsAdminOrSystemService, SharingSecurity
    /// or WS-Security. Exchange refuses two of them in one request.
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

    /// All arrays of the request, in document order: GetImItems can have two. An array with text
    /// between its elements is none.
    pub fn arrays(&self) -> &[ArrayOutline] {
        &self.arrays
    }

    /// The operation's element, its tags included.
    pub fn operation_element(&self) -> Range<usize> {
        self.element.clone()
    }
}

impl Outline {
    /// Where the walk for the targets begins, and which namespaces are declared there.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What the operation's attributes ask to be sent.
    pub(super) fn disposition(&self) -> Disposition {
        self.disposition
    }

    /// The outline of a part of this request: the same header, operation and arrays, at other
    /// places. `at` tells where an offset of this outline is in the part, and `arrays` which
    /// members each array has left (by index); arrays without any are not in the part.
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
            disposition: self.disposition,
        }
    }
}

struct Found {
    operation: Option<Operation>,
    name: Option<Box<str>>,
    element: Range<usize>,
    arrays: SmallVec<[ArrayOutline; 1]>,
    scope: Scope,
    disposition: Disposition,
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
        let disposition = Disposition::of(operation, reader, &start);
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
            disposition,
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

/// The words of a text that begins at `begin`. None if something in it stands for another text than
/// its own.
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
