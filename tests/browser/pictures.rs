//! The pictures in `docs/`: `cargo xtask pictures`.

use serde_json::json;
use std::path::Path;

use super::{
    Browser,
    pages::{figure, is_live, text},
};
use crate::demo::Demo;

/// Its name, the demo, its address, and what is to be seen on it.
const PICTURES: [(&str, &str, &str, &str); 4] = [
    ("analytics", "analytics", "/analytics", "true"),
    ("shop", "shop", "/shop", "LOW > 0"),
    ("uptime", "uptime", "/uptime?org=1", "true"),
    // The inspector shows most where most happens.
    ("inspector", "shop", "/", "CLIENTS > 0"),
];

/// So that some are low, which they are now and then only.
const SELL: &str = "UPDATE products SET stock = 3 + id / 2 WHERE id IN (2, 5, 8)";

/// How many spans of time the inspector's chart shows. They are of two seconds.
const SPANS: &str =
    "fetch('/v1/status').then((it) => it.json()).then(({ recent }) => recent.counts.length)";
/// So many are three minutes.
const ENOUGH: usize = 90;

/// Each page of a running demo, light and dark, and on a phone.
#[tokio::test]
#[ignore = "writes docs/*.webp: cargo xtask pictures"]
async fn of_each_page() {
    let folder = tempfile::tempdir().unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let browser = Browser::start().await;
    for (name, scene, path, shows) in PICTURES {
        let shows = shows.replace("LOW", &figure("low"));
        let shows = shows.replace("CLIENTS", &figure("clients"));
        let demo = Demo::start_of(&folder.path().join(name), &[scene]).await;
        let tab = browser.open("about:blank").await;
        if name == "inspector" {
            tab.go(&format!("http://{}/healthz", demo.address())).await;
            for spans in (0..=ENOUGH).step_by(15) {
                tab.eventually(&format!("{SPANS}.then((it) => it >= {spans})"), true)
                    .await;
            }
        }
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
            if scene == "shop" {
                demo.psql(SELL).await;
            }
            tab.eventually(&shows, true).await;
            tab.eventually(&text("connection-badge .rest"), "just now")
                .await;
            let picture = docs.join(format!("{name}-{suffix}.webp"));
            tab.ask("picture", json!({"path": picture})).await;
        }
        tab.close().await;
        demo.stop().await;
    }
}
