//! A server for tests that responds to every EWS operation with an array: it reads a request with a plain XML parser, and gives each member an
//! entry in the operation's shape, or what a test wants instead.
//!
//! A member is known by a token in it, `tok-0007`, which its entry repeats: so a test sees which response is whose. Used by
//! several test binaries, none of which uses all of it.
#![allow(dead_code, unreachable_pub)]

pub mod entries;
pub mod requests;
pub mod service;
pub mod untouched;

use std::fmt::Write as _;

use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

pub const MESSAGES: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";
pub const TYPES: &str = "http://schemas.microsoft.com/exchange/services/2006/types";
const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// A request as a server sees it.
#[derive(Debug, Default)]
pub struct Seen {
    /// Local name of the operation's element, without the `Request` that some have behind it.
    pub operation: String,
    pub members: Vec<Member>,
    /// Local names of the operation's children.
    pub children: Vec<String>,
    /// Change key of CreateAttachment's parent.
    pub parent_change_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub container: String,
    pub name: String,
    /// `tok-` and four digits, wherever they stand in it, or of the digits that a GUID of ours ends with.
    pub token: Option<String>,
    /// The first change key in it.
    pub change_key: Option<String>,
    pub text: String,
}

impl Member {
    /// The number in its token.
    pub fn number(&self) -> usize {
        self.token.as_ref().unwrap()[4..].parse().unwrap()
    }
}

const CONTAINERS: &[&str] = &[
    "Actions",
    "AttachmentIds",
    "Attachments",
    "ContactIds",
    "ConversationActions",
    "Conversations",
    "DelegateUsers",
    "ExtensionIds",
    "FolderChanges",
    "FolderIds",
    "FolderNames",
    "Folders",
    "GroupIds",
    "Ids",
    "ItemChanges",
    "ItemIds",
    "Items",
    "MailboxDataArray",
    "Mailboxes",
    "ParentFolderIds",
    "Recipients",
    "ReminderItemActions",
    "RequestedConfiguration",
    "SourceIds",
    "TokenRequests",
    "UserIds",
];

/// What GUIDs that are tokens begin with: they have the four digits at their end.
pub const GUID: &str = "7f0c2a9e-51d3-4B68-9C04-3d1e5a2b";

fn token(text: &str) -> Option<String> {
    if let Some(at) = text.find("tok-") {
        return Some(text[at..at + 8].to_owned());
    }
    let at = text.find(GUID)? + GUID.len();
    Some(format!("tok-{}", &text[at..at + 4]))
}

fn value_behind(text: &str, before: &str) -> Option<String> {
    let rest = &text[text.find(before)? + before.len()..];
    let quote = rest.chars().next()?;
    Some(rest[1..].split(quote).next()?.to_owned())
}

