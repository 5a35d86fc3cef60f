//! Progress on stderr, where a person looks at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::AbortHandle;
use tower_ews::ledger::{Ledger, Snapshot};
use tower_ews::principal::Budget;

/// A bar that is shown on a terminal, and nowhere if `quiet`.
pub(crate) fn bar(name: &'static str, items: usize, quiet: bool) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(items as u64), target).with_prefix(name);
    if let Ok(style) =
        ProgressStyle::with_template("{prefix:9}[{bar:18}] {pos}/{len}  {elapsed}  {wide_msg}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Tells, until it is dropped, what the calls of a stack wait for.
#[must_use = "it tells nothing any more when it is dropped"]
pub(crate) struct Watch {
    task: AbortHandle,
    peak: Arc<AtomicU32>,
}

impl Watch {
    pub(crate) fn over(ledger: Arc<dyn Ledger>, bar: ProgressBar) -> Self {
        let peak = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&peak);
        let watch = tokio::spawn(async move {
            loop {
                let snapshot = ledger.snapshot();
                bar.set_message(describe(&snapshot));
                let held = concurrency(&snapshot).max().unwrap_or(0);
                seen.fetch_max(held, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self {
            task: watch.abort_handle(),
            peak,
        }
    }

    /// The most calls in flight of one payer that were seen.
    pub(crate) fn peak(&self) -> u32 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The calls in flight of each payer.
fn concurrency(ledger: &Snapshot) -> impl Iterator<Item = u32> {
    let budgets = ledger.principals.iter().flat_map(|p| &p.budgets);
    budgets
        .filter(|budget| budget.budget == Budget::Concurrency)
        .map(|budget| budget.held)
}

fn describe(ledger: &Snapshot) -> String {
    let held = |wanted| {
        let budgets = ledger
            .principals
            .iter()
            .flat_map(|principal| &principal.budgets);
        budgets
            .filter(|budget| budget.budget == wanted)
            .map(|budget| budget.held)
            .sum::<u32>()
    };
    let mut text = format!("in flight {}", held(Budget::Concurrency));
    match held(Budget::OpenMailboxes) {
        0 => {}
        open => text.push_str(&format!(", open {open}")),
    }
    let gates = ledger.principals.iter();
    if let Some(longest) = gates.filter_map(|principal| principal.gated).max() {
        text.push_str(&format!(", locked out {:.1} s", longest.as_secs_f64()));
    }
    text
}
