//! A job of two accounts over NTLM, against a simulated Exchange that checks each login. Ends by itself.
//!
//! ```text
//! cargo run --release --manifest-path examples/ntlm/Cargo.toml
//! ```

use std::time::Instant;

use tower::BoxError;
use tower_ews_ntlm::job;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = job::server().await?;
    let begun = Instant::now();
    let records = job::run(&server, 400).await?;
    let report = server.report();
    println!(
        "{} calls of two accounts in {:.1} s: {} logins over {} connections, {} requests without one, {} mixed up",
        records.len(),
        begun.elapsed().as_secs_f64(),
        report.logins,
        report.connections,
        report.strays,
        report.mixed,
    );
    assert_eq!((report.refused, report.mixed), (0, 0));
    Ok(())
}
