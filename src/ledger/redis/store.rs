//! [`Store`]: the commands of this ledger, each with a bound on its wait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Script, Value};
use tokio::time::timeout;

use super::connect::RedisConnect;
use super::error::StoreError;
use super::wire::{Ask, Reply};

const LEASE: &str = include_str!("lease.lua");

/// Redis, as far as this ledger needs it.
#[derive(Clone)]
pub(super) struct Store {
    connect: Arc<dyn RedisConnect>,
    sha: Arc<str>,
    stall_timeout: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("stall_timeout", &self.stall_timeout)
            .finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn new(connect: Arc<dyn RedisConnect>, stall_timeout: Duration) -> Self {
        Self {
            connect,
            sha: Script::new(LEASE).get_hash().into(),
            stall_timeout,
        }
    }

    pub(super) fn connect(&self) -> Arc<dyn RedisConnect> {
        Arc::clone(&self.connect)
    }

    async fn send(&self, command: Cmd) -> Result<Value, StoreError> {
        match timeout(self.stall_timeout, self.connect.command(command)).await {
            // An error may come as a response.
            Ok(response) => response
                .and_then(Value::extract_error)
                .map_err(StoreError::from),
            Err(_) => Err(StoreError::TimedOut(self.stall_timeout)),
        }
    }

    /// Renews a lease.
    pub(super) async fn lease(&self, key: String, ask: Ask) -> Result<Reply, StoreError> {
        let ask = serde_json::to_string(&ask).map_err(StoreError::Nonsense)?;
        let call = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(1).arg(&key).arg(&ask);
            command
        };
        let response = match self.send(call("EVALSHA", &self.sha)).await {
            Err(error) if error.is_no_script() => self.send(call("EVAL", LEASE)).await?,
            response => response?,
        };
        let text: String = redis::from_redis_value(response).map_err(StoreError::unreadable)?;
        serde_json::from_str(&text).map_err(StoreError::Nonsense)
    }

    /// Tells all processes something. Nobody waits for it.
    pub(super) async fn publish(&self, channel: String, text: String) -> Result<(), StoreError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(text);
        self.send(command).await.map(|_| ())
    }
}
