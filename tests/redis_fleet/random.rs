//! Random schedules: processes that come, go and crash, messages that are slow, lost, or come after their sender has given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_ews::ledger::redis::{RedisLedger, RedisLedgerBuilder, WhenUnavailable};
use tower_ews::ledger::{AcquireRequest, Limit, Signal};
use tower_ews::principal::{Budget, Charge, Charges, Principal};

use super::fake::{Fake, Weather};
use super::job::{Server, acquire, ms, process};

struct Case {
    fake: Fake,
    server: Server,
    builder: RedisLedgerBuilder,
    limits: Vec<(Budget, u32)>,
    rng: fastrand::Rng,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limits = vec![
            (Budget::Concurrency, rng.u32(1..12)),
            (Budget::SyncCalls, rng.u32(1..4)),
            (Budget::FindCount, 1000),
        ];
        let builder = RedisLedger::builder()
            .lease(ms(2_000))
            .when_unavailable(WhenUnavailable::Wait);
        let builder = limits.iter().fold(builder, |builder, (budget, limit)| {
            builder.budget(*budget, Limit::InFlight(*limit))
        });
        let fake = Fake::new(seed);
        let server = Server::default();
        let watching = server.clone();
        fake.set_watch(move |living| watching.living(living));
        Self {
            fake,
            server,
            builder,
            limits,
            rng,
        }
    }

    fn request(&mut self) -> AcquireRequest {
        let principals = ["a", "b"].map(Principal::account);
        let mut charges = Charges::new();
        let both = self.rng.u8(0..8) == 0;
        for principal in principals.iter().take(if both { 2 } else { 1 }) {
            charges.push(Charge::new(principal.clone(), Budget::Concurrency, 1));
            match self.rng.u8(0..6) {
                0 => charges.push(Charge::new(principal.clone(), Budget::SyncCalls, 1)),
                1 => {
                    let rows = self.rng.u32(1..500);
                    charges.push(Charge::new(principal.clone(), Budget::FindCount, rows));
                }
                _ => {}
            }
        }
        AcquireRequest::new(charges)
    }

    /// One process, for as long as it lives: several calls at a time. It is killed by aborting it.
    fn start(&mut self, calls: u32) -> (JoinSet<u32>, Fake) {
        let own = self.fake.fork();
        let ledger = process(&own, &self.builder);
        let mut set = JoinSet::new();
        let until = Instant::now() + Duration::from_secs(600);
        for _ in 0..calls {
            let (ledger, server) = (Arc::clone(&ledger), self.server.clone());
            let mut case = fastrand::Rng::with_seed(self.rng.u64(..));
            let requests: Vec<_> = (0..self.rng.usize(1..12)).map(|_| self.request()).collect();
            set.spawn(async move {
                let mut done = 0;
                for request in requests {
                    sleep(ms(case.u64(0..500))).await;
                    let mut patience = ms(case.u64(1..2_000));
                    loop {
                        let deadline = Instant::now() + patience;
                        let asked = request.clone().with_deadline(deadline);
                        if let Ok(permit) = acquire(&ledger, asked).await {
                            let running = server.begin(ledger.process(), &permit);
                            sleep(ms(case.u64(0..300))).await;
                            if case.u8(0..50) == 0 {
                                permit.report(Signal::Exceeded(Budget::Concurrency));
                            }
                            drop(running);
                            done += 1;
                            break;
                        }
                        patience *= 2;
                        assert!(Instant::now() < until, "never let in");
                    }
                }
                done
            });
        }
        (set, own)
    }
}

async fn one(seed: u64) -> (u64, u64) {
    let mut case = Case::new(seed);
    let weather = Weather {
        one_way: ms(case.rng.u64(0..40)),
        lost: case.rng.u8(0..10),
        late: case.rng.u8(0..5),
    };
    case.fake.set_weather(weather);
    let mut processes = Vec::new();
    for _ in 0..case.rng.usize(2..6) {
        let calls = case.rng.u32(1..12);
        processes.push(case.start(calls));
        sleep(ms(case.rng.u64(0..300))).await;
    }
    for _ in 0..case.rng.usize(0..3) {
        sleep(ms(case.rng.u64(0..3_000))).await;
        let at = case.rng.usize(0..processes.len());
        // Killed: it says nothing any more.
        let (mut killed, way) = processes.swap_remove(at);
        way.cut();
        killed.abort_all();
        let calls = case.rng.u32(1..12);
        processes.push(case.start(calls));
    }
    // In the end the weather is fine.
    sleep(ms(10_000)).await;
    case.fake.set_weather(Weather {
        one_way: ms(1),
        lost: 0,
        late: 0,
    });
    for (process, _) in &mut processes {
        while let Some(done) = process.join_next().await {
            done.unwrap();
        }
    }
    for principal in ["a", "b"].map(Principal::account) {
        for (budget, limit) in &case.limits {
            let peak = case.server.peak(&principal, *budget);
            assert!(peak <= *limit, "{peak} of {budget} at once, of {limit}");
        }
    }
    drop(processes);
    // What was lent last is over a lease later; a late message may come a while after that.
    sleep(Duration::from_secs(30)).await;
    assert_eq!(case.fake.living().len(), 0, "{:?}", case.fake.fields());
    (case.server.begun(), case.fake.calls())
}

#[tokio::test(start_paused = true)]
async fn whatever_is_lost_no_more_runs_than_may() {
    let seed = std::env::var("EWS_TEST_SEED").ok();
    let first = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    let rounds = std::env::var("EWS_TEST_ROUNDS").map_or(30, |n| n.parse().unwrap());
    let (mut calls, mut commands) = (0, 0);
    for round in 0..rounds {
        let seed = first.wrapping_add(round);
        println!("EWS_TEST_SEED={seed}");
        let begin = std::time::Instant::now();
        let (begun, executed) = one(seed).await;
        println!("{begun} calls, {executed} commands, {:?}", begin.elapsed());
        calls += begun;
        commands += executed;
    }
    println!("{calls} calls, {commands} commands");
}
