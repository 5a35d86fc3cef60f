//! What is decided where two things come together.

use super::super::end::End;
use super::*;
use crate::soap::ResponseCode;

const SECOND: Duration = Duration::from_secs(1);

fn plan(mailboxes: usize, now: Instant) -> Plan {
    let settings = Settings::new(http::Uri::from_static("https://mail.contoso.com"));
    let mut plan = Plan::new(Arc::new(settings), fastrand::Rng::with_seed(1));
    for number in 0..mailboxes {
        plan.add(format!("user{number}@contoso.com").into(), now);
    }
    plan
}

fn refused(code: &str) -> SubscriptionError {
    SubscriptionError::Refused {
        code: ResponseCode::from_text(code),
        retry_after: None,
    }
}

/// Takes all steps, says where mailboxes are, and returns the rest.
fn steps(plan: &mut Plan, now: Instant) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(step) = plan.next(now) {
        match step {
            Step::Locate { members, round, .. } => {
                let found = members.iter().map(|_| Ok(Location::default()));
                plan.located(&members, round, found.collect(), now);
            }
            step => steps.push(step),
        }
    }
    steps
}

fn subscribing(steps: &[Step]) -> Vec<(MemberId, GroupId)> {
    let each = steps.iter().map(|step| match step {
        Step::Subscribe { member, group, .. } => (*member, *group),
        other => panic!("{other:?}"),
    });
    each.collect()
}

#[tokio::test(start_paused = true)]
async fn a_time_of_its_own_does_not_subscribe_a_mailbox_twice() {
    let mut now = Instant::now();
    let mut plan = plan(2, now);
    let [(first, group)] = subscribing(&steps(&mut plan, now))[..] else {
        panic!("the first one goes alone")
    };
    plan.subscribed(
        first,
        "first".into(),
        group,
        Ok(("A".into(), "".into())),
        now,
    );
    let [(second, _)] = subscribing(&steps(&mut plan, now))[..] else {
        panic!("then the other")
    };
    let busy = Err(refused("ErrorMailboxStoreUnavailable"));
    plan.subscribed(second, "second".into(), group, busy, now);
    let [Step::Connect { number, .. }] = steps(&mut plan, now)[..] else {
        panic!("a connection")
    };
    // The server has lost all, before the time of the second one has come.
    let lost = End::Refused(refused("ErrorSubscriptionNotFound"), Vec::new());
    plan.ended(group, number, lost, now);
    let mut calls = Vec::new();
    for _ in 0..10_000 {
        now += SECOND / 100;
        let mut steps = steps(&mut plan, now);
        steps.retain(|step| !matches!(step, Step::Connect { .. }));
        for (member, group) in subscribing(&steps) {
            calls.push(member);
            let id = format!("{member} {}", calls.len());
            plan.subscribed(member, "one".into(), group, Ok((id.into(), "".into())), now);
        }
    }
    calls.sort_unstable();
    assert_eq!(calls, [first, second]);
    assert_eq!(plan.counts().subscribed, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_again_and_again_is_tried_later_and_later() {
    let mut now = Instant::now();
    let mut plan = plan(3, now);
    let mut calls = 0;
    for _ in 0..36_000 {
        now += SECOND / 10;
        for step in steps(&mut plan, now) {
            calls += 1;
            match step {
                Step::Subscribe { member, group, .. } => {
                    let id = format!("{member} {calls}");
                    plan.subscribed(member, "one".into(), group, Ok((id.into(), "".into())), now);
                }
                Step::Connect { group, number, .. } => {
                    let lost = End::Refused(refused("ErrorSubscriptionNotFound"), Vec::new());
                    plan.ended(group, number, lost, now);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // An hour: some nine waits that double, and then one of 150 seconds on average.
    assert!((60..240).contains(&calls), "{calls}");
}
