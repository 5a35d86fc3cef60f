//! The least times: what a client needs that knows every number of the server.

use std::time::Duration;

use tower_ews::simulator::OtherClient;

/// Calls of this length, a fixed number at a time. The last ones do not wait for each other: with lengths that vary, no client gets
/// closer than this to the time that it takes in the mean.
pub(super) fn in_flight(calls: usize, lasts: Duration, at_a_time: u32) -> Duration {
    (lasts * calls as u32) / at_a_time
}

/// Calls of exactly this length, a fixed number at a time: whole rounds.
pub(super) fn rounds(calls: usize, lasts: Duration, at_a_time: u32) -> Duration {
    lasts * calls.div_ceil(at_a_time as usize) as u32
}

/// Mailboxes, `open` of which can be open at a time, each for `idle` after its last use: the first ones at once, and with each time
/// that has passed as many more. A mailbox is opened at the end of a call, so that the next one can be under way by then.
pub(super) fn mailboxes(
    mailboxes: usize,
    open: usize,
    idle: Duration,
    lasts: Duration,
) -> Duration {
    idle * (mailboxes.div_ceil(open) - 1) as u32 + lasts
}

/// The same where the number of mailboxes that can be open changes: the time when the last ones are opened.
pub(super) fn rounds_of(
    mailboxes: usize,
    idle: Duration,
    open: impl Fn(Duration) -> usize,
) -> Duration {
    let (mut left, mut time) = (mailboxes, Duration::ZERO);
    loop {
        left = left.saturating_sub(open(time));
        if left == 0 {
            return time;
        }
        time += idle;
    }
}

/// Calls, a number of which may begin within any time of this length: a burst of that number, and the next one when the
/// first has left the window. Within a burst a fixed number at a time.
pub(super) fn windows(
    calls: usize,
    number: usize,
    period: Duration,
    lasts: Duration,
    at_a_time: u32,
) -> Duration {
    let before = (calls - 1) / number;
    let last = calls - before * number;
    period * before as u32 + rounds(last, lasts, at_a_time)
}

/// Calls of this length in a busy budget that begins full and may be overdrawn to the cutoff. When there is nothing left, what is
/// more comes in by the recharge rate, but for the last calls: those begin above the cutoff, a fixed number at a time.
pub(super) fn busy(
    (calls, lasts, at_a_time): (usize, Duration, u32),
    burst: Duration,
    cutoff: Duration,
    per_hour: Duration,
) -> Duration {
    let saved = burst + cutoff + lasts * at_a_time;
    let rate = per_hour.as_secs_f64() / 3600.0;
    (lasts * calls as u32).saturating_sub(saved).div_f64(rate)
}

/// Calls of this length on places of which somebody else has some for one period, and none for the next.
pub(super) fn beside(calls: usize, lasts: Duration, places: u32, other: OtherClient) -> Duration {
    let mut left = lasts.as_secs_f64() * calls as f64;
    let period = other.period.as_secs_f64();
    let mut time = 0.0;
    for number in 0_u64.. {
        let others = if number % 2 == 0 { other.calls } else { 0 };
        let places = f64::from(places - others);
        if left <= places * period {
            time += left / places;
            break;
        }
        left -= places * period;
        time += period;
    }
    Duration::from_secs_f64(time)
}
