//! A job of several processes on one account: they share its budget through Redis, and one of them is killed in the middle.
//!
//! ```text
//! cargo run --release --example fleet -- --workers 4 --items 4000
//! ```
//!
//! It brings its own Exchange (`tower_ews::simulator`), which counts what is in flight, and its own `redis-server` (or goes to
//! `--redis URL`). `--help` tells the rest.

mod args;
mod redis_server;
mod supervise;
mod worker;

use std::process::ExitCode;

use args::{Args, Role};

#[tokio::main]
async fn main() -> ExitCode {
    let role = match Args::parse(std::env::args().skip(1)) {
        Ok(role) => role,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    match role {
        Role::Help => {
            print!("{}", args::HELP);
            ExitCode::SUCCESS
        }
        Role::Worker(work) => match worker::run(work).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("worker: {error}");
                ExitCode::FAILURE
            }
        },
        Role::Fleet(args) => match supervise::run(&args).await {
            Ok(clean) if clean => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}
