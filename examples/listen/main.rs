//! Listens to 2,000 mailboxes with one service account, and counts what happens in them.
//!
//! ```text
//! cargo run --release --example listen
//! ```
//!
//! It brings its own Exchange (`tower_ews::simulator`) on a loopback socket, with four servers, in which a minute passes in a second.
//! Mail comes, mailboxes move, and subscriptions are lost; each message is told, or lies in a gap that is. It ends by itself:
//! `--mailboxes N` and `--events N` make it smaller, and `--json` prints one line.

mod memory;

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::MissedTickBehavior;
use tower::BoxError;
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, Report};
use tower_ews::streaming::{Autodiscover, Notification, Notifications, Subscriptions};

const HELP: &str = "\
Listens to many mailboxes of a simulated Exchange, and counts what happens in them.

  --mailboxes N  mailboxes to listen to (2000)
  --events N     messages that come to them (20000)
  --json         print one line of JSON
";
/// How much faster than life it goes.
const SPEED: f64 = 60.0;
const AUTH: HeaderValue = HeaderValue::from_static("Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==");

#[derive(Clone, Copy, Debug)]
struct Size {
    mailboxes: usize,
    events: usize,
}

/// What has happened, and what was told of it.
#[derive(Default)]
struct Told {
    sent: usize,
    /// By mailbox: messages of which nothing was told yet.
    open: HashMap<String, HashSet<String>>,
    missed: usize,
    items: usize,
    gaps: usize,
    lost: usize,
}

fn mailbox(number: usize) -> String {
    format!("user{number}@contoso.com")
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

async fn run(words: &[String]) -> Result<bool, BoxError> {
    let mut size = Size {
        mailboxes: 2_000,
        events: 20_000,
    };
    let mut json = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            let value = words.next();
            value.ok_or_else(|| format!("{word} needs a value\n\n{HELP}"))
        };
        match word.as_str() {
            "--mailboxes" => size.mailboxes = value()?.parse::<usize>()?.max(1),
            "--events" => size.events = value()?.parse()?,
            "--json" => json = true,
            "--help" => {
                print!("{HELP}");
                return Ok(true);
            }
            _ => return Err(format!("{word} is unknown\n\n{HELP}").into()),
        }
    }
    let measured = std::thread::spawn(move || memory::bytes_per_mailbox(size.mailboxes));
    let bytes = measured.join().map_err(|_| "the memory was not measured")?;
    let exchange = Exchange::builder()
        .speed(SPEED)
        .servers(4)
        .mailboxes((0..size.mailboxes).map(mailbox))
        .build();
    let server = exchange.serve_on_loopback().await?;
    let base = format!("http://{}", server.local_addr());
    let mut notifications = listen(&base, size)?;
    let told = follow(&exchange, &mut notifications, size, json).await;
    let left = notifications.shutdown(Duration::from_secs(60)).await;
    Ok(print(&told, &exchange.report(), (size, bytes, left), json))
}

/// What a user of the crate writes.
fn listen(base: &str, size: Size) -> Result<Notifications, BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody>();
    let ews = EwsStack::new(ThrottlingPolicy::exchange_online().faster(SPEED))
        .caller(Caller::new(DEFAULT_ACCOUNT))
        .credentials(async |_| Ok(AUTH))
        .service(client);
    let autodiscover = format!("{base}/autodiscover/autodiscover.svc").parse()?;
    let autodiscover = Autodiscover::new(ews.clone(), autodiscover).header(AUTHORIZATION, AUTH);
    let subscriptions = Subscriptions::new(format!("{base}/EWS/Exchange.asmx").parse()?);
    let names = (0..size.mailboxes).map(mailbox);
    Ok(subscriptions.locate(autodiscover).listen(ews, names))
}