impl Seen {
    /// Reads a request. Panics if it is none: a part that is no request is what tests are there for.
    pub fn read(body: &[u8]) -> Seen {
        let mut reader = NsReader::from_reader(body);
        let mut seen = Seen::default();
        let mut path: Vec<String> = Vec::new();
        let mut at = 0;
        loop {
            let (space, event) = reader.read_resolved_event().expect("well-formed XML");
            let space = match space {
                ResolveResult::Bound(space) => String::from_utf8(space.as_ref().to_vec()).unwrap(),
                ResolveResult::Unbound => String::new(),
                ResolveResult::Unknown(prefix) => panic!("prefix {prefix:?} is bound to nothing"),
            };
            let (start, empty) = match event {
                Event::Start(start) => (start.into_owned(), false),
                Event::Empty(start) => (start.into_owned(), true),
                Event::End(_) => {
                    path.pop();
                    at = reader.buffer_position() as usize;
                    continue;
                }
                Event::Eof => break,
                event => {
                    let end = reader.buffer_position() as usize;
                    if path.last().is_some_and(|name| name == "ExtensionIds") {
                        if let Event::Text(_) = event {
                            seen.words(std::str::from_utf8(&body[at..end]).unwrap());
                        }
                    }
                    at = end;
                    continue;
                }
            };
            let local = String::from_utf8(start.local_name().as_ref().to_vec()).unwrap();
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            match *names {
                ["Envelope", "Body"] => {
                    assert_eq!(space, MESSAGES);
                    assert!(seen.operation.is_empty(), "a second operation");
                    let name = local.strip_suffix("Request").unwrap_or(&local);
                    seen.operation = name.to_owned();
                }
                ["Envelope", "Body", _] => {
                    seen.children.push(local.clone());
                    if local == "ParentItemId" {
                        let tag = String::from_utf8_lossy(&start).into_owned();
                        seen.parent_change_key = value_behind(&tag, "ChangeKey=");
                    }
                }
                ["Envelope", "Body", _, container] if CONTAINERS.contains(&container) => {
                    let expected = match container {
                        "RequestedConfiguration" => MESSAGES,
                        _ => TYPES,
                    };
                    assert_eq!(space, expected, "{local} in {container}");
                    if !empty {
                        reader.read_to_end(start.name()).expect("its end tag");
                    }
                    let end = reader.buffer_position() as usize;
                    let text = String::from_utf8(body[at..end].to_vec()).unwrap();
                    seen.members.push(Member {
                        container: container.to_owned(),
                        name: local,
                        token: token(&text),
                        change_key: value_behind(&text, "ChangeKey="),
                        text,
                    });
                    at = end;
                    continue;
                }
                _ => {}
            }
            if !empty {
                path.push(local);
            }
            at = reader.buffer_position() as usize;
        }
        assert!(path.is_empty() && !seen.operation.is_empty());
        seen
    }

    /// A list in one text.
    fn words(&mut self, text: &str) {
        for word in text.split([' ', '\t', '\r', '\n']) {
            if !word.is_empty() {
                self.members.push(Member {
                    container: "ExtensionIds".to_owned(),
                    name: String::new(),
                    token: token(word),
                    change_key: None,
                    text: word.to_owned(),
                });
            }
        }
    }

    /// The numbers in the members' tokens.
    pub fn numbers(&self) -> Vec<usize> {
        self.members.iter().map(Member::number).collect()
    }
}

/// What becomes of a member.
#[derive(Clone, Debug)]
pub enum Fortune {
    Done,
    /// In error: class, code, milliseconds to wait.
    Refused(&'static str, &'static str, Option<u64>),
}

impl Fortune {
    pub const STOPPED: Fortune = Fortune::Refused("Warning", "ErrorBatchProcessingStopped", None);

    pub fn error(code: &'static str) -> Fortune {
        Fortune::Refused("Error", code, None)
    }

    pub fn busy(milliseconds: u64) -> Fortune {
        Fortune::Refused("Error", "ErrorServerBusy", Some(milliseconds))
    }
}

/// How a response binds its prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `m` and `t` on the response's element.
    Usual,
    /// Messages as the default namespace, `t` on the envelope.
    Default,
    /// `m` means types, and `t` messages.
    Crossed,
    /// Messages on the envelope, types as the default on each element that is one.
    Far,
}

impl Style {
    pub const ALL: [Style; 4] = [Style::Usual, Style::Default, Style::Crossed, Style::Far];

    /// Puts a response, written with `m:` and `t:`, into an envelope of this style.
    pub fn envelope(self, text: &str) -> String {
        let header = format!(
            "<h:ServerVersionInfo MajorVersion=\"15\" xmlns:h=\"{TYPES}\" xmlns=\"{TYPES}\"/>"
        );
        self.put(text, &header)
    }

    /// Puts a request, written with `m:` and `t:`, into an envelope of this style.
    pub fn request(self, text: &str) -> String {
        let header = format!(
            "<h:RequestServerVersion xmlns:h=\"{TYPES}\" Version=\"Exchange2013_SP1\"/>\
             <h:ExchangeImpersonation xmlns:h=\"{TYPES}\"><h:ConnectingSID><h:PrimarySmtpAddress>Ada@contoso.com</h:PrimarySmtpAddress>\
             </h:ConnectingSID></h:ExchangeImpersonation>"
        );
        self.put(text, &header)
    }

