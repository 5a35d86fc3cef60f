//! [`Check`]: the server's side of NTLM. sspi checks the password; who it is and what the login is bound to is read here, since
//! sspi takes a login without a binding or without a signature (MIC).

use std::collections::HashMap;

use md5::{Digest, Md5};
use sspi::{
    AuthIdentity, BufferType, CredentialUse, DataRepresentation, Ntlm, SecurityBuffer,
    ServerRequestFlags, Sspi, SspiImpl, Username,
};
use tower::BoxError;

/// In the AUTHENTICATE message ([MS-NLMP] 2.2.1.3): where the fields of the domain and of the user are.
const DOMAIN: usize = 28;
const USER: usize = 36;

/// Pairs of the login's target information ([MS-NLMP] 2.2.2.1): flags that announce a MIC, and the hash of the binding.
const MIC_ANNOUNCED: &[u8] = &[6, 0, 4, 0, 2, 0, 0, 0];
const BINDING: &[u8] = &[10, 0, 16, 0];

pub(super) struct Check {
    ntlm: Ntlm,
    accounts: HashMap<String, String>,
}

impl Check {
    pub(super) fn new(accounts: HashMap<String, String>) -> Self {
        let ntlm = Ntlm::new();
        Self { ntlm, accounts }
    }

    pub(super) fn challenge(&mut self, negotiate: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.step(negotiate, None)
    }

    /// Returns whose login it is, if it is right.
    pub(super) fn account(mut self, authenticate: &[u8], binding: &[u8]) -> Option<String> {
        let user = text(authenticate, USER)?;
        let account = match text(authenticate, DOMAIN)?.as_str() {
            "" => user,
            domain => format!("{domain}\\{user}"),
        };
        let identity = AuthIdentity {
            username: Username::parse(&account).ok()?,
            password: self.accounts.get(&account)?.clone().into(),
        };
        let bound = [BINDING, &binding_hash(binding)].concat();
        if !contains(authenticate, &bound) || !contains(authenticate, MIC_ANNOUNCED) {
            return None;
        }
        self.step(authenticate, Some(&identity)).ok()?;
        self.ntlm.complete_auth_token(&mut []).ok()?;
        Some(account)
    }

    fn step(&mut self, token: &[u8], identity: Option<&AuthIdentity>) -> Result<Vec<u8>, BoxError> {
        let ntlm = &mut self.ntlm;
        let mut acquired = match identity {
            Some(identity) => ntlm
                .acquire_credentials_handle()
                .with_credential_use(CredentialUse::Inbound)
                .with_auth_data(identity)
                .execute(ntlm)?,
            None => ntlm
                .acquire_credentials_handle()
                .with_credential_use(CredentialUse::Inbound)
                .execute(ntlm)?,
        };
        let mut input = [SecurityBuffer::new(token.to_vec(), BufferType::Token)];
        let mut output = [SecurityBuffer::new(Vec::new(), BufferType::Token)];
        let step = ntlm
            .accept_security_context()
            .with_credentials_handle(&mut acquired.credentials_handle)
            .with_context_requirements(ServerRequestFlags::empty())
            .with_target_data_representation(DataRepresentation::Native)
            .with_input(&mut input)
            .with_output(&mut output);
        ntlm.accept_security_context_impl(step)?
            .resolve_to_result()?;
        let [token] = output;
        Ok(token.buffer)
    }
}

/// Reads a text of the message: its length at `field`, its place four bytes later.
fn text(message: &[u8], field: usize) -> Option<String> {
    let number = |at: usize, size: usize| {
        let mut bytes = [0; 4];
        bytes[..size].copy_from_slice(message.get(at..at + size)?);
        Some(u32::from_le_bytes(bytes) as usize)
    };
    let (length, place) = (number(field, 2)?, number(field + 4, 4)?);
    let bytes = message.get(place..place.checked_add(length)?)?;
    let units = bytes
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    String::from_utf16(&units.collect::<Vec<_>>()).ok()
}

/// The hash that a login carries: of the binding as GSS-API has it, with no addresses.
fn binding_hash(binding: &[u8]) -> Vec<u8> {
    let length = u32::try_from(binding.len()).expect("a short binding");
    let mut hash = Md5::new();
    hash.update([0; 16]);
    hash.update(length.to_le_bytes());
    hash.update(binding);
    hash.finalize().to_vec()
}

fn contains(message: &[u8], bytes: &[u8]) -> bool {
    message.windows(bytes.len()).any(|window| window == bytes)
}