/// Lets mail come and trouble happen, and takes what is told.
async fn follow(
    exchange: &Exchange,
    notifications: &mut Notifications,
    size: Size,
    json: bool,
) -> Told {
    let bar = match json {
        true => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        false => ProgressBar::new(size.events as u64),
    };
    let style = "{elapsed_precise} {bar:40} {pos}/{len} events  {msg}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut told = Told::default();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut started, mut ends) = (false, None);
    loop {
        tokio::select! {
            next = notifications.next() => match next {
                Some(notification) => told.note(notification),
                None => return told,
            },
            _ = tick.tick() => {
                let counts = notifications.counts();
                bar.set_position(told.items as u64);
                bar.set_message(format!(
                    "{} of {} mailboxes, {} connections, {} gaps",
                    counts.subscribed, counts.mailboxes, counts.connections, told.gaps
                ));
                started |= counts.subscribed == size.mailboxes;
                if started && told.sent < size.events {
                    send(exchange, &mut told, size, &mut rng);
                } else if started && told.missed == 0 {
                    break;
                }
            }
        }
        if told.sent >= size.events && ends.is_none() {
            // A minute for what is still under way, which is an hour of the server.
            ends = Some(Instant::now() + Duration::from_secs(60));
        }
        if ends.is_some_and(|ends| Instant::now() > ends) {
            break;
        }
    }
    bar.finish();
    told
}

/// Twenty messages, and trouble now and then.
fn send(exchange: &Exchange, told: &mut Told, size: Size, rng: &mut fastrand::Rng) {
    for _ in 0..20.min(size.events - told.sent) {
        let number = rng.usize(..size.mailboxes);
        match rng.u32(..1_000) {
            0 => exchange.move_mailbox(&mailbox(number)),
            1 => exchange.lose_subscriptions_of(&mailbox(number)),
            _ => {}
        }
        if let Some(id) = exchange.deliver(&mailbox(number), "news") {
            told.send(mailbox(number), id);
        }
    }
}

impl Told {
    fn send(&mut self, mailbox: String, id: String) {
        self.open.entry(mailbox).or_default().insert(id);
        self.sent += 1;
        self.missed += 1;
    }

    fn note(&mut self, notification: Notification) {
        match notification {
            Notification::Item { mailbox, event } => {
                self.items += 1;
                let open = self.open.get_mut(&*mailbox);
                let found = open.is_some_and(|open| open.remove(&*event.id));
                self.missed -= usize::from(found);
            }
            // Whoever synchronises the mailbox now finds all that came before.
            Notification::Gap { mailbox, .. } => {
                self.gaps += 1;
                self.missed -= self.open.remove(&*mailbox).map_or(0, |open| open.len());
            }
            Notification::Lost { .. } => self.lost += 1,
            _ => {}
        }
    }
}

/// Returns whether all is as it should be.
fn print(
    told: &Told,
    report: &Report,
    (size, bytes, left): (Size, u64, usize),
    json: bool,
) -> bool {
    let (items, missed, gaps) = (told.items, told.missed, told.gaps);
    let hanging = report
        .peak_hanging
        .values()
        .copied()
        .max()
        .unwrap_or_default();
    let (ids, cookies, lost) = (report.most_stream_ids, report.foreign_cookies, told.lost);
    let mailboxes = size.mailboxes;
    if json {
        println!(
            "{{\"mailboxes\":{mailboxes},\"events\":{},\"told\":{items},\"gaps\":{gaps},\"missed\":{missed},\"lost\":{lost},\
             \"most_hanging\":{hanging},\"most_ids\":{ids},\"foreign_cookies\":{cookies},\"left\":{left},\
             \"bytes_per_mailbox\":{bytes}}}",
            told.sent
        );
    } else {
        println!(
            "{items} of {} messages were told, {missed} were missed",
            told.sent
        );
        println!(
            "{gaps} gaps, of which {mailboxes} are the first ones; {lost} mailboxes were lost"
        );
        println!("{hanging} connections of one account at most, {ids} mailboxes in one");
        println!(
            "{cookies} calls with another group's cookie, {left} subscriptions left at the end"
        );
        println!("{bytes} bytes of memory for each mailbox");
    }
    missed + lost + left == 0 && cookies == 0 && hanging <= 10 && ids <= 200
}
