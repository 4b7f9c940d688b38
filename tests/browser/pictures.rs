//! The pictures in `docs/`: `cargo xtask pictures`.

use serde_json::json;
use std::path::Path;

use super::{
    Browser,
    pages::{is_live, text},
};
use crate::demo::Demo;

const PICTURES: [(&str, &str, &str); 4] = [
    // The inspector shows most where most happens.
    ("inspector", "shop", "/"),
    ("analytics", "analytics", "/analytics"),
    ("shop", "shop", "/shop"),
    ("uptime", "uptime", "/uptime?org=1"),
];

/// For forty seconds: until the inspector's chart shows something.
const RUNS: &str =
    "fetch('/v1/status').then((it) => it.json()).then(({ recent }) => recent.counts.length > 20)";

/// Each page of a running demo, light and dark, and on a phone.
#[tokio::test]
#[ignore = "writes docs/*.webp: cargo xtask pictures"]
async fn of_each_page() {
    let folder = tempfile::tempdir().unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let browser = Browser::start().await;
    for (name, scene, path) in PICTURES {
        let demo = Demo::start_of(&folder.path().join(scene), &[scene]).await;
        let tab = browser.open("about:blank").await;
        for (suffix, scheme, width, height) in [
            ("dark", "dark", 1280, 800),
            ("light", "light", 1280, 800),
            ("phone", "dark", 390, 844),
        ] {
            tab.ask("media", json!({"colorScheme": scheme})).await;
            tab.ask("size", json!({"width": width, "height": height}))
                .await;
            tab.go(&format!("http://{}{path}", demo.address())).await;
            is_live(&tab).await;
            // It has run for a while, and something happens.
            tab.eventually(RUNS, true).await;
            tab.eventually(&text("connection-badge .rest"), "just now")
                .await;
            let picture = docs.join(format!("{name}-{suffix}.webp"));
            tab.ask("picture", json!({"path": picture})).await;
        }
        tab.close().await;
        demo.stop().await;
    }
}
