//! A redis-server of a test's own.
// The benchmark uses some of it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a port and a Unix socket, without persistence. It ends with the test.
pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    port: u16,
    arguments: Vec<String>,
}

impl Server {
    /// Starts one, or says that there is none.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("tower-ews-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        let Some(child) = spawn(&folder, port, &arguments) else {
            println!("SKIPPED: redis-server is not installed");
            std::fs::remove_dir(&folder).unwrap();
            return None;
        };
        let server = Self {
            child,
            folder,
            port,
            arguments,
        };
        server.wait();
        Some(server)
    }

    fn wait(&self) {
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "redis-server does not start"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn client(&self) -> redis::Client {
        redis::Client::open(format!("unix://{}", self.socket().display())).unwrap()
    }

    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        let mut connection = self
            .client()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap()
    }

    pub(crate) async fn keys(&self) -> i64 {
        redis::from_redis_value(self.command(&["DBSIZE"]).await).unwrap()
    }

    /// Sends a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.unwrap().success());
    }

    /// Kills it, and starts another one that knows nothing.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.socket());
        self.child = spawn(&self.folder, self.port, &self.arguments).unwrap();
        self.wait();
    }
}

fn spawn(folder: &PathBuf, port: u16, arguments: &[String]) -> Option<Child> {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--unixsocket",
            "redis.sock",
            "--dir",
            ".",
        ])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
