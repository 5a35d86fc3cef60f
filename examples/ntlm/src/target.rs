//! [`Target`]: what a connection is for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::uri::Authority;
use http::{HeaderValue, Request};
use sspi::{AuthIdentity, Username};
use tower::BoxError;

/// A server, and the credential that its connections belong to. The credential is the whole header: other connections are made
/// after a change of the password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub is_tls: bool,
    pub authority: Authority,
    credential: HeaderValue,
}

impl Target {
    /// Takes the credential off `request`.
    pub(crate) fn of<B>(request: &mut Request<B>) -> Result<Self, BoxError> {
        let credential = request.headers_mut().remove(AUTHORIZATION);
        let credential = credential.ok_or("a request without credentials")?;
        let authority = request.uri().authority().ok_or("a URL without a host")?;
        Ok(Self {
            is_tls: request.uri().scheme_str() == Some("https"),
            authority: authority.clone(),
            credential,
        })
    }

    pub(crate) fn identity(&self) -> Result<AuthIdentity, BoxError> {
        let value = self.credential.to_str()?;
        let basic = value
            .strip_prefix("Basic ")
            .ok_or("the credentials of NTLM are a user and a password, as in `Basic`")?;
        let text = String::from_utf8(STANDARD.decode(basic)?)?;
        let (user, password) = text.split_once(':').ok_or("no password")?;
        Ok(AuthIdentity {
            username: Username::parse(user)?,
            password: password.to_owned().into(),
        })
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}
