//! [`ServerIds`]: the ids and servers of a response, where no layer further in has recorded them.

use http::{HeaderMap, HeaderValue};

use super::record::AttemptRecord;
use super::text::text;
use crate::trail::CallTrail;

/// The ids and servers of a response that no layer further in has looked at.
#[derive(Default)]
pub(super) struct ServerIds {
    request_id: Option<HeaderValue>,
    fe_server: Option<HeaderValue>,
    be_server: Option<HeaderValue>,
    diag_info: Option<HeaderValue>,
}

impl ServerIds {
    pub(super) fn unless_recorded(trail: &CallTrail, headers: &HeaderMap) -> Option<Box<Self>> {
        let mut recorded = false;
        trail.each(|attempt| {
            recorded |= attempt.request_id.is_some() || attempt.fe_server.is_some()
        });
        if recorded || trail.sums(|sums| sums.knows_server) == Some(true) {
            return None;
        }
        let mut ids = Self::default();
        let mut any = false;
        for (name, value) in headers {
            let slot = match name.as_str() {
                "request-id" | "requestid" => &mut ids.request_id,
                "x-feserver" => &mut ids.fe_server,
                "x-beserver" | "x-calculatedbetarget" | "x-targetbeserver" => &mut ids.be_server,
                "x-diaginfo" => &mut ids.diag_info,
                _ => continue,
            };
            any = true;
            slot.get_or_insert_with(|| value.clone());
        }
        any.then(|| Box::new(ids))
    }

    pub(super) fn fill(&self, attempt: &mut AttemptRecord) {
        let fill = |slot: &mut Option<Box<str>>, value: &Option<HeaderValue>| {
            if slot.is_none() {
                *slot = text(value).map(Into::into);
            }
        };
        fill(&mut attempt.request_id, &self.request_id);
        fill(&mut attempt.fe_server, &self.fe_server);
        fill(&mut attempt.be_server, &self.be_server);
        fill(&mut attempt.diag_info, &self.diag_info);
    }
}
