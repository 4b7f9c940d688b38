//! The client library and the pages, in a real Chromium.
//!
//! `driver.mjs` drives it; `cargo xtask clients` installs what that needs.

use serde_json::{Value, json};
use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, LazyLock},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
};

use crate::harness::{ProxyKind, eventually, within};

/// Tokens, in the client and the pages.
mod auth;
/// `static/bellwether.js`.
mod client;
/// What holds for every page.
mod every_page;
/// What the README shows, and the types.
mod examples;
/// Each page.
mod pages;
/// Writes the pictures of `docs/`.
mod pictures;
/// Measures the time from INSERT to pixels.
mod pixels;
/// Pages that are left running.
mod soak;
/// Many streams of one page.
mod streams;

/// Browsers at the same time. Each is several processes.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(2)));

/// What a proxy says for a hub that is away.
const AWAY: [&str; 3] = ["status of 502", "status of 503", "status of 504"];

/// A Chromium with a profile of its own. Ends when dropped.
struct Browser {
    wire: Mutex<Wire>,
    /// Its end of input ends the driver, and that the browser.
    _driver: Child,
    _place: OwnedSemaphorePermit,
}

struct Wire {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// A tab of it.
struct Tab<'a> {
    browser: &'a Browser,
    number: u64,
}

impl Browser {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// One with flags of Chromium's.
    async fn start_with(flags: &[&str]) -> Self {
        let place = Arc::clone(&PLACES).acquire_owned().await.unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let needs = folder.join("clients/node_modules");
        assert!(
            needs.exists(),
            "{} is missing: cargo xtask clients",
            needs.display()
        );
        let mut driver = Command::new("node")
            .arg(folder.join("browser/driver.mjs"))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = BufReader::new(driver.stdout.take().unwrap()).lines();
        let ready = within("the browser", answers.next_line()).await.unwrap();
        assert_eq!(ready.as_deref(), Some(r#"{"is":"ready"}"#));
        let commands = driver.stdin.take().unwrap();
        Self {
            wire: Mutex::new(Wire { commands, answers }),
            _driver: driver,
            _place: place,
        }
    }

    /// A tab, in front of the others.
    async fn open(&self, url: &str) -> Tab<'_> {
        self.open_as(json!({"url": url})).await
    }

    /// A window of its own: nothing hides it.
    async fn open_window(&self, url: &str) -> Tab<'_> {
        self.open_as(json!({"url": url, "isWindow": true})).await
    }

    async fn open_as(&self, mut command: Value) -> Tab<'_> {
        command["do"] = "open".into();
        let number = self.ask(command).await;
        Tab {
            browser: self,
            number: number.as_u64().unwrap(),
        }
    }

    async fn ask(&self, command: Value) -> Value {
        let mut wire = self.wire.lock().await;
        let line = format!("{command}\n");
        wire.commands.write_all(line.as_bytes()).await.unwrap();
        let answer = within(&line, wire.answers.next_line()).await.unwrap();
        let mut answer: Value = serde_json::from_str(&answer.expect("it goes on")).unwrap();
        assert!(
            answer.get("error").is_none(),
            "{command}: {}",
            answer["error"]
        );
        answer["is"].take()
    }
}

impl Tab<'_> {
    async fn ask(&self, verb: &str, mut with: Value) -> Value {
        with["do"] = verb.into();
        with["tab"] = self.number.into();
        self.browser.ask(with).await
    }

    /// The value of an expression; of a promise, what it comes to.
    async fn eval(&self, code: &str) -> Value {
        self.ask("eval", json!({"code": code})).await
    }

    /// Waits until an expression has a value.
    async fn eventually(&self, code: &str, expected: impl Into<Value>) {
        eventually(code, expected.into(), async || self.eval(code).await).await;
    }

    async fn go(&self, url: &str) {
        self.ask("go", json!({"url": url})).await;
    }

    async fn close(self) {
        self.ask("close", json!({})).await;
    }

    async fn press(&self, key: &str) {
        self.ask("press", json!({"key": key})).await;
    }

    async fn front(&self) {
        self.ask("front", json!({})).await;
    }

    /// What went wrong in it, and was not expected to.
    async fn troubles(&self) -> Vec<String> {
        let troubles = self.ask("troubles", json!({})).await;
        let troubles: Vec<String> = serde_json::from_value(troubles).unwrap();
        // What the browser itself says of a hub that is away, or a proxy for it.
        let answers = ProxyKind::of_all_hubs().is_some();
        let is_away = |trouble: &String| {
            trouble.contains("net::ERR_")
                || answers && AWAY.iter().any(|status| trouble.contains(status))
        };
        troubles.into_iter().filter(|it| !is_away(it)).collect()
    }
}
