//! The server of the tables as a service, in virtual time; and what two responses are compared by.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use quick_xml::events::Event;
use quick_xml::name::{QName, ResolveResult};
use quick_xml::reader::NsReader;
use tower::{BoxError, Service};
use tower_ews::body::ReplayBody;

use super::Seen;

/// What the server says to one request.
#[derive(Clone, Debug)]
pub enum Reply {
    Xml(u16, String),
    /// The connection breaks.
    Lost,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Its size hint, which is what a client makes the `Content-Length` of.
    pub promised: Option<u64>,
}

type Responding = dyn FnMut(usize, &Seen) -> Reply + Send;

/// Responds to each request as a function says, which is given the number of the request and what it says. Each response has its
/// number in the header `x-number`, comes after a while, and in pieces.
#[derive(Clone)]
pub struct TableServer {
    responding: Arc<Mutex<Box<Responding>>>,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: fastrand::Rng,
    got: Vec<Got>,
    at_once: usize,
    most_at_once: usize,
}

pub type TableBody =
    StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

impl TableServer {
    pub fn new(seed: u64, responding: impl FnMut(usize, &Seen) -> Reply + Send + 'static) -> Self {
        let state = State {
            rng: fastrand::Rng::with_seed(seed),
            got: Vec::new(),
            at_once: 0,
            most_at_once: 0,
        };
        Self {
            responding: Arc::new(Mutex::new(Box::new(responding))),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What came, in order.
    pub fn got(&self) -> Vec<Got> {
        self.state.lock().unwrap().got.clone()
    }

    /// How many requests it had at the same time.
    pub fn most_at_once(&self) -> usize {
        self.state.lock().unwrap().most_at_once
    }
}

impl Service<Request<ReplayBody>> for TableServer {
    type Response = Response<TableBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let server = self.clone();
        let promised = request.body().size_hint().exact();
        let (head, body) = request.into_parts();
        let body = body.to_bytes();
        let (number, wait, mut chop) = {
            let state = &mut *server.state.lock().unwrap();
            state.got.push(Got {
                method: head.method,
                uri: head.uri,
                headers: head.headers,
                body: body.clone(),
                promised,
            });
            state.at_once += 1;
            state.most_at_once = state.most_at_once.max(state.at_once);
            let wait = Duration::from_millis(state.rng.u64(1..50));
            (state.got.len() - 1, wait, state.rng.fork())
        };
        let reply = (server.responding.lock().unwrap())(number, &Seen::read(&body));
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            server.state.lock().unwrap().at_once -= 1;
            let Reply::Xml(status, text) = reply else {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
            };
            let pieces = match number % 2 {
                0 => vec![Bytes::from(text)],
                _ => chopped(text.as_bytes(), &mut chop),
            };
            let length: usize = pieces.iter().map(Bytes::len).sum();
            let frames: Vec<_> = pieces.into_iter().map(Frame::data).map(Ok).collect();
            let response = Response::builder()
                .status(StatusCode::from_u16(status)?)
                .header("content-type", "text/xml; charset=utf-8")
                .header("content-length", length)
                .header("content-md5", "Q2hlY2sgSW50ZWdyaXR5IQ==")
                .header("x-number", number)
                .body(StreamBody::new(futures_util::stream::iter(frames)))?;
            Ok(response)
        })
    }
}

/// In pieces of random sizes.
pub fn chopped(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<Bytes> {
    let bytes = Bytes::copy_from_slice(bytes);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + random.usize(1..200));
        pieces.push(bytes.slice(at..end));
        at = end;
    }
    pieces
}

/// What a document says, whatever its prefixes: its elements, attributes and texts, one a line. White space between elements,
/// comments and declarations say nothing. Panics if it is not well-formed, or a prefix is bound to nothing.
pub fn meaning(text: &str) -> Vec<String> {
    let mut reader = NsReader::from_str(text);
    let mut lines = Vec::new();
    let mut depth = 0;
    let bound = |space: ResolveResult<'_>, of: &[u8]| match space {
        ResolveResult::Bound(space) => String::from_utf8(space.as_ref().to_vec()).unwrap(),
        ResolveResult::Unbound => String::new(),
        ResolveResult::Unknown(prefix) => {
            panic!("{prefix:?} of {} in {text}", String::from_utf8_lossy(of))
        }
    };
    loop {
        let event = reader
            .read_event()
            .unwrap_or_else(|error| panic!("{error} in {text}"));
        let (start, empty) = match event {
            Event::Start(start) => (start, false),
            Event::Empty(start) => (start, true),
            Event::End(_) => {
                depth -= 1;
                continue;
            }
            Event::Text(text) => {
                let text = String::from_utf8(text.to_vec()).unwrap();
                if !text.trim().is_empty() {
                    lines.push(format!("{depth} {text:?}"));
                }
                continue;
            }
            Event::CData(text) => {
                lines.push(format!("{depth} {:?}", String::from_utf8_lossy(&text)));
                continue;
            }
            Event::GeneralRef(name) => {
                lines.push(format!("{depth} &{};", String::from_utf8_lossy(&name)));
                continue;
            }
            Event::Eof => break,
            _ => continue,
        };
        let (space, local) = reader.resolver().resolve_element(start.name());
        let space = bound(space, &start);
        let local = String::from_utf8(local.as_ref().to_vec()).unwrap();
        let mut attributes = Vec::new();
        let mut names = HashSet::new();
        for attribute in start.attributes() {
            let attribute = attribute.expect("no attribute twice");
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let (space, local) = reader.resolver().resolve_attribute(attribute.key);
            let name = format!(
                "{{{}}}{}",
                bound(space, &start),
                String::from_utf8_lossy(local.as_ref())
            );
            let value = match name.ends_with("instance}type") {
                true => {
                    let (space, local) = reader.resolver().resolve_element(QName(&attribute.value));
                    let local = String::from_utf8_lossy(local.as_ref());
                    format!("{{{}}}{local}", bound(space, &start))
                }
                false => String::from_utf8(attribute.value.to_vec()).unwrap(),
            };
            assert!(names.insert(name.clone()), "{name} twice");
            attributes.push(format!("{name}={value:?}"));
        }
        attributes.sort();
        lines.push(format!(
            "{depth} {{{space}}}{local} {}",
            attributes.join(" ")
        ));
        depth += usize::from(!empty);
    }
    assert_eq!(depth, 0, "{text}");
    lines
}
