//! The record of a call that has ended, from its trail and from what the layer measured itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderMap;
use tokio::time::Instant;

use super::call::{Call, End, ResponseState};
use super::capture::Capture;
use super::facts::ResponseFacts;
use super::levels::Level;
use super::record::{AttemptRecord, Captured, ChargeRecord, LeftOutRecord, Outcome, Record};
use super::redact::Redaction;
use super::request::RequestState;
use super::text::{text, truncated};
use crate::principal::{Access, Charge, Principal, PrincipalKind};
use crate::trail::{Attempt, LeftOut, ListedAttempt, Times, TrailSnapshot, whole_micros};

/// Charges that are recorded.
const MAX_CHARGES: usize = 64;

impl Drop for Call {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let recorded = catch_unwind(AssertUnwindSafe(|| {
            let record = record(self)?;
            self.span.in_scope(|| shared.sink.record(&record));
            Some(())
        }));
        let control = &shared.control;
        match recorded {
            Ok(None) => {}
            Ok(Some(())) => _ = control.recorded.fetch_add(1, Ordering::Relaxed),
            Err(_) => _ = control.lost.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Returns the call's record, unless its level is off.
fn record(call: &mut Call) -> Option<Record> {
    let end = Instant::now();
    if call.settle() == Level::Off {
        return None;
    }
    let redaction = &*Arc::clone(&call.shared.redaction);
    let mut record = Record {
        time: Some(call.time),
        duration: whole_micros(end.saturating_duration_since(call.begin)),
        ..Record::default()
    };
    attempts(call, end, redaction, &mut record);
    request(&mut call.request, redaction, &mut record);
    let complete = matches!(call.end, End::Completed);
    let facts = call
        .response
        .as_mut()
        .map(|state| response(state, complete, redaction, &mut record));
    outcome(call, facts, &mut record);
    Some(record)
}

fn request(state: &mut RequestState, redaction: &Redaction, record: &mut Record) {
    let known = std::mem::take(&mut *state.known.lock());
    let facts = known.facts;
    let mailbox = |name: &str| truncated(redaction.mailbox(name));
    record.caller = facts.caller.map(|caller| mailbox(caller.name()));
    record.mailbox = facts.mailbox.map(|name| mailbox(&name));
    record.access = facts.access.map(|access| match access {
        Access::Owner => "owner",
        Access::Delegate => "delegate",
        Access::Impersonation => "impersonation",
    });
    record.operation = facts.operation.map(|name| name.into());
    record.members = facts.members;
    record.request_bytes = known.bytes;
    record.method = redaction.text(state.method.as_str());
    record.url_path = redaction.url(&state.uri);
    // A request without an authority names it in its header.
    let host = state.host.as_ref().and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse().ok());
    if let Some(authority) = state.uri.authority().or(host.as_ref()) {
        record.server_address = Some(authority.host().into());
        record.server_port = authority.port_u16().or(match state.uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        });
    }
    record.user_agent = text(&state.user_agent).map(|value| redaction.text(value));
    let headers = state.headers.take();
    record.request_headers = headers.map(|headers| list(&headers, redaction));
    record.request_body = state.body.take().map(|mut body| {
        // It may not have been seen, or not as a whole.
        body.total = known.bytes.unwrap_or(body.total).max(body.total);
        captured(&body, redaction)
    });
}

fn response(
    state: &mut ResponseState,
    complete: bool,
    redaction: &Redaction,
    record: &mut Record,
) -> ResponseFacts {
    record.status = Some(state.status.as_u16());
    record.response_bytes = state.bytes;
    let headers = state.headers.take();
    record.response_headers = headers.map(|headers| list(&headers, redaction));
    record.response_body = state.body.take().map(|body| captured(&body, redaction));
    let mut facts = match &mut state.inspector {
        Some(inspector) => inspector.end(complete && state.inspected),
        None => ResponseFacts::default(),
    };
    let failed = state.status.is_client_error() || state.status.is_server_error();
    facts.failed |= failed;
    if failed && facts.code.is_none() {
        facts.code = state.status.canonical_reason().map(Into::into);
    }
    facts.error = facts.error.map(|error| redaction.text(&error));
    facts.code = facts
        .code
        .map(|code| redaction.text(&code).into_string().into());
    facts
}

