//! SOAP as the server reads and writes it: the header of a request, the envelope of a response.

use super::failure::Failure;
use super::policy::Policy;
use super::xml::{self, Element, MESSAGES_NS, Ns, SOAP_NS, TYPES_NS, XmlError};

/// What the header and the body of a request say.
#[derive(Debug)]
pub(super) struct Request {
    /// `RequestServerVersion` is Exchange 2010 or older.
    pub(super) old_version: bool,
    /// Whom the caller impersonates, as it stands in the header.
    pub(super) impersonated: Option<String>,
    pub(super) operation: Element,
}

/// A whole envelope around the operation's response element.
pub(super) fn envelope(policy: &Policy, response: &str) -> String {
    let [major, minor, build, revision] = policy.build;
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope xmlns:s=\"{SOAP_NS}\"><s:Header>\
         <h:ServerVersionInfo MajorVersion=\"{major}\" MinorVersion=\"{minor}\" MajorBuildNumber=\"{build}\" \
         MinorBuildNumber=\"{revision}\" Version=\"{}\" xmlns:h=\"{TYPES_NS}\"/></s:Header>\
         <s:Body xmlns:m=\"{MESSAGES_NS}\" xmlns:t=\"{TYPES_NS}\">{response}</s:Body></s:Envelope>",
        policy.version
    )
}

/// Reads a request.
pub(super) fn read(bytes: &[u8]) -> Result<Request, Failure> {
    let invalid = |what: &str| {
        Failure::new(
            "ErrorSchemaValidation",
            format!("The request failed schema validation: {what}"),
        )
    };
    let root = xml::parse(bytes).map_err(|error: XmlError| invalid(&error.to_string()))?;
    if !root.is(Ns::Soap, "Envelope") {
        return Err(invalid("the root is no SOAP envelope"));
    }
    let section = |name| root.children().find(|child| child.is(Ns::Soap, name));
    let operation = section("Body")
        .and_then(|body| body.children().next())
        .ok_or_else(|| invalid("the envelope has no body"))?
        .clone();
    let header = section("Header");
    let version = header
        .and_then(|header| header.child("RequestServerVersion"))
        .and_then(|version| version.attribute("Version"))
        .unwrap_or_default();
    let impersonated = match header.and_then(|header| header.child("ExchangeImpersonation")) {
        None => None,
        Some(header) => Some(
            header
                .child("ConnectingSID")
                .and_then(|sid| sid.children().next())
                .map(Element::text)
                .filter(|name| !name.is_empty())
                .ok_or_else(|| invalid("ExchangeImpersonation names nobody"))?,
        ),
    };
    Ok(Request {
        old_version: matches!(
            version,
            "Exchange2007" | "Exchange2007_SP1" | "Exchange2010"
        ),
        impersonated,
        operation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_header() {
        let request = read(
            format!(
                "<S:Envelope xmlns:S='{SOAP_NS}' xmlns:q='{TYPES_NS}'><S:Header><q:RequestServerVersion Version='Exchange2010'/>\
                 <q:ExchangeImpersonation><q:ConnectingSID><q:PrimarySmtpAddress> a@contoso.com </q:PrimarySmtpAddress>\
                 </q:ConnectingSID></q:ExchangeImpersonation></S:Header>\
                 <S:Body><GetItem xmlns='{MESSAGES_NS}'/></S:Body></S:Envelope>"
            )
            .as_bytes(),
        )
        .unwrap();
        assert!(request.old_version);
        assert_eq!(request.impersonated.as_deref(), Some("a@contoso.com"));
        assert!(request.operation.is(Ns::Messages, "GetItem"));
    }

    #[test]
    fn refuses_what_is_no_request() {
        for text in [
            "",
            "<a/>",
            &format!("<S:Envelope xmlns:S='{SOAP_NS}'><S:Body/></S:Envelope>"),
        ] {
            assert_eq!(
                read(text.as_bytes()).unwrap_err().code,
                "ErrorSchemaValidation",
                "{text}"
            );
        }
    }
}
