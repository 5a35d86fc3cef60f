//! Responses: the faults and response messages in them.
use std::ops::Range;

pub use super::message::{ResponseClass, ResponseMessage, ScanError};
pub use super::scanner::ResponseScanner;

/// A whole response.
///
/// ```
/// use tower_ews::soap::{SoapResponse, ResponseClass};
///
/// let body = b"<Envelope><Body><GetItemResponse><ResponseMessages>\
///   <GetItemResponseMessage ResponseClass='Success'><ResponseCode>NoError</ResponseCode></GetItemResponseMessage>\
///   <GetItemResponseMessage ResponseClass='Error'><ResponseCode>ErrorItemNotFound</ResponseCode></GetItemResponseMessage>\
///   </ResponseMessages></GetItemResponse></Body></Envelope>";
/// let response = SoapResponse::parse(body)?;
/// assert_eq!(response.messages[0].class, ResponseClass::Success);
/// assert_eq!(response.messages[1].code.as_str(), "ErrorItemNotFound");
/// # Ok::<(), tower_ews::soap::ScanError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SoapResponse {
    /// Faults and response messages, in the order of their end tags.
    pub messages: Vec<ResponseMessage>,
    /// What is between the tags of the last `ResponseMessages` or `FreeBusyResponseArray`.
    pub list_content: Option<Range<u64>>,
    /// Whether it is SOAP at all; none if it is empty.
    pub is_soap: Option<bool>,
}

impl SoapResponse {
    /// Reads a whole response. One that is no SOAP has no messages.
    ///
    /// # Errors
    ///
    /// As [`ResponseScanner`].
    pub fn parse(body: &[u8]) -> Result<SoapResponse, ScanError> {
        let mut scanner = ResponseScanner::new();
        let mut messages = Vec::new();
        scanner.push(body, &mut |message| messages.push(message))?;
        scanner.finish()?;
        Ok(SoapResponse {
            messages,
            list_content: scanner.list_content(),
            is_soap: scanner.is_soap(),
        })
    }

    /// The fault, if the response is one.
    pub fn fault(&self) -> Option<&ResponseMessage> {
        self.messages.iter().find(|message| message.is_fault)
    }

    /// The messages of the list, which stand for the members of the request.
    pub fn entries(&self) -> impl Iterator<Item = &ResponseMessage> {
        self.messages.iter().filter(|message| message.is_entry)
    }
}
