//! A call with many item ids, each of another mailbox: what it is charged, and what the audit log tells of it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use tower_ews::audit_log::{EwsFacts, Facts, RequestFacts};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::{EwsCharges, MakeCharges};

/// The times per id of calls with that many ids, and the memory for each id besides the text.
type Measure = fn(usize) -> (Vec<Duration>, f64);

/// A million would be a text of 160 MB, which no server takes.
pub(super) const MOST: usize = 100_000;
const ROUNDS: usize = 20;

pub(super) const ALL: [(&str, Measure); 2] = [("charges/ids", of_charges), ("facts/ids", of_facts)];

const BEGIN: &str = concat!(
    r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/""#,
    r#" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types""#,
    r#" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages">"#,
    r#"<s:Body><m:DeleteItem DeleteType="HardDelete"><m:ItemIds>"#,
);
const END: &str = "</m:ItemIds></m:DeleteItem></s:Body></s:Envelope>";

/// A call that deletes an item of each of several mailboxes.
fn text(ids: usize) -> Bytes {
    let mut text = String::from(BEGIN);
    for number in 0..ids {
        text.push_str(r#"<t:ItemId Id=""#);
        STANDARD.encode_string(id(number), &mut text);
        text.push_str(r#""/>"#);
    }
    text.push_str(END);
    text.into()
}

/// An id as Exchange makes them: of what kind it is, the mailbox's GUID as text, and the entry in the mailbox.
fn id(number: usize) -> Vec<u8> {
    let mut id = vec![0, 3, 36, 0];
    id.extend(format!("9362c853-fa03-45d1-9d7c-{number:012x}").into_bytes());
    id.extend([0, 70, 0]);
    id.extend([7; 70]);
    id
}

fn charges() -> EwsCharges {
    let charges = ThrottlingPolicy::exchange_online().charges();
    charges.caller(Caller::new("svc@contoso.com"))
}

fn of_charges(ids: usize) -> (Vec<Duration>, f64) {
    let charges = charges();
    measure(ids, |request| {
        let charged = charges.make_charges(request);
        assert_eq!(
            charged.len(),
            ids + 1,
            "one for the call, one for each mailbox"
        );
        charged
    })
}

fn of_facts(ids: usize) -> (Vec<Duration>, f64) {
    let facts = EwsFacts::new().charges(charges());
    measure(ids, |request| {
        let mut told = RequestFacts::new();
        told.caller = Some(Caller::new("svc@contoso.com"));
        facts.body(request.body(), &mut told);
        assert_eq!(told.members, Some(ids as u64));
        told
    })
}

/// As many ids at each size, in one call or in many, for the same reason as calls that wait.
fn measure<T>(ids: usize, mut read: impl FnMut(&Request<ReplayBody>) -> T) -> (Vec<Duration>, f64) {
    let text = text(ids);
    let calls = MOST.div_ceil(ids);
    let texts: Vec<Bytes> = (0..calls).map(|_| Bytes::copy_from_slice(&text)).collect();
    let mut all = || {
        let requests = texts.iter().map(|text| ReplayBody::from(text.clone()));
        let requests: Vec<_> = requests.map(Request::new).collect();
        let mut kept = Vec::with_capacity(calls);
        let begin = Instant::now();
        kept.extend(requests.iter().map(|request| black_box(read(request))));
        (begin.elapsed(), requests, kept)
    };
    let mut kept = None;
    let info = allocation_counter::measure(|| kept = Some(all()));
    drop(kept);
    let each = u32::try_from(calls * ids).unwrap_or(u32::MAX);
    let times = (0..ROUNDS).map(|_| all().0 / each).collect();
    (times, info.bytes_current as f64 / f64::from(each))
}
