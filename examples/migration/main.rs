//! A migration that is killed and goes on: 5,000 items into 100 mailboxes through three service accounts, with a journal.
//!
//! ```text
//! cargo run --release --example migration
//! ```
//!
//! It brings its own Exchange (`tower_ews::simulator`) on a loopback socket, in which five minutes pass in five seconds. The job is a
//! process of its own, which is killed after a third and after two thirds of the items, and started again with the same journal.
//! What was under way then is in doubt: the job looks on the server whether it is there. `--json` prints one line; `--items N`
//! makes it smaller.

mod supervise;
mod worker;

use std::process::ExitCode;

use tower::BoxError;

const HELP: &str = "\
A migration of three accounts that is killed twice, and goes on from its journal.

  --items N      items to create (5000)
  --mailboxes N  mailboxes to create them in (100)
  --json         print one line of JSON
";

/// How big the job is.
#[derive(Clone, Copy, Debug)]
struct Size {
    items: usize,
    mailboxes: usize,
}

/// The mailbox and the subject of an item.
fn item(number: usize, size: Size) -> (String, String) {
    let mailbox = number % size.mailboxes;
    (
        format!("user{mailbox}@contoso.com"),
        format!("item {number}"),
    )
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
        items: 5_000,
        mailboxes: 100,
    };
    let (mut json, mut work) = (false, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .ok_or_else(|| format!("{word} needs a value\n\n{HELP}"))
        };
        match word.as_str() {
            "--items" => size.items = value()?.parse()?,
            "--mailboxes" => size.mailboxes = value()?.parse::<usize>()?.max(1),
            "--json" => json = true,
            // What the supervisor tells the process that does the job.
            "--worker" => work = Some((value()?.clone(), value()?.clone())),
            "--help" => {
                print!("{HELP}");
                return Ok(true);
            }
            _ => return Err(format!("{word} is unknown\n\n{HELP}").into()),
        }
    }
    match work {
        Some((url, journal)) => worker::run(&url, &journal, size).await,
        None => supervise::run(size, json).await,
    }
}
