//! What is a bare SMTP address.

/// The longest address that SMTP can carry: 64 bytes, `@`, 255 bytes (RFC 5321, 4.5.3.1).
pub(crate) const MAX_ADDRESS: usize = 320;

/// What a byte adds to the sum of an address, which is 1 if there is one `@` and else only what a
/// bare address may have.
const WEIGHTS: [u16; 256] = {
    let mut weights = [1 << 8; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        weights[byte as usize] = match byte {
            b'@' => 1,
            b'"' | b'(' | b')' | b',' | b':' | b';' | b'<' | b'>' | b'[' | b'\\' | b']' => 1 << 8,
            _ => 0,
        };
        byte += 1;
    }
    weights
};

/// Whether it is one mailbox's address and nothing else: no display name, no quoted local part, no
/// legacy DN, no control character.
pub(crate) fn is_bare_address(address: &str) -> bool {
    let sum = |sum, byte: &u8| sum + u32::from(WEIGHTS[usize::from(*byte)]);
    match address.as_bytes() {
        // A slash begins a legacy DN; inside of an address it is a letter like others.
        [b'@' | b'/', ..] | [.., b'@'] => false,
        bytes => bytes.len() <= MAX_ADDRESS && bytes.iter().fold(0, sum) == 1,
    }
}
