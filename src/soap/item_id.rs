//! Which mailbox an item id or a folder id belongs to.
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use uuid::Uuid;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Base64 characters that surely hold the mailbox: a compression byte, then at most 39 bytes, each
/// pair of which may have a count behind it.
const HEAD: usize = 84;

/// The mailbox GUID (ExchangeGuid) inside an `ItemId`, `FolderId`, `ConversationId`, `PersonaId` or
/// `AttachmentId`.
///
/// None if the id has no mailbox in it (public folders, Exchange 2007), is shortened, or comes from
/// a server with another format: an id is opaque by contract, so nothing may depend on its being
/// readable. The layout is the one of \[MS-OXCEXT\] 2.2.6.1.1 and 3.1.4.5. The GUID is not an SMTP
/// address, and an archive mailbox has its own.
///
/// ```
/// use tower_ews::soap::item_id::mailbox_guid;
///
/// let id = "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwAuAAAAAADPriAxh444TpHj2GoQxWQNAQAN+VjmVZl5Rq1ymCq5eFKOAAAAABSyAAA=";
/// assert_eq!(mailbox_guid(id).unwrap().to_string(), "859e0872-883c-4021-9b24-29dc9958697c");
/// assert_eq!(mailbox_guid("AAMkADE="), None);
/// ```
pub fn mailbox_guid(id: &str) -> Option<Uuid> {
    let head = head(id);
    let mut bytes = [0; HEAD];
    let length = BASE64.decode_slice(head, &mut bytes).ok()?;
    let (&compression, payload) = bytes.get(..length)?.split_first()?;
    let mut plain = [0; HEAD];
    let payload = match compression {
        0 => payload,
        1 => expand(payload, &mut plain),
        _ => return None,
    };
    // Storage types: 3 a mailbox item, 4 a conversation, 6 the same with a fallback. The others
    // name no mailbox by GUID.
    let (&[storage, low, high], rest) = payload.split_first_chunk()?;
    if !matches!(storage, 3 | 4 | 6) || u16::from_le_bytes([low, high]) != 36 {
        return None;
    }
    Uuid::try_parse_ascii(rest.get(..36)?).ok()
}

/// The part of an id that decides what [`mailbox_guid`] says.
pub(super) fn head(id: &str) -> &[u8] {
    let id = id.trim().as_bytes();
    id.get(..HEAD).unwrap_or(id)
}

