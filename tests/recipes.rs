use sse::{Decoder, Item};
use std::process::Stdio;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdout, Command},
};

use crate::harness::{Hub, HubOptions, TestDatabase, within};

const PAGE: &str = include_str!("../docs/recipes.md");

/// A topic that no recipe has: what comes after all.
const END: &str = "recipes.end";

/// A fenced block: what it is of, its first line in the page, and its text.
struct Block<'a> {
    kind: &'a str,
    line: usize,
    text: String,
}

/// The recipes: each heading, and the blocks below it.
fn recipes(page: &str) -> Vec<(&str, Vec<Block<'_>>)> {
    let mut recipes: Vec<(&str, Vec<Block<'_>>)> = Vec::new();
    let mut lines = page.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            recipes.push((title, Vec::new()));
        } else if let Some(kind) = line.strip_prefix("```") {
            let text = lines.by_ref().map(|(line, _)| line);
            let text: Vec<&str> = text.take_while(|line| *line != "```").collect();
            let (_, blocks) = recipes.last_mut().expect("blocks stand below headings");
            blocks.push(Block {
                kind,
                line: number,
                text: text.join("\n"),
            });
        }
    }
    recipes
}

/// Runs a whole block as a person would.
async fn psql(database: &TestDatabase, block: &Block<'_>) {
    let mut psql = Command::new("psql")
        .args(["-X", "--quiet", "--set=ON_ERROR_STOP=1", &database.url])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = psql.stdin.take().unwrap();
    stdin.write_all(block.text.as_bytes()).await.unwrap();
    drop(stdin);
    let output = within("psql's end", psql.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "line {}: {said}", block.line);
}

/// What a `curl` line of the page shows.
struct Stream {
    _curl: Child,
    stdout: ChildStdout,
    decoder: Decoder,
}

impl Stream {
    /// From now on it shows what happens. The states of its topics are still to come.
    async fn open(hub: &Hub, block: &Block<'_>) -> Self {
        let url = block
            .text
            .strip_prefix("curl -N 'http://127.0.0.1:7080/")
            .and_then(|rest| rest.strip_suffix('\''))
            .unwrap_or_else(|| panic!("line {}: {}", block.line, block.text));
        let mut curl = Command::new("curl")
            .args(["--silent", "-N"])
            .arg(format!("http://{}/{url}&topic={END}", hub.address))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stream = Self {
            stdout: curl.stdout.take().unwrap(),
            _curl: curl,
            decoder: Decoder::new(),
        };
        stream.read().await;
        stream
    }

    async fn read(&mut self) {
        let mut bytes = [0; 4096];
        let read = within("more of the stream", self.stdout.read(&mut bytes));
        let read = read.await.unwrap();
        assert!(read > 0, "the stream goes on");
        self.decoder.feed(&bytes[..read]);
    }

    /// The next event that is not a heartbeat, as the page shows it.
    async fn next(&mut self) -> String {
        loop {
            match self.decoder.next().map(Result::unwrap) {
                Some(Item::Event(event)) if event.name != "heartbeat" => {
                    return format!("event: {}\ndata: {}", event.name, event.data);
                }
                Some(_) => {}
                None => self.read().await,
            }
        }
    }
}

/// Whether a text is as the page has it: `…` stands for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    match pattern.split_once('…') {
        None => text == pattern,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).any(|at| text.get(at..).is_some_and(|text| is_like(text, rest)))
        }),
    }
}

/// SQL is run, `curl` lines are opened, and what the page shows, and nothing else, is what
/// arrives: the first block of events after some SQL at the first stream, the next at the second.
async fn follow(blocks: &[Block<'_>]) -> usize {
    let database = TestDatabase::create().await;
    let hub = Hub::spawn(&database.url, HubOptions::default())
        .await
        .unwrap();
    let mut streams: Vec<Stream> = Vec::new();
    let mut reading = 0;
    let mut seen = 0;
    for block in blocks {
        match block.kind {
            "sql" => {
                psql(&database, block).await;
                reading = 0;
            }
            "sh" => {
                streams.push(Stream::open(&hub, block).await);
                reading = streams.len() - 1;
            }
            "sse" => {
                for shown in block.text.split("\n\n") {
                    let arrived = streams[reading].next().await;
                    assert!(
                        is_like(&arrived, shown),
                        "line {}: {shown}\nbut arrived:\n{arrived}",
                        block.line
                    );
                    seen += 1;
                }
                reading += 1;
            }
            "python" | "ruby" => {} // what makes the SQL beside it
            other => panic!("line {}: what is a block of {other:?}?", block.line),
        }
    }
    let publish = format!("SELECT bellwether.publish('{END}', 'end', 'null')");
    database
        .connect()
        .await
        .batch_execute(&publish)
        .await
        .unwrap();
    for stream in &mut streams {
        assert_eq!(
            stream.next().await,
            "event: end\ndata: null",
            "more has arrived than the page shows"
        );
    }
    seen
}

#[tokio::test]
async fn what_the_page_shows_is_what_arrives() {
    let recipes = recipes(PAGE);
    assert!(recipes.len() >= 9);
    for (title, blocks) in recipes {
        eprintln!("recipe: {title}");
        assert!(
            follow(&blocks).await > 0,
            "{title}: nothing is shown to arrive"
        );
    }
}

/// The test of the page would find a page that has rotted.
#[test]
fn patterns() {
    assert!(is_like(r#"{"at":"x","n":1}"#, r#"{"at":"…","n":1}"#));
    assert!(is_like("größe", "gr…e") && is_like("a", "a…"));
    assert!(!is_like(r#"{"at":"x","n":2}"#, r#"{"at":"…","n":1}"#));
    assert!(!is_like("ab", "a") && !is_like("a", "ab"));
    let page = "# T\n## One\ntext\n```sql\nSELECT 1\n\n;\n```\n## Two\n```sse\nevent: a\n```";
    let mut found = recipes(page).into_iter().flat_map(|(title, blocks)| {
        blocks
            .into_iter()
            .map(move |block| (title, block.kind, block.line, block.text))
    });
    assert_eq!(
        found.next(),
        Some(("One", "sql", 4, "SELECT 1\n\n;".to_owned()))
    );
    assert_eq!(
        found.next(),
        Some(("Two", "sse", 10, "event: a".to_owned()))
    );
    assert_eq!(found.next(), None);
}
