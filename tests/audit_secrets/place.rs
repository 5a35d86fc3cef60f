//! [`Place`]: a call with a secret in it, and what the network makes of it.

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tower::BoxError;
use tower_ews::audit_log::AuditLogLayer;

/// The secret: no four letters of it stand anywhere else.
pub(crate) const CANARY: &str = "Q8ZJX4VKW7QY9ZXJ";

/// What an account is asked for, as `base64(svc@contoso.com:CANARY)` and with the canary as a token's signature.
pub(crate) const BASIC: &str = "Basic c3ZjQGNvbnRvc28uY29tOlE4WkpYNFZLVzdRWTlaWEo=";
pub(crate) const ENCODED: &str = "OlE4WkpYNFZLVzdRWTlaWEo";
pub(crate) const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.Q8ZJX4VKW7QY9ZXJ";

pub(crate) const KEY: [u8; 16] = *b"a key of a test.";

pub(crate) type AnyBody = BoxBody<Bytes, BoxError>;

pub(crate) fn envelope(header: &str, body: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:RequestServerVersion Version="Exchange2013_SP1"/>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
    )
}

pub(crate) fn impersonate(mailbox: &str) -> String {
    format!(
        "<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation>"
    )
}

/// Creates one task, without any harm.
pub(crate) fn create(header: &str) -> String {
    envelope(
        header,
        "<m:CreateItem><m:Items><t:Task><t:Subject>Tea</t:Subject></t:Task></m:Items></m:CreateItem>",
    )
}

pub(crate) fn soap_response(inside: &str) -> String {
    envelope(
        "",
        &format!(
            r#"<m:CreateItemResponse><m:ResponseMessages><m:CreateItemResponseMessage ResponseClass="Error">{inside}</m:CreateItemResponseMessage></m:ResponseMessages></m:CreateItemResponse>"#
        ),
    )
}

/// An error with a source, as HTTP clients have them.
#[derive(Debug)]
pub(crate) struct Chain(String, Option<Box<Chain>>);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Chain {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_ref().map(|error| error.as_ref() as _)
    }
}

/// What the client gets, and responses.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) uri: String,
    pub(crate) request_headers: Vec<(&'static str, String)>,
    pub(crate) request: String,
    pub(crate) status: u16,
    pub(crate) response_headers: Vec<(&'static str, String)>,
    /// `None`: the simulator responses.
    pub(crate) response: Option<Vec<String>>,
    /// Errors from the outside inwards: of the call, and of the body behind its frames.
    pub(crate) call_error: Vec<String>,
    pub(crate) body_error: Option<String>,
    pub(crate) body_limit: usize,
    pub(crate) pseudonyms: bool,
    /// What shows in the fullest log that the place was looked at.
    pub(crate) shown: &'static str,
}

impl Place {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Place {
            name: name.into(),
            uri: "https://mail.contoso.com/EWS/Exchange.asmx".into(),
            request_headers: vec![
                ("content-type", "text/xml; charset=utf-8".into()),
                ("authorization", BASIC.into()),
            ],
            request: create(&impersonate("amy@contoso.com")),
            status: 200,
            response_headers: vec![("content-type", "text/xml; charset=utf-8".into())],
            response: None,
            call_error: Vec::new(),
            body_error: None,
            body_limit: AuditLogLayer::DEFAULT_BODY_LIMIT,
            pseudonyms: false,
            shown: "REDACTED",
        }
    }

    pub(crate) fn asks(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.request_headers.retain(|(other, _)| *other != name);
        self.request_headers.push((name, value.into()));
        self
    }

    pub(crate) fn tells(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.response_headers.retain(|(other, _)| *other != name);
        self.response_headers.push((name, value.into()));
        self.response
            .get_or_insert_with(|| vec![soap_response("<m:ResponseCode>NoError</m:ResponseCode>")]);
        self
    }

    pub(crate) fn request(mut self, body: impl Into<String>) -> Self {
        self.request = body.into();
        self
    }

    pub(crate) fn responds_with(mut self, body: impl Into<String>) -> Self {
        self.response = Some(vec![body.into()]);
        self
    }

    pub(crate) fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = uri.into();
        self
    }

    pub(crate) fn shown(mut self, shown: &'static str) -> Self {
        self.shown = shown;
        self
    }

    pub(crate) fn pseudonyms(mut self) -> Self {
        self.pseudonyms = true;
        self.shown = "mbx-";
        self
    }

    pub(crate) fn fails(mut self, chain: &[&str]) -> Self {
        self.call_error = chain.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn make(&self) -> Request<Full<Bytes>> {
        let mut request = Request::post(&self.uri)
            .body(Full::from(self.request.clone()))
            .unwrap();
        for (name, value) in &self.request_headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        }
        request
    }

    /// What the network does with it; `None` if it is for the simulator.
    pub(crate) fn network(&self) -> Option<Result<Response<AnyBody>, BoxError>> {
        let mut error = None;
        for text in self.call_error.iter().rev() {
            error = Some(Box::new(Chain(text.clone(), error)));
        }
        if let Some(error) = error {
            return Some(Err(error));
        }
        let frames = self.response.clone()?.into_iter().map(Bytes::from);
        let frames: Vec<Result<_, BoxError>> = frames
            .map(|frame| Ok(Frame::data(frame)))
            .chain(self.body_error.clone().map(|error| Err(error.into())))
            .collect();
        let body = StreamBody::new(stream::iter(frames));
        let mut response = Response::new(BodyExt::boxed(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for (name, value) in &self.response_headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            response
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        }
        Some(Ok(response))
    }
}

pub(crate) fn token_response(token: &str) -> String {
    envelope(
        "",
        &format!(
            r#"<m:GetClientAccessTokenResponse><m:ResponseMessages><m:GetClientAccessTokenResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Token><t:Id>1</t:Id><t:TokenType>ExtensionCallback</t:TokenType><t:TokenValue>{token}</t:TokenValue><t:TTL>480</t:TTL></m:Token></m:GetClientAccessTokenResponseMessage></m:ResponseMessages></m:GetClientAccessTokenResponse>"#
        ),
    )
}

pub(crate) fn username_token() -> String {
    format!(
        r#"<wsse:Security xmlns:wsse="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"><wsse:UsernameToken><wsse:Username>svc</wsse:Username><wsse:Password Type="PasswordText">{CANARY}</wsse:Password><wsse:Nonce>{CANARY}</wsse:Nonce></wsse:UsernameToken></wsse:Security>"#
    )
}