    fn put(self, text: &str, header: &str) -> String {
        let xsi = "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"";
        let head = |bound: &str| {
            format!(
                "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<s:Envelope xmlns:s=\"{SOAP}\" {bound}>\
                 <s:Header>{header}</s:Header>\
                 <s:Body {xsi}>"
            )
        };
        // Declarations go into the response's own start tag.
        let declare = |text: &str, bound: &str| {
            let at = text.find([' ', '>']).unwrap();
            format!("{} {bound}{}", &text[..at], &text[at..])
        };
        let replace = |m: &str, t: &str| {
            text.replace("<m:", &format!("<{m}"))
                .replace("</m:", &format!("</{m}"))
                .replace("<t:", &format!("<{t}"))
                .replace("</t:", &format!("</{t}"))
                .replace("\"t:", &format!("\"{t}"))
        };
        let end = "</s:Body></s:Envelope>";
        match self {
            Style::Usual => {
                let bound = format!("xmlns:m=\"{MESSAGES}\" xmlns:t=\"{TYPES}\"");
                format!("{}{}{end}", head(""), declare(text, &bound))
            }
            Style::Default => {
                let text = declare(&replace("", "t:"), &format!("xmlns=\"{MESSAGES}\""));
                format!("{}{text}{end}", head(&format!("xmlns:t='{TYPES}'")))
            }
            Style::Crossed => {
                let text = replace("\u{1}", "m:").replace('\u{1}', "t:");
                let bound = format!("xmlns:t=\"{MESSAGES}\" xmlns:m=\"{TYPES}\"");
                format!("{}{}{end}", head(""), declare(&text, &bound))
            }
            Style::Far => {
                let text = replace("x.m-1:", "t:");
                format!(
                    "{}{text}{end}",
                    head(&format!(
                        "xmlns:x.m-1=\"{MESSAGES}\" xmlns:t=\"{TYPES}\" xmlns=\"urn:far\""
                    ))
                )
            }
        }
    }
}

/// Responds to a request; `fortune` says what becomes of each member.
pub fn reply(seen: &Seen, style: Style, fortune: impl FnMut(&Member) -> Fortune) -> String {
    let mut fortune = fortune;
    let op = &*seen.operation;
    let class = |name: &str, class: &str, inside: &str| {
        format!("<m:{name} ResponseClass=\"{class}\">{inside}</m:{name}>")
    };
    let ok = "<m:ResponseCode>NoError</m:ResponseCode>";
    let lists = list_items(seen);
    let text = if let Some(inside) = lists {
        let troubles = seen.members.iter().map(&mut fortune);
        let trouble = troubles.into_iter().find_map(|fortune| match fortune {
            Fortune::Done => None,
            Fortune::Refused(class, code, wait) => Some((class, said("none", code, wait))),
        });
        let (result, inside) = match trouble {
            Some((class, text)) => (class, text),
            None => ("Success", format!("{ok}{inside}")),
        };
        if op == "GetServerTimeZones" {
            let entry = class("GetServerTimeZonesResponseMessage", result, &inside);
            format!(
                "<m:{op}Response><m:ResponseMessages>{entry}</m:ResponseMessages></m:{op}Response>"
            )
        } else {
            class(&format!("{op}Response"), result, &inside)
        }
    } else {
        let mut entries = String::new();
        for member in &seen.members {
            let token = member.token.as_deref().unwrap_or("none");
            let (result, said, content) = match fortune(member) {
                Fortune::Done => (
                    "Success",
                    format!("<m:MessageText>{token}</m:MessageText>{ok}"),
                    content(op, member),
                ),
                Fortune::Refused(class, code, wait) => (class, said(token, code, wait), needed(op)),
            };
            let entry = match op {
                "GetUserAvailability" => format!(
                    "<m:FreeBusyResponse>{}{content}</m:FreeBusyResponse>",
                    class("ResponseMessage", result, &said)
                ),
                _ => class(&entry_name(op), result, &(said + &content)),
            };
            let _ = write!(entries, "\n  {entry}");
        }
        match op {
            "GetUserAvailability" => format!(
                "<m:{op}Response><m:FreeBusyResponseArray>{entries}</m:FreeBusyResponseArray></m:{op}Response>"
            ),
            "AddDelegate" | "GetDelegate" | "RemoveDelegate" | "UpdateDelegate" | "GetMailTips" => {
                class(
                    &format!("{op}Response"),
                    "Success",
                    &format!("{ok}<m:ResponseMessages>{entries}</m:ResponseMessages>"),
                )
            }
            _ => format!(
                "<m:{op}Response><m:ResponseMessages>{entries}\n</m:ResponseMessages></m:{op}Response>"
            ),
        }
    };
    style.envelope(&text)
}

