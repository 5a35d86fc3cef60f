//! The supervisor: the server, the progress bars, and the end of the process that does the job, twice.

use std::process::Stdio;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tower::BoxError;
use tower_ews::simulator::{Exchange, OpenedBy, Policy};

use crate::{Size, item};

pub(crate) const ACCOUNTS: [&str; 3] = ["svc1@contoso.com", "svc2@contoso.com", "svc3@contoso.com"];
pub(crate) const PASSWORD: &str = "secret";
pub(crate) const SPEED: f64 = 60.0;

pub(crate) async fn run(size: Size, json: bool) -> Result<bool, BoxError> {
    let exchange = exchange();
    let server = exchange.serve_on_loopback().await?;
    let journal =
        std::env::temp_dir().join(format!("tower-ews-migration-{:016x}", fastrand::u64(..)));
    let bars = Bars::new(size.items, json)?;
    let begin = Instant::now();
    let (mut kills, mut settled) = (0, 0);
    let done = loop {
        let arguments = [
            "--worker".to_owned(),
            server.url(),
            journal.display().to_string(),
            "--items".to_owned(),
            size.items.to_string(),
            "--mailboxes".to_owned(),
            size.mailboxes.to_string(),
        ];
        let mut worker = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        // After a third, and after two thirds.
        let kill_at = (kills < 2).then_some(size.items * (kills + 1) / 3);
        settled += watch(&mut worker, &bars, kill_at, &exchange).await?;
        if let Some(status) = worker.try_wait()? {
            break status.success();
        }
        worker.kill().await?;
        kills += 1;
        bars.items.set_message(format!("killed {kills} times"));
    };
    let took = begin.elapsed();
    bars.items.finish();
    let lines = std::fs::read_to_string(&journal)?.lines().count();
    std::fs::remove_file(&journal)?;

    let report = exchange.report();
    let there = |number| {
        let (_, subject) = item(number, size);
        report.existing.get(&subject).copied().unwrap_or_default()
    };
    let lost = (0..size.items).filter(|number| there(*number) == 0).count();
    let twice = (0..size.items).filter(|number| there(*number) > 1).count();
    let refused = report.throttled_total();
    let seconds = took.as_secs_f64();
    match json {
        true => println!(
            "{{\"seconds\":{seconds:.3},\"kills\":{kills},\"in_doubt\":{settled},\"lost\":{lost},\"duplicated\":{twice},\
             \"throttled\":{refused}}}"
        ),
        false => println!(
            "{} items in {seconds:.1} s, killed {kills} times: {settled} were in doubt, {lost} lost, {twice} duplicated, \
             {refused} calls throttled, {lines} lines of journal",
            size.items
        ),
    }
    Ok(done && lost + twice == 0)
}

/// Follows a process until it has ended, or has done so much that it is killed. Returns how many doubts it has settled.
async fn watch(
    worker: &mut Child,
    bars: &Bars,
    kill_at: Option<usize>,
    exchange: &Exchange,
) -> Result<usize, BoxError> {
    let out = worker.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(out).lines();
    let mut settled = 0;
    loop {
        // The server is asked, too: a small job is over between two lines.
        let created = exchange.report().items_created;
        if kill_at.is_some_and(|kill_at| created as usize >= kill_at) {
            return Ok(settled);
        }
        let line = tokio::time::timeout(Duration::from_millis(20), lines.next_line()).await;
        match line {
            Err(_) => {}
            Ok(line) => match line? {
                Some(line) if line == "settled" => settled += 1,
                Some(line) => bars.show(&line),
                None => {
                    worker.wait().await?;
                    return Ok(settled);
                }
            },
        }
    }
}

fn exchange() -> Exchange {
    let policy = Policy::exchange_online().with(|policy| {
        policy.max_burst = None;
        policy.opened_by = OpenedBy::ReadsAndWrites;
    });
    let builder = Exchange::builder().policy(policy).speed(SPEED);
    let accounts = ACCOUNTS.iter();
    accounts
        .fold(builder, |builder, name| builder.account(*name, PASSWORD))
        .build()
}

/// A bar for the items, and a line for each account.
struct Bars {
    items: ProgressBar,
    accounts: Vec<ProgressBar>,
}

impl Bars {
    fn new(items: usize, quiet: bool) -> Result<Self, BoxError> {
        let all = match quiet {
            true => MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            false => MultiProgress::new(),
        };
        let style = "{prefix:18} [{bar:30}] {pos}/{len}  {elapsed}  {msg}";
        let bar = all.add(ProgressBar::new(items as u64).with_prefix("items"));
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        let line = ProgressStyle::with_template("{prefix:18} {msg}")?;
        let accounts = ACCOUNTS.iter().map(|name| {
            let line_of = all.add(ProgressBar::new_spinner().with_prefix(*name));
            line_of.set_style(line.clone());
            line_of
        });
        Ok(Self {
            items: bar,
            accounts: accounts.collect(),
        })
    }

    /// Shows what the process tells: `progress DONE OFFERED`, and `CALLS MAILBOXES` of each account.
    fn show(&self, line: &str) {
        let words = line.split(' ').skip(1);
        let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        if let [done, _, of_accounts @ ..] = &numbers[..] {
            self.items.set_position(*done);
            for (bar, both) in self.accounts.iter().zip(of_accounts.chunks(2)) {
                if let [calls, mailboxes] = both {
                    bar.set_message(format!(
                        "{calls} calls under way, {mailboxes} mailboxes open"
                    ));
                }
            }
        }
    }
}
