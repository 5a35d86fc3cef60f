//! One fault or response message, and why a response cannot be read.
use std::ops::Range;
use std::time::Duration;

use super::code::ResponseCode;

/// The `ResponseClass` of a message.
///
/// ```
/// use tower_ews::soap::{ResponseClass, SoapResponse};
///
/// let body = b"<Envelope><Body><R><ResponseMessages><M ResponseClass='Warning'>\
///   <ResponseCode>ErrorBatchProcessingStopped</ResponseCode></M></ResponseMessages></R></Body></Envelope>";
/// assert_eq!(SoapResponse::parse(body)?.messages[0].class, ResponseClass::Warning);
/// # Ok::<(), tower_ews::soap::ScanError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResponseClass {
    /// It was done.
    Success,
    /// It was done with a remark, or was not begun (`ErrorBatchProcessingStopped`).
    Warning,
    /// It failed. A fault is one.
    Error,
}

/// A fault or a response message.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::soap::{SoapResponse, ResponseCode};
///
/// let body = br#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>
///   <faultcode>a:ErrorServerBusy</faultcode><faultstring>Later.</faultstring>
///   <detail><ResponseCode>ErrorServerBusy</ResponseCode>
///     <MessageXml><Value Name="BackOffMilliseconds">2500</Value></MessageXml></detail>
/// </s:Fault></s:Body></s:Envelope>"#;
/// let response = SoapResponse::parse(body)?;
/// let fault = response.fault().unwrap();
/// assert_eq!(fault.code, ResponseCode::SERVER_BUSY);
/// assert_eq!(fault.back_off, Some(Duration::from_millis(2500)));
/// assert_eq!(&*fault.text, "Later.");
/// # Ok::<(), tower_ews::soap::ScanError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseMessage {
    /// Success, warning or error.
    pub class: ResponseClass,
    /// The response code; of a fault without one, its fault code without the prefix. Empty if there
    /// is neither.
    pub code: ResponseCode,
    /// `InnerErrorResponseCode`, by which `ErrorInternalServerError` says what it means.
    pub inner_code: Option<ResponseCode>,
    /// `BackOffMilliseconds`, or what the text of an error says of it (`Suggested backoff time 5000
    /// ms.`); the longest, should there be several. Decimals count; what is no number, or negative,
    /// is no back-off. One of more than a hundred years counts as a hundred years.
    pub back_off: Option<Duration>,
    /// `MaxConcurrencyLimit`, which comes with `ErrorExceededConnectionCount`.
    pub max_concurrency: Option<u32>,
    /// `MessageText` or the fault's text: its first 1,024 bytes.
    pub text: Box<str>,
    /// Where its element stands in the response, tags included. For free/busy that is the whole
    /// `FreeBusyResponse`, and where the response's own element carries the code, the whole
    /// response's element.
    pub range: Range<u64>,
    /// A SOAP fault, whatever the HTTP status.
    pub is_fault: bool,
    /// One of a list (`ResponseMessages`, `FreeBusyResponseArray`), which stands for a member of
    /// the request.
    pub is_entry: bool,
}

/// Why a response could not be read on.
///
/// ```
/// use tower_ews::soap::{ScanError, SoapResponse};
///
/// let error = SoapResponse::parse(b"<Envelope><Body>").unwrap_err();
/// assert_eq!(error, ScanError::Truncated { at: 16 });
/// assert_eq!(error.to_string(), "the response was cut off at byte 16");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A document type declaration inside an envelope.
    #[error("document type declaration in the response at byte {at}")]
    Dtd {
        /// Offset of it.
        at: u64,
    },
    /// UTF-16.
    #[error("the response is in UTF-16, which is not read")]
    Encoding,
    /// Content other than another envelope after an envelope.
    #[error("content after the envelope at byte {at}")]
    SecondRoot {
        /// Offset of it.
        at: u64,
    },
    /// An end tag that does not match.
    #[error("the end tag at byte {at} of the response does not match")]
    Unbalanced {
        /// Offset of the end tag.
        at: u64,
    },
    /// The response ended inside something.
    #[error("the response was cut off at byte {at}")]
    Truncated {
        /// How many bytes there were.
        at: u64,
    },
    /// Not XML.
    #[error("malformed markup in the response at byte {at}")]
    Malformed {
        /// Offset of the markup.
        at: u64,
    },
    /// A tag of more than 64 KiB where one had to be read.
    #[error("the tag at byte {at} of the response is too long")]
    TagTooLong {
        /// Offset of the tag.
        at: u64,
    },
}
