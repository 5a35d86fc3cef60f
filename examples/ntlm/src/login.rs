//! [`Login`]: the client's side of NTLM, by sspi.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use sspi::{
    AuthIdentity, AuthIdentityBuffers, BufferType, ClientRequestFlags, CredentialUse,
    DataRepresentation, Ntlm, SecurityBuffer, Sspi, SspiImpl,
};
use tower::BoxError;

/// One login of one connection.
pub(crate) struct Login {
    ntlm: Ntlm,
    credentials: Option<AuthIdentityBuffers>,
}

impl Login {
    pub(crate) fn new(identity: &AuthIdentity, binding: Option<&[u8]>) -> Result<Self, BoxError> {
        let mut ntlm = Ntlm::new();
        if let Some(binding) = binding {
            ntlm.set_channel_bindings(binding);
        }
        let acquired = ntlm
            .acquire_credentials_handle()
            .with_credential_use(CredentialUse::Outbound)
            .with_auth_data(identity)
            .execute(&mut ntlm)?;
        Ok(Self {
            ntlm,
            credentials: acquired.credentials_handle,
        })
    }

    /// Returns the `Authorization` of the first leg, or, given the server's challenge, of the second one.
    pub(crate) fn step(&mut self, challenge: Vec<u8>) -> Result<HeaderValue, BoxError> {
        let mut input = [SecurityBuffer::new(challenge, BufferType::Token)];
        let mut output = [SecurityBuffer::new(Vec::new(), BufferType::Token)];
        let mut step = self
            .ntlm
            .initialize_security_context()
            .with_credentials_handle(&mut self.credentials)
            // Nothing is signed or sealed: TLS does that.
            .with_context_requirements(ClientRequestFlags::empty())
            .with_target_data_representation(DataRepresentation::Native)
            .with_input(&mut input)
            .with_output(&mut output);
        self.ntlm
            .initialize_security_context_impl(&mut step)?
            .resolve_to_result()?;
        let mut value =
            HeaderValue::try_from(format!("NTLM {}", STANDARD.encode(&output[0].buffer)))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Returns the server's challenge, if there is one among what it offers.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<Vec<u8>> {
    let offers = headers.get_all(WWW_AUTHENTICATE).iter();
    offers
        .filter_map(|offer| offer.to_str().ok())
        .find_map(|offer| {
            let (scheme, token) = offer.split_once(' ')?;
            let is_ntlm = scheme.eq_ignore_ascii_case("ntlm");
            is_ntlm.then(|| STANDARD.decode(token.trim()).ok())?
        })
}
