//! [`Line`]: one line of a journal.

use super::outcome::JobOutcome;

/// What a line says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Begun,
    Ended(JobOutcome),
}

impl Entry {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Begun, "begin"),
        (Self::Ended(JobOutcome::Done), "done"),
        (Self::Ended(JobOutcome::NotExecuted), "failed"),
        (Self::Ended(JobOutcome::InDoubt), "doubt"),
    ];

    fn word(self) -> &'static str {
        let known = Self::ALL.iter().find(|(entry, _)| *entry == self);
        known.map_or("doubt", |(_, word)| word)
    }
}

/// Writes a line. It begins with the end of the line before, which may have been cut off, and its last character is one that no key
/// has, so that a line that is cut off is none.
pub(super) fn write(entry: Entry, key: &str) -> String {
    let mut line = format!("\n{} ", entry.word());
    for character in key.chars() {
        match character {
            '%' | ';' | ' ' | '\u{0}'..='\u{1f}' | '\u{7f}' => {
                line.push_str(&format!("%{:02x}", u32::from(character)));
            }
            character => line.push(character),
        }
    }
    line.push_str(" ;");
    line
}

/// Reads a line. None if it is none, or was cut off.
pub(super) fn read(line: &[u8]) -> Option<(Entry, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let (word, key) = line.trim_end_matches(['\r', '\n']).split_once(' ')?;
    let key = key.strip_suffix(" ;")?;
    let (entry, _) = Entry::ALL.iter().find(|(_, known)| *known == word)?;
    let mut pieces = key.split('%');
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        let code = u8::from_str_radix(piece.get(..2)?, 16).ok()?;
        text.push(char::from(code));
        text.push_str(piece.get(2..)?);
    }
    Some((*entry, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_comes_back_and_no_part_of_a_line_is_one() {
        let keys = [
            "a",
            "",
            "amy@contoso.com/Inbox/7",
            "50% ; of\nit\u{7f}",
            "Jürgen\t",
        ];
        for key in keys {
            for (entry, _) in Entry::ALL {
                let line = write(entry, key);
                let line = line.strip_prefix('\n').unwrap();
                assert_eq!(read(line.as_bytes()), Some((entry, key.to_owned())));
                for end in 0..line.len() {
                    assert_eq!(read(&line.as_bytes()[..end]), None, "{line} to {end}");
                }
            }
        }
        for none in [
            "",
            "done",
            "done a",
            "undone a ;",
            "done %zz ;",
            "done %é ;",
        ] {
            assert_eq!(read(none.as_bytes()), None, "{none}");
        }
    }
}
