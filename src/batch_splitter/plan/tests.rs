//! Which members go into which part, decided over a batch that is a few tables.

use std::collections::BTreeMap;
use std::time::Duration;

use http::response;

use super::super::format::{Explanation, PartResponse};
use super::*;
use crate::body::ReplayBody;
use crate::retry::Idempotency;

const SECOND: Duration = Duration::from_secs(1);

struct Tables {
    members: usize,
    order: Order,
    /// Members that have to be in one part with the next one.
    joined: Vec<usize>,
    groups: Vec<u64>,
    needs: BTreeMap<usize, Vec<usize>>,
}

impl Tables {
    fn new(members: usize, order: Order) -> Self {
        Self {
            members,
            order,
            joined: Vec::new(),
            groups: Vec::new(),
            needs: BTreeMap::new(),
        }
    }
}

impl Batch for Tables {
    fn operation(&self) -> &str {
        "Tables"
    }

    fn sizing_key(&self) -> &str {
        "Tables"
    }

    fn members(&self) -> usize {
        self.members
    }

    fn member_bytes(&self, _: usize) -> u64 {
        5
    }

    fn shared_bytes(&self) -> u64 {
        0
    }

    fn order(&self) -> Order {
        self.order
    }

    fn idempotency(&self) -> Idempotency {
        Idempotency::Safe
    }

    fn joined(&self, member: usize) -> bool {
        self.joined.contains(&member)
    }

    fn group(&self, member: usize) -> Option<u64> {
        self.groups.get(member).copied()
    }

    fn needs(&self, member: usize) -> &[usize] {
        self.needs.get(&member).map_or(&[], Vec::as_slice)
    }

    fn separator(&self) -> &'static str {
        ","
    }

    fn part(&mut self, _: &[usize]) -> ReplayBody {
        ReplayBody::empty()
    }

    fn response(&mut self, _: &[usize], _: &response::Parts, _: Rope) -> PartResponse {
        unreachable!("nothing is sent")
    }

    fn explain(&mut self, _: usize, _: &Explanation<'_>) -> Option<Rope> {
        None
    }
}

const BOUNDS: Bounds = Bounds {
    members: 100,
    bytes: u64::MAX,
    end: usize::MAX,
    whole_only: false,
};

/// What is drawn with each of many seeds, each once and in order.
fn drawn(batch: &Tables, prepare: impl Fn(&mut Plan), now: Instant) -> Vec<Vec<usize>> {
    let mut parts = BTreeSet::new();
    for seed in 0..100 {
        let mut plan = Plan::new(batch);
        prepare(&mut plan);
        match plan.next_alone(batch, &mut fastrand::Rng::with_seed(seed), now) {
            NextPart::Members(part) => drop(parts.insert(part)),
            other => panic!("{other:?}"),
        }
    }
    parts.into_iter().collect()
}

#[test]
fn a_member_that_is_drawn_takes_along_what_is_joined_to_it() {
    let now = Instant::now();
    let mut batch = Tables::new(6, Order::Free);
    batch.joined = vec![0, 3, 4];
    let parts = [vec![0, 1], vec![2], vec![3, 4, 5]];
    assert_eq!(drawn(&batch, |_| {}, now), parts);
    // What is settled stays behind, at the beginning of its piece and in the middle.
    let settled = |member| move |plan: &mut Plan| assert!(plan.settle(member, true));
    let parts = [vec![0, 1], vec![2], vec![4, 5]];
    assert_eq!(drawn(&batch, settled(3), now), parts);
    let parts = [vec![0, 1], vec![2], vec![3, 5]];
    assert_eq!(drawn(&batch, settled(4), now), parts);
}

#[test]
fn what_is_drawn_is_due_and_did_not_fail_by_itself() {
    let now = Instant::now();
    let batch = Tables::new(3, Order::Free);
    let failed = |member| move |plan: &mut Plan| plan.member(member).unwrap().tries = 1;
    assert_eq!(drawn(&batch, failed(0), now), [[1], [2]]);
    let was_alone = |plan: &mut Plan| plan.member(2).unwrap().was_alone = true;
    assert_eq!(drawn(&batch, was_alone, now), [[0], [1]]);
    let held = |until| move |plan: &mut Plan| plan.hold(1, until);
    assert_eq!(drawn(&batch, held(now + SECOND), now), [[0], [2]]);
    assert_eq!(drawn(&batch, held(now), now), [[0], [1], [2]]);
    let mut plan = Plan::new(&batch);
    for member in 0..3 {
        plan.hold(member, now + SECOND * (3 - member as u32));
    }
    let next = plan.next_alone(&batch, &mut fastrand::Rng::with_seed(1), now);
    assert_eq!(next, NextPart::NotBefore(now + SECOND));
}

