//! Tests of [`Charges`]: their order, and what it costs.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::principal::counted;

/// What the order is, one look at all after the other.
fn model(charges: &[Charge]) -> Vec<Charge> {
    let mut known: Vec<Charge> = Vec::new();
    for charge in charges {
        match known.iter_mut().find(|known| known.is_same(charge)) {
            Some(same) if same.value.is_none() => {
                same.amount = same.amount.saturating_add(charge.amount);
            }
            Some(_) => {}
            None => known.push(charge.clone()),
        }
    }
    let first = |is: &dyn Fn(&Charge) -> bool| known.iter().position(is);
    let mut ordered = known.clone();
    ordered.sort_by_key(|charge| {
        (
            first(&|other| other.principal == charge.principal),
            first(&|other| other.is_in_run_of(charge)),
        )
    });
    ordered
}

fn charge() -> impl Strategy<Value = Charge> {
    let principal = |n: u8| Principal::account(&format!("p{n}"));
    let budget = prop_oneof![
        Just(Budget::Concurrency),
        Just(Budget::OpenMailboxes),
        (0..3_u8).prop_map(Budget::Custom),
    ];
    let amount = prop_oneof![0..5_u32, Just(u32::MAX)];
    let value = proptest::option::of(0..40_u8);
    (0..6_u8, budget, amount, value).prop_map(move |(payer, budget, amount, value)| match value {
        Some(value) => Charge::of_value(principal(payer), budget, principal(value)),
        None => Charge::new(principal(payer), budget, amount),
    })
}

proptest! {
    #[test]
    fn charges_are_as_in_the_model(all in vec(charge(), 0..120), cuts in vec(0..120_usize, 0..4)) {
        let expected = model(&all);
        let collected: Charges = all.iter().cloned().collect();
        prop_assert_eq!(&*collected, &*expected);
        let mut pushed = Charges::new();
        all.iter().for_each(|charge| pushed.push(charge.clone()));
        prop_assert_eq!(&*pushed, &*expected);
        // In pieces, by both ways in turn.
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
        cuts.sort_unstable();
        cuts.push(all.len());
        let mut mixed = Charges::new();
        let mut from = 0;
        for (turn, to) in cuts.into_iter().enumerate() {
            let piece = all[from..to].iter().cloned();
            if turn % 2 == 0 {
                piece.for_each(|charge| mixed.push(charge));
            } else {
                mixed.extend(piece);
            }
            from = to;
        }
        prop_assert_eq!(&mixed, &collected);
        prop_assert_eq!(mixed.clone(), mixed);
    }

    #[test]
    fn there_is_one_run_for_each_principal_and_budget(all in vec(charge(), 0..120)) {
        let charges: Charges = all.into_iter().collect();
        let runs: Vec<&Charge> = charges.chunk_by(Charge::is_in_run_of).map(|run| &run[0]).collect();
        let principals = runs.chunk_by(|a, b| a.principal == b.principal);
        let owners: std::collections::HashSet<&Principal> = runs.iter().map(|run| run.principal()).collect();
        prop_assert_eq!(principals.count(), owners.len());
        for (at, run) in runs.iter().enumerate() {
            prop_assert!(runs[..at].iter().all(|other| !other.is_in_run_of(run)));
        }
    }
}

/// Ways in which n charges can come.
fn shapes(n: usize) -> [(&'static str, Vec<Charge>); 4] {
    let svc = Principal::account("svc");
    let named = |at: usize| Principal::mailbox(&format!("m{at}"));
    let opens = |at| Charge::of_value(svc.clone(), Budget::OpenMailboxes, named(at));
    let pays = |at| Charge::new(named(at), Budget::Concurrency, 1);
    [
        ("values", (0..n).map(opens).collect()),
        (
            "values, each twice",
            (0..n).map(|at| opens(at / 2)).collect(),
        ),
        ("principals", (0..n).map(pays).collect()),
        (
            "two budgets in turn",
            (0..n)
                .map(|at| Charge::of_value(svc.clone(), Budget::Custom((at % 2) as u8), named(at)))
                .collect(),
        ),
    ]
}

#[test]
fn the_work_is_in_proportion_to_the_charges() {
    // Tables that grow hash what is in them once more.
    const STEPS: u64 = 40;
    for n in [100, 1_000, 10_000] {
        for (name, charges) in shapes(n) {
            let (work, _) = counted::during(|| charges.iter().cloned().collect::<Charges>());
            assert!(work < STEPS * n as u64, "{name}: {work} for {n} collected");
            let (work, _) = counted::during(|| {
                let mut pushed = Charges::new();
                charges
                    .iter()
                    .for_each(|charge| pushed.push(charge.clone()));
                pushed
            });
            assert!(work < STEPS * n as u64, "{name}: {work} for {n} pushed");
        }
    }
}

#[test]
fn charges_differ_by_who_pays_and_by_how_much() {
    let of = |name: &str, amount| {
        Charges::from(Charge::new(
            Principal::account(name),
            Budget::Concurrency,
            amount,
        ))
    };
    assert_eq!(of("amy", 1), of("Amy", 1));
    assert_ne!(of("amy", 1), of("amy", 2));
    assert_ne!(of("amy", 1), of("bob", 1));
    assert_ne!(of("amy", 1), Charges::new());
    assert!(format!("{:?}", of("amy", 1)).contains("Account(amy)"));
}

#[test]
fn a_principal_or_none_is_charged_one_call_or_nothing() {
    let amy = Principal::account("amy");
    let one = Charges::from(Charge::new(amy.clone(), Budget::Concurrency, 1));
    assert_eq!(Charges::from(Some(amy.clone())), one);
    assert_eq!(Charges::from(amy), one);
    assert_eq!(Charges::from(None::<Principal>), Charges::new());
}

#[test]
fn one_charge_takes_no_allocation() {
    let one = Charge::new(Principal::account("svc"), Budget::Concurrency, 1);
    let info = allocation_counter::measure(|| {
        let mut charges: Charges = [one.clone(), one.clone()].into_iter().collect();
        charges.push(one.clone());
        assert_eq!((charges.len(), charges[0].amount), (1, 3));
    });
    assert_eq!(info.count_total, 0);
    assert!(size_of::<Charges>() <= size_of::<Charge>());
}
