//! What reading costs by counted bytes: it follows the bytes that are read, not their shape.
use tower_ews::soap::{Outline, ResponseScanner};

const MIB: usize = 1 << 20;

fn envelope(inner: &str) -> String {
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types'><s:Body>{inner}</s:Body></s:Envelope>"
    )
}

fn response(in_message: &str) -> String {
    envelope(&format!(
        "<m:GetItemResponse><m:ResponseMessages><m:GetItemResponseMessage ResponseClass='Error'>{in_message}\
         <m:ResponseCode>ErrorServerBusy</m:ResponseCode></m:GetItemResponseMessage></m:ResponseMessages></m:GetItemResponse>"
    ))
}

/// Whatever is large in a response, and however it is cut, a scanner keeps a few kilobytes.
#[test]
fn a_response_in_frames_of_any_size_is_not_kept() {
    let text = "x".repeat(MIB);
    let shapes = [
        (
            "text",
            response(&format!("<m:MessageText>{text}</m:MessageText>")),
        ),
        (
            "CDATA",
            response(&format!(
                "<m:MessageText><![CDATA[{text}]]></m:MessageText>"
            )),
        ),
        ("comment", response(&format!("<!--{text}-->"))),
        ("instruction", response(&format!("<?{text}?>"))),
        (
            "loose text",
            response(&format!("<m:MessageXml>{text}</m:MessageXml>")),
        ),
        (
            "values",
            response(&format!(
                "<m:MessageXml>{}</m:MessageXml>",
                "<t:Value Name='a'>b</t:Value>".repeat(MIB / 28)
            )),
        ),
        (
            "attribute",
            response(&format!("<m:Items><a b='{text}'/></m:Items>")),
        ),
        (
            "elements",
            response(&format!(
                "<m:Items>{}</m:Items>",
                "<a>".repeat(10) + &"<b/>".repeat(MIB / 4) + &"</a>".repeat(10)
            )),
        ),
        (
            "depth",
            response(&format!(
                "<m:Items>{}{}</m:Items>",
                "<a>".repeat(MIB / 7),
                "</a>".repeat(MIB / 7)
            )),
        ),
    ];
    for (name, body) in &shapes {
        for size in [1, 1000, body.len()] {
            let mut found = 0;
            let info = allocation_counter::measure(|| {
                let mut scanner = ResponseScanner::new();
                for piece in body.as_bytes().chunks(size) {
                    scanner.push(piece, &mut |_| found += 1).unwrap();
                }
                scanner.finish().unwrap();
            });
            assert_eq!(found, 1, "{name}");
            assert!(info.bytes_max < 32 * 1024, "{name} by {size}: {info:?}");
        }
    }
}

/// A thousand namespaces around a request cost their own bytes, however many members use them.
#[test]
fn an_outline_takes_memory_by_the_bytes_of_the_request() {
    let request = |namespaces: usize, members: usize| {
        let declared: String = (0..namespaces)
            .map(|number| format!(" xmlns:p{number}='urn:{number}'"))
            .collect();
        let members: String = (0..members)
            .map(|number| format!("<p{}:ItemId Id='{number}'/>", number % namespaces.max(1)))
            .collect();
        let body = format!("<m:GetItem><m:ItemIds>{members}</m:ItemIds></m:GetItem>");
        envelope(&body).replacen("<s:Envelope", &format!("<s:Envelope{declared}"), 1)
    };
    let cost = |namespaces, members| {
        let body = request(namespaces, members);
        let mut outline = None;
        let info = allocation_counter::measure(|| outline = Some(Outline::parse(body.as_bytes())));
        let outline = outline.unwrap().unwrap();
        assert_eq!(outline.array().unwrap().members().len(), members);
        info.bytes_total as f64 / body.len() as f64
    };
    let per_byte = cost(1, 100_000);
    assert!(per_byte < 4.0, "{per_byte}");
    for namespaces in [100, 1000] {
        let declared = cost(namespaces, 100_000);
        assert!(declared < 1.2 * per_byte, "{namespaces}: {declared}");
    }
    // More members cost as much more.
    let many = cost(1000, 400_000);
    assert!(many < 1.2 * per_byte, "{many}");
}
