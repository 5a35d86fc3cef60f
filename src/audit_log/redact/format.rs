//! [`Format`]: how a body is read.

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Xml,
    Json,
    Form,
    Text,
    Unreadable,
}

/// Returns the format by the content of a body first, and then by its declared type.
pub(super) fn format_of(content_type: Option<&str>, body: &[u8]) -> Format {
    let declared = content_type.unwrap_or_default().to_ascii_lowercase();
    let charset = declared
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim() == "charset")
        .is_none_or(|(_, charset)| is_readable(charset));
    let media = declared.split(';').next().unwrap_or_default().trim();
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = body.trim_ascii_start();
    if text.is_empty() {
        return Format::Text;
    }
    let other_unicode = body.starts_with(b"\xff\xfe")
        || body.starts_with(b"\xfe\xff")
        || memchr::memchr(0, body).is_some();
    if !charset || other_unicode || media.starts_with("multipart/") {
        return Format::Unreadable;
    }
    match text.first() {
        Some(b'<') if !declares_readable(text) => Format::Unreadable,
        Some(b'<') => Format::Xml,
        Some(b'{' | b'[') => Format::Json,
        _ if media == "application/x-www-form-urlencoded" => Format::Form,
        _ if media.ends_with("xml") || media == "text/html" => Format::Xml,
        _ if media.ends_with("json") => Format::Json,
        _ if media.is_empty() || media.starts_with("text/") => Format::Text,
        _ if std::str::from_utf8(body.get(..body.len().saturating_sub(4)).unwrap_or_default())
            .is_err_and(|error| error.error_len().is_some()) =>
        {
            Format::Unreadable
        }
        _ => Format::Text,
    }
}

/// Whether the charset is a superset of ASCII.
fn is_readable(charset: &str) -> bool {
    let charset = charset.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    ["utf-8", "utf8", "us-ascii", "ascii", "latin1"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(charset))
        || ["iso-8859-", "windows-125"].iter().any(|family| {
            charset
                .get(..family.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(family))
        })
}

/// Whether the encoding of an XML declaration, if there is one, is a superset of ASCII.
fn declares_readable(text: &[u8]) -> bool {
    let Some(declaration) = text.strip_prefix(b"<?xml") else {
        return true;
    };
    let declaration = declaration
        .get(..declaration.len().min(256))
        .unwrap_or_default();
    let length = memchr::memmem::find(declaration, b"?>").unwrap_or(declaration.len());
    let declaration = String::from_utf8_lossy(declaration.get(..length).unwrap_or_default());
    let Some((_, encoding)) = declaration.split_once("encoding") else {
        return true;
    };
    let mut parts = encoding.split(['"', '\'']);
    parts.nth(1).is_none_or(is_readable)
}
