//! A made-up log: two weeks of three jobs, a help desk and an importer, with the throttling that such jobs meet.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use fastrand::Rng;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde_json::{Value, json};

/// Monday, 2 November 2026, 00:00 at UTC+01:00.
const BEGIN: i64 = 1_793_574_000;
const HOURS: usize = 14 * 24;

/// An account, how many mailboxes it works on, its part of all calls, and its operations with their parts.
struct Job {
    account: &'static str,
    mailboxes: u32,
    share: u32,
    /// Works at night; the others with the people.
    nightly: bool,
    operations: &'static [(&'static str, u32)],
}

const JOBS: [Job; 5] = [
    Job {
        account: "svc-calendar@contoso.com",
        mailboxes: 3_200,
        share: 46,
        nightly: false,
        operations: &[
            ("SyncFolderItems", 40),
            ("GetItem", 25),
            ("CreateItem", 14),
            ("UpdateItem", 12),
            ("DeleteItem", 3),
            ("GetUserAvailability", 5),
            ("GetStreamingEvents", 1),
        ],
    },
    Job {
        account: "svc-archive@contoso.com",
        mailboxes: 1_150,
        share: 28,
        nightly: true,
        operations: &[
            ("FindItem", 30),
            ("ExportItems", 28),
            ("GetAttachment", 22),
            ("DeleteItem", 12),
            ("FindFolder", 6),
            ("EmptyFolder", 1),
            ("UpdateItemInRecoverableItems", 1),
        ],
    },
    Job {
        account: "svc-crm@contoso.com",
        mailboxes: 240,
        share: 18,
        nightly: false,
        operations: &[
            ("FindItem", 34),
            ("GetItem", 30),
            ("CreateItem", 16),
            ("SendItem", 8),
            ("ResolveNames", 8),
            ("GetUserConfiguration", 4),
        ],
    },
    Job {
        account: "helpdesk@contoso.com",
        mailboxes: 60,
        share: 3,
        nightly: false,
        operations: &[
            ("GetUserOofSettings", 40),
            ("SetUserOofSettings", 15),
            ("GetDelegate", 20),
            ("GetInboxRules", 20),
            ("FindMessageTrackingReport", 5),
        ],
    },
    Job {
        account: "svc-import@fabrikam.com",
        mailboxes: 85,
        share: 5,
        nightly: true,
        operations: &[
            ("UploadItems", 70),
            ("CreateFolder", 20),
            ("CreateAttachment", 10),
        ],
    },
];