/// One error that speaks of all members, as a server gives it for a folder that is not there.
pub fn one_error(seen: &Seen, style: Style, code: &'static str) -> String {
    let mut first = true;
    let mut seen = Seen {
        operation: seen.operation.clone(),
        members: seen.members.clone(),
        ..Seen::default()
    };
    seen.members.retain(|_| std::mem::take(&mut first));
    for member in &mut seen.members {
        member.token = None;
    }
    reply(&seen, style, |_| Fortune::error(code))
}

/// A SOAP fault.
pub fn fault(code: &str, wait: Option<u64>) -> String {
    let wait = wait.map_or(String::new(), |wait| {
        format!(
            "<t:MessageXml xmlns:t=\"{TYPES}\"><t:Value Name=\"BackOffMilliseconds\">{wait}</t:Value></t:MessageXml>"
        )
    });
    format!(
        "<s:Envelope xmlns:s=\"{SOAP}\"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>it is so</faultstring><detail>\
         <e:ResponseCode xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">{code}</e:ResponseCode>{wait}</detail>\
         </s:Fault></s:Body></s:Envelope>"
    )
}

/// What an entry in error says. It names its member by its number alone: what is looked for by tokens was done.
fn said(token: &str, code: &str, wait: Option<u64>) -> String {
    let number = token.trim_start_matches("tok-");
    let wait = wait.map_or(String::new(), |wait| {
        format!(
            "<m:MessageXml><t:Value Name=\"BackOffMilliseconds\">{wait}</t:Value></m:MessageXml>"
        )
    });
    format!(
        "<m:MessageText>{number} refused</m:MessageText><m:ResponseCode>{code}</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>{wait}"
    )
}

fn entry_name(op: &str) -> String {
    match op {
        "AddDelegate" | "GetDelegate" | "RemoveDelegate" | "UpdateDelegate" => {
            "DelegateUserResponseMessageType".to_owned()
        }
        "GetMailTips" => "MailTipsResponseMessageType".to_owned(),
        _ => format!("{op}ResponseMessage"),
    }
}

fn needed(op: &str) -> String {
    match op {
        "GetItem" | "CreateItem" | "UpdateItem" | "MoveItem" | "CopyItem" | "ArchiveItem" => {
            "<m:Items/>"
        }
        "CreateAttachment" | "GetAttachment" => "<m:Attachments/>",
        _ => "",
    }
    .to_owned()
}

