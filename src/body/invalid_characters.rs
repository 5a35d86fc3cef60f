//! [`InvalidCharacters`]: what happens to a request that no XML reader takes.

use super::replay::ReplayBody;
use crate::soap::InvalidCharacter;
use crate::soap::characters::replaced;

/// What happens to a SOAP request with characters that XML does not allow: most control characters, U+FFFE and U+FFFF, as
/// themselves or as references (`&#x0;`).
///
/// They come from the subjects and names that people paste. A server refuses all of a request for one of them, so that one
/// member of a batch costs the others. A body that is no SOAP request passes in any case.
///
/// ```
/// use http::Request;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_ews::body::{BufferRequestError, BufferRequestLayer, InvalidCharacters, ReplayBody};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(BufferRequestLayer::default().invalid_characters(InvalidCharacters::Refuse))
///     .service(service_fn(async |_: Request<ReplayBody>| Ok::<_, tower::BoxError>(())));
/// let body = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///   <GetItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages">
///     <ItemIds><ItemId Id="AAMk1"/><ItemId Id="&#x0;"/></ItemIds>
///   </GetItem></s:Body></s:Envelope>"#;
/// let error = service.oneshot(Request::new(ReplayBody::from(body))).await.unwrap_err();
/// match error.downcast_ref() {
///     Some(BufferRequestError::InvalidCharacter(found)) => assert_eq!(found.member, Some(1)),
///     _ => panic!("{error}"),
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidCharacters {
    /// It is sent as it is, without a look.
    #[default]
    Pass,
    /// It is not sent, and ends in an error that names the member.
    Refuse,
    /// Each of them is replaced by U+FFFD, the replacement character.
    Replace,
}

impl InvalidCharacters {
    pub(super) fn check(self, body: ReplayBody) -> Result<ReplayBody, InvalidCharacter> {
        if self == InvalidCharacters::Pass {
            return Ok(body);
        }
        let Ok(outline) = body.outline() else {
            return Ok(body);
        };
        let bytes = body.to_bytes();
        match outline.invalid_character(&bytes) {
            None => Ok(body),
            Some(found) if self == InvalidCharacters::Refuse => Err(found),
            Some(_) => Ok(replaced(&bytes).map_or(body, ReplayBody::new)),
        }
    }
}
