//! [`FoundRows`]: how much a search of one folder found, by the beginning of its response.

use super::code::ResponseCode;
use super::code_class::CodeClass;
use super::space::Space;
use super::xml::{Event, Reader};

/// What a response to FindItem or FindFolder says of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundRows {
    /// How many rows match, on whatever page they are.
    Rows(u32),
    /// The server had no room for them. To old clients it only says that it is busy.
    Refused,
}

impl FoundRows {
    /// Reads `head` as far as it goes. None if it says neither.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(head).ok()?;
        loop {
            match reader.next().ok()? {
                Event::Start(start) if start.is(Space::Messages, "RootFolder") => {
                    let total = reader.value(&start, "TotalItemsInView").ok()??;
                    return total.parse().ok().map(Self::Rows);
                }
                Event::Start(start) if start.local == b"ResponseCode" => {
                    let code = ResponseCode::from_text(&reader.text(&start).ok()?);
                    let refused = matches!(
                        code.class(),
                        CodeClass::ThrottleFindCount | CodeClass::ThrottleServerBusy
                    );
                    if refused {
                        return Some(Self::Refused);
                    }
                }
                Event::Start(_) | Event::End | Event::Text(_) | Event::CData(_) => {}
                Event::Eof => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FoundRows::{self, Refused, Rows};

    fn envelope(inner: &str) -> String {
        let namespace = "http://schemas.microsoft.com/exchange/services/2006";
        format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' xmlns:m='{namespace}/messages' \
             xmlns:t='{namespace}/types' xmlns:e='{namespace}/errors'><s:Body>{inner}</s:Body></s:Envelope>"
        )
    }

    fn message(code: &str, more: &str) -> String {
        envelope(&format!(
            "<m:FindItemResponse><m:ResponseMessages><m:FindItemResponseMessage>\
             <m:ResponseCode>{code}</m:ResponseCode>{more}\
             </m:FindItemResponseMessage></m:ResponseMessages></m:FindItemResponse>"
        ))
    }

    fn fault(code: &str) -> String {
        envelope(&format!(
            "<s:Fault><faultstring>no</faultstring><detail><e:ResponseCode>{code}</e:ResponseCode></detail></s:Fault>"
        ))
    }

    #[test]
    fn what_responses_say() {
        let root = |attributes: &str| {
            let items = "<t:Items><t:Message/></t:Items>";
            message(
                "NoError",
                &format!("<m:RootFolder {attributes}>{items}</m:RootFolder>"),
            )
        };
        let cases = [
            (
                root("TotalItemsInView='10' IncludesLastItemInRange='true'"),
                Some(Rows(10)),
            ),
            (
                root("IndexedPagingOffset='1000' TotalItemsInView=' 5000 '"),
                Some(Rows(5000)),
            ),
            (root("TotalItemsInView='0'").replace("m:", ""), None),
            (root("TotalItemsInView='0'"), Some(Rows(0))),
            (root("IncludesLastItemInRange='true'"), None),
            (root("TotalItemsInView='-1'"), None),
            (root("TotalItemsInView='many'"), None),
            (message("ErrorExceededFindCountLimit", ""), Some(Refused)),
            (message("ErrorServerBusy", ""), Some(Refused)),
            (message("ErrorFolderNotFound", ""), None),
            (fault("ErrorExceededFindCountLimit"), Some(Refused)),
            (fault("ErrorServerBusy"), Some(Refused)),
            (fault("ErrorAccessDenied"), None),
            ("<html/>".into(), None),
            ("{}".into(), None),
            (String::new(), None),
        ];
        for (response, expected) in cases {
            assert_eq!(FoundRows::of(response.as_bytes()), expected, "{response}");
        }
    }

    #[test]
    fn a_beginning_is_enough() {
        let whole = message(
            "NoError",
            "<m:RootFolder TotalItemsInView='10'><t:Items/></m:RootFolder>",
        );
        let known = whole.find("><t:Items").unwrap() + 1;
        for end in 0..=whole.len() {
            let expected = (end >= known).then_some(Rows(10));
            assert_eq!(FoundRows::of(&whole.as_bytes()[..end]), expected, "{end}");
        }
    }
}