/// Tells how the call ended.
fn outcome(call: &mut Call, facts: Option<ResponseFacts>, record: &mut Record) {
    let facts = facts.unwrap_or_default();
    record.code = facts.code.map(|code| (*code).into());
    record.error.extend(facts.error);
    match &mut call.end {
        End::Abandoned if call.response.is_some() => record.outcome = Outcome::BodyDropped,
        End::Abandoned => {
            record.outcome = Outcome::Cancelled;
            record.error_type = Some("cancelled".into());
        }
        End::Completed if facts.failed => {
            record.outcome = Outcome::Failed;
            let status = record.status.filter(|status| *status >= 400);
            let status = status.map(|status| status.to_string().into());
            record.error_type = status.or_else(|| record.code.clone());
        }
        End::Completed => record.outcome = Outcome::Ok,
        End::Failed(failed) => {
            record.outcome = match failed.outcome {
                // Something of a response has come.
                Outcome::NotSent if call.response.is_some() => Outcome::Error,
                outcome => outcome,
            };
            record.error_type = Some(std::mem::take(&mut failed.kind));
            record.error.append(&mut failed.chain);
        }
    }
}

fn attempts(call: &Call, end: Instant, redaction: &Redaction, record: &mut Record) {
    let mut snapshot = call.trail.read_all();
    if snapshot.attempts.is_empty() {
        // Nobody further in has written anything down.
        snapshot.attempts.push(ListedAttempt::default());
    }
    last(&snapshot, redaction, record);
    left_out(&snapshot.left_out, redaction, record);
    record.parts = u32::try_from(snapshot.parts)
        .ok()
        .filter(|parts| *parts > 0);
    let last = snapshot.attempts.len() - 1;
    for (at, one) in snapshot.attempts.iter().enumerate() {
        let attempt = &one.attempt;
        let own = at == last && attempt.part.is_none();
        let response = call.response.as_ref().filter(|_| own);
        let ended = attempt.end(one.next_began, end);
        let received = attempt
            .responded
            .or(response.map(|response| response.received));
        let times = Times::of(attempt, call.begin, received, ended);
        record.queued += times.queued;
        record.backed_off += times.backed_off;
        record.wire += times.wire;
        record.body += times.body;
        let mut kept = attempt_record(attempt, &times, response);
        if own {
            let id = || text(&call.request.client_request_id).map(Into::into);
            kept.client_request_id = kept.client_request_id.or_else(id);
        }
        if let Some(ids) = response.and_then(|response| response.ids.as_deref()) {
            ids.fill(&mut kept);
        }
        redact_attempt(&mut kept, redaction);
        record.attempts.push(kept);
    }
    // Given up while it backed off: no attempt tells of that.
    let ends = || snapshot.attempts.iter().map(|one| one.attempt.ended);
    let over = ends().max().flatten().max(snapshot.left_out.last_ended);
    if let (End::Abandoned, None, Some(over)) = (&call.end, &call.response, over) {
        if ends().all(|ended| ended.is_some()) && !snapshot.left_out.any_unended {
            record.backed_off += whole_micros(end.saturating_duration_since(over));
        }
    }
}

fn attempt_record(
    attempt: &Attempt,
    times: &Times,
    response: Option<&ResponseState>,
) -> AttemptRecord {
    let status = attempt.status.or(response.map(|response| response.status));
    AttemptRecord {
        part: attempt.part,
        started: times.started,
        backed_off: times.backed_off,
        queued: times.queued,
        wire: times.wire,
        body: times.body,
        total: times.total,
        status: status.map(|status| status.as_u16()),
        signal: attempt.signal.clone(),
        resend: attempt.resend,
        client_request_id: attempt.client_request_id.clone(),
        request_id: attempt.request_id.clone(),
        fe_server: attempt.fe_server.clone(),
        be_server: attempt.be_server.clone(),
        diag_info: attempt.diag_info.clone(),
    }
}

/// A caller, a server or a proxy may have put anything into these texts.
fn redact_attempt(attempt: &mut AttemptRecord, redaction: &Redaction) {
    let texts = [
        &mut attempt.signal,
        &mut attempt.client_request_id,
        &mut attempt.request_id,
        &mut attempt.fe_server,
        &mut attempt.be_server,
        &mut attempt.diag_info,
    ];
    for text in texts.into_iter().flatten() {
        *text = redaction.text(text);
    }
}

/// The charges and the signal of the last attempts that have any, listed or not.
fn last(snapshot: &TrailSnapshot, redaction: &Redaction, record: &mut Record) {
    let listed = || snapshot.attempts.iter().rev();
    let admitted = listed().find_map(|one| Some((one.number, one.attempt.admission.as_ref()?)));
    let earlier = snapshot.left_out.admission.as_ref();
    let earlier = earlier.map(|(number, admission)| (*number, admission));
    if let Some((_, admission)) = later(admitted, earlier) {
        charges(admission.charges(), redaction, record);
    }
    let signal = listed().find_map(|one| Some((one.number, one.attempt.signal.as_deref()?)));
    let earlier = snapshot.left_out.signal.as_ref();
    let earlier = earlier.map(|(number, signal)| (*number, &**signal));
    record.signal = later(signal, earlier).map(|(_, signal)| redaction.text(signal));
}

