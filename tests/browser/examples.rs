//! What the README shows is what is run here, and what the types say is what tsc makes of them.

use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokio::process::Command;

use super::{
    Browser,
    pages::{act, stage},
};
use crate::harness::{eventually, within};

const README: &str = include_str!("../../README.md");

/// The first block of a kind.
fn block(kind: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("\n```{kind}\n"))
        .unwrap_or_else(|| panic!("the README has no block of {kind}"));
    rest.split_once("\n```").expect("it ends").0
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Runs a program that `cargo xtask clients` has installed, to its good end.
async fn run(program: &str, set_up: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(tests().join("clients/node_modules/.bin").join(program));
    let output = set_up(&mut command).kill_on_drop(true).output();
    let output = within(program, output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}");
}

const ORDER: &str = "INSERT INTO orders (product_id, quantity, customer) VALUES (1, 2, 'Ottilie')";

#[tokio::test]
async fn the_plain_example() {
    let (database, hub) = stage().await;
    let browser = Browser::start().await;
    let tab = browser.open("about:blank").await;
    let keep = "<script>window.said = []; console.log = (...all) => said.push(all)</script>";
    let page = format!("<!doctype html>{keep}{}", block("html"));
    let answer = json!({"path": "/mine", "type": "text/html", "body": page});
    tab.ask("answer", answer).await;
    tab.go(&format!("http://{}/mine", hub.address)).await;
    // It begins with the last twenty orders.
    let orders = "said.filter(([of]) => of.customer)";
    tab.eventually(&format!("{orders}.length"), 20).await;
    tab.eventually("said.some(([of]) => of === 'live')", true)
        .await;
    act(&database, ORDER).await;
    tab.eventually(&format!("{orders}.at(-1)[0].customer"), "Ottilie")
        .await;
    tab.eventually(&format!("{orders}.length"), 21).await;
    assert_eq!(tab.troubles().await, [""; 0]);
}

/// Under React's strict mode, which mounts everything twice.
#[tokio::test]
async fn the_react_example() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("orders.jsx"), block("jsx")).unwrap();
    let client = tests().join("../static/bellwether.js");
    fs::copy(client, file("bellwether.js")).unwrap();
    let main = r#"
        import { StrictMode } from "react";
        import { createRoot } from "react-dom/client";
        import { Orders } from "./orders.jsx";
        const root = createRoot(document.querySelector("main"));
        window.show = () => root.render(<StrictMode><Orders /></StrictMode>);
        window.end = () => root.unmount();
        show();
    "#;
    fs::write(file("main.jsx"), main).unwrap();
    run("esbuild", |esbuild| {
        esbuild
            .env("NODE_PATH", tests().join("clients/node_modules"))
            .current_dir(folder.path())
            .args(["main.jsx", "--bundle", "--format=esm", "--jsx=automatic"])
            .args([
                "--define:process.env.NODE_ENV=\"development\"",
                "--outfile=bundle.js",
            ])
    })
    .await;

    let (database, hub) = stage().await;
    let browser = Browser::start().await;
    let tab = browser.open("about:blank").await;
    let bundle = fs::read_to_string(file("bundle.js")).unwrap();
    let script = json!({"path": "/bundle.js", "type": "text/javascript", "body": bundle});
    tab.ask("answer", script).await;
    let page = "<!doctype html><main></main><script type='module' src='/bundle.js'></script>";
    let page = json!({"path": "/mine", "type": "text/html", "body": page});
    tab.ask("answer", page).await;
    tab.go(&format!("http://{}/mine", hub.address)).await;
    let rows = "document.querySelectorAll('li').length";
    tab.eventually(rows, 20).await;
    act(&database, &ORDER.replace("(1, 2,", "(1, 1,")).await;
    act(&database, ORDER).await;
    let first = "[...document.querySelectorAll('li')].slice(0, 2).map((it) => it.textContent)";
    tab.eventually(first, json!(["2 × Enamel mug", "1 × Enamel mug"]))
        .await;
    assert_eq!(tab.eval(rows).await, 20);
    let clients = async || hub.metric("bellwether_clients").await;
    eventually("one stream", 1, clients).await;

    tab.eval("end()").await;
    eventually("it was closed", 0, clients).await;
    assert_eq!(tab.troubles().await, [""; 0]);
}

#[tokio::test]
async fn the_types() {
    run("tsc", |tsc| {
        tsc.args(["--noEmit", "--strict", "--target", "es2022"])
            .args(["--lib", "es2022,dom", "--module", "esnext"])
            .args(["--moduleResolution", "bundler"])
            .arg(tests().join("browser/types.ts"))
    })
    .await;
}