/// Undoes the run length encoding: behind two equal bytes stands how often the byte is repeated
/// further.
fn expand<'a>(packed: &[u8], plain: &'a mut [u8]) -> &'a [u8] {
    let mut length = 0;
    let mut put = |byte: u8| {
        if let Some(place) = plain.get_mut(length) {
            *place = byte;
            length += 1;
        }
    };
    let mut bytes = packed.iter().copied();
    let mut last = None;
    while let Some(byte) = bytes.next() {
        put(byte);
        if last == Some(byte) {
            for _ in 0..bytes.next().unwrap_or(0) {
                put(byte);
            }
            last = None;
        } else {
            last = Some(byte);
        }
    }
    plain.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real ids from public documents; the last three are of public folders.
    const IDS: [(&str, Option<&str>); 15] = [
        (
            "AAQkAGQ1MjJjMTBkLTc4Y2UtNDA5Ny04ZjU5LWI3MTYzNGNkZmRkYQAQAOjFqObcLmtOlzlRnHdXQjo=",
            Some("d522c10d-78ce-4097-8f59-b71634cdfdda"),
        ),
        (
            "AAQkAGQ1MjJjMTBkLTc4Y2UtNDA5Ny04ZjU5LWI3MTYzNGNkZmRkYQAQAJ3EkhEEXN5KufGbSYJanZk=",
            Some("d522c10d-78ce-4097-8f59-b71634cdfdda"),
        ),
        (
            "AAMkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwBGAAAAAABSSWVKrmGUTJE+MVIvofglBwDZGACZQpSgSpyNkexYe2b7AAAAAAENAADZGACZQpSgSpyNkexYe2b7AAANGFYwAAA=",
            Some("9362c853-fa03-45d1-9d7c-ef09db45f783"),
        ),
        (
            "AQMkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwAuAAADUkllSq5hlEyRPjFSL6H4JQEA2RgAmUKUoEqcjZHsWHtm+wAAAgENAAAA",
            Some("9362c853-fa03-45d1-9d7c-ef09db45f783"),
        ),
        (
            "AQMkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwAuAAADUkllSq5hlEyRPjFSL6H4JQEA2RgAmUKUoEqcjZHsWHtm+wAAAgEJAAAA",
            Some("9362c853-fa03-45d1-9d7c-ef09db45f783"),
        ),
        (
            "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwBGAAAAAADPriAxh444TpHj2GoQxWQNBwAN+VjmVZl5Rq1ymCq5eFKOAAAAAAENAAAN+VjmVZl5Rq1ymCq5eFKOAAAAAAEuAAA=",
            Some("859e0872-883c-4021-9b24-29dc9958697c"),
        ),
        (
            "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwBGAAAAAADPriAxh444TpHj2GoQxWQNBwAN+VjmVZl5Rq1ymCq5eFKOAAAAAAEbAAAN+VjmVZl5Rq1ymCq5eFKOAAAE59DIAAA=",
            Some("859e0872-883c-4021-9b24-29dc9958697c"),
        ),
        (
            "AAQkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwAQACAi+NTh0F5Eg5YDwpJsXPE=",
            Some("9362c853-fa03-45d1-9d7c-ef09db45f783"),
        ),
        (
            "AAQkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwAQAIsBEZp25UpElByLLUQFH6Q=",
            Some("9362c853-fa03-45d1-9d7c-ef09db45f783"),
        ),
        (
            "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwAuAAAAAADPriAxh444TpHj2GoQxWQNAQAN+VjmVZl5Rq1ymCq5eFKOAAAAABSyAAA=",
            Some("859e0872-883c-4021-9b24-29dc9958697c"),
        ),
        (
            "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwAuAAAAAADPriAxh444TpHj2GoQxWQNAQAN+VjmVZl5Rq1ymCq5eFKOAAAAABSxAAA=",
            Some("859e0872-883c-4021-9b24-29dc9958697c"),
        ),
        (
            "AQMkADRiZGNhMWIxLWIwOGMtNDQAZjktODk3OS0zZWIxODJjNmI4NWYALgAAA8ZmIFRjoG9PpiagjztHaIcBAFSUeaisgPtKo3c6hV+VzpcAAAIBCAAAAA==",
            Some("4bdca1b1-b08c-44f9-8979-3eb182c6b85f"),
        ),
        (
            "AAEuAAAAAADL8shaNEKnQYVvRbpoY9vDAQBGDloItRzyTrAt+XVzRr/YAABdofPkAAA=",
            None,
        ),
        (
            "AQEuAAADy/LIWjRCp0GFb0W6aGPbwwEARg5aCLUc8k6wLfl1c0a/2AAAAxEAAAA=",
            None,
        ),
        (
            "AQEuAAADy/LIWjRCp0GFb0W6aGPbwwEARg5aCLUc8k6wLfl1c0a/2AAAAwIAAAA=",
            None,
        ),
    ];

    #[test]
    fn real_ids() {
        for (id, guid) in IDS {
            let found = mailbox_guid(id).map(|guid| guid.to_string());
            assert_eq!(found.as_deref(), guid, "{id}");
            assert_eq!(mailbox_guid(&format!(" {id}\n")).is_some(), guid.is_some());
        }
    }

    #[test]
    fn broken_ids_are_no_mailbox() {
        let whole = IDS.iter().find(|id| id.1.is_some()).unwrap().0;
        for length in 0..whole.len() {
            // The mailbox is in the first 54 characters, and one character alone is no base64.
            let readable = length >= 54 && length % 4 != 1;
            assert_eq!(
                mailbox_guid(&whole[..length]).is_some(),
                readable,
                "{length}"
            );
        }
        for id in [
            "",
            "=",
            "AAMkADE=",
            "AAMkAD!!",
            "é",
            "AQMkAAAA/w==",
            "AgMkADkz",
            "AAMkAGFhYWE=",
        ] {
            assert_eq!(mailbox_guid(id), None, "{id}");
        }
    }

    #[test]
    fn random_ids_do_no_harm() {
        let seed = std::env::var("EWS_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        eprintln!("EWS_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let alphabet = b"ABCMkAQg19+/=zZ";
            let id: Vec<u8> = (0..random.usize(..130))
                .map(|_| alphabet[random.usize(..alphabet.len())])
                .collect();
            mailbox_guid(std::str::from_utf8(&id).unwrap());
            let packed: Vec<u8> = (0..random.usize(..70)).map(|_| random.u8(..3)).collect();
            let mut plain = [0; HEAD];
            expand(&packed, &mut plain);
        }
    }
}
