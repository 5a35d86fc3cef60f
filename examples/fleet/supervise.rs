//! The supervisor: starts the servers and the workers, kills one, and counts.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tower::BoxError;
use tower_ews::simulator::{DEFAULT_ACCOUNT, DEFAULT_PASSWORD, Exchange, Policy};

use crate::args::Args;
use crate::redis_server::RedisServer;
use crate::worker::subject;

/// What came of one run.
struct Outcome {
    time: Duration,
    peak: u32,
    throttled: u64,
    lost: usize,
    twice: usize,
    failed: usize,
}

/// What a worker has said.
enum Said {
    Done(usize),
    Failed(String),
    /// It has ended.
    Over(usize),
}

pub(crate) async fn run(args: &Args) -> Result<bool, BoxError> {
    let own = match &args.redis {
        Some(_) => None,
        None => Some(RedisServer::start().await.map_err(|error| {
            format!("redis-server cannot be started ({error}): install it, or say --redis URL")
        })?),
    };
    let url = match (&args.redis, &own) {
        (Some(url), _) => url.clone(),
        (None, Some(own)) => own.url(),
        (None, None) => String::new(),
    };
    let alone = job(args, &url, 1, false).await?;
    let fleet = job(args, &url, args.workers, args.kill).await?;
    let ratio = fleet.time.as_secs_f64() / alone.time.as_secs_f64();
    if args.json {
        println!(
            "{{\"alone\":{},\"fleet\":{},\"ratio\":{ratio:.3}}}",
            alone.json(),
            fleet.json()
        );
    } else {
        print!("one process:    {alone}");
        print!("{} processes:   {fleet}", args.workers);
        println!("time of the fleet, by that of one process: {ratio:.2}");
    }
    Ok([&alone, &fleet].iter().all(|o| o.is_clean(args.limit)))
}

impl Outcome {
    fn is_clean(&self, limit: u32) -> bool {
        self.lost + self.twice + self.failed == 0 && self.peak <= limit && self.throttled == 0
    }

    fn json(&self) -> String {
        format!(
            "{{\"seconds\":{:.3},\"peak_in_flight\":{},\"throttled\":{},\"lost\":{},\"duplicated\":{},\"failed\":{}}}",
            self.time.as_secs_f64(),
            self.peak,
            self.throttled,
            self.lost,
            self.twice,
            self.failed
        )
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:.2} s, {} in flight at most, {} throttled, {} lost, {} duplicated, {} failed",
            self.time.as_secs_f64(),
            self.peak,
            self.throttled,
            self.lost,
            self.twice,
            self.failed
        )
    }
}

/// The job in several processes.
async fn job(args: &Args, redis: &str, workers: usize, kill: bool) -> Result<Outcome, BoxError> {
    // A client's connection is a call here, so that the server sees what runs at the same time, and not more.
    let policy = Policy::unlimited().with(|policy| {
        policy.max_concurrency = Some(args.limit);
        policy.latency = Duration::from_millis(20);
        policy.member_time = Duration::from_millis(30);
    });
    let exchange = Exchange::builder()
        .account(DEFAULT_ACCOUNT, DEFAULT_PASSWORD)
        .policy(policy)
        .build();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let server = exchange.serve(listener)?;
    let prefix = format!("tower-ews-fleet-{:016x}", fastrand::u64(..));
    let start = |number, items: Vec<usize>, said| {
        start(args, redis, &server.url(), &prefix, number, items, said)
    };

    let bar = ProgressBar::with_draw_target(
        Some(args.items as u64),
        match args.json {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        },
    );
    let begin = Instant::now();
    let (said, mut hears) = mpsc::unbounded_channel();
    let mut children = Vec::new();
    for number in 0..workers {
        let items = (number..args.items).step_by(workers).collect();
        children.push(Some(start(number, items, said.clone())?));
    }
    let mut running = workers;
    let mut done = BTreeSet::new();
    let mut failed = 0;
    let mut killed = !kill || workers < 2;
    while running > 0 {
        match hears.recv().await {
            Some(Said::Done(item)) => {
                done.insert(item);
                bar.set_position(done.len() as u64);
            }
            Some(Said::Failed(line)) => {
                bar.println(line);
                failed += 1;
            }
            Some(Said::Over(number)) => {
                running -= 1;
                children[number] = None;
                let missing: Vec<usize> = (number..args.items).step_by(workers).collect();
                let missing = unfinished(&exchange, missing).await;
                // What the dead worker had sent has arrived or not by now: the server knows, and the rest is done anew.
                if number < workers && failed == 0 && !missing.is_empty() {
                    bar.println(format!(
                        "worker {number} is gone: {} items are left",
                        missing.len()
                    ));
                    children[number] = Some(start(number, missing, said.clone())?);
                    running += 1;
                }
            }
            None => break,
        }
        if !killed && done.len() * 3 > args.items {
            killed = true;
            if let Some(child) = children[0].as_mut() {
                bar.println("worker 0 is killed");
                child.start_kill()?;
            }
        }
    }
    bar.finish_and_clear();
    let report = exchange.report();
    let subjects = (0..args.items).map(subject);
    Ok(Outcome {
        time: begin.elapsed(),
        peak: report.peak(),
        throttled: report.throttled_total(),
        lost: report.lost(subjects).len(),
        twice: report.created_twice().len(),
        failed,
    })
}

/// Which of the items the server does not have, once nothing of the dead worker is on its way any more.
async fn unfinished(exchange: &Exchange, items: Vec<usize>) -> Vec<usize> {
    tokio::time::sleep(Duration::from_millis(200)).await;
    let report = exchange.report();
    let missing = items.into_iter();
    missing
        .filter(|item| !report.created.contains_key(&subject(*item)))
        .collect()
}

/// Starts a worker on these items.
fn start(
    args: &Args,
    redis: &str,
    exchange: &str,
    prefix: &str,
    number: usize,
    items: Vec<usize>,
    said: mpsc::UnboundedSender<Said>,
) -> Result<Child, BoxError> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--worker", redis, exchange])
        .args([&args.limit.to_string(), prefix])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("a worker has no pipes".into());
    };
    tokio::spawn(async move {
        for item in items {
            // A killed one reads no more.
            if stdin
                .write_all(format!("{item}\n").as_bytes())
                .await
                .is_err()
            {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let item = line
                .strip_prefix("done ")
                .and_then(|item| item.parse().ok());
            let _ = said.send(item.map_or(Said::Failed(line), Said::Done));
        }
        let _ = said.send(Said::Over(number));
    });
    Ok(child)
}