/// Writes the log.
pub(crate) fn write(log: &Path, records: u64, seed: u64) -> io::Result<()> {
    let mut out: Box<dyn Write> = if log == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(log)?)
    };
    let mut out = BufWriter::with_capacity(1 << 20, &mut out);
    let mut rng = Rng::with_seed(seed);
    let mut weights = Vec::new();
    for hour in 0..HOURS {
        for job in &JOBS {
            // No two days are alike.
            weights.push(busy(job, hour) * job.share * rng.u32(70..130));
        }
    }
    let total: u32 = weights.iter().sum();
    // Lockouts: hours in which an account is throttled again and again.
    let bursts: Vec<bool> = weights.iter().map(|_| rng.f64() < 0.05).collect();
    let mut hour_of = 0;
    let mut before = 0;
    for index in 0..records {
        // Even over all weights, so that the times are in order.
        let position = (index as f64 + rng.f64()) / records as f64 * f64::from(total);
        let hour_weight = |hour: usize| {
            weights[hour * JOBS.len()..][..JOBS.len()]
                .iter()
                .sum::<u32>()
        };
        while hour_of + 1 < HOURS && f64::from(before + hour_weight(hour_of)) <= position {
            before += hour_weight(hour_of);
            hour_of += 1;
        }
        let within = (position - f64::from(before)) / f64::from(hour_weight(hour_of)).max(1.0);
        let time = BEGIN * 1000 + ((hour_of as f64 + within.min(0.9999)) * 3_600_000.0) as i64;
        let of_hour = &weights[hour_of * JOBS.len()..][..JOBS.len()];
        let job = pick(&mut rng, of_hour);
        let burst = bursts[hour_of * JOBS.len() + job];
        let record = record(&mut rng, &JOBS[job], time, burst);
        serde_json::to_writer(&mut out, &record)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// How much of its work a job does in an hour: 0 to 20.
fn busy(job: &Job, hour: usize) -> u32 {
    let (day, hour) = (hour / 24 % 7, hour % 24);
    match (job.nightly, day, hour) {
        (true, _, 20..24 | 0..5) => 14,
        (true, 5 | 6, _) => 9,
        (true, _, _) => 1,
        (false, 5 | 6, _) => 2,
        (false, _, 8 | 11..=12 | 17) => 14,
        (false, _, 9..=10 | 13..=16) => 20,
        (false, _, 6..=7 | 18..=19) => 7,
        (false, _, _) => 3,
    }
}

fn pick(rng: &mut Rng, weights: &[u32]) -> usize {
    let mut left = rng.u32(0..weights.iter().sum::<u32>().max(1));
    for (index, weight) in weights.iter().enumerate() {
        if left < *weight {
            return index;
        }
        left -= weight;
    }
    0
}

/// Many short, few long.
fn long_tail(rng: &mut Rng, median: f64) -> f64 {
    let normal: f64 = (0..6).map(|_| rng.f64()).sum::<f64>() - 3.0;
    median * (normal * 1.1).exp()
}

fn ms(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn guid(rng: &mut Rng) -> String {
    let (a, b) = (rng.u64(..), rng.u64(..));
    let hex = format!("{a:016x}{b:016x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn record(rng: &mut Rng, job: &Job, time: i64, burst: bool) -> Value {
    let weights: Vec<u32> = job.operations.iter().map(|(_, weight)| *weight).collect();
    let operation = job.operations[pick(rng, &weights)].0;
    let members = match operation {
        "GetItem" | "ExportItems" | "DeleteItem" => rng.u64(1..60),
        "CreateItem" | "UpdateItem" | "UploadItems" => rng.u64(1..20),
        _ => 1,
    };
    let median = match operation {
        "ExportItems" | "UploadItems" | "EmptyFolder" => 900.0,
        "FindItem" | "SyncFolderItems" | "FindMessageTrackingReport" => 180.0,
        "GetStreamingEvents" => 240_000.0,
        _ => 65.0,
    };
    let mailbox = format!("user{:04}@contoso.com", rng.u32(0..job.mailboxes));
    let server = |rng: &mut Rng| {
        format!(
            "AM{}PR{:02}MB{:04}",
            rng.u32(6..10),
            rng.u32(1..20),
            rng.u32(1000..1400)
        )
    };

    let throttled = match (burst, rng.f64()) {
        (true, chance) if chance < 0.32 => rng.u32(1..4),
        (false, chance) if chance < 0.004 => 1,
        _ => 0,
    };
    let (outcome, code, status) = match rng.f64() {
        chance if chance < 0.0012 => ("unknown", None, None),
        chance if chance < 0.0022 => ("error", None, None),
        chance if chance < 0.0040 => ("cancelled", None, None),
        chance if chance < 0.0046 => ("body_dropped", None, Some(200)),
        chance if chance < 0.0120 => ("failed", Some("ErrorItemNotFound"), Some(200)),
        chance if chance < 0.0150 => ("failed", Some("ErrorNonExistentMailbox"), Some(500)),
        chance if chance < 0.0168 => ("failed", Some("ErrorMailboxStoreUnavailable"), Some(500)),
        chance if chance < 0.0174 => ("failed", Some("ErrorIrresolvableConflict"), Some(200)),
        _ => ("ok", Some("NoError"), Some(200)),
    };
    let queue = if burst { 3_000.0 } else { 8.0 };
    let mut attempts = Vec::new();
    let (mut clock, mut sums) = (0.0, [0.0; 4]);
    for attempt in 0..=throttled {
        let last = attempt == throttled;
        let backed_off = if attempt == 0 {
            0.0
        } else {
            ms(long_tail(rng, 9_000.0))
        };
        let queued = ms(long_tail(rng, queue));
        let wire = ms(long_tail(rng, if last { median } else { 20.0 }));
        let body = ms(if last {
            long_tail(rng, median / 6.0)
        } else {
            0.4
        });
        let total = ms(backed_off + queued + wire + body + 0.05);
        let signals = [
            "ErrorServerBusy",
            "ErrorServerBusy",
            "ErrorExceededConnectionCount",
            "http_503",
        ];
        let responded = !last || status.is_some();
        let (fe, be) = (server(rng), server(rng));
        attempts.push(json!({
            "part": null,
            "started_ms": ms(clock), "backed_off_ms": backed_off, "queued_ms": queued, "wire_ms": wire, "body_ms": body, "total_ms": total,
            "status": if last { json!(status) } else { json!(503) },
            "signal": if last { Value::Null } else { json!(signals[rng.usize(..signals.len())]) },
            "resend": false,
            "client_request_id": guid(rng),
            "request_id": responded.then(|| guid(rng)),
            "fe_server": responded.then_some(fe),
            "be_server": responded.then_some(be),
            "diag_info": responded.then(|| format!("{:.0}, CPU", wire)),
        }));
        clock += total;
        for (sum, part) in sums.iter_mut().zip([queued, backed_off, wire, body]) {
            *sum = ms(*sum + part);
        }
    }
    let zone = TimeZone::fixed(Offset::constant(1));
    let time = Timestamp::from_millisecond(time)
        .unwrap_or_default()
        .to_zoned(zone);
    let error = match outcome {
        "unknown" => json!([
            "the request may have been executed",
            "connection closed before message completed"
        ]),
        "error" => json!([
            "client error (Connect)",
            "tcp connect error",
            "Connection refused (os error 111)"
        ]),
        _ => json!([]),
    };
    json!({
        "schema": 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
        "duration_ms": ms(clock + 0.2),
        "queued_ms": sums[0], "backed_off_ms": sums[1], "wire_ms": sums[2], "body_ms": sums[3],
        "caller": job.account, "principal": job.account, "access": "delegate", "mailbox": mailbox,
        "charges": [{"principal": job.account, "budget": "Concurrency", "amount": 1}],
        "operation": operation, "members": members, "parts": 1, "resent": false,
        "http.request.method": "POST", "server.address": "outlook.office365.com", "server.port": 443, "url.path": "/EWS/Exchange.asmx",
        "http.request.body.size": 900 + 400 * members, "http.response.status_code": status, "http.response.body.size": 1500 + 700 * members,
        "user_agent.original": "contoso-sync/4.2",
        "error.type": match outcome { "unknown" => json!("IncompleteMessage"), "error" => json!("Connect"), _ => Value::Null },
        "outcome": outcome, "code": code, "signal": if throttled > 0 { json!("ErrorServerBusy") } else { Value::Null },
        "error": error,
        "attempts": attempts,
    })
}
