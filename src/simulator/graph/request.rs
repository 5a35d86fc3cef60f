//! One request, alone or in a batch: what it wants of which mailbox.

use bytes::Bytes;
use http::Method;

#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) method: Method,
    /// Without the query and the version of the API.
    path: String,
    query: String,
    /// `Content-Range`.
    pub(super) range: Option<String>,
    pub(super) body: Bytes,
    /// Where the links of the response lead: a scheme and an authority.
    pub(super) base: String,
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Messages,
    Message(String),
    /// In which folder.
    Delta(String),
    NewUpload(String),
    /// Of which message, which session.
    Upload(String, String),
}

impl Wanted {
    pub(super) fn new(method: Method, url: &str, body: Bytes, base: String) -> Self {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let path = path.trim_start_matches('/');
        let version = ["v1.0/", "beta/"].iter();
        let path = version
            .filter_map(|version| path.strip_prefix(version))
            .next()
            .unwrap_or(path);
        Self {
            method,
            path: path.replace("%40", "@").replace("%24", "$"),
            query: query.replace("%24", "$"),
            range: None,
            body,
            base,
        }
    }

    pub(super) fn is_batch(&self) -> bool {
        self.path == "$batch"
    }

    /// The mailbox in lower case, and what of it is wanted.
    pub(super) fn target(&self) -> Option<(String, Resource)> {
        let segments: Vec<&str> = self.path.split('/').collect();
        let (mailbox, rest) = match &*segments {
            ["users", mailbox, "mailFolders", folder, "messages", "delta"] => {
                let delta = Resource::Delta((*folder).to_owned());
                return Some((mailbox.to_lowercase(), delta));
            }
            ["users", mailbox, "mailFolders", _, rest @ ..] | ["users", mailbox, rest @ ..] => {
                (mailbox.to_lowercase(), rest)
            }
            _ => return None,
        };
        let resource = match rest {
            ["messages"] => Resource::Messages,
            ["messages", id] => Resource::Message((*id).to_owned()),
            ["messages", id, "attachments", "createUploadSession"] => {
                Resource::NewUpload((*id).to_owned())
            }
            ["messages", id, "attachmentSessions", session] => {
                Resource::Upload((*id).to_owned(), (*session).to_owned())
            }
            _ => return None,
        };
        Some((mailbox, resource))
    }

    /// The value of an option of the query, such as `$top`.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let options = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        options
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value)
            .next()
    }

    /// The number of such an option.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.option(name)?.parse().ok()
    }

    /// The bytes that count as an upload.
    pub(super) fn upload(&self) -> u64 {
        match self.method {
            Method::PATCH | Method::POST | Method::PUT => self.body.len() as u64,
            _ => 0,
        }
    }
}
