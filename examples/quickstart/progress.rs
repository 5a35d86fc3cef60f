//! Progress on stderr, where a person looks at it.

use std::sync::Arc;
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
pub(crate) struct Watch(AbortHandle);

impl Watch {
    pub(crate) fn over(ledger: Arc<dyn Ledger>, bar: ProgressBar) -> Self {
        let watch = tokio::spawn(async move {
            while !bar.is_hidden() {
                bar.set_message(describe(&ledger.snapshot()));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self(watch.abort_handle())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
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
