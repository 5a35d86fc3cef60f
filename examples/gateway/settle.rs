//! Final words for the members of a batch that the server was too busy for.
//!
//! Clients that see `ErrorServerBusy` (or another code that says "later") at one member send the whole batch again, and create the
//! other members twice: exchangelib does. By the time such a member leaves this gateway it has been sent again as often as the
//! deadline allowed. So, unless the whole batch was refused, these members get a code that nobody repeats a batch for:
//!
//! * `ErrorBatchProcessingStopped`, as a warning, for what was not executed. It is Exchange's own code for a member that was not
//!   begun because something stopped the batch: exchangelib returns it at the member's place, the EWS Managed API and its ports
//!   give it as that member's result.
//! * `ErrorInternalServerError` for what may have been executed (`ErrorTimeoutExpired`). It makes no promise, and clients hand it on.

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::Event;
use tower_ews::soap::{CodeClass, Outcome, ResponseClass, ResponseMessage, SoapResponse};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// Done, or refused for good.
    Final,
    /// The server was too busy, and has not executed it.
    NotExecuted,
    /// A passing condition, and it may have been executed.
    InDoubt,
}

fn judge(message: &ResponseMessage) -> Member {
    let code = match (message.code.class(), &message.inner_code) {
        (CodeClass::InspectInner, Some(inner)) => inner,
        _ => &message.code,
    };
    let passes = code.class().is_throttle() || code.class() == CodeClass::TransientRetryLater;
    match (message.class, code.outcome()) {
        (ResponseClass::Error, Outcome::NotExecuted) if passes => Member::NotExecuted,
        (ResponseClass::Error, _) if passes => Member::InDoubt,
        _ => Member::Final,
    }
}

/// What a response says instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Nothing else.
    Unchanged,
    /// This.
    Body(Vec<u8>),
    /// The whole call may have been executed, and the server's fault reads as if it should be sent again. Its code.
    InDoubt(String),
}

/// Reads the response to a call that changes something.
pub(crate) fn settle(body: &[u8]) -> Settled {
    let Ok(response) = SoapResponse::parse(body) else {
        return Settled::Unchanged;
    };
    if let Some(fault) = response.fault() {
        return match judge(fault) {
            Member::InDoubt => Settled::InDoubt(fault.code.as_str().to_owned()),
            _ => Settled::Unchanged,
        };
    }
    let members: Vec<_> = response
        .entries()
        .map(|entry| (entry, judge(entry)))
        .collect();
    // The client may send again what was refused as a whole, and what is final needs no change.
    let all_are = |kind| members.iter().all(|(_, member)| *member == kind);
    if all_are(Member::NotExecuted) || all_are(Member::Final) {
        return Settled::Unchanged;
    }
    let mut settled = Vec::with_capacity(body.len() + 128 * members.len());
    let mut copied = 0;
    for (entry, member) in members {
        let words = match member {
            Member::Final => continue,
            Member::NotExecuted => Words {
                class: "Warning",
                code: "ErrorBatchProcessingStopped",
                text: "the server was too busy until the deadline, and has not executed this member",
            },
            Member::InDoubt => Words {
                class: "Error",
                code: "ErrorInternalServerError",
                text: "this member may have been executed or not: look before you send it again",
            },
        };
        let Some((range, element)) = within(body, &entry.range) else {
            return Settled::Unchanged;
        };
        let Some(changed) = words.put_into(element, entry.code.as_str()) else {
            return Settled::Unchanged;
        };
        settled.extend_from_slice(&body[copied..range.start]);
        settled.extend_from_slice(&changed);
        copied = range.end;
    }
    settled.extend_from_slice(&body[copied..]);
    Settled::Body(settled)
}

fn within<'a>(body: &'a [u8], range: &Range<u64>) -> Option<(Range<usize>, &'a [u8])> {
    let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
    Some((range.clone(), body.get(range)?))
}

/// What stands in a message instead of its class, code and text.
struct Words {
    class: &'static str,
    code: &'static str,
    text: &'static str,
}

impl Words {
    /// Changes one message element. `MessageXml` goes: it holds back-off times and inner codes.
    fn put_into(&self, element: &[u8], old_code: &str) -> Option<Vec<u8>> {
        let mut reader = Reader::from_reader(element);
        let mut changed = Vec::with_capacity(element.len() + 128);
        let mut depth = 0_usize;
        // Of the child that is replaced or left out: nothing of it is copied.
        let mut skipping = false;
        loop {
            let from = usize::try_from(reader.buffer_position()).ok()?;
            let event = reader.read_event().ok()?;
            let to = usize::try_from(reader.buffer_position()).ok()?;
            let raw = element.get(from..to)?;
            match &event {
                Event::Eof => return Some(changed),
                Event::Start(start) if depth == 0 => {
                    changed.extend(self.class(start.as_ref())?.as_bytes())
                }
                Event::Start(start) if depth == 1 => {
                    let text = match start.local_name().as_ref() {
                        b"ResponseCode" => Some(Cow::Borrowed(self.code)),
                        b"MessageText" => Some(format!("{} ({old_code})", self.text).into()),
                        b"MessageXml" => None,
                        _ => {
                            changed.extend_from_slice(raw);
                            depth += 1;
                            continue;
                        }
                    };
                    skipping = true;
                    if let Some(text) = text {
                        changed.extend_from_slice(raw);
                        changed.extend(quick_xml::escape::escape(&*text).as_bytes());
                        changed.extend_from_slice(b"</");
                        changed.extend_from_slice(start.name().as_ref());
                        changed.push(b'>');
                    }
                }
                Event::End(_) if depth == 2 && skipping => skipping = false,
                _ if skipping => {}
                _ => changed.extend_from_slice(raw),
            }
            match event {
                Event::Start(_) => depth += 1,
                Event::End(_) => depth = depth.checked_sub(1)?,
                _ => {}
            }
        }
    }

