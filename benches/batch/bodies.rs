//! The bodies: a request, and responses of ten megabytes that differ in what they are full of.

const SPACES: &str = r#"xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages""#;

/// How many members the large bodies have.
pub(super) const MEMBERS: usize = 200;

const MEGABYTE: usize = 1_000_000;

/// An item id of Exchange Online.
const ID: &str = "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwBGAAAAAADPriAxh444TpHj2GoQxWQNBwAN+VjmVZl5Rq1ymCq5eFKOAAAAAAENAAAN+VjmVZl5Rq1ymCq5eFKOAAAAAAEuAAA=";

/// A CreateItem of 200 messages of five kilobytes each.
pub(super) fn create_1mb() -> Vec<u8> {
    create(MEMBERS, MEGABYTE / MEMBERS)
}

/// A CreateItem of one small message.
pub(super) fn create_2kb() -> Vec<u8> {
    create(1, 1200)
}

fn create(members: usize, size: usize) -> Vec<u8> {
    let mut body = request("CreateItem");
    body += r#" MessageDisposition="SaveOnly"><m:SavedItemFolderId><t:DistinguishedFolderId Id="drafts"/></m:SavedItemFolderId><m:Items>"#;
    for number in 0..members {
        let begin = body.len();
        body += &format!(
            r#"<t:Message><t:Subject>Offer {number} &amp; terms</t:Subject><t:Body BodyType="HTML">"#
        );
        let end = concat!(
            "</t:Body><t:Importance>Normal</t:Importance><t:ToRecipients>",
            "<t:Mailbox><t:Name>Bo Berg</t:Name><t:EmailAddress>bo@fabrikam.com</t:EmailAddress></t:Mailbox>",
            "<t:Mailbox><t:Name>Cy Carr</t:Name><t:EmailAddress>cy@fabrikam.com</t:EmailAddress></t:Mailbox>",
            "</t:ToRecipients><t:IsRead>false</t:IsRead></t:Message>",
        );
        let room = size - (body.len() - begin) - end.len();
        html(&mut body, room);
        body += end;
    }
    body += "</m:Items></m:CreateItem></s:Body></s:Envelope>";
    body.into_bytes()
}

/// The response to it: an id for each message.
pub(super) fn created() -> Vec<u8> {
    response("CreateItem", MEMBERS, |body| {
        body.push_str(&format!(
            r#"<t:Message><t:ItemId Id="{ID}" ChangeKey="CQAAABYAAAAN+VjmVZl5Rq1ymCq5eFKOAAAE5+DI"/></t:Message>"#
        ));
    })
}

/// A GetItem of a given number of ids.
pub(super) fn get(ids: usize) -> Vec<u8> {
    let mut body = request("GetItem");
    body += "><m:ItemShape><t:BaseShape>AllProperties</t:BaseShape></m:ItemShape><m:ItemIds>";
    for number in 0..ids {
        let id = ID.replace("AAAAAAEuAAA", &format!("AAAA{number:04}AAA"));
        body += &format!(r#"<t:ItemId Id="{id}"/>"#);
    }
    body += "</m:ItemIds></m:GetItem></s:Body></s:Envelope>";
    body.into_bytes()
}

/// As [`get`], with more namespaces declared on the envelope.
pub(super) fn get_declaring(ids: usize, namespaces: usize) -> Vec<u8> {
    let declared: String = (0..namespaces)
        .map(|number| format!(" xmlns:p{number}='urn:{number}'"))
        .collect();
    let body = String::from_utf8(get(ids)).expect("UTF-8");
    let body = body.replacen("<s:Envelope", &format!("<s:Envelope{declared}"), 1);
    body.into_bytes()
}

/// The beginning of a request, up to the attributes of the operation's element.
fn request(operation: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" {SPACES}><s:Header><t:RequestServerVersion Version="Exchange2013_SP1"/><t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>amy.jones@contoso.com</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header><s:Body><m:{operation}"#
    )
}