/// The one with the larger number.
fn later<T>(one: Option<(u64, T)>, other: Option<(u64, T)>) -> Option<(u64, T)> {
    one.into_iter()
        .chain(other)
        .max_by_key(|(number, _)| *number)
}

/// The sums of the attempts that are not listed.
fn left_out(sums: &LeftOut, redaction: &Redaction, record: &mut Record) {
    record.attempts_left_out = sums.attempts;
    record.queued += sums.queued;
    record.backed_off += sums.backed_off;
    record.wire += sums.wire;
    record.body += sums.body;
    let signals = sums.signals.iter();
    record.left_out = LeftOutRecord {
        resends: sums.resends,
        queued: sums.queued,
        backed_off: sums.backed_off,
        wire: sums.wire,
        body: sums.body,
        signals: signals
            .map(|(signal, count)| (redaction.text(signal), *count))
            .collect(),
    };
}

fn charges(all: &[Charge], redaction: &Redaction, record: &mut Record) {
    let name = |principal: &Principal| {
        let name = redaction.mailbox(principal.name());
        truncated(match principal.kind() {
            PrincipalKind::Impersonation => format!("impersonation:{name}").into(),
            _ => name,
        })
    };
    let first = all.first();
    record.principal = first.map(|charge| name(charge.principal()));
    let same_run = |one: &Charge, other: &Charge| {
        one.budget() == other.budget() && one.principal() == other.principal()
    };
    let mut runs = all.chunk_by(same_run);
    record.charges.extend(
        runs.by_ref()
            .take(MAX_CHARGES)
            .filter_map(|run| Some((run.first()?, run)))
            .map(|(charge, run)| ChargeRecord {
                principal: name(charge.principal()),
                budget: format!("{:?}", charge.budget()).into(),
                amount: run.iter().map(Charge::amount).fold(0, u32::saturating_add),
            }),
    );
    record.charges_left_out = runs.count() as u64;
}

fn list(headers: &HeaderMap, redaction: &Redaction) -> Vec<(Box<str>, Box<str>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), redaction.header(name, value)))
        .collect()
}

fn captured(body: &Capture, redaction: &Redaction) -> Captured {
    let encoding = text(&body.encoding).map(|encoding| redaction.text(encoding));
    let cut = body.is_cut();
    let content_type = text(&body.content_type);
    Captured {
        bytes: match encoding {
            None => redaction.body(content_type, &body.pieces, cut),
            Some(_) => bytes::Bytes::new(),
        },
        total: body.total,
        truncated: cut,
        encoding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit_log::text::MAX_TEXT;
    use crate::principal::{Budget, Charges, counted};

    fn filled(all: &Charges) -> (u64, Record) {
        counted::during(|| {
            let mut record = Record::default();
            charges(all, &Redaction::new(), &mut record);
            record
        })
    }

    #[test]
    fn the_charges_of_a_large_batch_are_summed_up() {
        let svc = Principal::account("svc");
        for n in [10, 10_000] {
            let opens = (0..n).map(|number| {
                let mailbox = Principal::mailbox(&format!("user{number}"));
                Charge::of_value(svc.clone(), Budget::OpenMailboxes, mailbox)
            });
            let call = Charge::new(svc.clone(), Budget::Concurrency, 1);
            let all: Charges = [call].into_iter().chain(opens).collect();
            let (work, record) = filled(&all);
            assert!(work <= u64::from(n) + 2, "{work} steps for {n} charges");
            let kept: Vec<_> = record
                .charges
                .iter()
                .map(|one| (&*one.budget, one.amount))
                .collect();
            assert_eq!(kept, [("Concurrency", 1), ("OpenMailboxes", n)]);
            assert_eq!(record.charges_left_out, 0);
        }
    }

    #[test]
    fn the_charges_of_many_principals_are_limited_in_number() {
        for n in [63, 64, 65, 10_000] {
            let all: Charges = (0..n)
                .map(|number| {
                    Charge::new(Principal::new(number.to_string()), Budget::Concurrency, 1)
                })
                .collect();
            let (work, record) = filled(&all);
            assert!(work <= n as u64, "{work} steps for {n} charges");
            assert_eq!(record.charges.len(), n.min(MAX_CHARGES));
            assert_eq!(
                record.charges_left_out,
                n.saturating_sub(MAX_CHARGES) as u64
            );
        }
    }

    #[test]
    fn names_are_cut() {
        let long = Principal::impersonation(&"ä".repeat(MAX_TEXT));
        let (_, record) = filled(&Charges::from(long));
        let name = &record.charges[0].principal;
        assert!(name.starts_with("impersonation:ä") && name.len() <= MAX_TEXT);
        assert_eq!(record.principal.as_ref(), Some(name));
    }
}
