//! Searches without a view of their own, and responses that come in pages: what is sent, and what the caller gets.

mod find_paging {
    pub(crate) mod follow;
    pub(crate) mod random;
    pub(crate) mod requests;
    pub(crate) mod server;
    pub(crate) mod stack;
    pub(crate) mod sync;
}
mod schema;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::body::ReplayBody;
use tower_ews::find_paging::{FindPagingLayer, PagedBody, Paging, PagingError};

use self::find_paging::server::{Body as ServerBody, MESSAGES, Server, TYPES};

/// An envelope around the body of a request, with the prefixes `m` and `t`.
pub(crate) fn envelope(body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:m=\"{MESSAGES}\" xmlns:t=\"{TYPES}\"><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// A FindItem over these folders.
pub(crate) fn find_item(folders: &[usize]) -> String {
    let folders: String = folders
        .iter()
        .map(|folder| format!("<t:FolderId Id=\"f{folder}\"/>"))
        .collect();
    envelope(&format!(
        "<m:FindItem Traversal=\"Shallow\"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:ParentFolderIds>{folders}</m:ParentFolderIds></m:FindItem>"
    ))
}

pub(crate) type PagedResponse = Response<PagedBody<ServerBody>>;

pub(crate) fn request(body: &str, paging: Option<Paging>) -> Request<ReplayBody> {
    let mut request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .header("content-length", body.len())
        .body(ReplayBody::from(body.to_owned()))
        .unwrap();
    if let Some(paging) = paging {
        request.extensions_mut().insert(paging);
    }
    request
}

pub(crate) async fn send(
    layer: &FindPagingLayer,
    server: &Server,
    body: &str,
) -> Result<PagedResponse, BoxError> {
    layer
        .layer(server.clone())
        .oneshot(request(body, None))
        .await
}

/// Layers whose pages are followed.
pub(crate) fn follow() -> FindPagingLayer {
    FindPagingLayer::new()
        .default_paging(Paging::all_pages())
        .seed(1)
}

pub(crate) async fn text<B>(response: Response<B>) -> Result<String, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let bytes = response.into_body().collect().await.map_err(Into::into)?;
    Ok(String::from_utf8(bytes.to_bytes().to_vec()).unwrap())
}

/// Reads a body as far as it comes: its text, and the error at its end.
pub(crate) async fn text_and_error(response: PagedResponse) -> (String, Option<BoxError>) {
    let mut body = response.into_body();
    let mut text = Vec::new();
    loop {
        match body.frame().await {
            None => return (String::from_utf8(text).unwrap(), None),
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().unwrap()),
            Some(Err(error)) => return (String::from_utf8(text).unwrap(), Some(error)),
        }
    }
}

pub(crate) fn paging_error(error: &BoxError) -> &PagingError {
    error.downcast_ref().unwrap_or_else(|| panic!("{error:?}"))
}

pub(crate) fn ids(folder: usize, items: std::ops::Range<usize>) -> Vec<String> {
    items.map(|item| format!("{folder}-{item}")).collect()
}