/// A GetItem response whose items have bodies of escaped HTML.
pub(super) fn get_10mb_html() -> Vec<u8> {
    response("GetItem", MEMBERS, |body| {
        item(body, |body| {
            body.push_str(r#"<t:Body BodyType="HTML">"#);
            html(body, 10 * MEGABYTE / MEMBERS - 1400);
            body.push_str("</t:Body>");
        })
    })
}

/// A GetItem response whose items are MIME in base64, on lines as Exchange has them: none.
pub(super) fn get_10mb_mime() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0x11);
    response("GetItem", MEMBERS, |body| {
        item(body, |body| {
            body.push_str(r#"<t:MimeContent CharacterSet="UTF-8">"#);
            const ALPHABET: &[u8; 64] =
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            for _ in 0..10 * MEGABYTE / MEMBERS - 1400 {
                body.push(char::from(ALPHABET[random.usize(..64)]));
            }
            body.push_str("</t:MimeContent>");
        })
    })
}

/// A GetItem response of items that are all properties.
pub(super) fn get_10mb_dense() -> Vec<u8> {
    response("GetItem", MEMBERS, |body| {
        let begin = body.len();
        body.push_str("<t:Contact>");
        let mut number = 0;
        while body.len() - begin < 10 * MEGABYTE / MEMBERS - 300 {
            number += 1;
            body.push_str(&format!(
                concat!(
                    r#"<t:ExtendedProperty><t:ExtendedFieldURI PropertyTag="0x{:04x}" PropertyType="String"/>"#,
                    "<t:Value>{}</t:Value></t:ExtendedProperty>",
                    r#"<t:Entry Key="EmailAddress{}">c{}@contoso.com</t:Entry><t:HasPicture>false</t:HasPicture><t:Size>{}</t:Size>"#,
                ),
                0x3000 + number, number * 7, number % 3, number, number * 31,
            ));
        }
        body.push_str("</t:Contact>");
    })
}

/// What an item has beside its content.
fn item(body: &mut String, content: impl FnOnce(&mut String)) {
    body.push_str(&format!(
        r#"<t:Message><t:ItemId Id="{ID}" ChangeKey="CQAAABYAAAAN+VjmVZl5Rq1ymCq5eFKOAAAE5+DI"/><t:Subject>Minutes</t:Subject>"#
    ));
    content(body);
    body.push_str(concat!(
        "<t:DateTimeSent>2026-01-08T10:00:00Z</t:DateTimeSent><t:HasAttachments>false</t:HasAttachments>",
        "<t:From><t:Mailbox><t:Name>Bo Berg</t:Name><t:EmailAddress>bo@fabrikam.com</t:EmailAddress>",
        "<t:RoutingType>SMTP</t:RoutingType></t:Mailbox></t:From><t:IsRead>true</t:IsRead></t:Message>",
    ));
}

/// A response with `members` messages.
fn response(operation: &str, members: usize, mut content: impl FnMut(&mut String)) -> Vec<u8> {
    let mut body = format!(
        r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header><h:ServerVersionInfo MajorVersion="15" MinorVersion="20" MajorBuildNumber="9000" MinorBuildNumber="18" xmlns:h="http://schemas.microsoft.com/exchange/services/2006/types"/></s:Header><s:Body><m:{operation}Response {SPACES}><m:ResponseMessages>"#
    );
    for _ in 0..members {
        body += &format!(
            r#"<m:{operation}ResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Items>"#
        );
        content(&mut body);
        body += &format!("</m:Items></m:{operation}ResponseMessage>");
    }
    body += &format!("</m:ResponseMessages></m:{operation}Response></s:Body></s:Envelope>");
    body.into_bytes()
}

/// The response to a call of everyday size.
pub(super) fn get_2kb() -> Vec<u8> {
    response("GetItem", 1, |body| {
        item(body, |body| {
            body.push_str(r#"<t:Body BodyType="HTML">"#);
            html(body, 600);
            body.push_str("</t:Body>");
        })
    })
}

/// HTML of a given length as it stands in a text, escaped.
fn html(body: &mut String, room: usize) {
    let line = "&lt;p class=\"MsoNormal\"&gt;A few words about it, as people write them &amp;amp; as they come.&lt;/p&gt;\r\n";
    body.push_str(&line.repeat(room / line.len()));
    body.extend(std::iter::repeat_n(' ', room % line.len()));
}
