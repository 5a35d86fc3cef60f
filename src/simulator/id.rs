//! Exchange's own item and folder ids: base64 of a mailbox GUID and an entry id, so that an id
//! alone names its mailbox.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const NO_COMPRESSION: u8 = 0;
const MAILBOX_ITEM: u8 = 3;
const FOLDER_LENGTH: u16 = 46;
const ITEM_LENGTH: u16 = 70;
/// The object types in entry ids of private stores.
const FOLDER_TYPE: [u8; 2] = [0x01, 0x00];
const ITEM_TYPE: [u8; 2] = [0x07, 0x00];

/// What comes before the entry id.
const HEAD_LENGTH: usize = 4 + 36 + 3;

/// A mailbox's GUID.
pub(super) type Guid = [u8; 16];

/// What an id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) mailbox: Guid,
    pub(super) folder: u64,
    /// `None` for the id of a folder.
    pub(super) item: Option<u64>,
    /// The number of an attachment of that item.
    pub(super) attachment: Option<u64>,
}

/// `d8-4-4-4-12`, as it stands in ids.
pub(super) fn guid_text(guid: &Guid) -> String {
    uuid::Uuid::from_bytes(*guid).hyphenated().to_string()
}

impl Id {
    /// The id as it stands in XML.
    pub(super) fn encode(&self) -> String {
        let guid = guid_text(&self.mailbox);
        let mut out = vec![NO_COMPRESSION, MAILBOX_ITEM];
        out.extend_from_slice(&(guid.len() as u16).to_le_bytes());
        out.extend_from_slice(guid.as_bytes());
        out.push(0);
        let length = if self.item.is_some() {
            ITEM_LENGTH
        } else {
            FOLDER_LENGTH
        };
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.mailbox);
        out.extend_from_slice(if self.item.is_some() {
            &ITEM_TYPE
        } else {
            &FOLDER_TYPE
        });
        push_counter(&mut out, &self.mailbox, self.folder);
        if let Some(item) = self.item {
            push_counter(&mut out, &self.mailbox, item);
        }
        if let Some(attachment) = self.attachment {
            // One level of attachments, and the length of its key.
            out.extend_from_slice(&[1, 8, 0]);
            out.extend_from_slice(&attachment.to_le_bytes());
        }
        STANDARD.encode(out)
    }

    /// Reads an id that [`encode`](Self::encode) wrote; `None` for anything else.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        if *head != [NO_COMPRESSION, MAILBOX_ITEM, 36, 0] {
            return None;
        }
        let (guid, rest) = rest.split_at_checked(36)?;
        let mailbox = uuid::Uuid::try_parse(std::str::from_utf8(guid).ok()?)
            .ok()?
            .into_bytes();
        let (head, rest) = rest.split_first_chunk::<3>()?;
        let length = u16::from_le_bytes([head[1], head[2]]);
        if head[0] != 0 {
            return None;
        }
        let (rest, more) = rest.split_at_checked(usize::from(length))?;
        let attachment = match more {
            [] => None,
            [1, 8, 0, key @ ..] if length == ITEM_LENGTH => {
                Some(u64::from_le_bytes(key.try_into().ok()?))
            }
            _ => return None,
        };
        let rest = rest.get(22..)?;
        match length {
            FOLDER_LENGTH => Some(Self {
                mailbox,
                folder: counter(rest)?,
                item: None,
                attachment: None,
            }),
            ITEM_LENGTH => Some(Self {
                mailbox,
                folder: counter(rest)?,
                item: Some(counter(rest.get(24..)?)?),
                attachment,
            }),
            _ => None,
        }
    }
}

/// The entry id inside an id that [`Id::decode`] understands.
pub(super) fn entry_id(text: &str) -> Option<Vec<u8>> {
    Some(
        STANDARD
            .decode(text.trim())
            .ok()?
            .get(HEAD_LENGTH..)?
            .to_vec(),
    )
}

/// The id around an entry id: its inverse.
pub(super) fn id_of_entry(entry: &[u8]) -> Option<Id> {
    let mailbox: Guid = entry.get(4..20)?.try_into().ok()?;
    let mut bytes = vec![NO_COMPRESSION, MAILBOX_ITEM, 36, 0];
    bytes.extend_from_slice(guid_text(&mailbox).as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&u16::try_from(entry.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(entry);
    Id::decode(&STANDARD.encode(bytes))
}

/// A GUID, a 48-bit big-endian counter and two bytes of padding.
fn push_counter(out: &mut Vec<u8>, guid: &Guid, counter: u64) {
    out.extend_from_slice(guid);
    out.extend_from_slice(&counter.to_be_bytes()[2..]);
    out.extend_from_slice(&[0, 0]);
}

fn counter(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.get(16..22)?;
    Some(
        digits
            .iter()
            .fold(0, |sum, digit| (sum << 8) | u64::from(*digit)),
    )
}

/// The change key of a version of an item or folder.
pub(super) fn change_key(mailbox: &Guid, version: u64) -> String {
    let mut out = vec![0x09, 0, 0, 0, 0x16, 0, 0, 0];
    out.extend_from_slice(mailbox);
    out.extend_from_slice(&version.to_be_bytes()[2..]);
    STANDARD.encode(out)
}

/// The version in a change key; `None` when it is no change key of that mailbox.
pub(super) fn version_of(mailbox: &Guid, key: &str) -> Option<u64> {
    let bytes = STANDARD.decode(key.trim()).ok()?;
    let digits = bytes.get(24..30)?;
    (bytes.len() == 30 && bytes.get(8..24)? == mailbox).then(|| {
        digits
            .iter()
            .fold(0, |sum, digit| (sum << 8) | u64::from(*digit))
    })
}

/// The GUID of an address under a seed: the same whichever mailbox is touched first.
pub(super) fn guid_of(address: &str, seed: u64) -> Guid {
    // FNV-1a in 128 bits.
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for byte in seed.to_le_bytes().into_iter().chain(address.bytes()) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    uuid::Builder::from_random_bytes(hash.to_le_bytes())
        .into_uuid()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trip() {
        let mailbox = guid_of("a@contoso.com", 1);
        let item = Id {
            mailbox,
            folder: 7,
            item: Some(0x0102_0304_0506),
            attachment: None,
        };
        let text = item.encode();
        assert!(text.starts_with("AAMkA"), "{text}");
        assert_eq!(Id::decode(&text), Some(item));
        let folder = Id {
            mailbox,
            folder: 9,
            item: None,
            attachment: None,
        };
        assert_eq!(Id::decode(&folder.encode()), Some(folder));
        let attachment = Id {
            attachment: Some(3),
            ..item
        };
        assert_eq!(Id::decode(&attachment.encode()), Some(attachment));
        for id in [item, folder] {
            let entry = entry_id(&id.encode()).unwrap();
            assert_eq!(id_of_entry(&entry), Some(id));
        }
        assert_eq!(version_of(&mailbox, &change_key(&mailbox, 12)), Some(12));
        assert_eq!(
            version_of(&guid_of("b@contoso.com", 1), &change_key(&mailbox, 12)),
            None
        );
        assert_ne!(guid_of("a@contoso.com", 2), mailbox);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..130), text in ".{0,60}") {
            let _ = id_of_entry(&bytes);
            let _ = Id::decode(&STANDARD.encode(bytes));
            let _ = Id::decode(&text);
        }
    }
}
