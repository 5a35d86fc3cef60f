//! [`Client`]: the inner service of a layer that sends several requests for one, without its types.

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tower::util::BoxCloneService;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use super::replay::ReplayBody;

/// What a box costs is little beside a request.
pub(crate) type Client = BoxCloneService<Request<ReplayBody>, Response<ClientBody>, BoxError>;

pub(crate) type ClientBody = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) fn client<S, B>(service: S) -> Client
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let service = service.map_response(|response: Response<B>| response.map(boxed));
    BoxCloneService::new(service.map_err(Into::into))
}

/// Reads a body of at most `most` bytes to its end.
#[cfg(feature = "ews")]
pub(crate) async fn read_all(mut body: ClientBody, most: usize) -> Result<Bytes, BoxError> {
    let mut read = bytes::BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if read.len() + data.len() > most {
                return Err(format!("the response is longer than {most} bytes").into());
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(read.freeze())
}

fn boxed<B>(body: B) -> ClientBody
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    // Nothing is copied if the data are `Bytes` already.
    let body =
        body.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())));
    body.map_err(Into::into).boxed_unsync()
}
