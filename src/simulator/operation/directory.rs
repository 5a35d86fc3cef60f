//! Directory and look-up operations: ResolveNames, ConvertId, GetServerTimeZones,
//! GetUserAvailability, GetMailTips.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::failure::Failure;
use super::super::id::{Id, entry_id, id_of_entry};
use super::super::xml::{Element, escaped};
use super::context::Context;
use super::response::MemberResult;

/// ResolveNames gives no more candidates than this (its reference page).
const MOST_CANDIDATES: usize = 100;

pub(super) fn resolve_names(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let entry = request
        .child_text("UnresolvedEntry")
        .unwrap_or_default()
        .to_lowercase();
    let entry = entry.trim_start_matches("smtp:");
    let found: Vec<String> = context
        .store
        .iter()
        .map(|mailbox| mailbox.address.clone())
        .filter(|address| !entry.is_empty() && address.starts_with(entry))
        .collect();
    if found.is_empty() {
        return Err(Failure::new(
            "ErrorNameResolutionNoResults",
            "No results were found.",
        ));
    }
    let mut out = format!(
        "<m:ResolutionSet TotalItemsInView=\"{}\" IncludesLastItemInRange=\"{}\">",
        found.len().min(MOST_CANDIDATES),
        found.len() <= MOST_CANDIDATES
    );
    for address in found.iter().take(MOST_CANDIDATES) {
        let address = escaped(address);
        let _ = write!(
            out,
            "<t:Resolution><t:Mailbox><t:Name>{address}</t:Name><t:EmailAddress>{address}</t:EmailAddress>\
             <t:RoutingType>SMTP</t:RoutingType><t:MailboxType>Mailbox</t:MailboxType></t:Mailbox></t:Resolution>"
        );
    }
    out.push_str("</m:ResolutionSet>");
    Ok(out)
}

/// The entry id that an id of one of these formats stands for.
fn entry_of(format: &str, id: &str) -> Option<Vec<u8>> {
    match format {
        "EwsId" => Id::decode(id).and(entry_id(id)),
        "EntryId" => STANDARD.decode(id).ok(),
        "HexEntryId" => {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            id.as_bytes()
                .chunks(2)
                .map(|pair| match pair {
                    [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
                    _ => None,
                })
                .collect()
        }
        _ => None,
    }
}

/// Between the format of EWS and entry ids; the mailbox that the client names is given back.
pub(super) fn convert_id(request: &Element, source: &Element) -> MemberResult {
    let entry = entry_of(
        source.attribute("Format").unwrap_or_default(),
        source.attribute("Id").unwrap_or_default(),
    )
    .ok_or_else(Failure::malformed_id)?;
    let id = id_of_entry(&entry).ok_or_else(Failure::malformed_id)?;
    let format = request.attribute("DestinationFormat").unwrap_or_default();
    let converted = match format {
        "EwsId" => id.encode(),
        "EntryId" => STANDARD.encode(entry),
        "HexEntryId" => entry.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02X}");
            hex
        }),
        _ => {
            return Err(Failure::new(
                "ErrorUnsupportedTypeForConversion",
                "The simulator does not know that format.",
            ));
        }
    };
    let mailbox = source.attribute("Mailbox").unwrap_or_default();
    Ok(format!(
        "<m:AlternateId xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"t:AlternateIdType\" \
         Format=\"{format}\" Id=\"{converted}\" Mailbox=\"{}\"/>",
        escaped(mailbox)
    ))
}

/// Id, name, standard bias and daylight bias (`None` without daylight saving), and when the two
/// begin: month and occurrence of the Sunday.
type Zone = (
    &'static str,
    &'static str,
    &'static str,
    Option<&'static str>,
    [(u8, i8); 2],
);

const US: [(u8, i8); 2] = [(11, 1), (3, 2)];
const EU: [(u8, i8); 2] = [(10, -1), (3, -1)];

const ZONES: [Zone; 6] = [
    ("UTC", "(UTC) Coordinated Universal Time", "PT0S", None, US),
    (
        "GMT Standard Time",
        "(UTC+00:00) Dublin, Edinburgh, Lisbon, London",
        "PT0S",
        Some("-PT1H"),
        EU,
    ),
    (
        "W. Europe Standard Time",
        "(UTC+01:00) Amsterdam, Berlin, Bern, Rome, Stockholm, Vienna",
        "-PT1H",
        Some("-PT2H"),
        EU,
    ),
    (
        "Eastern Standard Time",
        "(UTC-05:00) Eastern Time (US & Canada)",
        "PT5H",
        Some("PT4H"),
        US,
    ),
    (
        "Pacific Standard Time",
        "(UTC-08:00) Pacific Time (US & Canada)",
        "PT8H",
        Some("PT7H"),
        US,
    ),
    (
        "Tokyo Standard Time",
        "(UTC+09:00) Osaka, Sapporo, Tokyo",
        "-PT9H",
        None,
        US,
    ),
];

