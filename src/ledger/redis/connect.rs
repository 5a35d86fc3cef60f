//! [`RedisConnect`]: the way to Redis. `redis::Client` is one; a cluster's or a sentinel's connection makes another.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Client, Cmd, RedisError, Value};

/// What the methods of [`RedisConnect`] return.
pub type RedisFuture<T> = Pin<Box<dyn Future<Output = Result<T, RedisError>> + Send>>;

/// What arrives on the channels of a subscription: channel and message. It ends when the connection does.
pub type Messages = Pin<Box<dyn Stream<Item = (String, String)> + Send>>;

/// The way to Redis or Valkey.
///
/// [`RedisServer`] is the way to a single server, with or without TLS. For a cluster or for sentinels, implement this with the
/// connections of the `redis` crate: one method sends a command, the other one subscribes to channels.
///
/// A connection that was lost is made anew by the implementation, at the next command. The ledger puts a bound on each wait.
///
/// ```
/// use tower_ews::ledger::redis::{Messages, RedisConnect, RedisFuture};
/// use redis::aio::ConnectionLike;
///
/// /// Any connection that makes itself anew, such as a cluster's.
/// struct Shared<C> {
///     commands: C,
///     messages: redis::Client,
/// }
///
/// impl<C> RedisConnect for Shared<C>
/// where
///     C: ConnectionLike + Clone + Send + Sync + 'static,
/// {
///     fn command(&self, command: redis::Cmd) -> RedisFuture<redis::Value> {
///         let mut connection = self.commands.clone();
///         Box::pin(async move { connection.req_packed_command(&command).await })
///     }
///
///     fn subscribe(&self, channels: Vec<String>) -> RedisFuture<Messages> {
///         tower_ews::ledger::redis::subscribe(self.messages.clone(), channels)
///     }
/// }
/// ```
pub trait RedisConnect: Send + Sync + 'static {
    /// Sends one command.
    fn command(&self, command: Cmd) -> RedisFuture<Value>;

    /// Subscribes to these channels.
    fn subscribe(&self, channels: Vec<String>) -> RedisFuture<Messages>;
}

/// The way to a single server: one connection for commands, which is shared, and one for messages.
///
/// ```
/// use tower_ews::ledger::redis::RedisServer;
///
/// let server = RedisServer::new(redis::Client::open("redis://127.0.0.1/")?);
/// # let _ = server;
/// # Ok::<_, redis::RedisError>(())
/// ```
pub struct RedisServer {
    client: Client,
    connection: std::sync::Arc<Mutex<Option<MultiplexedConnection>>>,
}

impl RedisServer {
    /// Connects by `client`, not before the first command.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            connection: std::sync::Arc::default(),
        }
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest may have a password in it.
        let address = self.client.get_connection_info().addr().to_string();
        f.debug_tuple("RedisServer").field(&address).finish()
    }
}

/// Whether the server has responded, and the connection is a good one.
fn is_response(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("NOSCRIPT" | "STALE" | "LAYOUT" | "OOM" | "NOPERM")
    )
}

impl RedisConnect for RedisServer {
    fn command(&self, command: Cmd) -> RedisFuture<Value> {
        let (client, shared) = (self.client.clone(), self.connection.clone());
        Box::pin(async move {
            let known = shared.lock().clone();
            let mut connection = match known {
                Some(connection) => connection,
                None => {
                    let new = client.get_multiplexed_async_connection().await?;
                    shared.lock().get_or_insert(new).clone()
                }
            };
            let response = connection.req_packed_command(&command).await;
            let response = response.and_then(Value::extract_error);
            if response.as_ref().is_err_and(|error| !is_response(error)) {
                // Another server may be the right one by now.
                shared.lock().take();
            }
            response
        })
    }

    fn subscribe(&self, channels: Vec<String>) -> RedisFuture<Messages> {
        subscribe(self.client.clone(), channels)
    }
}

/// Subscribes to channels of the server behind `client`, on a connection of its own.
pub fn subscribe(client: Client, channels: Vec<String>) -> RedisFuture<Messages> {
    Box::pin(async move {
        let mut connection = client.get_async_pubsub().await?;
        for channel in channels {
            connection.subscribe(channel).await?;
        }
        let messages = connection
            .into_on_message()
            .filter_map(|message| async move {
                let text = message.get_payload::<String>().ok()?;
                Some((message.get_channel_name().to_owned(), text))
            });
        Ok(Box::pin(messages) as Messages)
    })
}
