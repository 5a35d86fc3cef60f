//! A scripted server for FindItem, FindFolder and the synchronisations: folders of numbered entries, in pages of any size,
//! with faults between them. It reads requests with a plain XML parser.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use tower::{BoxError, Service};
use tower_ews::body::ReplayBody;

pub(crate) const MESSAGES: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";
pub(crate) const TYPES: &str = "http://schemas.microsoft.com/exchange/services/2006/types";

/// What a request asks for, as a server reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) operation: String,
    /// Local names of the operation's children.
    pub(crate) children: Vec<String>,
    pub(crate) offset: Option<usize>,
    pub(crate) size: Option<usize>,
    pub(crate) folders: Vec<usize>,
    pub(crate) state: String,
}

/// Reads a request. Panics at what is no well-formed XML.
pub(crate) fn read(body: &str) -> Asked {
    let mut reader = NsReader::from_str(body);
    let mut asked = Asked::default();
    let mut path: Vec<String> = Vec::new();
    loop {
        let (space, event) = reader.read_resolved_event().unwrap();
        let in_messages =
            space == ResolveResult::Bound(quick_xml::name::Namespace(MESSAGES.as_bytes()));
        let (start, empty) = match &event {
            Event::Start(start) => (start, false),
            Event::Empty(start) => (start, true),
            Event::End(_) => {
                path.pop();
                continue;
            }
            Event::Text(text) if path.last().is_some_and(|name| name == "SyncState") => {
                asked.state += text.decode().unwrap().trim();
                continue;
            }
            Event::Eof => return asked,
            _ => continue,
        };
        let name = String::from_utf8(start.local_name().as_ref().to_vec()).unwrap();
        let attribute = |name: &str| {
            let attribute = start.try_get_attribute(name).unwrap()?;
            Some(String::from_utf8(attribute.value.to_vec()).unwrap())
        };
        match path.len() {
            2 => asked.operation.clone_from(&name),
            3 => {
                assert!(in_messages, "{name} in {body}");
                asked.children.push(name.clone());
                if name.starts_with("IndexedPage") {
                    assert_eq!(attribute("BasePoint").as_deref(), Some("Beginning"));
                    asked.offset = attribute("Offset").map(|offset| offset.parse().unwrap());
                    asked.size = attribute("MaxEntriesReturned").map(|size| size.parse().unwrap());
                }
            }
            4 if matches!(&*path[3], "ParentFolderIds") => {
                let id = attribute("Id").unwrap();
                asked
                    .folders
                    .push(id.trim_start_matches('f').parse().unwrap());
            }
            _ => {}
        }
        if !empty {
            path.push(name);
        }
    }
}

/// What happens to one call.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// A page with a bounded number of entries.
    Page(usize),
    /// The entries of the page, then the connection breaks: after this share of the bytes, in percent.
    Breaks(usize),
    /// The response ends after this share of the bytes, in percent, as if it were whole.
    EndsEarly(usize),
    /// The call fails.
    Fails,
    /// An error in the response message.
    Error(&'static str),
    /// A SOAP fault with HTTP 500.
    Fault(&'static str),
    /// No SOAP, with HTTP 200.
    NoSoap,
    /// Never responds.
    Hangs,
    /// A page with no entry, that is not the last one.
    Empty,
    /// The first page, whatever offset was asked for.
    Restarts,
    /// These bytes.
    Raw(String),
}

pub(crate) type Body = BoxBody<Bytes, BoxError>;

#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<State>>);

pub(crate) struct State {
    /// How many entries each folder has.
    pub(crate) folders: Vec<usize>,
    /// What happens to the next calls; then all goes well.
    pub(crate) turns: VecDeque<Turn>,
    /// The largest page.
    pub(crate) limit: usize,
    pub(crate) requests: Vec<String>,
    pub(crate) heads: Vec<http::request::Parts>,
    /// How the prefixes of a response are written: by the number of the call.
    pub(crate) style: fn(usize) -> Style,
    /// Leaves `IndexedPagingOffset` out.
    pub(crate) no_next: bool,
    pub(crate) took: Duration,
    pub(crate) keep_requests: bool,
}

/// How a response is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Exchange,
    OtherPrefixes,
    DefaultNamespaces,
}

impl Server {
    pub(crate) fn new(folders: &[usize]) -> Server {
        Server(Arc::new(Mutex::new(State {
            folders: folders.to_vec(),
            turns: VecDeque::new(),
            limit: 1000,
            requests: Vec::new(),
            heads: Vec::new(),
            style: |_| Style::Exchange,
            no_next: false,
            took: Duration::ZERO,
            keep_requests: true,
        })))
    }

    pub(crate) fn set(self, set: impl FnOnce(&mut State)) -> Server {
        set(&mut self.0.lock().unwrap());
        self
    }