pub(super) fn time_zones(request: &Element) -> String {
    let wanted: Option<Vec<String>> = request
        .child("Ids")
        .map(|ids| ids.children().map(Element::text).collect());
    let full = request.attribute("ReturnFullTimeZoneData") != Some("false");
    let mut out = String::from("<m:TimeZoneDefinitions>");
    for zone in ZONES {
        if wanted
            .as_ref()
            .is_none_or(|wanted| wanted.iter().any(|id| id == zone.0))
        {
            write_zone(&zone, full, &mut out);
        }
    }
    out.push_str("</m:TimeZoneDefinitions>");
    out
}

fn write_zone((id, name, standard, daylight, begins): &Zone, full: bool, out: &mut String) {
    let _ = write!(
        out,
        "<t:TimeZoneDefinition Id=\"{id}\" Name=\"{}\">",
        escaped(name)
    );
    if full {
        let mut begin = *begins;
        begin.reverse();
        let mut periods = format!("<t:Period Bias=\"{standard}\" Name=\"Standard\" Id=\"std\"/>");
        let mut transitions = String::new();
        if let Some(bias) = daylight {
            let _ = write!(
                periods,
                "<t:Period Bias=\"{bias}\" Name=\"Daylight\" Id=\"dlt\"/>"
            );
            for (period, (month, occurrence)) in ["dlt", "std"].iter().zip(begin) {
                let _ = write!(
                    transitions,
                    "<t:RecurringDayTransition><t:To Kind=\"Period\">{period}</t:To><t:TimeOffset>PT2H</t:TimeOffset>\
                     <t:Month>{month}</t:Month><t:DayOfWeek>Sunday</t:DayOfWeek>\
                     <t:Occurrence>{occurrence}</t:Occurrence></t:RecurringDayTransition>"
                );
            }
        } else {
            transitions.push_str("<t:Transition><t:To Kind=\"Period\">std</t:To></t:Transition>");
        }
        let _ = write!(
            out,
            "<t:Periods>{periods}</t:Periods><t:TransitionsGroups><t:TransitionsGroup Id=\"0\">{transitions}\
             </t:TransitionsGroup></t:TransitionsGroups><t:Transitions><t:Transition><t:To Kind=\"Group\">0</t:To>\
             </t:Transition></t:Transitions>"
        );
    }
    out.push_str("</t:TimeZoneDefinition>");
}

/// The busy times of one mailbox: every calendar item with a start and an end.
pub(super) fn availability(
    context: &mut Context<'_>,
    request: &Element,
    data: &Element,
) -> MemberResult {
    let address = data
        .at(&["Email", "Address"])
        .map(Element::text)
        .unwrap_or_default();
    let index = context
        .store
        .find(&address)
        .ok_or_else(Failure::no_mailbox)?;
    let window = request.at(&["FreeBusyViewOptions", "TimeWindow"]);
    let edge = |name| {
        window
            .and_then(|window| window.child_text(name))
            .and_then(|text| super::super::clock::parse(&text))
    };
    let (from, to) = (
        edge("StartTime").unwrap_or(i64::MIN),
        edge("EndTime").unwrap_or(i64::MAX),
    );
    let mailbox = context.mailbox(index)?;
    let calendar = mailbox.distinguished("calendar").unwrap_or_default();
    let mut events = String::new();
    for (_, item) in mailbox.items_in(calendar) {
        let time = |name| item.field(name).map(Element::text);
        let (Some(start), Some(end)) = (time("Start"), time("End")) else {
            continue;
        };
        let (Some(starts), Some(ends)) = (
            super::super::clock::parse(&start),
            super::super::clock::parse(&end),
        ) else {
            continue;
        };
        if starts < to && ends > from {
            let _ = write!(
                events,
                "<t:CalendarEvent><t:StartTime>{}</t:StartTime><t:EndTime>{}</t:EndTime>\
                 <t:BusyType>Busy</t:BusyType></t:CalendarEvent>",
                escaped(&start),
                escaped(&end)
            );
        }
    }
    Ok(format!(
        "<m:FreeBusyView><t:FreeBusyViewType>FreeBusy</t:FreeBusyViewType>\
         <t:CalendarEventArray>{events}</t:CalendarEventArray></m:FreeBusyView>"
    ))
}

/// Whoever asks for mail tips has to be somebody.
pub(super) fn check_sender(context: &mut Context<'_>, request: &Element) -> Result<(), Failure> {
    let sender = request
        .at(&["SendingAs", "EmailAddress"])
        .map(Element::text)
        .unwrap_or_default();
    match context.store.find(&sender) {
        Some(_) => Ok(()),
        None => Err(Failure::no_mailbox()),
    }
}

/// What a sender should know of one recipient: whether there is such a mailbox.
pub(super) fn mail_tips(context: &mut Context<'_>, recipient: &Element) -> MemberResult {
    let address = recipient.child_text("EmailAddress").unwrap_or_default();
    if address.is_empty() {
        return Err(Failure::new(
            "ErrorInvalidRecipients",
            "The recipient has no address.",
        ));
    }
    let invalid = context.store.find(&address).is_none();
    Ok(format!(
        "<m:MailTips><t:RecipientAddress><t:EmailAddress>{}</t:EmailAddress><t:RoutingType>SMTP</t:RoutingType>\
         </t:RecipientAddress><t:PendingMailTips/><t:MailboxFull>false</t:MailboxFull>\
         <t:InvalidRecipient>{invalid}</t:InvalidRecipient></m:MailTips>",
        escaped(&address)
    ))
}
