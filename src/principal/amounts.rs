//! What one EWS call draws by one rule.

use super::rules::ChargeRule;
use crate::body::ReplayBody;
use crate::soap::{Operation, Targets};

/// Rows that a find may hold in memory.
fn found_rows(targets: &Targets) -> u32 {
    let rows = targets.page_size.unwrap_or(1000).clamp(1, 1000);
    let weight = if targets.has_restriction { 4 } else { 1 };
    rows.saturating_mul(weight)
        .saturating_mul(targets.folders.max(1))
}

/// Returns what one call draws by one rule, besides mailboxes.
pub(super) fn amount(rule: &ChargeRule, operation: Option<Operation>, body: &ReplayBody) -> u32 {
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
        ChargeRule::FoundRows if is(&[Operation::FIND_ITEM, Operation::FIND_FOLDER]) => {
            body.targets().map_or(0, found_rows)
        }
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
