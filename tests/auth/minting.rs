use super::{ask_with, locked};
use crate::harness::{TestDatabase, within};
use std::path::Path;
use tokio::process::Command;

/// The block of `docs/authentication.md` in a language that makes tokens.
fn shown(language: &str) -> &'static str {
    let text = include_str!("../../docs/authentication.md");
    let mut blocks = text.split("\n```").skip(1).step_by(2);
    let block = blocks.find(|block| block.starts_with(language) && block.contains("organisation"));
    block
        .and_then(|block| block.split_once('\n'))
        .expect("it is shown")
        .1
}

/// What is shown makes tokens that count, for just what they say.
#[tokio::test]
async fn tokens_of_applications() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let python = clients.join(".venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: cargo xtask clients",
        python.display()
    );
    let script = format!("{}\nprint(token_for('ada', 7))\n", shown("python"));
    let mut python = Command::new(python);
    python.arg("-c").arg(script);
    let script = format!("{}\nconsole.log(tokenFor('ada', 7));\n", shown("js"));
    let mut node = Command::new("node");
    node.args(["--input-type=module", "--eval"]).arg(script);
    for mut program in [python, node] {
        program
            .env("BELLWETHER_AUTH_SECRET", super::SECRET)
            .kill_on_drop(true);
        let made = within("a token", program.output()).await.unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let token = String::from_utf8(made.stdout).unwrap();
        let token = token.trim();
        assert_eq!(
            ask_with(&hub, "/v1/events?topic=org.7.a", token).await.0,
            200
        );
        assert_eq!(
            ask_with(&hub, "/v1/events?topic=org.8.a", token).await.0,
            403
        );
        let in_address = format!("/v1/events?topic=org.*.a&token={token}");
        assert_eq!(super::ask(&hub, &in_address, &[]).await.0, 200);
    }
}