    pub(crate) fn turns(self, turns: impl IntoIterator<Item = Turn>) -> Server {
        self.set(|state| state.turns.extend(turns))
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().requests.len()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.0.lock().unwrap().requests.clone()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.requests().iter().map(|body| read(body)).collect()
    }

    pub(crate) fn heads(&self) -> Vec<http::request::Parts> {
        self.0.lock().unwrap().heads.clone()
    }
}

impl Service<Request<ReplayBody>> for Server {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = futures_util::future::BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let (head, body) = request.into_parts();
        let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        let mut state = self.0.lock().unwrap();
        let turn = state.turns.pop_front();
        let number = state.requests.len();
        if state.keep_requests {
            state.requests.push(body.clone());
            state.heads.push(head);
        }
        let response = state.respond(&read(&body), turn, number);
        let took = state.took;
        drop(state);
        Box::pin(async move {
            tokio::time::sleep(took).await;
            match response {
                Some(response) => response,
                None => std::future::pending().await,
            }
        })
    }
}

fn full(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::from(text)
        .map_err(|never: Infallible| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

impl State {
    fn respond(
        &self,
        asked: &Asked,
        turn: Option<Turn>,
        number: usize,
    ) -> Option<Result<Response<Body>, BoxError>> {
        let style = (self.style)(number);
        let page = |limit| self.page(asked, limit, style);
        let ok = |text| Some(Ok(full(StatusCode::OK, text)));
        match turn.unwrap_or(Turn::Page(self.limit)) {
            Turn::Page(limit) => ok(page(limit.min(self.limit))),
            Turn::Empty => ok(page(0)),
            Turn::Restarts => {
                let asked = Asked {
                    offset: asked.offset.map(|_| 0),
                    ..asked.clone()
                };
                ok(self.page(&asked, self.limit, style))
            }
            Turn::Raw(text) => ok(text),
            Turn::Error(code) => ok(envelope(
                style,
                &asked.operation,
                &[(
                    String::from("ResponseClass=\"Error\""),
                    format!(
                        "<m:MessageText>no</m:MessageText><m:ResponseCode>{code}</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>"
                    ),
                )],
            )),
            Turn::Fault(code) => Some(Ok(full(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!(
                    "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><faultcode>a:{code}</faultcode><faultstring>no</faultstring></s:Fault></s:Body></s:Envelope>"
                ),
            ))),
            Turn::NoSoap => ok("<html>sign in</html>".to_owned()),
            Turn::Fails => Some(Err(std::io::Error::from(
                std::io::ErrorKind::ConnectionReset,
            )
            .into())),
            Turn::Hangs => None,
            Turn::Breaks(share) => {
                let text = page(self.limit);
                let part = text[..text.len() * share / 100].to_owned();
                let broken: BoxError =
                    std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
                let frames = stream::iter([Ok(Frame::data(Bytes::from(part))), Err(broken)]);
                Some(Ok(Response::new(BodyExt::boxed(StreamBody::new(frames)))))
            }
            Turn::EndsEarly(share) => {
                let text = page(self.limit);
                ok(text[..text.len() * share / 100].to_owned())
            }
        }
    }

    fn page(&self, asked: &Asked, limit: usize, style: Style) -> String {
        if asked.operation.starts_with("Sync") {
            return self.sync(asked, limit, style);
        }
        let messages: Vec<_> = asked
            .folders
            .iter()
            .map(|folder| {
                (
                    String::from("ResponseClass=\"Success\""),
                    self.found(asked, *folder, limit),
                )
            })
            .collect();
        envelope(style, &asked.operation, &messages)
    }

    fn found(&self, asked: &Asked, folder: usize, limit: usize) -> String {
        let total = self.folders[folder];
        let from = asked.offset.unwrap_or(0).min(total);
        let to = total.min(from + limit.min(asked.size.unwrap_or(usize::MAX)));
        let items: String = (from..to)
            .map(|item| entry(&asked.operation, folder, item))
            .collect();
        let container = match &*asked.operation {
            "FindItem" => "Items",
            _ => "Folders",
        };
        let next = match asked.offset.filter(|_| !self.no_next) {
            Some(_) => format!(" IndexedPagingOffset=\"{to}\""),
            None => String::new(),
        };
        let content = match &*items {
            "" => format!("<t:{container}/>"),
            items => format!("<t:{container}>{items}</t:{container}>"),
        };
        format!(
            "<m:ResponseCode>NoError</m:ResponseCode><m:RootFolder{next} TotalItemsInView=\"{total}\" IncludesLastItemInRange=\"{}\">{content}</m:RootFolder>",
            to == total
        )
    }

    fn sync(&self, asked: &Asked, limit: usize, style: Style) -> String {
        let total = self.folders[0];
        let from = asked.state.trim_start_matches('s').parse().unwrap_or(0);
        let to = total.min(from + limit);
        let what = asked.operation.trim_start_matches("Sync");
        let (last, of) = match what {
            "FolderItems" => ("IncludesLastItemInRange", "FindItem"),
            _ => ("IncludesLastFolderInRange", "FindFolder"),
        };
        let changes: String = (from..to)
            .map(|item| format!("<t:Create>{}</t:Create>", entry(of, 0, item)))
            .collect();
        let content = match &*changes {
            "" => String::from("<m:Changes/>"),
            changes => format!("<m:Changes>{changes}</m:Changes>"),
        };
        let message = format!(
            "<m:ResponseCode>NoError</m:ResponseCode><m:SyncState>s{to}</m:SyncState><m:{last}>{}</m:{last}>{content}",
            to == total
        );
        envelope(
            style,
            &asked.operation,
            &[(String::from("ResponseClass=\"Success\""), message)],
        )
    }
}

fn entry(operation: &str, folder: usize, item: usize) -> String {
    match operation {
        "FindItem" => format!(
            "<t:Message><t:ItemId Id=\"{folder}-{item}\"/><t:Subject>a &lt; b</t:Subject></t:Message>"
        ),
        _ => format!("<t:Folder><t:FolderId Id=\"{folder}-{item}\"/></t:Folder>"),
    }
}

/// A response with these messages, each with its attributes. Written with the prefixes `m` and `t`, and then as the style has
/// it.
fn envelope(style: Style, operation: &str, messages: &[(String, String)]) -> String {
    let messages: String = messages
        .iter()
        .map(|(attributes, inside)| {
            format!(
                "<m:{operation}ResponseMessage {attributes}>{inside}</m:{operation}ResponseMessage>"
            )
        })
        .collect();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
         <m:{operation}Response xmlns:m=\"{MESSAGES}\" xmlns:t=\"{TYPES}\"><m:ResponseMessages>{messages}</m:ResponseMessages></m:{operation}Response></s:Body></s:Envelope>"
    );
    match style {
        Style::Exchange => text,
        Style::OtherPrefixes => text
            .replace("<m:", "<x:")
            .replace("</m:", "</x:")
            .replace("xmlns:m", "xmlns:x")
            .replace("<t:", "<m:")
            .replace("</t:", "</m:")
            .replace("xmlns:t", "xmlns:m"),
        Style::DefaultNamespaces => text
            .replace("<t:", "<")
            .replace("</t:", "</")
            .replace("xmlns:t", "xmlns"),
    }
}

/// What a caller reads of a response. Panics at what is no well-formed XML, or is in a wrong namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The ids of each message.
    pub(crate) messages: Vec<Vec<String>>,
    /// The attributes of each `RootFolder`.
    pub(crate) folders: Vec<String>,
    pub(crate) codes: Vec<String>,
    pub(crate) state: String,
    pub(crate) last: String,
}

