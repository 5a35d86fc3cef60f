//! Calls that cost unevenly, and a bucket on the server whose numbers are not the policy's: how long a job takes beside the least
//! time.

use std::sync::Mutex;

use super::lock_outs::{AT_A_TIME, Hidden, Server, all, job_of, ledger_of};
use super::*;

/// How the costs of calls are spread around a second of the server.
#[derive(Clone, Copy, Debug)]
enum Costs {
    Constant,
    Uniform,
    Exponential,
    /// One in twenty costs fifty times what the others do.
    Bimodal,
}

impl Costs {
    const ALL: [Self; 4] = [
        Self::Constant,
        Self::Uniform,
        Self::Exponential,
        Self::Bimodal,
    ];

    fn one(self, rng: &mut fastrand::Rng) -> u32 {
        let millis = match self {
            Self::Constant => 1_000.0,
            Self::Uniform => 500.0 + 1_000.0 * rng.f64(),
            Self::Exponential => -(1.0 - rng.f64()).ln() * 1_000.0,
            Self::Bimodal if rng.u8(..20) == 0 => 14_500.0,
            Self::Bimodal => 290.0,
        };
        (millis as u32).max(1)
    }

    /// Calls for all that is saved, and for what comes back in a time.
    fn of(self, hidden: Hidden, time: Duration, rng: &mut fastrand::Rng) -> Vec<u32> {
        let back = hidden.ours() * time.as_secs_f64() * 1_000.0;
        let mut left = hidden.burst + hidden.cutoff + back;
        let costs = std::iter::from_fn(|| {
            let cost = self.one(rng);
            left -= f64::from(cost);
            (left > 0.0).then_some(cost)
        });
        costs.collect()
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn server(saved: f64, cutoff: f64, rate: f64, least: f64) -> Hidden {
    Hidden {
        burst: saved,
        rate,
        others: 0.0,
        cutoff,
        least,
        at_once: true,
    }
}

fn medium() -> Hidden {
    server(100_000.0, 200_000.0, 0.5, 100_000.0)
}

/// Jobs of an hour, `EWS_TEST_CASES` of each kind. The client is told the right numbers, or twice those, or somebody else takes half of what comes back.
async fn within_a_fifth(hidden: Hidden) {
    let seeds = std::env::var("EWS_TEST_CASES").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(1);
    for (case, told, others) in [
        ("right", 1.0, 0.0),
        ("twice", 2.0, 0.0),
        ("half taken", 1.0, 0.5),
    ] {
        let hidden = Hidden { others, ..hidden };
        for costs in Costs::ALL {
            for seed in 0..seeds {
                let mut rng = fastrand::Rng::with_seed(seed);
                let job = costs.of(hidden, HOUR, &mut rng);
                let came = job_of(hidden, ledger_of(hidden, told, 0.0), job).await;
                let what = format!("{case}, {costs:?}, {seed}: {came:?}");
                println!("{what}");
                assert!(came.ratio <= 1.2, "{what}");
                // But for those that are in flight when the first two begin, which nothing told of.
                let most = 2 * AT_A_TIME + came.calls / 50;
                assert!(came.refused <= most, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn uneven_costs_under_the_documented_numbers() {
    let hidden = server(300_000.0, 3_000_000.0, 0.25, 75_000.0);
    within_a_fifth(hidden).await;
}

#[tokio::test(start_paused = true)]
async fn uneven_costs_on_a_tenth_of_the_documented_numbers() {
    within_a_fifth(medium()).await;
}

/// A lock-out is as long as few calls.
#[tokio::test(start_paused = true)]
async fn uneven_costs_where_little_is_saved() {
    within_a_fifth(server(30_000.0, 30_000.0, 0.5, 20_000.0)).await;
}

/// Who draws less than comes back for some time learns nothing of the rate from it.
async fn after_a_rest(rest: impl AsyncFn(&Arc<LocalLedger>, &Arc<Mutex<Server>>)) {
    for costs in Costs::ALL {
        let hidden = medium();
        let mut rng = fastrand::Rng::with_seed(1);
        let ledger = ledger_of(hidden, 2.0, 0.0);
        let server = Arc::new(Mutex::new(Server::new(hidden)));
        all(&ledger, &server, costs.of(hidden, HOUR, &mut rng)).await;
        for round in 0..4 {
            rest(&ledger, &server).await;
            let least = HOUR / 4;
            let job = costs.of(hidden, least, &mut rng);
            let begin = Instant::now();
            all(&ledger, &server, job).await;
            let ratio = begin.elapsed().as_secs_f64() / least.as_secs_f64();
            let lock_outs = server.lock().unwrap().lock_outs;
            println!("{costs:?}, {round}: {ratio:.3}, {lock_outs} lock-outs");
            assert!(ratio <= 1.2, "{costs:?}, {round}: {ratio:.3}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_not_measured() {
    after_a_rest(async |_, _| sleep(HOUR * 3 / 4).await).await;
}

#[tokio::test(start_paused = true)]
async fn light_use_is_not_measured() {
    after_a_rest(async |ledger, server| {
        for _ in 0..200 {
            all(ledger, server, vec![1_000]).await;
            sleep(secs(60)).await;
        }
    })
    .await;
}

/// One call of 50 ms, which a server without any bucket refuses for a second, one time in a hundred.
async fn refused_at_random(
    ledger: Arc<LocalLedger>,
    budget: Budget,
    rng: Arc<Mutex<fastrand::Rng>>,
) {
    let svc = of("svc");
    let known = u32::from(budget == Budget::Requests);
    let charges = [
        Charge::new(svc.clone(), Budget::Concurrency, 1),
        Charge::new(svc, budget, known),
    ];
    let mut request = AcquireRequest::new(charges.into_iter().collect::<Charges>());
    loop {
        let permit = ledger.clone().acquire(request.clone()).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        if rng.lock().unwrap().u8(..100) > 0 {
            if known == 0 {
                permit.report(Signal::Spent { budget, amount: 50 });
            }
            permit.complete();
            return;
        }
        let until = Instant::now() + secs(1);
        permit.report(Signal::Busy { until });
        request = request.with_ticket(permit.admission().ticket());
        permit.complete();
    }
}

/// How many seconds 5,000 such calls take, eight at a time.
async fn all_refused_at_random(budget: Budget, limit: Limit, seed: u64) -> f64 {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(8))
        .budget(budget, limit)
        .max_wait(365 * 24 * HOUR)
        .build();
    let ledger = Arc::new(ledger);
    let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    let begin = Instant::now();
    let calls: Vec<_> = (0..5_000)
        .map(|_| tokio::spawn(refused_at_random(ledger.clone(), budget, rng.clone())))
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    begin.elapsed().as_secs_f64()
}

/// What no bucket causes must not look like one that gets smaller and smaller.
#[tokio::test(start_paused = true)]
async fn refusals_at_random_do_not_bring_a_job_to_a_standstill() {
    let many = 1_000_000;
    let requests = Limit::Sliding {
        limit: many,
        period: secs(600),
    };
    let time = Limit::PerWindow {
        limit: 3_300_000,
        refill: 90 * many,
        period: HOUR,
    };
    for seed in 0..4 {
        for (budget, limit) in [(Budget::Requests, requests), (Budget::BusyTime, time)] {
            let took = all_refused_at_random(budget, limit, seed).await;
            println!("{budget}, {seed}: {took} s");
            // 31 s of calls, and about 50 refusals for a second each.
            assert!(took <= 10.0 * 81.0, "{budget}, {seed}: {took} s");
        }
    }
}
