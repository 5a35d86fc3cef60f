//! A headless Chromium, over its debugging pipe.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// It ends after a minute, whatever happens.
const SCRIPT: &str = "exec timeout 60 \"$0\" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
    --user-data-dir=\"$1/profile\" --remote-debugging-pipe about:blank 3<\"$1/in\" 4>\"$1/out\" 2>/dev/null";

pub(crate) struct Browser {
    child: Child,
    folder: PathBuf,
    to: File,
    from: BufReader<File>,
    sent: u64,
    session: Option<String>,
}

impl Browser {
    /// None if none is installed.
    pub(crate) fn start() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let program = NAMES
            .iter()
            .find(|name| std::env::split_paths(&path).any(|folder| folder.join(name).exists()))?;
        let folder = std::env::temp_dir().join(format!("tower-ews-browser-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for pipe in ["in", "out"] {
            let made = Command::new("mkfifo").arg(folder.join(pipe)).status();
            assert!(made.expect("mkfifo runs").success());
        }
        let child = Command::new("sh")
            .args(["-c", SCRIPT, program])
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Each waits until the other end is open too, so the order is the script's.
        let to = File::options().write(true).open(folder.join("in")).unwrap();
        let from = BufReader::new(File::open(folder.join("out")).unwrap());
        Some(Self {
            child,
            folder,
            to,
            from,
            sent: 0,
            session: None,
        })
    }

    pub(crate) fn open(&mut self, url: &str) {
        let target =
            self.command("Target.createTarget", &json!({ "url": url }))["targetId"].clone();
        let attached = self.command(
            "Target.attachToTarget",
            &json!({ "targetId": target, "flatten": true }),
        );
        self.session = attached["sessionId"].as_str().map(str::to_owned);
    }

    /// Evaluates until the text is as wanted, for twenty seconds.
    pub(crate) fn until(&mut self, expression: &str, is_good: impl Fn(&str) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let result = self.command(
                "Runtime.evaluate",
                &json!({ "expression": expression, "returnByValue": true }),
            );
            let text = result["result"]["value"].as_str().unwrap_or_default();
            if is_good(text) {
                return;
            }
            assert!(Instant::now() < until, "{expression} stays {text:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn command(&mut self, method: &str, params: &Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to
            .write_all(format!("{message}\0").as_bytes())
            .expect("the browser listens");
        loop {
            let mut read = Vec::new();
            self.from
                .read_until(0, &mut read)
                .expect("the browser responds");
            assert_eq!(read.pop(), Some(0), "the browser has ended");
            let message: Value = serde_json::from_slice(&read).expect("JSON");
            if message["id"] == self.sent {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self
            .to
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
