//! What a response says of the account that made the call: by its status, and on EWS by its response codes.

use bytes::Bytes;
use http::StatusCode;

use crate::errors::LeftOutReason;

/// What kind of responses the server gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Http,
    #[cfg(feature = "ews")]
    Ews,
}

/// HTTP 456, with which Exchange Online says that an account is locked.
const ACCOUNT_LOCKED: u16 = 456;

/// How much of a body is read that has begun to tell of an account.
const MAX_READ: usize = 1024 * 1024;

/// How sure a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is the account.
    Account(LeftOutReason),
    /// It is the account, or the mailbox: another account shows which.
    AccountOrMailbox(LeftOutReason),
}

/// What the head of a response says.
pub(super) fn by_head(status: StatusCode) -> Option<Refusal> {
    match status {
        StatusCode::UNAUTHORIZED => Some(Refusal::Account(LeftOutReason::Refused)),
        status if status.as_u16() == ACCOUNT_LOCKED => {
            Some(Refusal::Account(LeftOutReason::Locked))
        }
        _ => None,
    }
}

/// Whether a response that refuses no account shows that it works. A proxy, or a server that is busy, has not looked at it.
pub(super) fn tells_of_account(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The beginning of a body, until it is known whether it tells of the account.
#[derive(Debug)]
pub(super) struct BodyReader {
    /// Whether it is read on though it has not begun to tell of an account.
    is_fault: bool,
    seen: Vec<u8>,
}

impl BodyReader {
    /// Reads a body only where it may tell of the account.
    pub(super) fn of(api: Api, status: StatusCode) -> Option<Self> {
        let reads = match api {
            Api::Http => false,
            #[cfg(feature = "ews")]
            Api::Ews => matches!(status, StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR),
        };
        reads.then(|| Self {
            is_fault: status == StatusCode::INTERNAL_SERVER_ERROR,
            seen: Vec::new(),
        })
    }

    /// Takes a piece. Returns whether more is needed: all of it, if the first piece names a code of an account; else the rest of a
    /// fault, which is short. Nothing more is read than needed: the end of a body gives permits back.
    pub(super) fn push(&mut self, data: &Bytes) -> bool {
        if self.seen.len() + data.len() > MAX_READ {
            self.seen.clear();
            return false;
        }
        self.seen.extend_from_slice(data);
        let last_tag = memchr::memrchr(b'<', &self.seen).and_then(|at| self.seen.get(at..));
        let ends = last_tag.is_some_and(|tag| {
            tag.starts_with(b"</") && tag.trim_ascii_end().ends_with(b"Envelope>")
        });
        !ends && (self.is_fault || codes::may_be_named(&self.seen))
    }

    /// Says what the body tells, once all that is needed has come.
    pub(super) fn end(&self) -> Option<Refusal> {
        codes::read(&self.seen).map(Refusal::AccountOrMailbox)
    }
}

#[cfg(feature = "ews")]
mod codes {
    use memchr::memmem;

    use crate::errors::LeftOutReason;
    use crate::soap::{ResponseCode, ResponseMessage, SoapResponse};

    /// ("ResponseCode", Exchange Web Services reference; the suspended ones from the schema of Subscription Edition.)
    fn reason(code: &ResponseCode) -> Option<LeftOutReason> {
        match code.as_str() {
            "ErrorAccountDisabled"
            | "ErrorAccountSuspend"
            | "ErrorAccountSuspendShowTierUpgrade" => Some(LeftOutReason::Disabled),
            "ErrorPasswordExpired" | "ErrorPasswordChangeRequired" => {
                Some(LeftOutReason::PasswordExpired)
            }
            _ => None,
        }
    }

    pub(super) fn may_be_named(body: &[u8]) -> bool {
        let names = |name: &str| memmem::find(body, name.as_bytes()).is_some();
        names("ErrorAccount") || names("ErrorPassword")
    }

    /// A fault, or a response whose every member was refused for the account or stopped by one that was.
    pub(super) fn read(body: &[u8]) -> Option<LeftOutReason> {
        if !may_be_named(body) {
            return None;
        }
        let response = SoapResponse::parse(body).ok()?;
        if let Some(fault) = response.fault() {
            return reason(&fault.code);
        }
        let is_stopped = |message: &ResponseMessage| {
            message.code == ResponseCode::from_text("ErrorBatchProcessingStopped")
        };
        let refused = |message: &ResponseMessage| reason(&message.code).is_some();
        let all = response
            .entries()
            .all(|entry| refused(entry) || is_stopped(entry));
        all.then(|| response.entries().find_map(|entry| reason(&entry.code)))?
    }
}

#[cfg(not(feature = "ews"))]
mod codes {
    use crate::errors::LeftOutReason;

    pub(super) fn may_be_named(_: &[u8]) -> bool {
        false
    }

    pub(super) fn read(_: &[u8]) -> Option<LeftOutReason> {
        None
    }
}

#[cfg(all(test, feature = "ews"))]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Option<Refusal> {
        let mut reader = BodyReader::of(Api::Ews, StatusCode::from_u16(status).unwrap())?;
        let body = Bytes::from(body.to_owned());
        reader.push(&body);
        reader.end()
    }

    fn members(codes: &[&str]) -> String {
        let message = |code: &&str| {
            format!("<M ResponseClass='Error'><ResponseCode>{code}</ResponseCode></M>")
        };
        let messages: String = codes.iter().map(message).collect();
        format!(
            "<Envelope><Body><R><ResponseMessages>{messages}</ResponseMessages></R></Body></Envelope>"
        )
    }

    #[test]
    fn a_response_speaks_of_the_account_if_all_of_it_does() {
        let disabled = Some(Refusal::AccountOrMailbox(LeftOutReason::Disabled));
        let expired = Some(Refusal::AccountOrMailbox(LeftOutReason::PasswordExpired));
        let cases = [
            (200, members(&["ErrorAccountDisabled"]), disabled),
            (
                200,
                members(&["ErrorPasswordExpired", "ErrorBatchProcessingStopped"]),
                expired,
            ),
            (200, members(&["NoError", "ErrorAccountDisabled"]), None),
            (200, members(&["ErrorServerBusy"]), None),
            (200, members(&["ErrorBatchProcessingStopped"]), None),
            (404, members(&["ErrorAccountDisabled"]), None),
            (200, "ErrorAccountDisabled".into(), None),
            (
                500,
                "<Envelope><Body><Fault><faultcode>a:ErrorAccountSuspend</faultcode>\
                 <faultstring>x</faultstring></Fault></Body></Envelope>"
                    .into(),
                disabled,
            ),
        ];
        for (status, body, refusal) in cases {
            assert_eq!(read(status, &body), refusal, "{status} {body}");
        }
    }

    #[test]
    fn only_what_may_tell_is_read() {
        let mut reader = BodyReader::of(Api::Ews, StatusCode::OK).unwrap();
        assert!(!reader.push(&Bytes::from_static(b"<Envelope>")));
        let mut reader = BodyReader::of(Api::Ews, StatusCode::INTERNAL_SERVER_ERROR).unwrap();
        assert!(reader.push(&Bytes::from_static(b"<Envelope>")));
        assert!(!reader.push(&Bytes::from(vec![b' '; MAX_READ])));
        assert_eq!(reader.end(), None);
        assert!(BodyReader::of(Api::Http, StatusCode::OK).is_none());
        assert_eq!(by_head(StatusCode::FORBIDDEN), None);
    }
}
