//! Responses read in pieces and as a whole, and their messages against quick-xml's `NsReader`: for
//! the tests and for the fuzz target.
use quick_xml::events::Event;
use quick_xml::reader::NsReader;
use tower_ews::soap::{ResponseMessage, ResponseScanner, ScanError};

type Scanned = (Vec<ResponseMessage>, Result<(), ScanError>, Option<bool>);

/// Reads a response in these pieces.
pub(crate) fn scan(pieces: &[&[u8]]) -> Scanned {
    let mut scanner = ResponseScanner::new();
    let mut messages = Vec::new();
    let mut result = Ok(());
    for piece in pieces {
        result = scanner.push(piece, &mut |message| messages.push(message));
        if result.is_err() {
            break;
        }
    }
    let result = result.and_then(|()| scanner.finish());
    (messages, result, scanner.is_soap())
}

/// However the response is cut (`cuts` are lengths of pieces, again and again), it says the same,
/// and each message of a sound response is one element.
pub(crate) fn assert_agrees(body: &[u8], cuts: &[u8]) {
    let whole = scan(&[body]);
    let single: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(
        scan(&single),
        whole,
        "byte by byte: {}",
        String::from_utf8_lossy(body)
    );
    let mut pieces = Vec::new();
    let mut rest = body;
    for cut in cuts.iter().cycle().take_while(|_| !cuts.is_empty()) {
        let (piece, others) = rest.split_at(rest.len().min(usize::from(*cut) + 1));
        pieces.push(piece);
        rest = others;
        if rest.is_empty() {
            break;
        }
    }
    if rest.is_empty() {
        assert_eq!(
            scan(&pieces),
            whole,
            "in pieces: {}",
            String::from_utf8_lossy(body)
        );
    }
    if whole.1.is_err() {
        return;
    }
    for message in &whole.0 {
        let element = &body[message.range.start as usize..message.range.end as usize];
        assert!(
            is_one_element(element),
            "{}",
            String::from_utf8_lossy(element)
        );
    }
}

/// Also true of what quick-xml is stricter about: end tags inside what is passed over are not
/// compared.
fn is_one_element(element: &[u8]) -> bool {
    let mut reader = NsReader::from_reader(element);
    let config = reader.config_mut();
    config.allow_dangling_amp = true;
    config.check_end_names = false;
    let mut depth = 0_usize;
    let mut roots = 0;
    loop {
        match reader.read_event() {
            Ok(Event::Start(_)) => {
                roots += usize::from(depth == 0);
                depth += 1;
            }
            Ok(Event::Empty(_)) => roots += usize::from(depth == 0),
            // A quote in an end tag hides what follows from quick-xml, but not from the scanner.
            Ok(Event::End(end)) if end.iter().any(|byte| b"\"'".contains(byte)) => return true,
            Ok(Event::End(_)) => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            Ok(Event::Eof) => return depth == 0 && roots == 1,
            Ok(_) => {}
            Err(_) => return true,
        }
    }
}
