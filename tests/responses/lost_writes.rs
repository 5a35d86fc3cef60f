//! Ten thousand writes that must not be done twice, of which one in a hundred breaks the connection.

use std::collections::BTreeSet;
use std::time::Duration;

use super::server::{Ask, Reply, good, request, send};

const MEMBERS: usize = 10_000;
const CULPRITS: usize = MEMBERS / 100;

/// What came of one such job.
struct Job {
    asks: Vec<Ask>,
    /// Which of them were lost.
    lost: Vec<usize>,
    done: usize,
    unknown: usize,
    unsent: usize,
    took: Duration,
}

async fn job(seed: u64) -> Job {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut all: Vec<usize> = (0..MEMBERS).collect();
    rng.shuffle(&mut all);
    let culprits = all[..CULPRITS].iter();
    let culprits: BTreeSet<String> = culprits.map(|member| format!("ID{member:04}")).collect();
    let breaks = culprits.clone();
    let outcome = send(request("CreateItem", MEMBERS), None, move |ask| {
        match ask.ids.iter().any(|id| breaks.contains(id)) {
            true => Reply::Reset,
            false => good(ask),
        }
    })
    .await;
    let is_lost = |ask: &Ask| ask.ids.iter().any(|id| culprits.contains(id));
    let lost = (0..outcome.requests()).filter(|number| is_lost(&outcome.asks[*number]));
    let lost = lost.collect();
    let sent: Vec<&String> = outcome.asks.iter().flat_map(|ask| &ask.ids).collect();
    let once: BTreeSet<&String> = sent.iter().copied().collect();
    assert_eq!(sent.len(), once.len(), "{seed}: something was sent twice");
    Job {
        done: outcome.done(),
        unknown: outcome.unknown,
        unsent: MEMBERS - once.len(),
        lost,
        took: outcome.took,
        asks: outcome.asks,
    }
}

/// Each lost connection leaves one part in doubt, and the next part waits, has one member and goes alone. Twenty such jobs (seeds
/// 0 to 19, a server that responds after 20 ms) came to their end after 27 to 29 minutes, of which some 25 were waits after the
/// losses, and 8,400 to 9,400 requests. 201 to 281 members were in doubt: the 100 that are to blame, and one or two more for each.
/// When a part grew again after eight good ones, however often parts had been lost, it was 1,340 to 1,540 members, in 24 minutes
/// and 1,100 requests. When a lost test ended the batch in any case, thirteen of the jobs ended sooner.
#[tokio::test(start_paused = true)]
async fn one_culprit_in_a_hundred() {
    let cases = std::env::var("EWS_TEST_CASES").map_or(0, |cases| cases.parse().unwrap());
    // In the second one, two parts in a row are lost.
    let seeds = if cases == 0 {
        vec![1, 11]
    } else {
        (0..cases).collect()
    };
    for seed in seeds {
        let job = job(seed).await;
        let sizes: Vec<usize> = job.lost.iter().map(|at| job.asks[*at].ids.len()).collect();
        println!(
            "{seed}: {} done, {} in doubt, {} not sent, {} requests, {:?}, {sizes:?}",
            job.done,
            job.unknown,
            job.unsent,
            job.asks.len(),
            job.took
        );
        assert_eq!(job.done + job.unknown + job.unsent, MEMBERS, "{seed}");
        // Nobody is in doubt but the members of lost parts, each of which is small.
        assert_eq!(job.unknown, sizes.iter().sum::<usize>(), "{seed}");
        assert!(sizes.iter().all(|size| *size <= 50), "{seed}: {sizes:?}");
        assert!(job.unknown <= 93 + 3 * CULPRITS, "{seed}: {sizes:?}");
        for at in &job.lost {
            let Some(next) = job.asks.get(at + 1) else {
                continue;
            };
            assert_eq!(next.ids.len(), 1, "{seed}: after request {at}");
            let wait = next.at - job.asks[*at].at;
            assert!((10..=21).contains(&wait.as_secs()), "{seed}: {wait:?}");
        }
        // It ends sooner only if three parts in a row are lost, or the first two.
        let in_a_row = |parts: &[usize]| parts.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let ends = in_a_row(&job.lost[..2]) || job.lost.windows(3).any(in_a_row);
        assert_eq!(job.unsent > 0, ends, "{seed}");
        let bound = Duration::from_secs(21) * CULPRITS as u32
            + job.asks.len() as u32 * Duration::from_millis(21);
        assert!(job.took < bound, "{seed}: {:?}", job.took);
    }
}
