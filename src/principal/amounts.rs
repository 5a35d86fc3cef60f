//! What one EWS call draws by one rule.

use super::found_rows::{MAX_ROWS, row_weight};
use super::rules::ChargeRule;
use crate::body::ReplayBody;
use crate::soap::{Operation, Targets};

/// Rows that a find may hold in memory. `expected` is what one without a page may find in a folder.
fn found_rows(targets: &Targets, expected: u32) -> u32 {
    let rows = targets.page_size.unwrap_or(expected).clamp(1, MAX_ROWS);
    rows.saturating_mul(row_weight(targets))
        .saturating_mul(targets.folders.max(1))
}

/// Returns what one call draws by one rule, besides mailboxes. `expected` tells how many rows a find without a page may return.
pub(super) fn amount(
    rule: &ChargeRule,
    operation: Option<Operation>,
    body: &ReplayBody,
    expected: impl FnOnce() -> u32,
) -> u32 {
    let is = |operations: &[Operation]| operation.is_some_and(|known| operations.contains(&known));
    let hanging = is(&[Operation::GET_STREAMING_EVENTS]);
    match rule {
        ChargeRule::Calls => u32::from(!hanging),
        ChargeRule::HangingCalls => u32::from(hanging),
        ChargeRule::Syncs => {
            let syncs = [
                Operation::SYNC_FOLDER_ITEMS,
                Operation::SYNC_FOLDER_HIERARCHY,
            ];
            u32::from(is(&syncs))
        }
        ChargeRule::FoundRows if is(&[Operation::FIND_ITEM, Operation::FIND_FOLDER]) => body
            .targets()
            .map_or(0, |targets| found_rows(targets, expected())),
        ChargeRule::AllCalls => 1,
        ChargeRule::WireTime => u32::from(!hanging),
        ChargeRule::Messages => body.sent().map_or(0, |sent| sent.messages),
        ChargeRule::Recipients => body.sent().map_or(0, |sent| sent.recipients),
        ChargeRule::UploadedBytes => u32::try_from(body.len()).unwrap_or(u32::MAX),
        ChargeRule::Only(names) => {
            let name = operation.map(Operation::name);
            u32::from(name.is_some_and(|name| names.iter().any(|known| known == name)))
        }
        ChargeRule::FoundRows | ChargeRule::Mailboxes | ChargeRule::MailboxesWritten => 0,
    }
}
