//! [`RedisLedger`]: one budget for many processes, in Redis or Valkey.

mod connect;
mod driver;
mod error;
mod ledger;
mod listen;
mod member;
mod store;
mod wire;

pub use self::connect::{Messages, RedisConnect, RedisFuture, RedisServer, subscribe};
pub use self::driver::WhenUnavailable;
pub use self::error::StoreError;
pub use self::ledger::{RedisLedger, RedisLedgerBuilder};
