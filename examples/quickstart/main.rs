//! A throttled job that just finishes: the same few thousand calendar events, created by a caller that knows nothing of
//! throttling, once through a bare client and once through [`EwsStack`](tower_ews::EwsStack).
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! It brings its own Exchange (`tower_ews::simulator`), on a loopback socket. With `--url` the job runs against
//! any EWS server. `--help` tells the rest.

mod args;
mod audit;
mod client;
mod ews;
mod job;
mod live;
mod progress;
mod simulated;
mod tally;

use std::process::ExitCode;

use args::{Args, Usage};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The caller has to say something else.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// The server is not to be reached, or does not let the job in.
    #[error("{0}")]
    Server(String),
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(usage) => return explain(&usage.into()),
    };
    let results = if args.url.is_some() {
        live::run(&args).await
    } else {
        simulated::run(&args).await
    };
    match results {
        Ok(results) => {
            if args.json {
                println!("{}", results.json());
            } else {
                print!("{results}");
            }
            if results.stack.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(failure) => explain(&failure),
    }
}

fn explain(failure: &Failure) -> ExitCode {
    eprintln!("quickstart: {failure}");
    match failure {
        Failure::Usage(_) => {
            eprintln!("\n{}", args::USAGE);
            ExitCode::from(2)
        }
        Failure::Server(_) => ExitCode::FAILURE,
    }
}
