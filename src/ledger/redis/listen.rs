//! [`listen`]: hears what other processes say, on a connection that is made anew as often as it takes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::connect::RedisConnect;

/// The longest wait between two attempts to connect.
const LONGEST: Duration = Duration::from_secs(5);
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// The connection is there. What was said before is lost.
    Connected,
    /// A channel, and what was said there.
    Message(String, String),
}

/// Listens until nobody wants to hear.
pub(super) async fn listen(
    connect: Arc<dyn RedisConnect>,
    channels: Vec<String>,
    to: mpsc::UnboundedSender<Heard>,
) {
    let first = Duration::from_millis(50);
    let mut wait = first;
    while !to.is_closed() {
        if let Ok(Ok(mut messages)) = timeout(PATIENCE, connect.subscribe(channels.clone())).await {
            wait = first;
            if to.send(Heard::Connected).is_err() {
                return;
            }
            while let Some((channel, text)) = messages.next().await {
                if to.send(Heard::Message(channel, text)).is_err() {
                    return;
                }
            }
        }
        sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(LONGEST);
    }
}
