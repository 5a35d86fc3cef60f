//! The channel binding `tls-server-end-point` (RFC 5929): a login is worth nothing on another TLS connection than its own. Exchange
//! refuses logins without it where Extended Protection is required, the default since Exchange 2019 CU14.

use picky_asn1_x509::{Certificate, oids};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tower::BoxError;

/// Returns what is bound to, by the server's own certificate in DER.
pub(crate) fn server_end_point(certificate: &[u8]) -> Result<Vec<u8>, BoxError> {
    let parsed: Certificate = picky_asn1_der::from_bytes(certificate)?;
    let algorithm: String = parsed.signature_algorithm.oid().into();
    let hash = match algorithm.as_str() {
        oids::SHA384_WITH_RSA_ENCRYPTION | oids::ECDSA_WITH_SHA384 => {
            Sha384::digest(certificate).to_vec()
        }
        oids::SHA512_WITH_RSA_ENCRYPTION | oids::ECDSA_WITH_SHA512 => {
            Sha512::digest(certificate).to_vec()
        }
        // SHA-256 stands for MD5 and SHA-1, too. RSASSA-PSS names its hash elsewhere, and is nearly always used with this one.
        _ => Sha256::digest(certificate).to_vec(),
    };
    Ok([b"tls-server-end-point:", hash.as_slice()].concat())
}
