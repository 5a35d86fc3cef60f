//! One mailbox: its messages, their changes, and the uploads that are under way.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value, json};

use super::reply::Reply;
use super::report::GraphReport;
use super::request::{Resource, Wanted};
use crate::simulator::clock::stamp;

/// The largest range of an upload (attachment: createUploadSession).
const MAX_RANGE: u64 = 4 * 1024 * 1024;
/// Uploads expire after a week of the simulation's time, which none of them sees.
const A_WEEK: u64 = 7 * 86_400;

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// By number, in the order of their creation.
    messages: BTreeMap<u64, Message>,
    uploads: Vec<Upload>,
    /// How often anything has changed.
    changes: u64,
}

#[derive(Debug)]
struct Message {
    fields: Map<String, Value>,
    /// The change that it was last changed by.
    changed: u64,
    removed: bool,
}

#[derive(Debug)]
struct Upload {
    message: String,
    name: String,
    size: u64,
    received: u64,
}

fn id_of(number: u64) -> String {
    format!("AAMkAD{number:08}")
}

fn number_of(id: &str) -> Option<u64> {
    id.strip_prefix("AAMkAD")?.parse().ok()
}

impl Mailbox {
    /// Does what is wanted of the mailbox of this name.
    pub(super) fn execute(
        &mut self,
        name: &str,
        resource: &Resource,
        wanted: &Wanted,
        page: usize,
        report: &mut GraphReport,
    ) -> Reply {
        match (&wanted.method, resource) {
            (&Method::GET, Resource::Messages) => self.list(name, wanted, page),
            (&Method::POST, Resource::Messages) => self.create(wanted, report),
            (&Method::GET, Resource::Message(id)) => match self.message(id) {
                Some(message) => Reply::new(200, Value::Object(message.fields.clone())),
                None => Reply::not_found(),
            },
            (&Method::PATCH, Resource::Message(id)) => self.change(id, wanted),
            (&Method::DELETE, Resource::Message(id)) => self.remove(id),
            (&Method::GET, Resource::Delta(folder)) => self.delta(name, folder, wanted, page),
            (&Method::POST, Resource::NewUpload(id)) => self.begin_upload(name, id, wanted),
            (&Method::GET, Resource::Upload(id, session)) => match self.upload(id, session) {
                Some(upload) => upload.status(),
                None => Reply::not_found(),
            },
            (&Method::PUT, Resource::Upload(id, session)) => {
                let Some(upload) = self.upload(id, session) else {
                    return Reply::not_found();
                };
                let reply = upload.receive(wanted);
                if upload.received == upload.size && reply.status == 201 {
                    report.attached.insert(upload.name.clone(), upload.size);
                }
                reply
            }
            _ => Reply::error(405, "MethodNotAllowed", "The method is not allowed."),
        }
    }

    fn message(&self, id: &str) -> Option<&Message> {
        let message = self.messages.get(&number_of(id)?)?;
        Some(message).filter(|message| !message.removed)
    }

    fn upload(&mut self, id: &str, session: &str) -> Option<&mut Upload> {
        let upload = self.uploads.get_mut(session.parse::<usize>().ok()?)?;
        Some(upload).filter(|upload| upload.message == id)
    }

    fn list(&self, name: &str, wanted: &Wanted, page: usize) -> Reply {
        let skip = wanted.number("$skip").unwrap_or_default();
        let top = wanted.number("$top").unwrap_or(page as u64).clamp(1, 1_000);
        let there = self.messages.values().filter(|message| !message.removed);
        let mut there = there.skip(usize::try_from(skip).unwrap_or(usize::MAX));
        let listed = there.by_ref().take(usize::try_from(top).unwrap_or(page));
        let listed: Vec<Value> = listed
            .map(|message| Value::Object(message.fields.clone()))
            .collect();
        let mut body = json!({ "value": listed });
        if there.next().is_some() {
            let base = &wanted.base;
            let skip = skip + top;
            let next = format!("{base}/v1.0/users/{name}/messages?$top={top}&$skip={skip}");
            body["@odata.nextLink"] = next.into();
        }
        Reply::new(200, body)
    }

    fn create(&mut self, wanted: &Wanted, report: &mut GraphReport) -> Reply {
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(&wanted.body) else {
            return Reply::bad_request("Unable to read JSON request payload.");
        };
        let number = self.messages.len() as u64;
        fields.insert("id".to_owned(), id_of(number).into());
        let subject = fields.get("subject").and_then(Value::as_str);
        let subject = subject.unwrap_or_default().to_owned();
        *report.created.entry(subject).or_default() += 1;
        self.changes += 1;
        let message = Message {
            fields: fields.clone(),
            changed: self.changes,
            removed: false,
        };
        self.messages.insert(number, message);
        Reply::new(201, Value::Object(fields))
    }

