//! [`Triples`]: sets of three letters, to tell at once how a name of a secret cannot begin or end.

const LETTERS: usize = 26;

const WORDS: usize = (LETTERS * LETTERS * LETTERS).div_ceil(64);

/// A set of three lower-case letters each. What is no letter counts as any one.
#[derive(Debug)]
pub(super) struct Triples([u64; WORDS]);

const fn letter(byte: u8) -> usize {
    byte.wrapping_sub(b'a') as usize % LETTERS
}

const fn place(one: u8, two: u8, three: u8) -> (usize, u64) {
    let at = (letter(one) * LETTERS + letter(two)) * LETTERS + letter(three);
    (at / 64, 1 << (at % 64))
}

impl Triples {
    pub(super) const fn new() -> Self {
        Self([0; WORDS])
    }

    const fn add(&mut self, one: u8, two: u8, three: u8) {
        let (word, bit) = place(one, two, three);
        self.0[word] |= bit;
    }

    /// Adds the end of a name of three letters or more, alone and in the plural.
    pub(super) const fn add_end_of(&mut self, name: &[u8]) {
        let length = name.len();
        if length >= 3 {
            self.add(name[length - 3], name[length - 2], name[length - 1]);
            self.add(name[length - 2], name[length - 1], b's');
        }
    }

    /// Adds the begin of a name of three letters or more.
    pub(super) const fn add_begin_of(&mut self, name: &[u8]) {
        if name.len() >= 3 {
            self.add(name[0], name[1], name[2]);
        }
    }

    fn has(&self, letters: &[u8]) -> bool {
        match letters {
            [one, two, three] => {
                let (word, bit) = place(*one, *two, *three);
                self.0.get(word).is_some_and(|word| word & bit != 0)
            }
            // Shorter names are looked up.
            _ => true,
        }
    }

    pub(super) fn has_end_of(&self, name: &[u8]) -> bool {
        self.has(name.get(name.len().saturating_sub(3)..).unwrap_or_default())
    }

    pub(super) fn has_begin_of(&self, name: &[u8]) -> bool {
        self.has(name.get(..name.len().min(3)).unwrap_or_default())
    }
}
