//! The stack that calls go through now, and its change by a new policy.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::time::Instant;
use tower_ews::audit_log::AuditLogLayer;
use tower_ews::gauges::LedgerGauges;
use tower_ews::http_client::HttpsClient;
use tower_ews::ledger::{Ledger, LocalLedger};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::{EwsService, EwsStack};

/// A stack, and what it was made of.
pub(crate) struct Stack {
    pub(crate) policy: ThrottlingPolicy,
    pub(crate) ledger: Arc<LocalLedger>,
    pub(crate) gauges: LedgerGauges,
    pub(crate) service: EwsService<HttpsClient>,
}

pub(crate) struct Stacks {
    client: HttpsClient,
    audit: AuditLogLayer,
    current: RwLock<Arc<Stack>>,
}

impl Stacks {
    pub(crate) fn new(policy: ThrottlingPolicy, client: HttpsClient, audit: AuditLogLayer) -> Self {
        let ledger = Arc::new(policy.ledger());
        let stack = Arc::new(stack(policy, ledger, &client, &audit));
        Self {
            client,
            audit,
            current: RwLock::new(stack),
        }
    }

    pub(crate) fn current(&self) -> Arc<Stack> {
        Arc::clone(&self.current.read())
    }

    /// Sends later calls through a stack with another policy. Those under way end in the old one.
    ///
    /// Where the budgets stay the same, the ledger does. A new ledger keeps the gates of the old one, and does not know of the
    /// calls that are under way in it: until they have ended the server may see up to twice as many.
    pub(crate) fn replace(&self, policy: ThrottlingPolicy) {
        let old = self.current();
        let keeps = |policy: &ThrottlingPolicy| {
            (
                policy.budgets.clone(),
                policy.max_wait,
                policy.max_queued,
                policy.max_overtake,
            )
        };
        let ledger = match keeps(&old.policy) == keeps(&policy) {
            true => Arc::clone(&old.ledger),
            false => with_gates_of(&old.ledger, policy.ledger()),
        };
        *self.current.write() = Arc::new(stack(policy, ledger, &self.client, &self.audit));
    }
}

fn stack(
    policy: ThrottlingPolicy,
    ledger: Arc<LocalLedger>,
    client: &HttpsClient,
    audit: &AuditLogLayer,
) -> Stack {
    let layers = EwsStack::new(policy.clone())
        .ledger(Arc::clone(&ledger) as Arc<dyn Ledger>)
        .audit_log(audit.clone());
    Stack {
        gauges: LedgerGauges::new(ledger.clone(), &policy),
        policy,
        ledger,
        service: layers.service(client.clone()),
    }
}

fn with_gates_of(old: &LocalLedger, new: LocalLedger) -> Arc<LocalLedger> {
    let (snapshot, now) = (old.snapshot(), Instant::now());
    for known in &snapshot.principals {
        if let Some(time) = known.gated {
            new.close_gate(&known.principal, now + time);
        }
    }
    for (endpoint, time) in &snapshot.gated_endpoints {
        new.close_endpoint_gate(endpoint, now + *time);
    }
    Arc::new(new)
}

/// A policy by the name of a preset, or from a TOML file.
pub(crate) fn policy(name_or_file: &str) -> Result<ThrottlingPolicy, String> {
    if let Some(preset) = ThrottlingPolicy::named(name_or_file) {
        return Ok(preset);
    }
    let text = fs::read_to_string(Path::new(name_or_file)).map_err(|error| {
        let presets: Vec<_> = ThrottlingPolicy::names().collect();
        format!(
            "{name_or_file}: {error}; a policy is a TOML file, or one of {}",
            presets.join(", ")
        )
    })?;
    toml::from_str(&text).map_err(|error| format!("{name_or_file}: {error}"))
}