/// What an entry holds for a member that was done.
fn content(op: &str, member: &Member) -> String {
    let token = member.token.as_deref().unwrap_or("none");
    match op {
        "FindFolder" => format!(
            "<m:RootFolder TotalItemsInView=\"1\" IncludesLastItemInRange=\"true\"><t:Folders><t:Folder>\
             <t:FolderId Id=\"{token}\"/></t:Folder></t:Folders></m:RootFolder>"
        ),
        "FindItem" => format!(
            "<m:RootFolder TotalItemsInView=\"1\" IncludesLastItemInRange=\"true\"><t:Items><t:Message>\
             <t:ItemId Id=\"{token}\"/></t:Message></t:Items></m:RootFolder>"
        ),
        "GetFolder"
        | "CreateFolder"
        | "UpdateFolder"
        | "MoveFolder"
        | "CopyFolder"
        | "CreateManagedFolder" => format!(
            "<m:Folders><t:Folder><t:FolderId Id=\"{token}\" ChangeKey=\"new-{token}\"/></t:Folder></m:Folders>"
        ),
        "UploadItems" => format!("<m:ItemId Id=\"{token}\" ChangeKey=\"new\"/>"),
        "ExportItems" => format!("<m:ItemId Id=\"{token}\"/><m:Data>QUJD</m:Data>"),
        "ConvertId" => format!(
            "<m:AlternateId xsi:type=\"t:AlternateIdType\" Format=\"HexEntryId\" Id=\"{token}\" Mailbox=\"a@contoso.com\"/>"
        ),
        "GetItem" | "CreateItem" | "UpdateItem" | "MoveItem" | "CopyItem" | "ArchiveItem" => {
            let conflicts = match op {
                "UpdateItem" => "<m:ConflictResults><t:Count>0</t:Count></m:ConflictResults>",
                _ => "",
            };
            format!(
                "<m:Items><t:Message><t:ItemId Id=\"{token}\" ChangeKey=\"new-{token}\"/></t:Message></m:Items>{conflicts}"
            )
        }
        "CreateAttachment" | "GetAttachment" => {
            let root = match op {
                "CreateAttachment" => {
                    format!(" RootItemId=\"root\" RootItemChangeKey=\"after-{token}\"")
                }
                _ => String::new(),
            };
            format!(
                "<m:Attachments><t:FileAttachment><t:AttachmentId Id=\"{token}\"{root}/></t:FileAttachment></m:Attachments>"
            )
        }
        "DeleteAttachment" => {
            format!("<m:RootItemId RootItemId=\"root\" RootItemChangeKey=\"after-{token}\"/>")
        }
        "GetClientAccessToken" => format!(
            "<m:Token><t:Id>{token}</t:Id><t:TokenType>CallerIdentity</t:TokenType><t:TokenValue>x</t:TokenValue><t:TTL>60</t:TTL></m:Token>"
        ),
        "GetConversationItems" => {
            format!("<m:Conversation><t:ConversationId Id=\"{token}\"/></m:Conversation>")
        }
        "MarkAsJunk" | "ReportMessage" => format!("<m:MovedItemId Id=\"{token}\"/>"),
        "AddDelegate" | "GetDelegate" | "RemoveDelegate" | "UpdateDelegate" => format!(
            "<m:DelegateUser><t:UserId><t:PrimarySmtpAddress>{token}@contoso.com</t:PrimarySmtpAddress></t:UserId></m:DelegateUser>"
        ),
        "GetMailTips" => format!(
            "<m:MailTips><t:RecipientAddress><t:Name/><t:EmailAddress>{}@contoso.com</t:EmailAddress></t:RecipientAddress>\
             <t:PendingMailTips>All</t:PendingMailTips></m:MailTips>",
            token.to_uppercase()
        ),
        "GetUserAvailability" => {
            "<m:FreeBusyView><t:FreeBusyViewType>FreeBusy</t:FreeBusyViewType></m:FreeBusyView>"
                .to_owned()
        }
        _ => String::new(),
    }
}