    fn change(&mut self, id: &str, wanted: &Wanted) -> Reply {
        let Ok(Value::Object(fields)) = serde_json::from_slice(&wanted.body) else {
            return Reply::bad_request("Unable to read JSON request payload.");
        };
        let message = number_of(id).and_then(|number| self.messages.get_mut(&number));
        let Some(message) = message.filter(|message| !message.removed) else {
            return Reply::not_found();
        };
        self.changes += 1;
        message.changed = self.changes;
        let changed = fields.into_iter().filter(|(name, _)| name != "id");
        message.fields.extend(changed);
        Reply::new(200, Value::Object(message.fields.clone()))
    }

    fn remove(&mut self, id: &str) -> Reply {
        let message = number_of(id).and_then(|number| self.messages.get_mut(&number));
        let Some(message) = message.filter(|message| !message.removed) else {
            return Reply::not_found();
        };
        self.changes += 1;
        (message.changed, message.removed) = (self.changes, true);
        Reply::new(204, Value::Null)
    }

    /// What has changed since a token was given out, oldest change first.
    fn delta(&self, name: &str, folder: &str, wanted: &Wanted, page: usize) -> Reply {
        let token = ["$skiptoken", "$deltatoken"];
        let token = token.into_iter().find_map(|name| wanted.number(name));
        let since = token.unwrap_or_default();
        // A first synchronisation is not told of what is gone.
        let told =
            |message: &&Message| message.changed > since && (token.is_some() || !message.removed);
        let mut changed: Vec<&Message> = self.messages.values().filter(told).collect();
        changed.sort_by_key(|message| message.changed);
        let more = changed.len() > page;
        changed.truncate(page);
        let value: Vec<Value> = changed
            .iter()
            .map(|message| match message.removed {
                true => json!({"id": message.fields.get("id"), "@removed": {"reason": "deleted"}}),
                false => Value::Object(message.fields.clone()),
            })
            .collect();
        let folder = format!("{}/v1.0/users/{name}/mailFolders/{folder}", wanted.base);
        let last = changed.last().map(|message| message.changed);
        let mut body = json!({ "value": value });
        let (link, token, seen) = match (more, last) {
            (true, Some(last)) => ("@odata.nextLink", "$skiptoken", last),
            _ => ("@odata.deltaLink", "$deltatoken", self.changes),
        };
        body[link] = format!("{folder}/messages/delta?{token}={seen}").into();
        Reply::new(200, body)
    }

    fn begin_upload(&mut self, name: &str, id: &str, wanted: &Wanted) -> Reply {
        if self.message(id).is_none() {
            return Reply::not_found();
        }
        let item = serde_json::from_slice(&wanted.body).unwrap_or(Value::Null);
        let item = &item["AttachmentItem"];
        let (Some(file), Some(size)) = (item["name"].as_str(), item["size"].as_u64()) else {
            return Reply::bad_request("AttachmentItem needs a name and a size.");
        };
        let base = &wanted.base;
        let session = self.uploads.len();
        let url = format!("{base}/v1.0/users/{name}/messages/{id}/attachmentSessions/{session}");
        self.uploads.push(Upload {
            message: id.to_owned(),
            name: file.to_owned(),
            size,
            received: 0,
        });
        let body = json!({
            "uploadUrl": url,
            "expirationDateTime": stamp(A_WEEK),
            "nextExpectedRanges": ["0"],
        });
        Reply::new(201, body)
    }
}

impl Upload {
    fn status(&self) -> Reply {
        let next = [self.received.to_string()];
        let body = json!({"expirationDateTime": stamp(A_WEEK), "nextExpectedRanges": next});
        Reply::new(200, body)
    }

    /// Takes the next range of the file.
    fn receive(&mut self, wanted: &Wanted) -> Reply {
        let Some((from, to, size)) = wanted.range.as_deref().and_then(range) else {
            return Reply::bad_request("Content-Range is missing or cannot be read.");
        };
        let length = wanted.body.len() as u64;
        let whole = to.checked_sub(from).is_some_and(|more| more + 1 == length);
        if !whole || length > MAX_RANGE || to >= size || size != self.size {
            return Reply::bad_request("Content-Range does not fit the body or the file.");
        }
        if from != self.received {
            let message = "The range is not the one that is expected next.";
            return Reply::error(416, "RequestedRangeNotSatisfiable", message);
        }
        self.received += length;
        match self.received == self.size {
            true => Reply::new(201, Value::Null).header("Location", self.name.clone()),
            false => self.status(),
        }
    }
}

/// `bytes 0-9/20`: the first byte, the last one, and the size of the file.
fn range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = range.split_once('-')?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    Some((from, to, size.parse().ok()?))
}