    /// The start tag of the message, with another class.
    fn class(&self, tag: &[u8]) -> Option<String> {
        let tag = std::str::from_utf8(tag).ok()?;
        let at = tag.find("ResponseClass")?;
        let quote = at + tag[at..].find(['"', '\''])?;
        let mark = &tag[quote..=quote];
        let end = quote + 1 + tag[quote + 1..].find(mark)?;
        Some(format!("<{}{}{}>", &tag[..=quote], self.class, &tag[end..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(members: &str) -> String {
        format!(
            "\u{feff}<?xml version='1.0'?><s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body>\
             <m:CreateItemResponse xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages' \
             xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types'><m:ResponseMessages>{members}\
             </m:ResponseMessages></m:CreateItemResponse></s:Body></s:Envelope>"
        )
    }

    const DONE: &str = "<m:CreateItemResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>\
        <m:Items><t:Message><t:Subject>&lt;ErrorServerBusy&gt;</t:Subject></t:Message></m:Items></m:CreateItemResponseMessage>";

    fn failed(code: &str) -> String {
        format!(
            "<m:CreateItemResponseMessage  ResponseClass='Error' ><m:MessageText>a &amp; <![CDATA[b]]></m:MessageText>\
             <m:ResponseCode> {code} </m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>\
             <m:MessageXml><t:Value Name=\"BackOffMilliseconds\">1</t:Value></m:MessageXml><m:Items/></m:CreateItemResponseMessage>"
        )
    }

    fn settled(members: &str) -> String {
        match settle(response(members).as_bytes()) {
            Settled::Body(body) => String::from_utf8(body).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_that_was_not_executed_beside_one_that_was() {
        let busy = failed("ErrorServerBusy");
        let expected = "<m:CreateItemResponseMessage  ResponseClass='Warning' ><m:MessageText>the server was too busy until \
            the deadline, and has not executed this member (ErrorServerBusy)</m:MessageText>\
            <m:ResponseCode>ErrorBatchProcessingStopped</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>\
            <m:Items/></m:CreateItemResponseMessage>";
        assert_eq!(
            settled(&format!("{DONE}{busy}{DONE}{busy}")),
            response(&format!("{DONE}{expected}{DONE}{expected}"))
        );
    }

    #[test]
    fn inner_codes_count_and_doubt_stays_doubt() {
        let inner = failed("ErrorInternalServerError").replace(
            "Name=\"BackOffMilliseconds\">1<",
            "Name=\"InnerErrorResponseCode\">ErrorServerBusy<",
        );
        let body = settled(&format!("{DONE}{inner}{}", failed("ErrorTimeoutExpired")));
        let parsed = SoapResponse::parse(body.as_bytes()).unwrap();
        let codes: Vec<_> = parsed
            .entries()
            .map(|entry| (entry.class, entry.code.as_str()))
            .collect();
        assert_eq!(
            codes,
            [
                (ResponseClass::Success, "NoError"),
                (ResponseClass::Warning, "ErrorBatchProcessingStopped"),
                (ResponseClass::Error, "ErrorInternalServerError"),
            ]
        );
        assert!(!body.contains("InnerErrorResponseCode"));
        // A single one too: it may have been executed.
        assert!(settled(&failed("ErrorTimeoutExpired")).contains(">ErrorInternalServerError<"));
    }

    #[test]
    fn what_can_be_repeated_or_is_final_stays_as_it_is() {
        let busy = failed("ErrorServerBusy");
        let gone = failed("ErrorItemNotFound");
        for members in [
            &*format!("{busy}{busy}"),
            &*format!("{DONE}{gone}"),
            DONE,
            &busy,
            "",
        ] {
            assert_eq!(
                settle(response(members).as_bytes()),
                Settled::Unchanged,
                "{members}"
            );
        }
        for odd in ["", "<html>", "<s:Envelope><s:Body>"] {
            assert_eq!(settle(odd.as_bytes()), Settled::Unchanged);
        }
        let fault = |code: &str| {
            let body = crate::reply::FAULT
                .replace("{code}", code)
                .replace("{message}", "")
                .replace("{values}", "");
            settle(body.as_bytes())
        };
        assert_eq!(fault("ErrorServerBusy"), Settled::Unchanged);
        assert_eq!(fault("ErrorAccessDenied"), Settled::Unchanged);
        assert_eq!(
            fault("ErrorTimeoutExpired"),
            Settled::InDoubt("ErrorTimeoutExpired".to_owned())
        );
    }
}