pub(crate) fn reply(body: &str) -> Reply {
    let mut reader = NsReader::from_str(body);
    let mut response = Reply::default();
    let mut path: Vec<String> = Vec::new();
    loop {
        let (space, event) = reader
            .read_resolved_event()
            .unwrap_or_else(|error| panic!("{error} in {body}"));
        let space = match space {
            ResolveResult::Bound(space) => String::from_utf8(space.0.to_vec()).unwrap(),
            _ => String::new(),
        };
        let (start, empty) = match &event {
            Event::Start(start) => (start, false),
            Event::Empty(start) => (start, true),
            Event::End(_) => {
                path.pop();
                continue;
            }
            Event::Text(text) => {
                let text = text.decode().unwrap().into_owned();
                match path.last().map(String::as_str) {
                    Some("SyncState") => response.state += &text,
                    Some("ResponseCode") => response.codes.push(text),
                    Some(name) if name.starts_with("IncludesLast") => response.last += &text,
                    _ => {}
                }
                continue;
            }
            Event::Eof => {
                assert!(path.is_empty(), "{body}");
                return response;
            }
            _ => continue,
        };
        let name = String::from_utf8(start.local_name().as_ref().to_vec()).unwrap();
        match path.len() {
            3..=4 => assert_eq!(space, MESSAGES, "{name} in {body}"),
            6.. if !name.ends_with("SyncState") && path.len() > 6 => {
                assert_eq!(space, TYPES, "{name} in {body}");
            }
            _ => {}
        }
        if name.ends_with("ResponseMessage") {
            response.messages.push(Vec::new());
        }
        if name == "RootFolder" {
            let attributes = start.attributes().map(|attribute| {
                let attribute = attribute.unwrap();
                let of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                format!("{}={}", of(attribute.key.as_ref()), of(&attribute.value))
            });
            let attributes: Vec<_> = attributes.collect();
            response.folders.push(attributes.join(" "));
        }
        if matches!(&*name, "ItemId" | "FolderId") {
            let id = start.try_get_attribute("Id").unwrap().unwrap();
            let id = String::from_utf8(id.value.to_vec()).unwrap();
            response.messages.last_mut().unwrap().push(id);
        }
        if !empty {
            path.push(name);
        }
    }
}