#[test]
fn nothing_is_due_at_a_time_that_has_come() {
    let now = Instant::now();
    let mut batch = Tables::new(2, Order::Free);
    batch.needs = [(1, vec![0])].into();
    let mut plan = Plan::new(&batch);
    let one = Bounds {
        members: 1,
        ..BOUNDS
    };
    assert_eq!(plan.next(&batch, one, now), NextPart::Members(vec![0]));
    plan.hold(1, now);
    assert_eq!(plan.next(&batch, one, now), NextPart::Nothing);
}

#[test]
fn members_of_a_draft_that_is_dropped_are_in_no_part() {
    let now = Instant::now();
    let mut batch = Tables::new(6, Order::Free);
    batch.needs = [(3, vec![2]), (5, vec![4])].into();
    let mut plan = Plan::new(&batch);
    plan.settle(0, true);
    plan.settle(1, true);
    plan.settle(4, false);
    let blocked = NextPart::Blocked(vec![(5, 4)]);
    assert_eq!(plan.next(&batch, BOUNDS, now), blocked);
    // 2 and 3 were drafted together: 3 does not go where 2 does not.
    plan.hold(2, now + SECOND);
    let next = plan.next(&batch, BOUNDS, now);
    assert_eq!(next, NextPart::NotBefore(now + SECOND));
    let next = plan.next(&batch, BOUNDS, now + SECOND);
    assert_eq!(next, NextPart::Members(vec![2, 3]));
}

#[test]
fn the_first_open_member_is_behind_all_that_are_settled() {
    let mut plan = Plan::new(&Tables::new(4, Order::Kept));
    let mut opens = Vec::new();
    for member in [1, 0, 3, 2] {
        opens.push(plan.first_open());
        assert!(plan.settle(member, true));
        assert!(!plan.settle(member, false));
    }
    assert_eq!(opens, [0, 0, 2, 2]);
    assert_eq!(plan.first_open(), 4);
    assert!(plan.is_complete());
}

#[test]
fn members_are_sent_by_group_where_one_part_cannot_have_all_groups() {
    for (groups, by_group) in [(MAX_GROUPS, false), (MAX_GROUPS + 1, true)] {
        let mut batch = Tables::new(2 * groups, Order::Free);
        batch.groups = (0..2 * groups as u64)
            .map(|member| member % groups as u64)
            .collect();
        assert_eq!(Plan::new(&batch).is_by_group(), by_group);
    }
}

#[test]
fn a_member_goes_with_the_one_that_it_is_joined_to_and_not_with_its_group() {
    let count = MAX_GROUPS + 3;
    let mut batch = Tables::new(count, Order::Free);
    batch.groups = (0..count as u64).collect();
    // The last one is of the first group, and joined to the one before it.
    batch.groups[count - 1] = 0;
    batch.joined = vec![count - 2];
    let mut plan = Plan::new(&batch);
    let mut parts = Vec::new();
    while let NextPart::Members(part) = plan.next(&batch, BOUNDS, Instant::now()) {
        parts.push(part);
    }
    let has = |part: &Vec<usize>, member| part.contains(&member);
    assert_eq!(parts.iter().flatten().count(), count);
    assert!(
        parts
            .iter()
            .all(|part| has(part, count - 2) == has(part, count - 1)),
        "{parts:?}"
    );
}

#[test]
fn a_part_has_as_many_bytes_as_it_may() {
    let batch = Tables::new(3, Order::Free);
    for (bytes, members) in [(9, vec![0]), (10, vec![0, 1]), (14, vec![0, 1])] {
        let bounds = Bounds { bytes, ..BOUNDS };
        let next = Plan::new(&batch).next(&batch, bounds, Instant::now());
        assert_eq!(next, NextPart::Members(members), "{bytes}");
    }
}

#[test]
fn members_that_are_deferred_go_behind_the_others_where_order_makes_no_difference() {
    let now = Instant::now();
    for (order, expected) in [
        (Order::Free, [vec![1, 2], vec![0]]),
        (Order::Kept, [vec![0, 1], vec![2]]),
    ] {
        let batch = Tables::new(3, order);
        let mut plan = Plan::new(&batch);
        // One that does not wait is left alone.
        plan.settle(2, true);
        plan.defer(&[2]);
        let mut plan = Plan::new(&batch);
        plan.defer(&[0]);
        let bounds = Bounds {
            members: 2,
            bytes: u64::MAX,
            end: usize::MAX,
            whole_only: false,
        };
        for part in expected {
            assert_eq!(
                plan.next(&batch, bounds, now),
                NextPart::Members(part),
                "{order:?}"
            );
        }
        assert!(plan.nothing_waits());
    }
}