/// What a response holds for all its members, for operations that response so.
fn list_items(seen: &Seen) -> Option<String> {
    let (op, members) = (&*seen.operation, &seen.members);
    let each = |write: &dyn Fn(&Member, &str) -> String| -> String {
        let items = members
            .iter()
            .map(|member| write(member, member.token.as_deref().unwrap_or("none")));
        items.collect()
    };
    Some(match op {
        "GetServerTimeZones" => format!(
            "<m:TimeZoneDefinitions>{}</m:TimeZoneDefinitions>",
            each(&|_, token| format!("<t:TimeZoneDefinition Id=\"{token}\" Name=\"x\"/>"))
        ),
        "GetSharingMetadata" => {
            let odd = |member: &Member| member.number() % 2 == 1;
            let data = each(&|member, token| match odd(member) {
                true => String::new(),
                false => {
                    let part = format!("<e:D xmlns:e=\"urn:x\">{token}</e:D>");
                    format!(
                        "<t:EncryptedSharedFolderData><t:Token>{part}</t:Token><t:Data>{part}</t:Data></t:EncryptedSharedFolderData>"
                    )
                }
            });
            let invalid = each(&|member, token| match odd(member) {
                true => format!(
                    "<t:InvalidRecipient><t:SmtpAddress>{token}@contoso.com</t:SmtpAddress><t:ResponseCode>OtherError</t:ResponseCode></t:InvalidRecipient>"
                ),
                false => String::new(),
            });
            // Empty ones in either of the two ways.
            let data = match &*data {
                "" => "<m:EncryptedSharedFolderDataCollection />".to_owned(),
                data => format!(
                    "<m:EncryptedSharedFolderDataCollection>{data}</m:EncryptedSharedFolderDataCollection>"
                ),
            };
            format!("{data}<m:InvalidRecipients>{invalid}</m:InvalidRecipients>")
        }
        "GetNonIndexableItemStatistics" => format!(
            "<m:NonIndexableItemStatistics>{}</m:NonIndexableItemStatistics>",
            each(&|_, token| format!(
                "<t:NonIndexableItemStatistic><t:Mailbox>{token}</t:Mailbox><t:ItemCount>1</t:ItemCount></t:NonIndexableItemStatistic>"
            ))
        ),
        "GetImItems" => {
            let groups = each(&|member, token| match &*member.container {
                "GroupIds" => format!(
                    "<t:ImGroup><t:DisplayName>{token}</t:DisplayName><t:GroupType>x</t:GroupType></t:ImGroup>"
                ),
                _ => String::new(),
            });
            let personas = each(&|member, token| match &*member.container {
                "ContactIds" => {
                    format!("<t:Persona><t:PersonaId Id=\"{token}\"/></t:Persona>")
                }
                _ => String::new(),
            });
            // What is empty is left out.
            let list = |name: &str, inside: String| match &*inside {
                "" => String::new(),
                inside => format!("<t:{name}>{inside}</t:{name}>"),
            };
            format!(
                "<m:ImItemList>{}{}</m:ImItemList>",
                list("Groups", groups),
                list("Personas", personas)
            )
        }
        "PerformReminderAction" => format!(
            "<m:UpdatedItemIds>{}</m:UpdatedItemIds>",
            each(&|_, token| format!("<t:ItemId Id=\"{token}\"/>"))
        ),
        "GetAppManifests" => {
            // Base64 of a token, and the token itself.
            let manifest = |token: &str| format!("dG9r{}<!-- {token} -->", &token[4..]);
            let custom = "IncludeCustomAppsData";
            if seen.children.iter().any(|child| child == custom) {
                let apps = each(&|_, token| {
                    let manifest = manifest(token);
                    format!(
                        "\n<t:App><t:Metadata><t:AppStatus>{token}</t:AppStatus></t:Metadata><t:Manifest>{manifest}</t:Manifest></t:App>"
                    )
                });
                let metadata =
                    "<t:Metadata><t:CustomApps>of the mailbox</t:CustomApps></t:Metadata>";
                format!("<m:Apps>{apps}\n{metadata}</m:Apps>")
            } else {
                format!(
                    "<m:Manifests>{}</m:Manifests>",
                    each(&|_, token| format!("<m:Manifest>{}</m:Manifest>", manifest(token)))
                )
            }
        }
        _ => return None,
    })
}
