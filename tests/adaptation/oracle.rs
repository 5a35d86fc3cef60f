//! The least time that a job can take: what a client needs that knows the script's numbers, and when places come free.
//!
//! Such a client never has more calls on their way than the server has places, so that none is refused: hence a call costs
//! its time on the server and both ways, as they are drawn. The omniscient client shows that these times can be had.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::jobs::Job;
use super::script::Script;

/// The least time of `job` at that server.
pub(crate) fn least(script: &Script, job: &Job) -> Duration {
    match *job {
        Job::Calls { calls, given_up } => {
            let places = (0..calls).map(|call| match given_up.after(script, call) {
                None => Place::of(script, call),
                // Its client is gone, and the place is still taken.
                Some(after) => {
                    let drawn = script.draw(call, 0);
                    let client = drawn.there + after;
                    Place {
                        held: client + script.given_up.after(after, drawn.service),
                        client,
                    }
                }
            });
            one_after_another(script, places)
        }
        Job::Batch { items, members } => {
            let parts = (0..items).step_by(members);
            one_after_another(script, parts.map(|first| Place::of(script, first)))
        }
        Job::AfterPause { .. } => {
            one_after_another(script, job.timed().map(|call| Place::of(script, call)))
        }
        // The last stream closes, its place comes free, and it is opened again.
        Job::Streams { streams, apart } => {
            let again =
                (script.service.0 + script.service.1) / 2 + Duration::from_millis(script.jitter);
            apart * (streams as u32 - 1) + script.closed_for + again
        }
        Job::Mailboxes { mailboxes, .. } => by_mailbox(script, job, mailboxes),
    }
}

/// What one call costs: how long its place is held, and how long its client waits.
#[derive(Clone, Copy, Debug)]
struct Place {
    held: Duration,
    client: Duration,
}

impl Place {
    fn of(script: &Script, call: usize) -> Self {
        let round = script.draw(call, 0).round();
        Self {
            held: round,
            client: round,
        }
    }
}

/// When the last call has ended, if each begins as soon as fewer hold places than the server has at that time:
/// `ceil(calls / places) * time`, where both are always the same.
fn one_after_another(script: &Script, calls: impl Iterator<Item = Place>) -> Duration {
    let mut now = Duration::ZERO;
    let mut end = Duration::ZERO;
    let mut held: BinaryHeap<Reverse<Duration>> = BinaryHeap::new();
    for call in calls {
        loop {
            while held.peek().is_some_and(|Reverse(until)| *until <= now) {
                held.pop();
            }
            if held.len() < script.places_at(now) as usize {
                break;
            }
            let freed = held.peek().map(|Reverse(until)| *until);
            let next = freed.into_iter().chain(script.next_change(now)).min();
            now = next.expect("a server that takes calls some time");
        }
        held.push(Reverse(now + call.held));
        end = end.max(now + call.client);
    }
    end
}

/// When the last call has ended, if mailbox after mailbox is opened as soon as the server has room for it, and worked
/// through with all calls that run at a time.
///
/// Each place for a mailbox sees `mailboxes / most` of them, one after another, each with `idle` behind its last call. Where
/// `idle` is long, that is `(ceil(mailboxes / most) - 1) * idle`, and the time of the calls of the first mailboxes.
fn by_mailbox(script: &Script, job: &Job, mailboxes: usize) -> Duration {
    let (most, idle) = script.mailboxes.expect("a limit of mailboxes");
    let free = |places: usize| -> BinaryHeap<_> { vec![Reverse(Duration::ZERO); places].into() };
    let (mut open, mut running) = (free(most), free(script.places as usize));
    let mut end = Duration::ZERO;
    for mailbox in 0..mailboxes {
        let Reverse(opened) = open.pop().expect("as many as before");
        let mut last = opened;
        for call in job.calls_to(mailbox) {
            let Reverse(begin) = running.pop().expect("as many as before");
            let ended = begin.max(opened) + script.draw(call, 0).round();
            running.push(Reverse(ended));
            last = last.max(ended);
        }
        open.push(Reverse(last + idle));
        end = end.max(last);
    }
    end
}

#[test]
fn a_limit_that_does_not_change_is_a_ceiling() {
    for (places, calls) in [(13, 270), (5, 270), (27, 1), (2, 2_400)] {
        let script = Script::new(places);
        let given_up = super::jobs::GivenUp::Nobody;
        let time = least(&script, &Job::Calls { calls, given_up });
        let rounds = (calls as u32).div_ceil(places);
        assert_eq!(time, script.service.0 * rounds);
    }
}

#[test]
fn places_that_come_free_are_used_at_once() {
    let mut script = Script::new(3);
    script.old_calls = vec![Duration::from_secs(1), Duration::from_secs(2)];
    // 10 calls on one place in the first second, 20 on two in the next one, and the rest on three.
    let given_up = super::jobs::GivenUp::Nobody;
    let time = |calls| least(&script, &Job::Calls { calls, given_up });
    assert_eq!(time(10), Duration::from_secs(1));
    assert_eq!(time(30), Duration::from_secs(2));
    assert_eq!(time(36), Duration::from_millis(2_200));
}
