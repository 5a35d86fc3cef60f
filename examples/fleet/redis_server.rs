//! A redis-server for this run.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server on a Unix socket, in a folder of its own. It ends with this value.
pub(crate) struct RedisServer {
    child: Child,
    folder: PathBuf,
}

impl RedisServer {
    pub(crate) async fn start() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("tower-ews-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder)?;
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--unixsocket", "redis.sock", "--dir", "."])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = child.inspect_err(|_| _ = std::fs::remove_dir(&folder))?;
        let server = Self { child, folder };
        for _ in 0..1000 {
            if std::os::unix::net::UnixStream::connect(server.folder.join("redis.sock")).is_ok() {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(io::Error::other("redis-server does not start"))
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.folder.join("redis.sock").display())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
